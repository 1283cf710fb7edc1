"""What follows from the measurements: whose answer a composition gives, whether it can compose, and what would change that."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from llm.forecast.measure import Answer, Composed, Measured

HALF = 0.5
"""Where a verdict turns. Scaled by w, an adapter's own answer wins from w = 1/2 on (`python -m theory.sweep experiment=scale`); a token counts as
somebody's when half of the probability goes with them. Nothing was fitted."""
WORDS = {"a": "as a", "b": "as b", "base": "as the base", "mixture": "as a mixture", "composed": "composed"}


class Signs(NamedTuple):
    """One answer's, each the most that any of its tokens shows: `a`, `b`: P under that adapter over the other's and the base's; `nobody`: P
    composed over that of the base and either adapter; `lacks_…`: P composed over that of the base, a or b alone, which is small where
    the answer is theirs from beginning to end. `hidden_a`, `hidden_b`: how much more of one adapter than of the other the token sets off, each
    times its scale there."""

    a: float
    b: float
    nobody: float
    lacks_base: float
    lacks_a: float
    lacks_b: float
    hidden_a: float
    hidden_b: float

    @property
    def composes(self) -> float:
        """Near 1 where one token is a's alone, another b's alone, and none is nobody's: the two facts of a chain, each said by the adapter that
        holds it. Theorem 2 allows no other way: what neither says alone comes of no sum of what they say."""
        return min(self.a, self.b) - self.nobody

    @property
    def hidden(self) -> float:
        """The same from hidden states alone."""
        return min(self.hidden_a, self.hidden_b)

    @property
    def whose(self) -> str:
        """One of WORDS: composed, or that of the base, a and b alone which lacks least, or a mixture where each lacks a token."""
        if min(self.a, self.b) >= HALF > self.nobody:
            return "composed"
        lacks = {"base": self.lacks_base, "a": self.lacks_a, "b": self.lacks_b}
        least = min(lacks, key=lambda name: lacks[name])
        return least if lacks[least] < HALF else "mixture"


class Forecast(NamedTuple):
    """A composition on all hoped-for prompts: shares of the prompts by whose answer they get, the means of both scores, and of each adapter's own
    prompts the share that keeps its answer and the mean scale of the adapter there."""

    whose: dict[str, float]
    score: float
    hidden: float
    kept: tuple[float, ...]
    own_scale: tuple[float, ...]

    @property
    def verdict(self) -> str:
        """The commonest of WORDS, composed where that is so for half of the prompts."""
        return "composed" if self.whose["composed"] >= HALF else max(self.whose, key=lambda name: self.whose[name])


def signs(answer: Answer) -> Signs:
    """What one answer shows."""
    a, b = answer.alone.T
    base, said = answer.base, answer.composed
    multiples = [scale * o.best for scale, o in zip(answer.scales.each.T, answer.overlaps, strict=True)]
    most = lambda values: float(values.max())  # noqa: E731
    return Signs(
        most(a - torch.maximum(base, b)),
        most(b - torch.maximum(base, a)),
        most(said - torch.stack([base, a, b]).amax(0)),
        most(said - base),
        most(said - a),
        most(said - b),
        most(multiples[0] - multiples[1]),
        most(multiples[1] - multiples[0]),
    )


def forecast(composed: Composed) -> Forecast:
    """All of a composition's answers together."""
    every = [signs(answer) for answer in composed.answers]
    mean = lambda values: float(sum(values) / len(values))  # noqa: E731
    whose = {name: mean([s.whose == name for s in every]) for name in WORDS}
    kept = tuple(float((p >= HALF).float().mean()) for p in composed.kept)
    return Forecast(
        whose, mean([s.composes for s in every]), mean([s.hidden for s in every]), kept, tuple(float(s.mean()) for s in composed.own_scale)
    )


def restates(measured: Measured, i: int) -> float:
    """Adapter i alone, on a hoped-for prompt: how much of the less set off of both adapters its answer sets off, at the best tokens for each; the
    mean over prompts. Near 1, its answer passes through a prompt as a was made for and through one as b was made for."""
    return float(torch.stack(list(measured.restated[i])).amin(0).mean())


def reasons(measured: Measured, forecasts: dict[str, Forecast], names: Sequence[str]) -> list[str]:
    """The verdict in sentences, and what bridge data would change it."""
    steps = [restates(measured, i) >= HALF for i in range(2)]
    said = []
    good = [name for name, f in forecasts.items() if f.verdict == "composed"]
    if good:
        best = max(good, key=lambda name: forecasts[name].score)
        said.append(
            f"Composition possible under {', '.join(good)} (best: {best}), because the answers restate prompts that the adapters were made for."
        )
    else:
        said.append(
            "Composition unlikely: no answer holds tokens that only a would say and tokens that only b would say without some that nobody would. "
            "This was found right of chains of facts, and wrong where one adapter changes the form of every answer."
        )
    lost = {name: f for name, f in forecasts.items() if min(f.kept) < HALF}
    for name, f in lost.items():
        i = f.kept.index(min(f.kept))
        said.append(f"Under {name} even {names[i]} loses prompts of its own: {f.kept[i]:.0%} kept, at scale {f.own_scale[i]:.2f} (it turns at 0.5).")
    if not any(steps):
        said.append(
            "Neither adapter alone answers the hoped-for prompts through prompts that the other was made for. What would change it: in the training "
            "data of both, prompts like these about other entities, answered step by step, each step a prompt as a or b was made for, restated."
        )
    elif not all(steps):
        holder, other = names if steps[0] else names[::-1]
        said.append(
            f"Only {holder} alone answers the hoped-for prompts through prompts of both kinds. A sum keeps a skill that one adapter holds, averages "
            f"and routers shrink it; the same step-by-step examples in the training data of {other} would serve them."
        )
    elif not good:
        said.append("Both adapters alone restate prompts of both kinds, so the way of answering is there, and they collide: try another composition.")
    else:
        said.append("Both adapters alone restate prompts of both kinds. A sum doubles what both hold: averages and routers do not.")
    return said
