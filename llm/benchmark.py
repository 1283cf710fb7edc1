"""python -m llm.benchmark

Times what the protocols spend their time on against the usual way with PEFT, in one run, and prints ratios (above 1:
ours is faster):
- one Arrow layer of the shape of Qwen2.5-3B's up_proj, 2 and 10 experts, 512 tokens as a prompt has them and 4 as a
  step of decoding has, against PEFT's Arrow; and what routing adds to the layer, which without adapters takes most of
  the time;
- two experts under six compositions, all decoded in one batch on the resident base, against PEFT's set_adapter and
  generate, one composition after another (static ones, which PEFT can hold): a whole test set and a tenth of it, on the
  pocket model direct and step by step, and on a random stack of two layers of Qwen2.5-3B's shape; with the most that
  any way could gain on this machine: PEFT's time over that of the base's products alone, at the rate of large ones;
- experts trained by worker processes of one thread each, against PEFT training one after another in one process of all
  threads;
- one expert on one thread, in tokens a second of the processor's time, against a plain loop with PEFT, and as a share
  of what the products of the same shapes alone would allow: on the pocket model and, where `make smollm` was run, on
  SmolLM2-135M-Instruct in float32 and bfloat16.
"""

import dataclasses
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lora_reuse.runs.command import command
from lora_reuse.runs.settings import Flag, Text, Whole, help_table, parse_options, setting

IN, OUT, RANK, ROWS = 2048, 11008, 16, 4
STATIC = ("uniform", "average", "sum", "linear", "cat", "random")


@dataclass(frozen=True)
class Options:
    """The benchmark:"""

    steps: int = setting(40, Whole(1, 10**6), "optimizer steps of each expert in the training comparison")
    experts: int = setting(4, Whole(2, 64), "experts trained")
    quick: bool = setting(False, Flag(), "small shapes, for a look at the output")
    out: str = setting("", Text("a folder"), "folder for a row of the results; none is written without it")


def main(words: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    return command("llm.benchmark", _main, words, "nothing was kept")


def _main(words: list[str], help: bool) -> int:
    options = parse_options(words, Options)
    if help:
        print((__doc__ or "").strip() + "\n\n" + help_table(Options))
        return 0
    measured = _benchmark(options)
    if options.out:
        _write(Path(options.out), options, measured)
    return 0


def _benchmark(options: Options) -> dict[str, float]:
    import torch

    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    measured: dict[str, float] = {}
    for experts, tokens in itertools.product((2, 10), (128, 1)):
        ours, theirs, bare = arrow_layer(experts, tokens, options.quick)
        name = f"arrow_{experts}_{ROWS * tokens}"
        measured |= {
            f"{name}_ms": ours,
            f"{name}_peft_ms": theirs,
            f"{name}_bare_ms": bare,
            f"{name}_ratio": theirs / ours,
        }
        print(
            f"Arrow, {experts:2} experts, {ROWS * tokens:3} tokens {ours:8.2f} ms   PEFT {theirs:8.2f} ms   ratio {theirs / ours:5.2f}"
            f"   above the bare layer's {bare:.2f} ms: {ours - bare:.2f} and {theirs - bare:.2f} ms"
        )
    for name, found in decoding(options.quick).items():
        measured |= {f"answers_{name}_{key}": value for key, value in found.items()}
        print(
            f"answers, {name:10} {found['per_s']:8.1f} /s   PEFT {found['peft_per_s']:8.1f} /s   ratio {found['ratio']:5.2f}"
            f"   at most {found['bound']:.1f}"
        )
    ours, theirs = training(options)
    measured |= {"experts_per_min": ours, "experts_peft_per_min": theirs, "experts_ratio": ours / theirs}
    print(
        f"experts, {options.steps:3} steps each     {ours:8.1f} /min PEFT {theirs:8.1f} /min ratio {ours / theirs:5.2f}"
    )
    for (model, dtype), found in paces(options.quick).items():
        measured |= {f"tokens_{model}_{dtype}_{key}": value for key, value in found.items()}
        print(
            f"one expert, {model} {dtype:8} {found['ours']:8.0f} tokens/s   PEFT {found['peft']:8.0f} /s   ratio {found['ratio']:5.2f}"
            f"   {found['share']:.0%} of the products' rate"
        )
    return measured


def _best(run: Callable[[], object], repeats: int = 7) -> float:
    """Seconds of the quickest of a few runs after one that warms up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def arrow_layer(experts: int, tokens: int, quick: bool) -> tuple[float, float, float]:
    """Milliseconds of one linear layer with its Arrow router: ours (merged after the product, as PEFT's is), and
    PEFT's; and of the layer alone. The three take turns, so that what else the machine does hits all of them."""
    import torch
    from lora_reuse.llm.adapters.folders import load_expert
    from lora_reuse.llm.compositions import compose
    from lora_reuse.llm.decoding.resident import Resident
    from peft import ArrowConfig, LoraConfig, create_arrow_model, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = (64, 128) if quick else (IN, OUT)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=8, hidden_size=shape[0], intermediate_size=shape[1], num_hidden_layers=1, num_attention_heads=2
    )
    name = "model.layers.0.mlp.up_proj"
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        fresh = lambda: Qwen2ForCausalLM(config).eval()  # noqa: E731
        paths = []
        for i in range(experts):
            lora = get_peft_model(fresh(), LoraConfig(r=RANK, target_modules=[name], init_lora_weights=False))
            lora.save_pretrained(f"{folder}/{i}")
            paths.append(f"{folder}/{i}")
        model = fresh()
        composition = compose("arrow_after", [load_expert(path, model) for path in paths])
        x = torch.randn(ROWS, tokens, shape[0])
        router: Any = create_arrow_model(fresh(), paths, ArrowConfig(top_k=experts)).eval()
        theirs, bare = router.base_model.model.get_submodule(name), fresh().get_submodule(name)
        with Resident(model) as resident:
            resident.use([composition])
            layer = model.get_submodule(name)
            times = [
                [_best(lambda run=run: run(x), 3) for run in (layer, theirs, bare)] for _ in range(3 if quick else 7)
            ]
    ours, peft, alone = (1e3 * min(column) for column in zip(*times, strict=True))
    return ours, peft, alone


def decoding(quick: bool) -> dict[str, dict[str, float]]:
    """Answers a second, by kind and number of questions: all compositions at once on one base, PEFT switching adapters
    between calls of generate, their ratio, and its bound. `stack` is two layers of the shape of Qwen2.5-3B, with random
    weights and random experts."""
    import torch
    from lora_reuse.llm.adapters.folders import linear_shape, load_expert
    from lora_reuse.llm.adapters.lowrank import LowRank
    from lora_reuse.llm.adapters.modules import target_modules
    from lora_reuse.llm.adapters.training import Spec, expert

    base, trained, found = _pocket(), _trained(2 if quick else 0), {}
    with tempfile.TemporaryDirectory() as folder:
        specs = [Spec((own,), (), 20, 0, trained, 0, role) for role, own in enumerate(("R1", "R2"), 1)]
        library = [load_expert(expert(base, spec, Path(folder)), base.model) for spec in specs]
    kinds = (("direct", "R12", 4 if quick else 32), ("steps", "R12-CoT", 4 if quick else 128))
    for (kind, subset, longest), count in itertools.product(kinds, (4, 40)):
        found[f"{kind}_{count}"] = _rates(base, library, subset, count, longest)
    stack = _stack(base, quick)
    shapes: dict[str, Any] = {
        name: linear_shape(stack.model.get_submodule(name)) for name in target_modules(stack.model, "mlp")
    }
    draw = lambda rows: torch.randn(rows, RANK) / rows**0.5  # noqa: E731
    library = [{name: LowRank(draw(out), draw(into)) for name, (out, into) in shapes.items()} for _ in range(2)]
    for count in (4, 40):
        found[f"stack_{count}"] = _rates(stack, library, "R12", count, 2 if quick else 8)
    return found


def _rates(base: Any, library: Any, subset: str, count: int, longest: int) -> dict[str, float]:
    import torch
    from lora_reuse.llm.adapters.folders import save_expert
    from lora_reuse.llm.compositions import compose
    from lora_reuse.llm.data.facts import triplets
    from lora_reuse.llm.data.subsets import examples
    from lora_reuse.llm.decoding.answers import answers

    questions = [e.question for e in examples(subset, triplets("R")[:20], "test")][:: 40 // count]
    compositions = [compose(name, library) for name in STATIC]
    ask = lambda: answers(base, compositions, questions, longest)  # noqa: E731
    said = [text for texts in ask() for text in texts]
    square = torch.randn(2048, 2048)
    products = [_best(lambda: square @ square)]
    ours = _best(ask, 3)
    with tempfile.TemporaryDirectory() as folder:
        for name, composition in zip(STATIC, compositions, strict=True):
            save_expert(composition, Path(folder) / name, "pocket")  # pyright: ignore[reportArgumentType]
        peft = _peft_seconds(base, folder, questions, longest)
    products.append(_best(lambda: square @ square))  # twice, because clocks change
    least = _flops(base, questions * len(STATIC), said, longest) * min(products) / (2 * 2048**3)
    return {"per_s": len(said) / ours, "peft_per_s": len(said) / peft, "ratio": peft / ours, "bound": peft / least}


def _peft_seconds(base: Any, folder: str, questions: list[str], longest: int) -> float:
    from lora_reuse.llm.decoding.models import stop_ids
    from peft import PeftModel
    from transformers import GenerationConfig

    switched: Any = PeftModel.from_pretrained(base.model, f"{folder}/{STATIC[0]}", adapter_name=STATIC[0])
    for name in STATIC[1:]:
        switched.load_adapter(f"{folder}/{name}", adapter_name=name)
    given = base.tokenizer(questions, padding=True, padding_side="left", return_tensors="pt")
    ends = {"eos_token_id": stop_ids(base), "pad_token_id": base.tokenizer.pad_token_id}
    greedy = GenerationConfig(do_sample=False, max_new_tokens=longest, **ends)

    def one_after_another() -> None:
        for name in STATIC:
            switched.set_adapter(name)
            base.tokenizer.batch_decode(switched.generate(**given, generation_config=greedy), skip_special_tokens=True)

    seconds = _best(one_after_another, 3)
    switched.unload()
    return seconds


def _flops(base: Any, questions: list[str], said: list[str], longest: int) -> float:
    """Of the base's products for the tokens that are asked and answered; the head sees the answered ones, attention's
    own are not counted."""
    from lora_reuse.llm.decoding.models import prompt

    head = base.model.get_output_embeddings().weight.numel()
    body = sum(
        p.numel()
        for name, p in base.model.named_parameters()
        if p.ndim == 2 and "embed" not in name and "head" not in name
    )
    asked = sum(len(prompt(base, question)) for question in questions)
    told = sum(min(longest, 1 + len(base.tokenizer(text).input_ids)) for text in said)
    return 2.0 * body * (asked + told) + 2.0 * head * told


def training(options: Options) -> tuple[float, float]:
    """Experts a minute: a pool of one-thread workers, and one process of all threads, one expert after another; the
    start is not counted."""
    from lora_reuse.llm.adapters.training import Spec
    from lora_reuse.llm.protocols.protocol import train_one
    from lora_reuse.llm.protocols.settings import Bridge
    from lora_reuse.llm.protocols.settings import Options as Run
    from lora_reuse.llm.protocols.workers import pool, worker_count

    trained = _trained(options.steps)
    with tempfile.TemporaryDirectory() as folder:

        def seconds(workers: int, first: int) -> float:
            point, run_options = Bridge(), Run(out=f"{folder}/{workers}")
            spec = lambda seed: Spec(("R1",), ("F1", "F2", "F12-CoT"), 20, 20, trained, seed, 1)  # noqa: E731
            with pool(workers) as run:
                list(
                    run([(train_one, (point, spec(10**6 + i), run_options)) for i in range(workers)])
                )  # loads the base
                start = time.perf_counter()
                list(run([(train_one, (point, spec(first + i), run_options)) for i in range(options.experts)]))
                return time.perf_counter() - start

        theirs, ours = seconds(1, 0), seconds(max(2, worker_count(Run())), 0)
    return 60 * options.experts / ours, 60 * options.experts / theirs


def paces(quick: bool) -> dict[tuple[str, str], dict[str, float]]:
    """By model and dtype."""
    from lora_reuse.llm.adapters.pace import pace
    from lora_reuse.llm.decoding.names import SMOLLM2

    kinds = [
        ("pocket", "float32"),
        *[("smollm2", dtype) for dtype in ("float32", "bfloat16") if SMOLLM2.is_file() and not quick],
    ]
    return {kind: pace(*kind, steps=1 if quick else 3, repeats=1 if quick else 5) for kind in kinds}


def _trained(steps: int) -> Any:
    """How the pocket model's experts are trained, for so many steps (0: as long as in the protocols)."""
    from lora_reuse.llm.protocols.settings import PRESETS, Training

    names = {f.name for f in dataclasses.fields(Training)} - {"steps"}
    return Training(steps=steps, **{k: v for k, v in PRESETS["pocket"].items() if k in names})


def _stack(base: Any, quick: bool) -> Any:
    """Random layers on the pocket model's vocabulary."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(base.tokenizer),
        hidden_size=64 if quick else IN,
        intermediate_size=128 if quick else OUT,
        num_hidden_layers=2,
        num_attention_heads=16,
        num_key_value_heads=2,
        eos_token_id=base.model.config.eos_token_id,
    )
    return dataclasses.replace(base, model=Qwen2ForCausalLM(config).eval().requires_grad_(False))


def _pocket() -> Any:
    from lora_reuse.llm.decoding.models import load_base

    return load_base("pocket")


def _write(folder: Path, options: Options, measured: dict[str, float]) -> None:
    import torch
    from lora_reuse.runs.provenance import provenance
    from lora_reuse.runs.rows import Rows

    settings = {
        "steps": options.steps,
        "experts": options.experts,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    where = {"device": "cpu", "threads": torch.get_num_threads()}
    row = {
        "experiment": "llm_benchmark",
        "settings": settings,
        "measured": json.loads(json.dumps(measured)),
        "predicted": {},
        "stderr": {},
    }
    Rows(folder, "llm_benchmark").append(row | {"provenance": provenance("torch", "transformers", "peft") | where})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
