"""lora-reuse llm.benchmark

Times what the protocols spend their time on against the usual way with PEFT, and prints ratios.

All is measured in one run; above 1 ours is faster.
- One Arrow layer of the shape of Qwen2.5-3B's up_proj, with 2 and 10 experts, on 512 tokens as a prompt has them and on
  4 as a step of decoding has: against PEFT's Arrow; and what routing adds to the layer, which without adapters takes
  most of the time.
- Two experts under six compositions, all decoded in one batch on the resident base: against PEFT's set_adapter and
  generate, one composition after another (static ones, which PEFT can hold). A whole test set and a tenth of it, on the
  pocket model direct and step by step, on a random stack of two layers of Qwen2.5-3B's shape and, where `make smollm`
  was run, on SmolLM2-135M-Instruct; with the most that any way could gain on this machine: PEFT's time over that of the
  base's products alone, at the rate of large ones.
- Experts trained by worker processes of one thread each: against PEFT training one after another in one process of all
  threads.
- One expert on one thread, in tokens a second of the processor's time: against a plain loop with PEFT, and as a share
  of what the products of the same shapes alone would allow; on the pocket model and, where `make smollm` was run, on
  SmolLM2-135M-Instruct in float32 and bfloat16."""

import dataclasses
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lora_reuse.runs.command import begin, with_options
from lora_reuse.runs.settings import Flag, Place, Whole, setting


@dataclass(frozen=True)
class Options:
    """The benchmark:"""

    steps: int = setting(40, Whole(1, 10**6), "optimizer steps of each expert in the training comparison")
    experts: int = setting(4, Whole(2, 64), "experts trained")
    quick: bool = setting(False, Flag(), "small shapes, for a look at the output")
    out: str = setting("", Place("a folder"), "folder for a row of the results; none is written without it")


def main(words: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    return with_options("llm.benchmark", _main, Options, words, "nothing was kept")


def _main(options: Options) -> int:
    begin(options.out)
    measured = _benchmark(options)
    if options.out:
        _write(Path(options.out), options, measured)
    return 0


def _benchmark(options: Options) -> dict[str, float]:
    import torch

    from lora_reuse.llm.decoding.pace import ROWS, answering, arrow_layer

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
            f"Arrow, {experts:2} experts, {ROWS * tokens:3} tokens {ours:8.2f} ms   PEFT {theirs:8.2f} ms"
            f"   ratio {theirs / ours:5.2f}"
            f"   above the bare layer's {bare:.2f} ms: {ours - bare:.2f} and {theirs - bare:.2f} ms"
        )
    for name, found in answering(_trained(2 if options.quick else 0), options.quick).items():
        measured |= {f"answers_{name}_{key}": value for key, value in found.items()}
        print(
            f"answers, {name:10} {found['per_s']:8.1f} /s   PEFT {found['peft_per_s']:8.1f} /s"
            f"   ratio {found['ratio']:5.2f}   at most {found['bound']:.1f}"
        )
    ours, theirs = training(options)
    measured |= {"experts_per_min": ours, "experts_peft_per_min": theirs, "experts_ratio": ours / theirs}
    print(
        f"experts, {options.steps:3} steps each     {ours:8.1f} /min PEFT {theirs:8.1f} /min ratio {ours / theirs:5.2f}"
    )
    for (model, dtype), found in paces(options.quick).items():
        measured |= {f"tokens_{model}_{dtype}_{key}": value for key, value in found.items()}
        print(
            f"one expert, {model} {dtype:8} {found['ours']:8.0f} tokens/s   PEFT {found['peft']:8.0f} /s"
            f"   ratio {found['ratio']:5.2f}   Trainer {found['trainer']:8.0f} /s   ratio {found['trainer_ratio']:5.2f}"
            f"   {found['share']:.0%} of the products' rate"
        )
        if "compiled" in found:
            print(
                f"  its layers compiled {found['compiled']:16.0f} tokens/s {'':18} ratio {found['compiled_ratio']:5.2f}"
                f" {'':21} ratio {found['compiled_trainer_ratio']:5.2f}"
                f"   {found['compiled_share']:.0%} of the products' rate"
            )
    return measured


def training(options: Options) -> tuple[float, float]:
    """Experts a minute: a pool of one-thread workers, and one process of all threads, one expert after another; the
    start is not counted."""
    from lora_reuse.llm.adapters.training import Spec
    from lora_reuse.llm.protocols.measure import train_one
    from lora_reuse.llm.protocols.settings import Bridge
    from lora_reuse.llm.protocols.settings import Options as Run
    from lora_reuse.llm.protocols.workers import pool, worker_count

    trained = _trained(options.steps)
    with tempfile.TemporaryDirectory() as folder:

        def seconds(workers: int, first: int) -> float:
            point, run_options = Bridge(), Run(out=f"{folder}/{workers}")
            spec = lambda seed: Spec(("R1",), ("F1", "F2", "F12-CoT"), 20, 20, trained, seed, 1)  # noqa: E731
            with pool(workers) as run:
                # Loads the base in every worker.
                list(run([(train_one, (point, spec(10**6 + i), run_options)) for i in range(workers)]))
                start = time.perf_counter()
                list(run([(train_one, (point, spec(first + i), run_options)) for i in range(options.experts)]))
                return time.perf_counter() - start

        theirs, ours = seconds(1, 0), seconds(max(2, worker_count(Run())), 0)
    return 60 * options.experts / ours, 60 * options.experts / theirs


def paces(quick: bool) -> dict[tuple[str, str], dict[str, float]]:
    """What `pace` measures, by model and dtype: the pocket model, and SmolLM2 where its file was fetched."""
    from lora_reuse.llm.adapters.pace import pace
    from lora_reuse.llm.decoding.names import SMOLLM2

    kinds = [
        ("pocket", "float32"),
        *[("smollm2", dtype) for dtype in ("float32", "bfloat16") if SMOLLM2.is_file() and not quick],
    ]
    steps, repeats = (1, 1) if quick else (3, 5)
    return {kind: pace(*kind, steps, repeats, compile=not quick) for kind in kinds}


def _trained(steps: int) -> Any:
    """How the pocket model's experts are trained, for so many steps (0: as long as in the protocols)."""
    from lora_reuse.llm.protocols.settings import PRESETS, Training

    names = {f.name for f in dataclasses.fields(Training)} - {"steps"}
    return Training(steps=steps, **{k: v for k, v in PRESETS["pocket"].items() if k in names})


def _write(folder: Path, options: Options, measured: dict[str, float]) -> None:
    import torch

    from lora_reuse.runs.provenance import provenance
    from lora_reuse.runs.rows import Rows

    settings = {
        "steps": options.steps,
        "experts": options.experts,
        "quick": options.quick,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    knows = [str(name) for name, there in torch.cpu.get_capabilities().items() if there is True and "bf16" in name]
    where = {"device": "cpu", "threads": torch.get_num_threads(), "multiplies_bf16_by": knows}
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
