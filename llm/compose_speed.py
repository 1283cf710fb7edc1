"""lora-reuse compose_speed layers=28

Times the composing of adapters of a 7 B model against PEFT.

Two adapters of random factors have the shapes of Qwen2.5-7B, all linear modules of every layer. `lora-reuse compose`
and PEFT's `add_weighted_adapter` merge the same files. Each rule, and each of PEFT's merges, is a process of its own,
from the start of Python to the folder on disk. What is printed is the processor's time, which other programs on the
machine do not lengthen, and the peak memory; above a ratio of 1 ours is less. No process has the weights of the base:
PEFT gets a model whose weights are all views of one zero. One rule is also run on a single layer, for the memory that
further layers take.

PEFT's merges that form ΔW (`svd` and those that end in `_svd`) take the singular vectors of whole matrices, minutes a
layer. Only composition= runs them and ours of these names; then layers=1 is enough. PEFT's `ties` trims each factor
by itself, ours here all weights together. mergekit is not among them: it merges whole weights, an adapter first into
its base, and has no merge of adapters without it."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from lora_reuse.llm.protocols.dials import GIVEN, check_rule
from lora_reuse.runs.command import begin, with_options
from lora_reuse.runs.settings import SettingError, Text, Whole, setting

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


@dataclass(frozen=True)
class Options:
    """The benchmark:"""

    layers: int = setting(28, Whole(1, 1000), "layers of the model")
    rank: int = setting(16, Whole(1, 512), "of both adapters, in every module")
    composition: str = setting("", Text("rules joined by commas"), "which; none: all but those that form ΔW")
    out: str = setting("", Text("a folder"), "folder for a row of the results; none is written without it")


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
    begin(options.out)
    rules = named or [name for name in GIVEN if name not in OF_WHOLE[1:]]
    against = OF_PEFT | ({name: name for name in OF_WHOLE} if named else {})
    measured = _benchmark(options, rules, against)
    if options.out:
        _write(Path(options.out), options, measured)
    return 0


def _benchmark(options: Options, rules: Sequence[str], against: dict[str, str]) -> dict[str, float]:
    measured: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        library = _library(Path(folder), options.layers, options.rank)
        size = sum((adapter / "adapter_model.safetensors").stat().st_size for adapter in library) / 1e6
        print(f"two adapters of rank {options.rank}, {options.layers * len(SHAPES)} modules, {size:.0f} MB\n")
        for rule in rules:
            ours = _composed(library, rule)
            measured |= {f"{rule}_{name}": value for name, value in ours._asdict().items()}
            line = f"{rule:20} {ours.cpu:6.1f} s ({ours.wall:6.1f} s passed) {ours.peak_gb:5.2f} GB"
            if rule in against:
                out = Path(folder) / "peft"
                peft = _cost("lora_reuse.llm.compose_speed", "peft", *map(str, library), against[rule], str(out))
                measured |= {f"{rule}_peft_{name}": value for name, value in peft._asdict().items()}
                measured[f"{rule}_ratio"], measured[f"{rule}_memory_ratio"] = (
                    peft.cpu / ours.cpu,
                    peft.peak_gb / ours.peak_gb,
                )
                line += f"   PEFT {against[rule]:15} {peft.cpu:6.1f} s {peft.peak_gb:5.2f} GB"
                line += f"   ratios {peft.cpu / ours.cpu:.1f} and {peft.peak_gb / ours.peak_gb:.1f}"
            print(line, flush=True)
        first = rules[0]
        one = _composed(_library(Path(folder) / "one", 1, options.rank), first)
        measured["one_layer_peak_gb"] = one.peak_gb
        print(f"\n{first} of one layer: {one.cpu:.1f} s, {one.peak_gb:.2f} GB")
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


_CHILDREN = {"adapters": _adapters, "peft": _merge_with_peft}
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
