"""How fast a base answers with compositions on it: against PEFT's Arrow layer, against PEFT's generate, and against the
machine's products. The ways take turns, so that what else the machine does hits all of them, and the best of each
counts."""

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import ArrowConfig, LoraConfig, PeftModel, create_arrow_model, get_peft_model
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from lora_reuse.llm.adapters.folders import linear_shape, load_expert
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.modules import target_modules
from lora_reuse.llm.adapters.training import Spec, expert
from lora_reuse.llm.adapters.writing import save_expert
from lora_reuse.llm.compositions import compose
from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.decoding.greedy import answers
from lora_reuse.llm.decoding.models import Base, load_base, prompt, stop_ids
from lora_reuse.llm.decoding.names import SMOLLM2
from lora_reuse.llm.decoding.resident import Resident
from lora_reuse.llm.protocols.settings import Training

IN, OUT, RANK, ROWS = 2048, 11008, 16, 4
STATIC = ("uniform", "average", "sum", "linear", "cat", "random")


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


def answering(training: Training, quick: bool) -> dict[str, dict[str, float]]:
    """Answers a second, by kind and number of questions: all compositions at once on one base, PEFT switching adapters
    between calls of generate, their ratio, and its bound. `training` says how the two experts of the pocket model are
    trained. `stack` is two layers of the shape of Qwen2.5-3B, with random weights and random experts, and `smollm2`
    SmolLM2-135M-Instruct in float32 with random experts, where its file was fetched."""
    base, found = load_base("pocket"), {}
    with tempfile.TemporaryDirectory() as folder:
        specs = [Spec((own,), (), 20, 0, training, 0, role) for role, own in enumerate(("R1", "R2"), 1)]
        library = [load_expert(expert(base, spec, Path(folder)), base.model) for spec in specs]
    kinds = (("direct", "R12", 4 if quick else 32), ("steps", "R12-CoT", 4 if quick else 128))
    for (kind, subset, longest), count in itertools.product(kinds, (4, 40)):
        found[f"{kind}_{count}"] = _rates(base, library, subset, count, longest)
    others = {"stack": _stack(base, quick)}
    if SMOLLM2.is_file() and not quick:
        others["smollm2"] = load_base("smollm2", chat="off")
    draw = lambda rows: torch.randn(rows, RANK) / rows**0.5  # noqa: E731
    for (kind, other), count in itertools.product(others.items(), (4, 40)):
        shapes: dict[str, Any] = {
            name: linear_shape(other.model.get_submodule(name)) for name in target_modules(other.model, "mlp")
        }
        library = [{name: LowRank(draw(out), draw(into)) for name, (out, into) in shapes.items()} for _ in range(2)]
        found[f"{kind}_{count}"] = _rates(other, library, "R12", count, 2 if quick else 8)
    return found


def _rates(base: Base, library: Any, subset: str, count: int, longest: int) -> dict[str, float]:
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
    least = flops(base, questions * len(STATIC), said, longest) * min(products) / (2 * 2048**3)
    return {"per_s": len(said) / ours, "peft_per_s": len(said) / peft, "ratio": peft / ours, "bound": peft / least}


def _peft_seconds(base: Base, folder: str, questions: list[str], longest: int) -> float:
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


def flops(base: Base, questions: list[str], said: list[str], longest: int) -> float:
    """The floating-point operations of the base's products for the tokens that are asked and answered. The head sees
    the answered ones; attention's own products are not counted."""
    vocabulary: Any = base.model.get_output_embeddings()
    head = vocabulary.weight.numel()
    body = sum(
        p.numel()
        for name, p in base.model.named_parameters()
        if p.ndim == 2 and "embed" not in name and "head" not in name
    )
    asked = sum(len(prompt(base, question)) for question in questions)
    told = sum(min(longest, 1 + len(base.tokenizer(text).input_ids)) for text in said)
    return 2.0 * body * (asked + told) + 2.0 * head * told


def _stack(base: Base, quick: bool) -> Base:
    """Two random layers on the pocket model's vocabulary."""
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
