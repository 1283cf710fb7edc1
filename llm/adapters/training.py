"""Experts: LoRA adapters trained with PEFT on a frozen base, cached by what made them, resumable to the bit.

The loop is our own, some forty lines, where Trainer is the usual choice, because it takes a share of every batch from
the expert's own facts, packs a batch instead of padding it (llm/adapters/packing.py), and comes back from a kill to the
same bits without a pickled random state."""

import dataclasses
import hashlib
import json
import math
import multiprocessing
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from torch import Tensor
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from lora_reuse.llm.adapters.checkpoint import Checkpoint, restore, state
from lora_reuse.llm.adapters.folders import WEIGHTS
from lora_reuse.llm.adapters.fused import fuse, in_loss, surprise
from lora_reuse.llm.adapters.graphed import Graph, graphed
from lora_reuse.llm.adapters.kinds import KINDS
from lora_reuse.llm.adapters.modules import quiet_peft, target_modules
from lora_reuse.llm.adapters.packing import Tokens, is_packing, packing, spoken
from lora_reuse.llm.adapters.specs import Spec
from lora_reuse.llm.decoding.compiled import compiled_function, compiled_layers
from lora_reuse.llm.decoding.models import Base, example
from lora_reuse.llm.decoding.widened import widened
from lora_reuse.llm.protocols.dials import settled
from lora_reuse.llm.protocols.settings import Training
from lora_reuse.runs.files import replacing
from lora_reuse.runs.progress import progress_bar
from lora_reuse.runs.settings import SettingError

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def tokens(base: Base, spec: Spec) -> tuple[list[Tokens], list[Tokens]]:
    """The training examples of an expert: its own, and its bridge's."""
    own, bridge = ([example(base, *pair) for pair in pairs] for pairs in spec.pairs())
    return own, bridge


def expert(base: Base, spec: Spec, folder: Path) -> Path:
    """The folder of the expert in `folder`, trained now unless it is there. Raises SettingError for a loss that is not
    finite."""
    done = folder / spec.key(base)
    if not (done / WEIGHTS).exists():
        try:
            with replacing(done) as scratch:
                card = train(base, spec, folder / f"{done.name}.checkpoint", scratch)
                (scratch / "expert.json").write_text(json.dumps(card, indent=1))
        except (OSError, SafetensorError):  # that one has finished, and tidied up
            if not (done / WEIGHTS).exists():
                raise
        for leftover in folder.glob(f"{done.name}.*"):
            shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)
    return done


def train(
    base: Base, spec: Spec, kept: Path, scratch: Path, progress: bool | None = None, share: float = 1.0
) -> dict[str, Any]:
    """Saves the adapter in `scratch`; goes on from the checkpoint `kept` if it is there. `progress` shows a bar (None:
    on a terminal). With a `share` below 1 training stops after that share of its steps, one at least. Returns what made
    the adapter, and its last loss."""
    training = spec.training
    kind, calibrated = KINDS[training.adapter], None
    if kind.calibrated_by:
        (other,) = settled([dataclasses.replace(training, adapter=kind.calibrated_by)], {})
        calibrated = expert(base, dataclasses.replace(spec, training=other), kept.parent)
    own, bridge = tokens(base, spec)
    steps = training.steps or _steps(len(own), len(bridge), training)
    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        fresh = ["sparse"] if calibrated else []  # LoRI's own draws another A than the mask was taken under
        torch.manual_seed(_seed(spec, "start", 0 if training.same_start else spec.role, *fresh))
        names = target_modules(base.model, training.layers)
        config = LoraConfig(
            r=training.rank,
            lora_alpha=training.alpha,
            lora_dropout=training.dropout,
            target_modules=names,
            fan_in_fan_out=isinstance(base.model.get_submodule(names[0]), Conv1D),
            bias="none",
            task_type="CAUSAL_LM",
        )
        with quiet_peft():
            model = get_peft_model(base.model, config)
    try:
        before_step = kind.prepare(model, calibrated, **{name: getattr(training, name) for name in kind.dials})
        weights = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=training.rate, weight_decay=training.weight_decay)
        if before_step:
            optimizer.register_step_pre_hook(before_step)
        fuse(model)
        checkpoint = Checkpoint(kept)
        start, loss, micro = restore(checkpoint.read(), weights, optimizer), math.nan, 1
        model.train()
        if progress is None and multiprocessing.parent_process():  # a worker's bar would run over that of its parent
            progress = False
        last = math.ceil(share * steps)
        bar = progress_bar(range(start, last), show=progress, initial=start, total=last, desc="steps", leave=False)
        loss_of = compiled_function(surprise) if base.compiled else surprise
        compiling = compiled_layers(base.model) if base.compiled else nullcontext()
        with torch.random.fork_rng(devices=[]), packing(base.model, model), compiling:
            graph = graphed(model, [_batch(own, bridge, spec, step) for step in range(last)])
            for step in bar:
                batch = _batch(own, bridge, spec, step)
                loss, micro = _step(model, optimizer, batch, spec, step, steps, micro, graph, loss_of)
                if not math.isfinite(loss):
                    raise SettingError(
                        "rate",
                        f"{training.rate}, and the loss is {loss} at step {step}",
                        "a rate at which training stays finite",
                    )
                if step + 1 < last:
                    checkpoint.offer(lambda: state(weights, optimizer))
        # A step with a finite loss may have had a gradient that is not.
        if not all(weight.isfinite().all() for weight in weights):
            got = f"{training.rate}, and weights are not finite in the end"
            raise SettingError("rate", got, "a rate at which training stays finite")
        model.eval()
        model.peft_config["default"].base_model_name_or_path = base.name
        # Told "auto", PEFT asks the hub for the base's vocabulary.
        model.save_pretrained(str(scratch), save_embedding_layers=False)
    finally:
        model.unload()
        base.model.eval().requires_grad_(False)
    return {
        "base": base.name,
        "base_digest": base.digest,
        "steps": steps,
        "loss": round(loss, 5),
        **({"compiled": True} if base.compiled else {}),
        **dataclasses.asdict(spec),
    }


def _steps(own: int, bridge: int, training: Training) -> int:
    """The steps of `epochs` passes over the examples; with own_share, over the expert's own, and its bridge comes round
    as it does."""
    if bridge and training.own_share:
        return math.ceil(own * training.epochs / _own_count(training))
    return math.ceil((own + bridge) * training.epochs / training.batch)


def _own_count(training: Training) -> int:
    """Own examples in a batch that has room for others, too. Raises SettingError where it has not."""
    count = max(1, round(training.batch * training.own_share))
    if count < training.batch:
        return count
    got = f"{training.own_share} with batch={training.batch}, which never shows the bridge"
    raise SettingError(
        "own_share",
        got,
        "a share that leaves room for others in a batch",
        "a larger batch=, or own_share=0 as the examples fall",
    )


def _step(
    model: Any,
    optimizer: torch.optim.Optimizer,
    batch: list[Tokens],
    spec: Spec,
    step: int,
    steps: int,
    micro: int,
    graph: Graph | None = None,
    loss_of: Loss = surprise,
) -> tuple[float, int]:
    """One optimizer step; when memory runs out, the batch goes in twice as many pieces, and so do the next. Returns
    loss and pieces."""
    training = spec.training
    warm = max(1, round(training.warm_up * steps))
    for group in optimizer.param_groups:
        group["lr"] = training.rate * ((step + 1) / warm if step < warm else (steps - step) / max(1, steps - warm))
    while True:
        try:
            torch.manual_seed(_seed(spec, "dropout", step))
            if graph:
                loss = graph(batch, in_loss(batch, batch, training.loss))
            else:
                loss = _backward(model, batch, training, micro, loss_of)
            break
        except torch.OutOfMemoryError:
            optimizer.zero_grad()
            if micro >= len(batch):
                raise SettingError(
                    "batch", f"{len(batch)}, and one example alone does not fit", "a smaller model or a larger device"
                ) from None
            micro = min(2 * micro, len(batch))
            print(f"out of memory: the batch of {len(batch)} goes in {micro} pieces from here on")
    if training.clip:
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], training.clip)
    optimizer.step()
    optimizer.zero_grad()
    return loss, micro


def _backward(model: Any, batch: list[Tokens], training: Training, micro: int, loss_of: Loss = surprise) -> float:
    """Adds the gradients of the batch's loss, the mean over answer tokens (of each example, or of all)."""
    total = 0.0
    for piece in _pieces(batch, micro, math.inf if is_packing(model) else 1.5):
        with widened(model):
            logits, told = spoken(model, piece)
            loss = loss_of(logits, told, in_loss(piece, batch, training.loss).to(logits.device))
            loss.backward()
        total += loss.item()
    return total


def _pieces(batch: list[Tokens], micro: int, apart: float) -> Iterator[list[Tokens]]:
    """The batch by length, cut where an example is more than `apart` times as long as the first of its piece, and into
    `micro` pieces at least."""
    ordered = sorted(batch, key=lambda e: len(e[0]) + len(e[1]))
    most = math.ceil(len(batch) / micro)
    piece: list[Tokens] = []
    for e in ordered:
        if piece and (len(piece) == most or len(e[0]) + len(e[1]) > apart * (len(piece[0][0]) + len(piece[0][1]))):
            yield piece
            piece = []
        piece.append(e)
    yield piece


def _batch(own: list[Tokens], bridge: list[Tokens], spec: Spec, step: int) -> list[Tokens]:
    """The examples of a step. With own_share, two streams that are each shuffled anew when they end; without, one of
    all examples."""
    training = spec.training
    if not (bridge and training.own_share):
        if not (bridge and training.same_bridge):
            return _stream(own + bridge, training.batch, step, _seed(spec, "order", spec.role))
        mixed = [
            own[i] for i in _order(len(own), f"{_seed(spec, 'own', spec.role)}")
        ]  # one order for both, but no pairs of own facts
        return _stream(mixed + bridge, training.batch, step, _seed(spec, "order", 0))
    mine = _own_count(training)
    others = _stream(
        bridge, training.batch - mine, step, _seed(spec, "bridge", 0 if training.same_bridge else spec.role)
    )
    return _stream(own, mine, step, _seed(spec, "own", spec.role)) + others


def _stream(pool: list[Tokens], count: int, step: int, seed: int) -> list[Tokens]:
    """Items step·count ... of the pool, shuffled anew each time it is used up."""
    taken = []
    for index in range(step * count, (step + 1) * count):
        turn, place = divmod(index, len(pool))
        taken.append(pool[_order(len(pool), f"{seed} {turn}")[place]])
    return taken


def _order(length: int, seed: str, _cache: dict[tuple[int, str], list[int]] = {}) -> list[int]:  # noqa: B006
    if (length, seed) not in _cache:
        if len(_cache) > 16:
            _cache.clear()
        order = list(range(length))
        random.Random(seed).shuffle(order)
        _cache[length, seed] = order
    return _cache[length, seed]


def _seed(spec: Spec, *words: object) -> int:
    """A seed of its own for each use."""
    return int.from_bytes(hashlib.sha256(repr((spec.seed, *words)).encode()).digest()[:6], "big")
