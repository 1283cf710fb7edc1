"""How numbers are learned: by gradients through the frozen base, or by a search that needs none. The experts stay as
they are."""

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lora_reuse.llm.adapters.checkpoint import Checkpoint, restore, state
from lora_reuse.llm.adapters.fused import in_loss, surprise
from lora_reuse.llm.adapters.packing import Tokens, spoken
from lora_reuse.llm.compositions import Composition, generator
from lora_reuse.llm.decoding.models import Base
from lora_reuse.llm.decoding.resident import Resident
from lora_reuse.runs.progress import progress_bar
from lora_reuse.runs.settings import SettingError

Parameters = dict[str, Tensor]
Loss = Callable[[Composition, Sequence[Any]], Tensor]
"""The mean loss of a composition on a batch of examples, whatever an example is."""


@dataclass(frozen=True)
class Learning:
    """The knobs of learning: Adam's `rate` (0: the rule's own), falling linearly to zero over `steps` batches of
    `batch` examples; or `tries`, how often a search may look. `seed` draws the batches and the search's points;
    `show` is that of `progress_bar`. `kept` is a file for what was learned so far, from which the same call goes on."""

    rate: int | float = 0.0
    steps: int = 100
    batch: int = 16
    tries: int = 40
    seed: int = 0
    show: bool | None = False
    kept: Path | None = None

    def __post_init__(self) -> None:
        """Raises SettingError for a knob outside its range."""
        if not 0 <= self.rate < math.inf:
            raise SettingError("rate", self.rate, "a number from 0; 0: the rule's own")
        for name in ("steps", "batch", "tries"):
            if getattr(self, name) < 1:
                raise SettingError(name, getattr(self, name), "a whole number from 1")


def answer_loss(base: Base, resident: Resident, composition: Composition, batch: Sequence[Tokens]) -> Float[Tensor, ""]:
    """−log P of an answer's token, averaged over each answer and then over the (prompt, answer) pairs, as experts are
    trained. Within `packing` the pairs are one row without padding."""
    resident.use([composition])
    logits, told = spoken(base.model, batch)
    return surprise(logits, told, in_loss(batch, batch, "example").to(logits.device))


def descend(
    build: Callable[[Parameters], Composition],
    start: Parameters,
    loss: Loss,
    examples: Sequence[Any],
    rate: int | float,
    learning: Learning,
) -> Parameters:
    """Adam from `start`, the rate falling linearly to zero. Where memory runs out, batches go in pieces of half as many
    examples.

    Raises SettingError for a loss that is not finite, and when one example alone does not fit.
    """
    values = {name: value.clone().requires_grad_() for name, value in start.items()}
    optimizer = torch.optim.Adam(values.values(), lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=learning.steps)
    rows = learning.batch
    checkpoint = Checkpoint(learning.kept)
    taken = restore(checkpoint.read(), list(values.values()), optimizer)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
        for _ in range(taken):
            schedule.step()
    batches = itertools.islice(_batches(examples, learning), taken, None)
    steps = {"total": learning.steps, "initial": taken}
    for batch in progress_bar(batches, desc="learning", unit="batch", show=learning.show, **steps):

        def gradient(rows: int, batch: Sequence[Any] = batch) -> float:
            optimizer.zero_grad()
            return _mean(build, values, loss, batch, rows, backward=True)

        value, rows = _as_memory_allows(gradient, rows)
        if not math.isfinite(value):
            raise SettingError(
                "learn_rate", f"{rate:g}, and the loss is {value}", "a rate at which learning stays finite"
            )
        optimizer.step()
        schedule.step()
        checkpoint.offer(lambda: state(list(values.values()), optimizer))
    return {name: value.detach() for name, value in values.items()}


def search(
    build: Callable[[Parameters], Composition],
    start: Parameters,
    loss: Loss,
    examples: Sequence[Any],
    learning: Learning,
) -> Parameters:
    """LoraHub's: the least loss on the examples + 0.05 mean|w| for w in [−1.5, 1.5]ⁿ, in `tries` looks (Huang et al.
    2024).

    The first half of the looks are at `start` and at Halton points; the rest is COBYQA's, a trust-region method without
    derivatives, from the best of them (all Halton where COBYQA would have fewer than its 2n + 2). The original has
    Nevergrad's NGOpt choose a method for it."""
    from scipy import optimize
    from scipy.stats import qmc  # half a second, which no other rule needs

    sizes = [value.numel() for value in start.values()]
    n = sum(sizes)

    def parameters(w: np.ndarray) -> Parameters:
        parts = torch.from_numpy(w).float().split(sizes)
        return {
            name: part.view_as(value).to(value.device) for (name, value), part in zip(start.items(), parts, strict=True)
        }

    looks = progress_bar(desc="learning", total=learning.tries, unit="look", show=learning.show)
    checkpoint = Checkpoint(learning.kept)
    seen = checkpoint.read().get("losses", torch.empty(0)).tolist()  # the search asks for them again in their order
    known = iter(list(seen))

    def objective(w: np.ndarray) -> float:
        looks.update()
        value = next(known, None)
        if value is None:
            with torch.no_grad():
                value, _ = _as_memory_allows(
                    lambda rows: _mean(build, parameters(w), loss, examples, rows, backward=False), learning.batch
                )
            seen.append(value)
            checkpoint.offer(lambda: {"losses": torch.tensor(seen, dtype=torch.float64)})
        return value + 0.05 * float(np.mean(np.abs(w)))

    first = np.concatenate([value.flatten().double().cpu().numpy() for value in start.values()])
    local = learning.tries - learning.tries // 2 if learning.tries - learning.tries // 2 >= 2 * n + 2 else 0
    points = [
        first,
        *qmc.scale(qmc.Halton(n, rng=learning.seed).random(max(learning.tries - local - 1, 1)), -1.5, 1.5),
    ][: learning.tries - local]
    values = [objective(point) for point in points]
    if not np.isfinite(values).any():
        raise SettingError(
            "library", "experts under which no loss is finite", "experts and a dtype with finite outputs"
        )
    best = points[int(np.nanargmin(values))]
    if local:
        options = {"maxfev": local, "initial_tr_radius": 0.25, "final_tr_radius": 1e-4}
        found = optimize.minimize(objective, best, method="COBYQA", bounds=[(-1.5, 1.5)] * n, options=options)
        best = found.x if found.fun < np.nanmin(values) else best
    looks.close()
    return parameters(best)


def _as_memory_allows(run: Callable[[int], float], rows: int) -> tuple[float, int]:
    """run(rows), with half as many rows for as long as memory runs out; and the rows that fitted."""
    while True:
        try:
            return run(rows), rows
        except torch.OutOfMemoryError:
            if rows == 1:
                raise SettingError(
                    "batch", "one example, which does not fit in memory", "a smaller model or a larger device"
                ) from None
            rows = math.ceil(rows / 2)


def _mean(
    build: Callable[[Parameters], Composition],
    values: Parameters,
    loss: Loss,
    batch: Sequence[Any],
    rows: int,
    *,
    backward: bool,
) -> float:
    """The mean loss on the batch, `rows` examples at a time, with its gradient if wanted."""
    total = 0.0
    for i in range(0, len(batch), rows):
        piece = batch[i : i + rows]
        part = loss(build(values), piece) * (len(piece) / len(batch))
        if backward:
            part.backward()
        total += part.item()
    return total


def _batches(examples: Sequence[Any], learning: Learning) -> Iterator[list[Any]]:
    """`steps` batches from the examples, which are shuffled anew when they are used up."""
    random, left = generator(learning.seed, "learn"), []
    for _ in range(learning.steps):
        while len(left) < learning.batch:
            left += torch.randperm(len(examples), generator=random).tolist()
        chosen, left = left[: learning.batch], left[learning.batch :]
        yield [examples[i] for i in chosen]
