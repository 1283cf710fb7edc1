"""Pretraining of the pocket model: documents packed into rows, Muon on the matrices and AdamW on the rest, resumable to
the bit."""

import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from lora_reuse.llm.pocket.corpus import Document, World, documents, texts
from lora_reuse.llm.pocket.size import ROW, ROWS, Size
from lora_reuse.llm.pocket.tokenizer import make_tokenizer
from lora_reuse.runs.files import replacing
from lora_reuse.runs.settings import SettingError

PROMPT_WEIGHT = 0.1
"""How much a token of a prompt counts in the loss: questions are there to be read, and their names cannot be
foretold."""
LEARNING_RATE = 3e-3
WARM_UP = 0.03
MANY = ROW * ROWS // 36
"""Documents of which packing=longest takes those that fit: about half."""
KEEP_EVERY = 250
"""Steps between two checkpoints: about a minute."""


@dataclass(frozen=True)
class Batch:
    """Rows of packed documents. Positions restart at each document, which keeps documents from seeing each other."""

    ids: Int[Tensor, "rows tokens"]
    positions: Int[Tensor, "rows tokens"]
    weights: Float[Tensor, "rows tokens"]


class Logged(NamedTuple):
    """One line of the log: the mean loss since the line before."""

    step: int
    tokens: int
    loss: float
    seconds: int


class Made(TypedDict):
    """What pretraining took, and what came of it."""

    seconds: int
    loss: float
    parameters: int
    device: str


def batches(size: Size, tokenizer: PreTrainedTokenizerFast, first: int) -> Iterator[Batch]:
    """The batch of every step from `first` on; each depends on the seed and its step alone."""
    world = World(size, size.seed)
    for step in range(first, size.steps):
        stream = documents(world, random.Random(f"documents {size.seed} {step}"))
        drawn = [next(stream) for _ in range(MANY)] if size.packing == "longest" else _filling(stream, tokenizer)
        yield _packed(drawn, tokenizer)


def _filling(stream: Iterator[Document], tokenizer: PreTrainedTokenizerFast) -> list[Document]:
    """As many documents, in the order drawn, as a step has tokens for."""
    drawn, room = [], ROW * ROWS
    while True:
        document = next(stream)
        room -= len(tokenizer(_whole(document))["input_ids"]) + 1  # pyright: ignore[reportArgumentType]
        if room < 0:
            return drawn
        drawn.append(document)


def _whole(document: Document) -> str:
    return f"{document.prompt} {document.answer}".strip()


def _packed(drawn: list[Document], tokenizer: PreTrainedTokenizerFast) -> Batch:
    """Longest first into the first row with room; short ones that no row has room for are left out."""
    end: Any = tokenizer.eos_token_id
    ids = torch.full((ROWS, ROW), end, dtype=torch.long)
    positions, weights = torch.arange(ROW).repeat(ROWS, 1), torch.zeros(ROWS, ROW)
    used = [0] * ROWS
    prompts = tokenizer([d.prompt for d in drawn])["input_ids"]
    wholes = tokenizer([_whole(d) for d in drawn])["input_ids"]
    for prompt, whole in sorted(zip(prompts, wholes, strict=True), key=lambda pair: -len(pair[1])):
        length = len(whole) + 1
        row = next((row for row in range(ROWS) if used[row] + length <= ROW), None)
        if row is None:
            continue
        place = slice(used[row], used[row] + length)
        ids[row, place] = torch.tensor([*whole, end])
        positions[row, place] = torch.arange(length)
        weights[row, place] = 1.0
        weights[row, place.start : place.start + len(prompt)] = PROMPT_WEIGHT
        weights[row, place.start] = 0.0  # its context would be another document
        used[row] += length
    for row, start in enumerate(used):
        positions[row, start:] = torch.arange(ROW - start)
    return Batch(ids, positions, weights)


def pretrain(size: Size, folder: Path, progress: bool = True, device: str = "cpu") -> Made:
    """Trains into `folder` (an ordinary Hugging Face model folder). The first weights and the documents are the same on
    every device, the bits of the sums are not.

    Interrupted, it goes on from its last checkpoint to the same bits; the last of all, `checkpoint(folder)`, stays.
    Raises SettingError."""
    if size.width % (2 * size.heads):  # rotary positions turn pairs of features
        raise SettingError("heads", size.heads, f"a divisor of width/2={size.width / 2:g}")
    tokenizer = make_tokenizer(texts())
    model, optimizers = _start(size, tokenizer, device)
    log: list[Logged] = []
    partial = checkpoint(folder)
    if partial.exists():
        log = _resume(partial, size, model, optimizers)
    step, spent = (log[-1].step, log[-1].seconds) if log else (0, 0.0)
    started, losses = time.perf_counter() - spent, []
    bar = tqdm(
        total=size.steps * ROW * ROWS,
        initial=step * ROW * ROWS,
        unit=" tokens",
        unit_scale=True,
        disable=None if progress else True,
    )
    for batch in batches(size, tokenizer, step):
        losses.append(_step(model, optimizers, batch, _rate(step, size.steps)))
        step += 1
        bar.update(ROW * ROWS)
        bar.set_postfix(loss=f"{losses[-1]:.3f}")
        if not math.isfinite(losses[-1]):
            raise SettingError(
                "tokens", f"loss {losses[-1]} at step {step}", "a finite loss", "another seed or a smaller width"
            )
        if step % KEEP_EVERY == 0 or step == size.steps:
            log.append(
                Logged(
                    step, step * ROW * ROWS, round(sum(losses) / len(losses), 4), round(time.perf_counter() - started)
                )
            )
            losses = []
            bar.write(f"step {step} of {size.steps}: loss {log[-1].loss} after {log[-1].seconds} s")
            _keep(partial, size, model, optimizers, log)
    bar.close()
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "pretraining.csv").write_text(
        "\n".join([",".join(Logged._fields), *(",".join(map(str, line)) for line in log)]) + "\n"
    )
    return {
        "seconds": log[-1].seconds,
        "loss": log[-1].loss,
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": device,
    }


def checkpoint(folder: Path) -> Path:
    """Where the training of the model in `folder` keeps what it needs to go on."""
    folder = folder.resolve()
    return folder.with_name(f"{folder.name}.partial")


def _start(
    size: Size, tokenizer: PreTrainedTokenizerFast, device: str
) -> tuple[Qwen2ForCausalLM, list[torch.optim.Optimizer]]:
    torch.manual_seed(size.seed)
    end: Any = tokenizer.eos_token_id
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        intermediate_size=size.feed_forward,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
    )
    model: Any = Qwen2ForCausalLM(config)
    model.train().to(device)
    # A seventh faster than sdpa here, whose backward pass on a CPU is slow at this size.
    model.set_attn_implementation("eager")
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(matrices, lr=LEARNING_RATE, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    return model, [muon, adamw]


def _rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    warm = max(1, round(WARM_UP * steps))
    return LEARNING_RATE * (
        (step + 1) / warm if step < warm else 0.5 + 0.5 * math.cos(math.pi * (step - warm) / (steps - warm))
    )


def _step(model: Qwen2ForCausalLM, optimizers: list[torch.optim.Optimizer], batch: Batch, rate: float) -> float:
    ids, positions, weights = (part.to(model.device) for part in (batch.ids, batch.positions, batch.weights))
    with torch.autocast(model.device.type, torch.bfloat16):
        hidden = model.model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
        wanted = weights[:, 1:] > 0
        logits = model.lm_head(hidden[:, :-1][wanted])
    losses = torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][wanted], reduction="none")
    weights = weights[:, 1:][wanted]
    loss = (losses * weights).sum() / weights.sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def _keep(
    path: Path, size: Size, model: Qwen2ForCausalLM, optimizers: list[torch.optim.Optimizer], log: list[Logged]
) -> None:
    state = {
        "model": model.state_dict(),
        "optimizers": [o.state_dict() for o in optimizers],
        "log": [tuple(line) for line in log],
    }
    with replacing(path) as scratch:
        torch.save(state | {"size": json.dumps(size.recorded)}, scratch)


def _resume(path: Path, size: Size, model: Qwen2ForCausalLM, optimizers: list[torch.optim.Optimizer]) -> list[Logged]:
    state = torch.load(path, map_location="cpu", weights_only=True)
    if json.loads(state["size"]) != size.recorded:
        raise SettingError(
            "out",
            f"{path}, begun with other settings",
            "the settings it was begun with",
            "choose another out= or remove that file",
        )
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return [Logged(*line) for line in state["log"]]
