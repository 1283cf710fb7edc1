"""An adapter cut to a rank: the nearest of that rank, and how far it is from the whole."""

import math
from dataclasses import dataclass, field, replace

import torch

from lora_reuse.llm.adapters.adapter import Adapter, Card
from lora_reuse.llm.adapters.each import Each
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.nearest import nearest
from lora_reuse.runs.settings import Whole, of_kind


@dataclass(frozen=True)
class Loss:
    """What a cut, or rounding, leaves out of ΔW, known of each module when it has been cut."""

    squares: dict[str, tuple[float, float]] = field(default_factory=dict)
    """‖ΔW − cut ΔW‖_F² and ‖ΔW‖_F², by module."""
    what: str = "the cut"

    def of(self, module: str) -> float:
        """‖ΔW − cut ΔW‖_F / ‖ΔW‖_F; 0 of ΔW = 0."""
        return _relative(*self.squares[module])

    def whole(self) -> float:
        """The same of all modules together: the root of the sums' ratio."""
        lost, every = (sum(column) for column in zip(*self.squares.values(), strict=True))
        return _relative(lost, every)

    def most(self) -> str:
        """The module whose cut leaves out most of its ΔW."""
        return max(self.squares, key=self.of)

    def line(self) -> str:
        """In all, and in the module where it is most."""
        most = self.most()
        return f"{self.what} is off by {self.whole():.2g} of ‖ΔW‖, by {self.of(most):.2g} in {most}"

    def text(self) -> str:
        """In all, and by module from the most, in Markdown; "" before anything was cut."""
        if not self.squares:
            return ""
        by_module = sorted(((self.of(name), name) for name in self.squares), reverse=True)
        rows = [f"| {name} | {error:.2g} |" for error, name in by_module]
        said = f"{self.what.capitalize()} is off by {self.whole():.2g} of ‖ΔW‖ (Frobenius norms, all modules together)."
        return "\n".join(["", said, "", "| module | relative error |", "|---|---|", *rows, ""])


def compress(adapter: Adapter, max_rank: int) -> Adapter:
    """The adapter with the nearest ΔW of rank `max_rank` in every module whose rank is higher, as servers want that
    load adapters up to a rank (vLLM's `max_lora_rank`).

    Args:
        adapter: an adapter, or a composition by a static rule.
        max_rank: the highest rank of a module.

    Returns:
        An adapter whose ΔW are those of the largest singular values of ΔW, from the core between the Q of its factors
        (Eckart and Young 1936): no other of that rank is nearer in the Frobenius norm. Modules of no higher rank stay
        as they are. `card.note()` says how far off it is, in all and by module; `save` writes it to README.md.

    Raises:
        SettingError: the composition has a router ("arrow"), or `max_rank` is no whole number from 1.

    Examples:
        >>> both = lr.compose([a, b], "sum")
        >>> both
        <Adapter 'sum of a, b': rank 4, 12 modules of pocket>
        >>> lr.compress(both, 3)
        <Adapter 'sum of a, b': rank 3, 12 modules of pocket; max_rank=3>
    """
    return compressed(adapter, max_rank)[0].in_memory()


def compressed(adapter: Adapter, max_rank: int) -> tuple[Adapter, Loss]:
    """`compress`, with each module cut when it is asked for, and what the cuts leave out."""
    max_rank = of_kind("max_rank", Whole(1, 10**5), max_rank)
    loss, updates = Loss(), adapter.experts()

    def cut(name: str) -> LowRank:
        update = updates[name]
        if update.rank <= max_rank:
            loss.squares[name] = 0.0, update.norm() ** 2
            return update
        if update.rank >= min(update.shape):  # no core is smaller
            whole = update.dense()
            kept = nearest(whole, max_rank, max_rank)
            lost = whole - kept.dense()
            loss.squares[name] = float(torch.linalg.norm(lost)) ** 2, float(torch.linalg.norm(whole)) ** 2
            return kept
        left, values, right = update.core_svd()
        squares = values.double() ** 2
        loss.squares[name] = float(squares[max_rank:].sum()), float(squares.sum())
        return LowRank(left[:, :max_rank] * values[:max_rank], right[:, :max_rank])

    card = replace(card_at(adapter.card, max_rank), note=lambda: adapter.card.note() + loss.text())
    return Adapter(Each(adapter, cut), card, adapter.layout, static=True), loss


def card_at(card: Card, max_rank: int) -> Card:
    """The card of what `card` describes, cut to a rank."""
    return replace(card, dials=dict(card.dials) | {"max_rank": max_rank})


def _relative(lost: float, whole: float) -> float:
    return math.sqrt(lost / whole) if whole else 0.0
