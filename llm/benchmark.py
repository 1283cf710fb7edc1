"""python -m llm.benchmark

Times what the protocols spend their time on against the usual way with PEFT, in one run, and prints ratios (above 1: ours is faster):
- one Arrow layer of the shape of Qwen2.5-3B's up_proj, 2 and 10 experts, 512 tokens as a prompt has them and 4 as a step of decoding has,
  against PEFT's Arrow; and what routing adds to the layer, which without adapters takes most of the time;
- all compositions and all questions of a setup decoded in one batch on one resident base, against PEFT's set_adapter and generate, one
  composition after another (of the static ones, which PEFT can hold);
- experts trained by worker processes of one thread each, against PEFT training one after another in one process of all threads.
"""

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

from runs.command import command
from runs.settings import Flag, Text, Whole, help_table, parse_options, setting

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


def _main(words: list[str]) -> int:
    options = parse_options([word for word in words if word != "--help"], Options)
    if "--help" in words:
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
        measured |= {f"{name}_ms": ours, f"{name}_peft_ms": theirs, f"{name}_bare_ms": bare, f"{name}_ratio": theirs / ours}
        print(
            f"Arrow, {experts:2} experts, {ROWS * tokens:3} tokens {ours:8.2f} ms   PEFT {theirs:8.2f} ms   ratio {theirs / ours:5.2f}"
            f"   above the bare layer's {bare:.2f} ms: {ours - bare:.2f} and {theirs - bare:.2f} ms"
        )
    ours, theirs = decoding(options.quick)
    measured |= {"answers_per_s": ours, "answers_peft_per_s": theirs, "answers_ratio": ours / theirs}
    print(f"answers, {len(STATIC)} compositions    {ours:8.1f} /s   PEFT {theirs:8.1f} /s   ratio {ours / theirs:5.2f}")
    ours, theirs = training(options)
    measured |= {"experts_per_min": ours, "experts_peft_per_min": theirs, "experts_ratio": ours / theirs}
    print(f"experts, {options.steps:3} steps each     {ours:8.1f} /min PEFT {theirs:8.1f} /min ratio {ours / theirs:5.2f}")
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
    """Milliseconds of one linear layer with its Arrow router: ours (merged after the product, as PEFT's is), and PEFT's; and of the layer alone.
    The three take turns, so that what else the machine does hits all of them."""
    import torch
    from peft import ArrowConfig, LoraConfig, create_arrow_model, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from llm.adapters import load_expert
    from llm.compositions import compose
    from llm.resident import Resident

    shape = (64, 128) if quick else (IN, OUT)
    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=8, hidden_size=shape[0], intermediate_size=shape[1], num_hidden_layers=1, num_attention_heads=2)
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
            times = [[_best(lambda run=run: run(x), 3) for run in (layer, theirs, bare)] for _ in range(3 if quick else 7)]
    ours, peft, alone = (1e3 * min(column) for column in zip(*times, strict=True))
    return ours, peft, alone


def decoding(quick: bool) -> tuple[float, float]:
    """Answers a second: every static composition and 40 questions at once on one base, and PEFT switching adapters between generate calls."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import GenerationConfig

    from llm.adapters import load_expert, save_expert
    from llm.compositions import compose
    from llm.data.facts import triplets
    from llm.data.subsets import examples
    from llm.evaluation import answers
    from llm.models import stop_ids
    from llm.modules import target_modules

    base = _pocket()
    questions = [e.question for e in examples("R12", triplets("R")[: 4 if quick else 20], "test")]
    with tempfile.TemporaryDirectory() as folder:
        for i in range(2):
            torch.manual_seed(i)
            lora = get_peft_model(base.model, LoraConfig(r=RANK, target_modules=target_modules(base.model, "mlp")))
            lora.save_pretrained(f"{folder}/{i}")
            lora.unload()
        library = [load_expert(f"{folder}/{i}", base.model) for i in range(2)]
        compositions = [compose(name, library) for name in STATIC]
        ours = _best(lambda: answers(base, compositions, questions, 24), 3)
        for name, composition in zip(STATIC, compositions, strict=True):
            save_expert(composition, Path(folder) / name, "pocket")  # pyright: ignore[reportArgumentType]
        switched: Any = PeftModel.from_pretrained(base.model, f"{folder}/{STATIC[0]}", adapter_name=STATIC[0])
        for name in STATIC[1:]:
            switched.load_adapter(f"{folder}/{name}", adapter_name=name)

        given = base.tokenizer(questions, padding=True, padding_side="left", return_tensors="pt")
        stops = GenerationConfig(do_sample=False, max_new_tokens=24, eos_token_id=stop_ids(base), pad_token_id=base.tokenizer.pad_token_id)

        def one_after_another() -> None:
            for name in STATIC:
                switched.set_adapter(name)
                base.tokenizer.batch_decode(switched.generate(**given, generation_config=stops), skip_special_tokens=True)

        theirs = _best(one_after_another, 3)
        switched.unload()
    return len(STATIC) * len(questions) / ours, len(STATIC) * len(questions) / theirs


def training(options: Options) -> tuple[float, float]:
    """Experts a minute: a pool of one-thread workers, and one process of all threads, one expert after another; the start is not counted."""
    from llm.experts import Spec
    from llm.protocol import train_one
    from llm.settings import PRESETS, Bridge, Training
    from llm.settings import Options as Run
    from llm.workers import pool, worker_count

    names = {"alpha", "dropout", "rate", "clip", "own_share"}
    trained = Training(steps=options.steps, **{k: v for k, v in PRESETS["pocket"].items() if k in names})
    with tempfile.TemporaryDirectory() as folder:

        def seconds(workers: int, first: int) -> float:
            point, run_options = Bridge(), Run(out=f"{folder}/{workers}")
            spec = lambda seed: Spec(("R1",), ("F1", "F2", "F12-CoT"), 20, 20, trained, seed, 1)  # noqa: E731
            with pool(workers) as run:
                list(run([(train_one, (point, spec(10**6 + i), run_options)) for i in range(workers)]))  # loads the base
                start = time.perf_counter()
                list(run([(train_one, (point, spec(first + i), run_options)) for i in range(options.experts)]))
                return time.perf_counter() - start

        theirs, ours = seconds(1, 0), seconds(max(2, worker_count(Run())), 0)
    return 60 * options.experts / ours, 60 * options.experts / theirs


def _pocket() -> Any:
    from llm.models import load_base
    from llm.pocket import folder_of

    return load_base(str(folder_of("pocket")))


def _write(folder: Path, options: Options, measured: dict[str, float]) -> None:
    import torch

    from runs.provenance import provenance
    from runs.rows import Rows

    settings = {"steps": options.steps, "experts": options.experts, "when": datetime.now(UTC).isoformat(timespec="seconds")}
    where = {"device": "cpu", "threads": torch.get_num_threads()}
    row = {"experiment": "llm_benchmark", "settings": settings, "measured": json.loads(json.dumps(measured)), "predicted": {}, "stderr": {}}
    Rows(folder, "llm_benchmark").append(row | {"provenance": provenance("torch", "transformers", "peft") | where})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
