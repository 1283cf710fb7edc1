"""The verdict on a composition, from what was measured: whose answers it gives, whether it composes, and what data
would change that."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from lora_reuse.llm.forecast import HALF
from lora_reuse.llm.forecast.measure import Answer, Composed, Measured, mean_log

WORDS = {"a": "as a", "b": "as b", "base": "as the base", "mixture": "as a mixture", "composed": "composed"}
"""The verdicts, each with how a composition that gets it answers."""


class Signs(NamedTuple):
    """What one answer shows; each number is the largest over the answer's tokens.

    `a` is how far P under adapter a exceeds the larger of P under the base and under b, and `b` is the same for adapter
    b. `nobody` is how far P under the composition exceeds P under the base and under each adapter. `lacks_base`,
    `lacks_a` and `lacks_b` are how far P under the composition exceeds P under that one model, which is small where the
    model would give the whole answer itself. `hidden_a` and `hidden_b` are how much more of that adapter's change than
    of the other's a token sets off, each times its scale there."""

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
        """min(a, b) − nobody. It is near 1 where only a says one token, only b says another, and no token is said by
        the composition alone: the two facts of a chain, each from the adapter that holds it. Theorem 2 says that a sum
        of edits gives no fact that neither edit gives."""
        return min(self.a, self.b) - self.nobody

    @property
    def united(self) -> float:
        """|composes|: near 0 where the answer is one model's, and near 1 where it takes from both adapters, or says
        what neither does, as a fact in a form that its expert never gave it."""
        return abs(self.composes)

    @property
    def hidden(self) -> float:
        """min(hidden_a, hidden_b): the counterpart of `composes` that reads hidden states alone."""
        return min(self.hidden_a, self.hidden_b)

    @property
    def whose(self) -> str:
        """The word in WORDS for whose answer it is: "composed" where a and b are at least 1/2 and nobody is less;
        otherwise the one model that lacks least; "mixture" where each of them lacks more than 1/2 at some token."""
        if min(self.a, self.b) >= HALF > self.nobody:
            return "composed"
        lacks = {"base": self.lacks_base, "a": self.lacks_a, "b": self.lacks_b}
        least = min(lacks, key=lambda name: lacks[name])
        return least if lacks[least] < HALF else "mixture"


class Forecast(NamedTuple):
    """What a composition does with all hoped-for prompts, and what it leaves of each adapter.

    `whose` is the share of the prompts for each of WORDS; `score`, `united` and `hidden` are the means of what `Signs`
    calls `composes`, `united` and `hidden`; `confidence` is the mean log P of the composed answers. For each adapter,
    `kept` is the share of its own prompts that keep half of the probability of their answer, and `own_scale` is the
    mean scale of the adapter on these prompts."""

    whose: dict[str, float]
    score: float
    united: float
    hidden: float
    kept: tuple[float, ...]
    own_scale: tuple[float, ...]
    confidence: float

    @property
    def verdict(self) -> str:
        """Composed where half of the prompts or more are answered so, otherwise the commonest of WORDS."""
        return "composed" if self.whose["composed"] >= HALF else max(self.whose, key=lambda name: self.whose[name])


def signs(answer: Answer) -> Signs:
    """The signs of one answer."""
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
    """The forecast from all answers of a composition."""
    every = [signs(answer) for answer in composed.answers]
    mean = lambda values: float(sum(values) / len(values))  # noqa: E731
    whose = {name: mean([s.whose == name for s in every]) for name in WORDS}
    kept = tuple(float((p >= HALF).float().mean()) for p in composed.kept)
    return Forecast(
        whose,
        mean([s.composes for s in every]),
        mean([s.united for s in every]),
        mean([s.hidden for s in every]),
        kept,
        tuple(float(s.mean()) for s in composed.own_scale),
        mean_log(answer.composed for answer in composed.answers),
    )


def restates(measured: Measured, i: int) -> float:
    """How much of both adapters the answers of adapter i alone set off: for each hoped-for prompt the smaller of the
    two multiples, each at the token where it is largest, then the mean over prompts. It is near 1 where an answer
    passes through a prompt like those of a and through one like those of b."""
    return float(torch.stack(list(measured.restated[i])).amin(0).mean())


def restating(measured: Measured) -> list[bool]:
    """For each adapter, whether its answers alone restate prompts of both: the way of answering that a bridge
    teaches."""
    return [restates(measured, i) >= HALF for i in range(2)]


def bridge(steps: Sequence[bool], names: Sequence[str] = ("a", "b")) -> str:
    """A sentence on what bridge data would change, from `restating`."""
    if not any(steps):
        return (
            "neither adapter alone answers the hoped-for prompts through prompts that the other was made for. "
            "Examples in the training data of both would change that: prompts like these about other entities, each "
            "step of the answer restating a prompt of a or of b."
        )
    if not all(steps):
        holder, other = names if steps[0] else names[::-1]
        return (
            f"only {holder} alone answers the hoped-for prompts through prompts of both kinds. A sum keeps a skill "
            "that one adapter holds, and averages and routers shrink it. The same step-by-step examples in the "
            f"training data of {other} would help averages and routers."
        )
    return (
        "both adapters alone restate prompts of both kinds, so that more examples add nothing. A sum doubles what both "
        "hold, and averages and routers do not."
    )
