"""How fast one thread trains an expert: against a plain loop with PEFT, and against the machine's products of the same
shapes.

Times are the processor's, not the clock's, so that what else the machine does changes them little; the ways take turns,
and the best counts."""

import copy
import functools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from lora_reuse.llm.adapters.packing import Tokens, packing


def pace(model: str, dtype: str, steps: int, repeats: int, compile: bool = False) -> dict[str, float]:
    """Tokens a second of an expert on one hop of R, trained as the model's preset says: `ours`, and `peft` in a plain
    loop that pads its batches and has the model compute its loss; the `ratio` of the two; and `share`, of what the
    products alone would allow, that ours reaches. With `compile`, where this processor multiplies in `dtype`, also
    `compiled`, ours with compiled layers, and its `compiled_ratio` and `compiled_share`."""
    from peft import LoraConfig, get_peft_model

    from lora_reuse.llm.adapters import training as experts
    from lora_reuse.llm.adapters.fused import fuse, surprise
    from lora_reuse.llm.adapters.modules import target_modules
    from lora_reuse.llm.decoding.compiled import compiled_function, compiled_layers
    from lora_reuse.llm.decoding.models import load_base
    from lora_reuse.llm.decoding.widened import lacks_products
    from lora_reuse.llm.protocols.settings import PRESETS, Training

    preset = PRESETS[model]
    training = Training(**{name: value for name, value in preset.items() if name in Training.__dataclass_fields__})
    spec = experts.Spec(("R1",), (), preset["triplets"], 0, training, 0, 1)
    base = load_base(model, dtype, "cpu", chat=preset.get("chat", "auto"))
    batches = [experts._batch(experts.tokens(base, spec)[0], [], spec, step) for step in range(steps)]
    names = target_modules(base.model, training.layers)
    config: Any = {"r": training.rank, "lora_alpha": training.alpha, "target_modules": names, "task_type": "CAUSAL_LM"}
    ways: dict[str, Callable[[list[Tokens]], float]] = {}
    with ExitStack() as stack:
        for way in ("ours", "compiled", "peft") if compile and not lacks_products(base.model) else ("ours", "peft"):
            plain = copy.deepcopy(base.model)
            adapted = get_peft_model(plain, LoraConfig(**config)).train()
            optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=training.rate)
            if way == "peft":
                step = functools.partial(_plain_step, adapted, optimizer, clip=training.clip)
            else:
                fuse(adapted)
                stack.enter_context(packing(plain, adapted))
                loss_of = surprise
                if way == "compiled":
                    stack.enter_context(compiled_layers(plain))
                    loss_of = compiled_function(surprise)
                given = {"spec": spec, "step": 0, "steps": steps, "micro": 1, "loss_of": loss_of}
                step = functools.partial(experts._step, adapted, optimizer, **given)
            ways[way] = lambda batch, step=step: _seconds(lambda: step(batch=batch))
        ways["products"] = lambda batch: _products(base.model, names, training.rank, batch)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            took = [[[way(batch) for way in ways.values()] for batch in batches] for _ in range(repeats)]
        finally:
            torch.set_num_threads(threads)
    best = dict(zip(ways, torch.tensor(took).amin(0).sum(0).tolist(), strict=True))
    peft, products = best["peft"], best.pop("products")
    tokens = sum(len(asked) + len(answer) for batch in batches for asked, answer in batch)
    found = {way: tokens / seconds for way, seconds in best.items()}
    for way, before in {"ours": "", "compiled": "compiled_"}.items():
        if way in best:
            found |= {f"{before}ratio": peft / best[way], f"{before}share": products / best[way]}
    return found


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
