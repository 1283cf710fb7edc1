"""How fast one thread trains an expert: against a plain loop with PEFT, and against the machine's products of the same
shapes.

Times are the processor's, not the clock's, so that what else the machine does changes them little; the ways take turns,
and the best counts."""

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lora_reuse.llm.adapters.packing import Tokens, packing


def pace(model: str, dtype: str, steps: int, repeats: int) -> dict[str, float]:
    """Tokens a second of an expert on one hop of R, trained as the model's preset says: `ours`, and `peft` in a plain
    loop that pads its batches and has the model compute its loss; the `ratio` of the two; and `share`, of what the
    products alone would allow, that ours reaches."""
    from peft import LoraConfig, get_peft_model

    from lora_reuse.llm.adapters import training as experts
    from lora_reuse.llm.adapters.fused import fuse
    from lora_reuse.llm.adapters.modules import target_modules
    from lora_reuse.llm.decoding.models import load_base
    from lora_reuse.llm.protocols.settings import PRESETS, Training

    preset = PRESETS[model]
    training = Training(**{name: value for name, value in preset.items() if name in Training.__dataclass_fields__})
    spec = experts.Spec(("R1",), (), preset["triplets"], 0, training, 0, 1)
    base = load_base(model, dtype, "cpu", chat=preset.get("chat", "auto"))
    batches = [experts._batch(experts.tokens(base, spec)[0], [], spec, step) for step in range(steps)]
    names = target_modules(base.model, training.layers)
    config: Any = {"r": training.rank, "lora_alpha": training.alpha, "target_modules": names, "task_type": "CAUSAL_LM"}
    theirs, ours = (
        get_peft_model(plain, LoraConfig(**config)).train() for plain in (copy.deepcopy(base.model), base.model)
    )
    fuse(ours)
    first, second = (
        torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=training.rate) for m in (ours, theirs)
    )
    ways: list[Callable[[list[Tokens]], float]] = [
        lambda batch: _seconds(lambda: experts._step(ours, first, batch, spec, 0, steps, 1)),
        lambda batch: _seconds(lambda: _plain_step(theirs, second, batch, training.clip)),
        lambda batch: _products(base.model, names, training.rank, batch),
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with packing(base.model, ours):
            times = torch.tensor([[[way(batch) for way in ways] for batch in batches] for _ in range(repeats)])
    finally:
        torch.set_num_threads(threads)
    ours_s, peft_s, products_s = times.amin(0).sum(0).tolist()
    tokens = sum(len(asked) + len(answer) for batch in batches for asked, answer in batch)
    return {"ours": tokens / ours_s, "peft": tokens / peft_s, "ratio": peft_s / ours_s, "share": products_s / ours_s}


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _plain_step(model: Any, optimizer: torch.optim.Optimizer, batch: Sequence[Tokens], clip: float) -> None:
    longest = max(len(asked) + len(answer) for asked, answer in batch)
    rows = [
        (asked + answer, [-100] * len(asked) + answer, longest - len(asked) - len(answer)) for asked, answer in batch
    ]
    ids = torch.tensor([text + [0] * empty for text, _, empty in rows])
    attended = torch.tensor([[1] * len(text) + [0] * empty for text, _, empty in rows])
    model(
        input_ids=ids, attention_mask=attended, labels=torch.tensor([told + [-100] * empty for _, told, empty in rows])
    ).loss.backward()
    nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], clip)
    optimizer.step()
    optimizer.zero_grad()


def _products(model: Any, names: Sequence[str], rank: int, batch: Sequence[Tokens]) -> float:
    """Seconds of the products that no way can do without: of each frozen matrix, forward and, from the lowest adapter
    on, backward; of the vocabulary where an answer is; and of the adapters, three of each factor, at the rate of the
    others."""
    tokens, answered = sum(len(asked) + len(answer) for asked, answer in batch), sum(len(answer) for _, answer in batch)
    reached, flops, seconds = False, 0.0, 0.0
    known: dict[tuple[int, ...], tuple[float, float]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or ".lora_" in name:
            continue
        rows = answered if module is model.get_output_embeddings() else tokens
        key = (rows, *module.weight.shape)
        if key not in known:
            known[key] = _product_seconds(rows, module.weight)
        flops += 2 * rows * module.weight.numel() * (1 + reached)
        seconds += known[key][0] + known[key][1] * reached
        reached = reached or name.removesuffix(".base_layer") in names
    adapters = sum(6 * tokens * rank * sum(model.get_submodule(name).weight.shape) for name in names)
    return seconds * (1 + adapters / flops)


def _product_seconds(rows: int, weight: Tensor) -> tuple[float, float]:
    x, dy = (weight.new_ones(rows, size) for size in (weight.shape[1], weight.shape[0]))
    forward, backward = (lambda: nn.functional.linear(x, weight)), (lambda: dy @ weight)
    return min(_seconds(forward) for _ in range(5)), min(_seconds(backward) for _ in range(5))
