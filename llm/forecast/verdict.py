"""The verdict on a composition, from what was measured: whose answers it gives, whether it composes, and what data
would change that."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lora_reuse.llm.forecast import HALF, letters, listed
from lora_reuse.llm.forecast.measure import Answer, Composed, Measured, mean_log


def as_whom(adapters: int) -> dict[str, str]:
    """The verdicts on a composition of so many adapters, each with how one that gets it answers."""
    whose = {name: f"as {name}" for name in letters(adapters)}
    return whose | {"base": "as the base", "mixture": "as a mixture", "composed": "composed"}


class Signs(NamedTuple):
    """What one answer shows; each number is the largest over the answer's tokens.

    `own` is for each adapter how far P under it exceeds the largest of P under the base and under the others. `nobody`
    is how far P under the composition exceeds P under the base and under each adapter. `lacks` is, for the base and
    then for each adapter, how far P under the composition exceeds P under that one model, which is small where the
    model would give the whole answer itself. `hidden` is for each adapter how much more of its change than of any
    other's a token sets off, each times its scale there. `needs` is for each adapter how far P under the composition
    exceeds P under the composition of the others."""

    own: tuple[float, ...]
    nobody: float
    lacks: tuple[float, ...]
    hidden: tuple[float, ...]
    needs: tuple[float, ...]

    @property
    def composes(self) -> float:
        """min(own) − nobody. It is near 1 where of each adapter there is a token that it alone says, and no token is
        said by the composition alone: the two facts of a chain, each from the adapter that holds it. Theorem 2 says
        that a sum of edits gives no fact that neither edit gives."""
        return min(self.own) - self.nobody

    @property
    def size(self) -> float:
        """|composes|: near 0 where the answer is one model's, and near 1 where it takes from every adapter, or says
        what none does, as a fact in a form that its expert never gave it."""
        return abs(self.composes)

    @property
    def united(self) -> float:
        """Of two adapters `size`. Of more min(needs): what no adapter alone says may come from any two of them, and is
        the same without the others."""
        return self.size if len(self.own) == 2 else min(self.needs)

    @property
    def composes_hidden(self) -> float:
        """min(hidden): the counterpart of `composes` that reads hidden states alone."""
        return min(self.hidden)

    @property
    def whose(self) -> str:
        """The word in `as_whom` for whose answer it is: "composed" where every adapter's own is at least 1/2 and
        nobody's is less; otherwise the one model that lacks least; "mixture" where each of them lacks more than 1/2 at
        some token."""
        if min(self.own) >= HALF > self.nobody:
            return "composed"
        lacks = dict(zip(("base", *letters(len(self.own))), self.lacks, strict=True))
        least = min(lacks, key=lambda name: lacks[name])
        return least if lacks[least] < HALF else "mixture"

    def numbers(self) -> dict[str, float]:
        """All by name: an adapter's own by its letter."""
        names = letters(len(self.own))
        found = dict(zip(names, self.own, strict=True)) | {"nobody": self.nobody}
        found |= {f"lacks_{name}": value for name, value in zip(("base", *names), self.lacks, strict=True)}
        found |= {f"needs_{name}": value for name, value in zip(names, self.needs, strict=True)}
        return found | {f"hidden_{name}": value for name, value in zip(names, self.hidden, strict=True)}


class Forecast(NamedTuple):
    """What a composition does with all hoped-for prompts, and what it leaves of each adapter.

    `whose` is the share of the prompts for each of `as_whom`; `score`, `size`, `united` and `hidden` are the means of
    what `Signs` calls `composes`, `size`, `united` and `composes_hidden`; `confidence` is the mean log P of the
    composed answers. For each adapter, `kept` is the share of its own prompts that keep half of the probability of
    their answer, and `own_scale` is the mean scale of the adapter on these prompts."""

    whose: dict[str, float]
    score: float
    size: float
    united: float
    hidden: float
    kept: tuple[float, ...]
    own_scale: tuple[float, ...]
    confidence: float

    @property
    def verdict(self) -> str:
        """Composed where half of the prompts or more are answered so, otherwise the commonest of `as_whom`."""
        return "composed" if self.whose["composed"] >= HALF else max(self.whose, key=lambda name: self.whose[name])


def signs(answer: Answer) -> Signs:
    """The signs of one answer."""
    models = torch.cat([answer.base[:, None], answer.alone], dim=-1)  # [tokens, the base and the adapters]
    said = answer.composed[:, None]
    multiples = torch.stack([s * o.best for s, o in zip(answer.scales.each.T, answer.overlaps, strict=True)], dim=-1)
    return Signs(
        _ahead(models)[1:],
        float((said - models).amin(-1).max()),
        tuple((said - models).amax(0).tolist()),
        _ahead(multiples),
        tuple((said - answer.without).amax(0).tolist()),
    )


def _ahead(values: Float[Tensor, "tokens models"]) -> tuple[float, ...]:
    """For each model how far its value exceeds the largest of the others', at the token where that is most."""
    count = values.shape[-1]
    others = [values[:, [j for j in range(count) if j != i]].amax(-1) for i in range(count)]
    return tuple(float((values[:, i] - others[i]).max()) for i in range(count))


def forecast(composed: Composed) -> Forecast:
    """The forecast from all answers of a composition."""
    every = [signs(answer) for answer in composed.answers]
    mean = lambda values: float(sum(values) / len(values))  # noqa: E731
    whose = {name: mean([s.whose == name for s in every]) for name in as_whom(len(composed.kept))}
    kept = tuple(float((p >= HALF).float().mean()) for p in composed.kept)
    return Forecast(
        whose,
        mean([s.composes for s in every]),
        mean([s.size for s in every]),
        mean([s.united for s in every]),
        mean([s.composes_hidden for s in every]),
        kept,
        tuple(float(s.mean()) for s in composed.own_scale),
        mean_log(answer.composed for answer in composed.answers),
    )


def restates(measured: Measured, i: int) -> float:
    """How much of every adapter the answers of adapter i alone set off: for each hoped-for prompt the smallest of the
    multiples, each at the token where it is largest, then the mean over prompts. It is near 1 where an answer passes
    through a prompt like those of each adapter."""
    return float(torch.stack(list(measured.restated[i])).amin(0).mean())


def restating(measured: Measured) -> list[bool]:
    """For each adapter, whether its answers alone restate prompts of all: the way of answering that a bridge
    teaches."""
    return [restates(measured, i) >= HALF for i in range(len(measured.own))]


def bridge(steps: Sequence[bool]) -> str:
    """A sentence on what bridge data would change, from `restating`."""
    names = letters(len(steps))
    holders = listed([name for name, holds in zip(names, steps, strict=True) if holds])
    others = listed([name for name, holds in zip(names, steps, strict=True) if not holds])
    if not holders:
        return (
            "no adapter alone answers the hoped-for prompts through prompts that the others were made for. Examples in "
            "the training data of each would change that: prompts like these about other entities, each step of the "
            f"answer restating a prompt of {listed(names, 'or')}."
        )
    if others:
        return (
            f"only {holders} alone {'answers' if sum(steps) == 1 else 'answer'} the hoped-for prompts through prompts "
            "of all kinds. A sum keeps a skill that one adapter holds, and averages and routers shrink it. The same "
            f"step-by-step examples in the training data of {others} would help averages and routers."
        )
    return (
        "every adapter alone restates prompts of all kinds, so that more examples add nothing. A sum multiplies what "
        "all of them hold, and averages and routers do not."
    )
