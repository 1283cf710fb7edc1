"""What a decision costs: points of right answers that it falls short of the best rule in hindsight.

A *library* is two experts or more asked in one way, with a row for each rule that composed them. A decision takes the
rule of the highest score if that is `merge_from` or more, and no rule otherwise. Its regret, with s the share of right
answers of the rule it takes and 0 without one, s* the largest share of any rule:

    s* − s   where a rule works, which is to say that s* is 1/2 or more
    1/2 − s  where none does and a rule is taken: what the promise that it works is short of
    0        where none does and none is taken"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

WORKED = 0.5
"""The share of right answers from which a composition has worked."""

Row = Mapping[str, Any]
Score = Float[np.ndarray, " rows"]


class Library(NamedTuple):
    """A library of two rules or more: the numbers of its rows, and the share of right answers of each."""

    rows: list[int]
    shares: Score

    @property
    def works(self) -> bool:
        """Whether any of the rules does."""
        return bool(self.shares.max() >= WORKED)

    def taken(self, score: Score, merge_from: float) -> int | None:
        """The number, within the library, of the rule that a score takes; None where it takes none."""
        best = int(score[self.rows].argmax())
        return best if score[self.rows][best] >= merge_from else None

    def regret(self, score: Score, merge_from: float) -> float:
        """What the decision costs here, by the formula above."""
        taken = self.taken(score, merge_from)
        share = 0.0 if taken is None else float(self.shares[taken])
        if self.works:
            return float(self.shares.max()) - share
        return 0.0 if taken is None else WORKED - share


def libraries(rows: Sequence[Row]) -> list[Library]:
    """The libraries of the rows. How many answers a row has tells the formats of one protocol apart."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for i, row in enumerate(rows):
        settings = row["settings"]
        key = (
            base_of(row),
            *(settings[name] for name in ("of", "seed", "pair", "prompting")),
            row["measured"]["total"],
        )
        found.setdefault(key, []).append(i)
    shares = share(rows)
    return [Library(numbers, shares[numbers]) for numbers in found.values() if len(numbers) > 1]


def share(rows: Sequence[Row]) -> Score:
    """The share of right answers of each row."""
    return np.array([row["measured"]["hits"] / row["measured"]["total"] for row in rows])


def regrets(score: Score, asked: Sequence[Library], merge_from: float) -> Float[np.ndarray, " libraries"]:
    """The regret in each library."""
    return np.array([library.regret(score, merge_from) for library in asked])


def least_regret(score: Score, asked: Sequence[Library], steps: Sequence[float]) -> float:
    """Of the thresholds, that of the least mean regret; the largest of equal ones, which promises least."""
    means = [float(regrets(score, asked, step).mean()) for step in steps]
    return max(step for step, mean in zip(steps, means, strict=True) if mean == min(means))


def base_of(row: Row) -> str:
    """The digest of the base's weights, or where a row does not say it the base's name."""
    return str(row.get("provenance", {}).get("base_digest") or row["settings"].get("model", ""))
