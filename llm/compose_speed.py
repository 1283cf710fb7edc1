"""lora-reuse compose_speed layers=28

Times the composing of adapters of a 7 B model against PEFT.

Two adapters of random factors have the shapes of Qwen2.5-7B, all linear modules of every layer. `lora-reuse compose`
and PEFT's `add_weighted_adapter` merge the same files. Each rule, and each of PEFT's merges, is a process of its own,
from the start of Python to the folder on disk. What is printed is the processor's time, which other programs on the
machine lengthen less than that of the clock, and the peak memory; above a ratio of 1 ours is less. No process has the
weights of the base: PEFT gets a model whose weights are all views of one zero. One rule is also run on a single layer,
for the memory that further layers take.

PEFT's merges that form ΔW (`svd` and those that end in `_svd`) take the singular vectors of whole matrices, minutes a
layer. Only composition= runs them and ours of these names; then layers=1 is enough. PEFT's `ties` trims each factor
by itself, ours here all weights together.

mergekit merges whole weights. Where it is installed, its merges of the ΔW stand beside ours that form them: its part is
to merge every ΔW, with 0 as its base, and to write it whole. Ours is a LoRA, for which the singular vectors are
taken."""

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from lora_reuse.llm.protocols.dials import GIVEN, check_rule
from lora_reuse.runs.command import begin, with_options
from lora_reuse.runs.settings import Choice, Place, SettingError, Text, Whole, setting

SHAPES = {
    "self_attn.q_proj": (3584, 3584),
    "self_attn.k_proj": (512, 3584),
    "self_attn.v_proj": (512, 3584),
    "self_attn.o_proj": (3584, 3584),
    "mlp.gate_proj": (18944, 3584),
    "mlp.up_proj": (18944, 3584),
    "mlp.down_proj": (3584, 18944),
}
"""(outputs, inputs) of the linear modules of a layer of Qwen2.5-7B."""
OF_PEFT = {"sum": "cat", **{name: name for name in ("linear", "ties", "magnitude_prune", "dare_linear", "dare_ties")}}
"""PEFT's merges that form no ΔW, by our rule beside which each is printed."""
OF_WHOLE = ("svd", "ties_svd", "dare_ties_svd", "dare_linear_svd", "magnitude_prune_svd")
"""Those that do, by the same name on both sides. Ours of `svd` does not."""
OF_MERGEKIT = {"ties_svd": "ties", "dare_linear_svd": "dare_linear", "dare_ties_svd": "dare_ties"}
"""mergekit's merges of whole matrices, by ours of the same ones."""


@dataclass(frozen=True)
class Options:
    """The benchmark:"""

    layers: int = setting(28, Whole(1, 1000), "layers of the model")
    rank: int = setting(16, Whole(1, 512), "of both adapters, in every module")
    composition: str = setting("", Text("rules joined by commas"), "which; none: all but those that form ΔW")
    against: str = setting(
        "installed", Choice("installed", "peft", "mergekit", "none"), "whose merges of the same names"
    )
    out: str = setting("", Place("a folder"), "folder for a row of the results; none is written without it")


class Cost(NamedTuple):
    """Of a process: seconds of the processor, seconds that passed, and the most memory it had, in GB."""

    cpu: float
    wall: float
    peak_gb: float


def main(words: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    if words and words[0] in _CHILDREN:
        _CHILDREN[words[0]](*words[1:])
        return 0
    return with_options("llm.compose_speed", _main, Options, words, "nothing was kept")


def _main(options: Options) -> int:
    named = [name for name in options.composition.split(",") if name]
    for name in named:
        check_rule(name)
        if ":" in name:
            raise SettingError("composition", name, "rules")
    there = importlib.util.find_spec("mergekit") is not None
    if options.against == "mergekit" and not there:
        raise SettingError("against", "mergekit, which is not installed", "peft | none", "pip install mergekit")
    begin(options.out)
    rules = named or [name for name in GIVEN if name not in OF_WHOLE[1:]]
    others = {"peft": OF_PEFT | {name: name for name in OF_WHOLE}, "mergekit": OF_MERGEKIT if there else {}}
    if options.against != "installed":
        others = {name: merges for name, merges in others.items() if name == options.against}
    elif not there and set(rules) & set(OF_MERGEKIT):
        print("mergekit is not installed, and is left out")
    measured = _benchmark(options, rules, others)
    if options.out:
        _write(Path(options.out), options, measured)
    return 0


def _benchmark(options: Options, rules: Sequence[str], others: Mapping[str, Mapping[str, str]]) -> dict[str, float]:
    """Of each rule, and of the merge beside it of other software: what it takes, and ratios."""
    measured: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        library = _library(Path(folder), options.layers, options.rank)
        size = sum((adapter / "adapter_model.safetensors").stat().st_size for adapter in library) / 1e6
        print(f"two adapters of rank {options.rank}, {options.layers * len(SHAPES)} modules, {size:.0f} MB\n")
        for rule in rules:
            ours = _composed(library, rule)
            measured |= {f"{rule}_{name}": value for name, value in ours._asdict().items()}
            print(f"{rule:20} {ours.cpu:6.1f} s ({ours.wall:6.1f} s passed) {ours.peak_gb:5.2f} GB", flush=True)
            for other, merges in others.items():
                if rule not in merges:
                    continue
                theirs = _merged(other, library, merges[rule])
                ratio, memory = theirs.cpu / ours.cpu, theirs.peak_gb / ours.peak_gb
                measured |= {f"{rule}_{other}_{name}": value for name, value in theirs._asdict().items()}
                beside = {"peft": ""}.get(other, f"{other}_")
                measured |= {f"{rule}_{beside}ratio": ratio, f"{rule}_{beside}memory_ratio": memory}
                line = f"  {other + ' ' + merges[rule]:30} {theirs.cpu:6.1f} s {theirs.peak_gb:5.2f} GB"
                print(f"{line}   ratios {ratio:.1f} and {memory:.1f}", flush=True)
        if options.layers > 1:
            one = _composed(_library(Path(folder) / "one", 1, options.rank), rules[0])
            measured["one_layer_peak_gb"] = one.peak_gb
            print(f"\n{rules[0]} of one layer: {one.cpu:.1f} s, {one.peak_gb:.2f} GB")
    return measured


def _library(root: Path, layers: int, rank: int) -> list[Path]:
    """The folders of two adapters, made by a process of their own: this one stays small, because Linux counts what a
    process had in memory when it started another to the peak of that one."""
    _cost("lora_reuse.llm.compose_speed", "adapters", str(root), str(layers), str(rank))
    return [root / "a", root / "b"]


def _adapters(folder: str, layers: str, rank: str) -> None:
    """Writes two adapters with normal factors, `a` and `b`, and the configuration of their base."""
    import torch
    from transformers import Qwen2Config

    from lora_reuse.llm.adapters.each import Each
    from lora_reuse.llm.adapters.lowrank import LowRank
    from lora_reuse.llm.adapters.writing import save_expert
    from lora_reuse.llm.compositions import generator

    root = Path(folder)
    config = Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=int(layers),
        num_attention_heads=28,
        num_key_value_heads=4,
    )
    config.save_pretrained(root / "base")
    shapes = {f"model.layers.{i}.{name}": shape for i in range(int(layers)) for name, shape in SHAPES.items()}

    def drawn(seed: int, name: str) -> LowRank:
        random = generator(seed, name)
        return LowRank(*(torch.randn(size, int(rank), generator=random) / 100 for size in shapes[name]))

    for seed, name in enumerate("ab"):
        save_expert(Each(shapes, lambda name, seed=seed: drawn(seed, name)), root / name, str(root / "base"))


def _composed(library: Sequence[Path], rule: str) -> Cost:
    with tempfile.TemporaryDirectory() as out:
        words = [f"library={','.join(map(str, library))}", f"composition={rule}", f"out={out}"]
        return _cost("lora_reuse.llm.compose", *words)


def _merged(software: str, library: Sequence[Path], kind: str) -> Cost:
    """Of a merge by other software."""
    with tempfile.TemporaryDirectory() as out:
        return _cost("lora_reuse.llm.compose_speed", software, *map(str, library), kind, out)


def _cost(module: str, *words: str) -> Cost:
    """Of `python -m module words`. Raises CalledProcessError where it fails."""
    began = time.perf_counter()
    command = [sys.executable, "-m", module, *words]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes
    return Cost(used.ru_utime + used.ru_stime, time.perf_counter() - began, used.ru_maxrss * unit / 1e9)


def _merge_with_peft(one: str, other: str, kind: str, out: str) -> None:
    """PEFT's own merge, with weights 1, into the folder `out`."""
    import torch
    from peft import PeftModel

    from lora_reuse.llm.adapters.folders import origin
    from lora_reuse.llm.adapters.modules import quiet_peft
    from lora_reuse.llm.decoding.models import load_frame

    frame = load_frame(origin(one).base)
    for module in frame.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(torch.zeros(()).expand(weight.shape), requires_grad=False))
    density = None if kind in ("cat", "linear", "svd") else 0.2
    with quiet_peft():
        model = PeftModel.from_pretrained(frame, one, adapter_name="a", low_cpu_mem_usage=True)
        model.load_adapter(other, "b", low_cpu_mem_usage=True)
        model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "both", combination_type=kind, density=density)  # pyright: ignore[reportCallIssue]
        model.save_pretrained(out, selected_adapters=["both"], save_embedding_layers=False)


def _merge_with_mergekit(one: str, other: str, kind: str, out: str) -> None:
    """mergekit's own merge of every ΔW, with weights 1, into the folder `out`."""
    import torch
    from mergekit.io.tensor_writer import TensorWriter  # pyright: ignore[reportMissingImports]
    from mergekit.merge_methods import merge_tensors  # pyright: ignore[reportMissingImports]

    from lora_reuse.llm.adapters.folders import open_expert, origin
    from lora_reuse.llm.decoding.models import load_frame

    frame = load_frame(origin(one).base)
    library = [open_expert(folder, frame) for folder in (one, other)]
    with TensorWriter(out, max_shard_size=1) as writer:  # so that it holds one module
        for name in library[0]:
            changes = [expert[name].dense() for expert in library]
            dials = {"weight": 1.0, "density": 0.2}
            merged = merge_tensors([torch.zeros_like(changes[0]), *changes], kind, base_index=0, parameters=dials)
            writer.save_tensor(name, merged)


_CHILDREN = {"adapters": _adapters, "peft": _merge_with_peft, "mergekit": _merge_with_mergekit}
"""What this module does in processes of its own."""


def _write(folder: Path, options: Options, measured: dict[str, float]) -> None:
    from lora_reuse.runs.provenance import provenance
    from lora_reuse.runs.rows import Rows

    when = datetime.now(UTC).isoformat(timespec="seconds")
    row = {
        "experiment": "llm_compose_speed",
        "settings": {"layers": options.layers, "rank": options.rank, "when": when},
        "measured": measured,
        "predicted": {},
        "stderr": {},
        "provenance": provenance("torch", "transformers", "peft", "safetensors") | {"device": "cpu"},
    }
    Rows(folder, "llm_compose_speed").append(row)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
