"""How fast one thread trains an expert: against a plain loop with PEFT, against transformers' Trainer, and against the
machine's products of the same shapes.

Times are the processor's, not the clock's, so that what else the machine does changes them little; the ways take turns,
and the best counts."""

import copy
import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from lora_reuse.llm.adapters.packing import Tokens, packing


def pace(model: str, dtype: str, steps: int, repeats: int, compile: bool = False) -> dict[str, float]:
    """Tokens a second of an expert on one hop of R, trained as the model's preset says: `ours`, and `peft` in a plain
    loop that pads its batches and has the model compute its loss; the `ratio` of the two; `trainer`, PEFT under
    transformers' Trainer as it comes, and `trainer_ratio`, of ours and that; and `share`, of what the products alone
    would allow, that ours reaches. With `compile`, where this processor multiplies in `dtype`, also
    `compiled`, ours with compiled layers, with the same ratios and share: `compiled_ratio` and so on."""
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
        trained = get_peft_model(copy.deepcopy(base.model), LoraConfig(**config))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            took, trainer = [], []
            for _ in range(repeats):
                took.append([[way(batch) for way in ways.values()] for batch in batches])
                trainer.append(_trainer_seconds(trained, batches, training.rate, training.clip))
        finally:
            torch.set_num_threads(threads)
    best = dict(zip(ways, torch.tensor(took).amin(0).sum(0).tolist(), strict=True))
    best["trainer"] = float(torch.tensor(trainer).amin(0).sum())
    products = best.pop("products")
    tokens = sum(len(asked) + len(answer) for batch in batches for asked, answer in batch)
    found = {way: tokens / seconds for way, seconds in best.items()}
    for way, before in {"ours": "", "compiled": "compiled_"}.items():
        if way in best:
            others = {"ratio": best["peft"], "trainer_ratio": best["trainer"], "share": products}
            found |= {f"{before}{name}": seconds / best[way] for name, seconds in others.items()}
    return found


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _padded(batch: Sequence[Tokens]) -> dict[str, Tensor]:
    longest = max(len(asked) + len(answer) for asked, answer in batch)
    rows = [
        (asked + answer, [-100] * len(asked) + answer, longest - len(asked) - len(answer)) for asked, answer in batch
    ]
    return {
        "input_ids": torch.tensor([text + [0] * empty for text, _, empty in rows]),
        "attention_mask": torch.tensor([[1] * len(text) + [0] * empty for text, _, empty in rows]),
        "labels": torch.tensor([told + [-100] * empty for _, told, empty in rows]),
    }


def _trainer_seconds(model: Any, batches: Sequence[Sequence[Tokens]], rate: float, clip: float) -> list[float]:
    """Of each batch the seconds between the start and the end of its step, by the Trainer's own callbacks: reading the
    batch is not among them."""
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **others: Any) -> None:
            marks.append(time.process_time())

        def on_step_end(self, *args: Any, **others: Any) -> None:
            marks.append(time.process_time())

    said: dict[str, Any] = {"max_steps": len(batches), "per_device_train_batch_size": len(batches[0]), "use_cpu": True}
    said |= {"learning_rate": rate, "max_grad_norm": clip, "train_sampling_strategy": "sequential"}
    said |= {"report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}
    said |= {"remove_unused_columns": False, "dataloader_pin_memory": False}
    examples: Any = [example for batch in batches for example in batch]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(folder, **said)
        trainer = Trainer(model, arguments, data_collator=_padded, train_dataset=examples, callbacks=[Clock()])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return [end - begin for begin, end in zip(marks[::2], marks[1::2], strict=True)]


def _plain_step(model: Any, optimizer: torch.optim.Optimizer, batch: Sequence[Tokens], clip: float) -> None:
    model(**_padded(batch)).loss.backward()
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
