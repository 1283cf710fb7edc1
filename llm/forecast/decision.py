"""What to do with adapters, from a forecast without answers: merge them by one rule, route, train a bridge, or
neither.

    P(works) = 1 / (1 + exp(−(c₀ + c₁ · united + c₂ · sure)))

`united` is the mean over prompts of |composes| (`verdict.Signs`). It is near 1 where each adapter says a token of the
answer that nothing else says, as in a chain of two facts, or where the composition says a token that no model says
alone, as a fact in a form that its expert never gave it. It is near 0 where the answer is the base's or one adapter's.
Of more than two adapters it is the mean of how far an answer needs each of them (`verdict.Signs.united`): a token that
no model says alone may come from any two. This was found on sets of three skills and more of the pocket model, of
seeds 0, 1 and 2.

The coefficients are older: they were fitted on |the mean of composes|, which rows without a `united` still stand for.
The two differ where some answers of a composition are of the one kind and some of the other, whose means cancel. That
was found on two skills of SmolLM2-135M-Instruct, of seeds 0 and 1.

`sure` is exp(min(0, confidence − the lesser of the adapters' own)): how sure the composition is of its answers, against
the less sure of the adapters on the prompts it was made for.

A composition works where half of its answers or more are right. The coefficients are in `decision.toml`, with what they
were fitted on; `fit` makes them. The decision is the likeliest rule if its P is `merge_from` or more, which is the
threshold of the least regret on the same rows."""

import functools
import math
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import minimize

from lora_reuse.llm.forecast import letters, listed
from lora_reuse.llm.forecast.regret import WORKED, Row, least_regret, libraries, share

if TYPE_CHECKING:  # torch is not needed to read rows
    from lora_reuse.llm.forecast.verdict import Forecast

FILE = Path(__file__).with_name("decision.toml")
FITTED_ON = "two-hop questions to two adapters of one small model; docs/language-models.md says how they held elsewhere"
UNITED_OF_TWO = "1: its answers take from both; 0: they are one model's"
UNITED_OF_MORE = "1: its answers change if any adapter is left out; 0: one adds nothing"
PENALTY = 1.0
"""λ of λ/2 · Σ coefficients², of signals with standard deviation 1."""
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))

Signals = Float[np.ndarray, "rows signals"]


@dataclass(frozen=True)
class Coefficients:
    """c₀, c₁, c₂ and the threshold; of `libraries` with step-by-step examples in an adapter's data, in how many a rule
    works."""

    constant: float
    united: float
    sure: float
    merge_from: float
    bridged_works: int
    bridged: int

    def probability(self, united: float, confidence: float, own: Sequence[float]) -> float:
        """That half of the answers or more are right."""
        z = self.constant + self.united * united + self.sure * sure(confidence, own)
        return 1 / (1 + math.exp(-z))


@dataclass(frozen=True)
class Decision:
    """`action` is merge, route, train a bridge, or do not; `probability` that it works; `rule` the likeliest, and
    `each` the probability of every rule; `kept` is the share of each adapter's own prompts that keep their answer under
    every rule; `united` and `sure` are the signals of `rule`."""

    action: str
    probability: float
    rule: str
    each: dict[str, float]
    kept: dict[str, tuple[float, ...]]
    united: float
    sure: float

    def __str__(self) -> str:
        """The decision in lines that one can act on."""
        taken = self.action in ("merge", "route")
        works = "works, which is to say that half of the hoped-for answers or more are right"
        head = f"{self.action} with {self.rule}" if taken else self.action
        ordered = sorted(self.each, key=lambda name: -self.each[name])
        said = [f"decision: {head}"]
        if taken:
            said += [f"  that it {works}: {self.probability:.0%}"]
        else:
            said += [f"  that {self.rule}, the likeliest rule, {works}: {self.each[self.rule]:.0%}"]
        if self.action == "train a bridge":
            said += [f"  that a rule works after it, as on the model the numbers are from: {self.probability:.0%}"]
        kept = self.kept[self.rule]
        cost = listed([f"{share:.0%} of {name}'s" for share, name in zip(kept, letters(len(kept)), strict=True)])
        said += [f"  of the adapters' own answers {self.rule} leaves {cost}"]
        leaves = lambda name: "/".join(f"{share:.0%}" for share in self.kept[name])  # noqa: E731
        rules = ", ".join(f"{name} {self.each[name]:.0%} (leaves {leaves(name)})" for name in ordered)
        said += [f"  rules: {rules}; one is taken from {frozen().merge_from:.0%} on, where that costs least"]
        said += [
            f"  why: {self.rule} is united {self.united:.2f} ({UNITED_OF_TWO if len(kept) == 2 else UNITED_OF_MORE}) "
            f"and sure {self.sure:.2f} (1: as the adapters are of their own)"
        ]
        return "\n".join(said)


def sure(confidence: float, own: Sequence[float]) -> float:
    """How sure a composition is of its answers, against the less sure adapter of its own; 1 at most."""
    return math.exp(min(0.0, confidence - min(own)))


def decide(
    forecasts: "Mapping[str, Forecast]", own: Sequence[float], bridged: bool, routers: Collection[str] = ()
) -> Decision:
    """The decision for forecasts of several rules, `own` how sure the adapters are of their own answers. `bridged` says
    that every adapter alone answers step by step through prompts of all, so that a bridge has nothing to add."""
    known = frozen()
    each = {name: known.probability(f.united, f.confidence, own) for name, f in forecasts.items()}
    rule = max(each, key=lambda name: each[name])
    action, probability = "route" if rule in routers else "merge", each[rule]
    if probability < known.merge_from:
        action = "do not" if bridged else "train a bridge"
        probability = each[rule] if bridged else known.bridged_works / known.bridged
    best = forecasts[rule]
    signals = best.united, sure(best.confidence, own)
    kept = {name: f.kept for name, f in forecasts.items()}
    return Decision(action, probability, rule, each, kept, *signals)


@functools.cache
def frozen() -> Coefficients:
    """The coefficients of `decision.toml`."""
    return Coefficients(**tomllib.loads(FILE.read_text(encoding="utf-8"))["coefficients"])


def fit(rows: Sequence[Row], bridges: Collection[str]) -> Coefficients:
    """The coefficients from those rows of `llm_forecast` that `may_be_fitted` allows. `bridges` are the hashes of the
    rows they forecast whose experts saw step-by-step examples."""
    chosen = [row for row in rows if may_be_fitted(row)]
    signals, shares, asked = signals_of(chosen), share(chosen), libraries(chosen)
    constant, weights = logistic(signals, shares >= WORKED)
    score = 1 / (1 + np.exp(-(constant + signals @ weights)))
    bridged = [one for one in asked if {chosen[i]["settings"]["row"] for i in one.rows} & set(bridges)]
    return Coefficients(
        round(constant, 2),
        round(float(weights[0]), 2),
        round(float(weights[1]), 2),
        least_regret(score, asked, THRESHOLDS),
        sum(one.works for one in bridged),
        len(bridged),
    )


def may_be_fitted(row: Row) -> bool:
    """Two-hop questions to the committed pocket model, of the seed that was looked at: no skills, no other base."""
    settings = row["settings"]
    return settings["model"] == "pocket" and settings["seen"] and settings["prompting"] in ("direct", "steps")


def signals_of(rows: Sequence[Row]) -> Signals:
    """`united` and `sure` of each row; where a row is older than `united`, |score|. Rows of facts that are older than
    `own_confidence` have experts that were trained until they were certain, so that it is 0."""
    measured = [row["measured"] for row in rows]
    united = [m.get("united", abs(m["score"])) for m in measured]
    certain = [sure(m["confidence"], m.get("own_confidence", (0.0,))) for m in measured]
    return np.column_stack([united, certain])


def logistic(
    signals: Signals, worked: Bool[np.ndarray, " rows"], penalty: float = PENALTY
) -> tuple[float, Float[np.ndarray, " signals"]]:
    """The constant and the weights of the least Σ log(1 + exp(z)) − worked · z + penalty/2 · Σ weights², the weights
    those of signals with standard deviation 1; returned for the signals as they are."""
    mean, spread = signals.mean(0), signals.std(0)
    scaled = (signals - mean) / np.where(spread > 0, spread, 1.0)

    def loss(at: Float[np.ndarray, " parameters"]) -> float:
        z = at[0] + scaled @ at[1:]
        return float(np.logaddexp(0, z).sum() - z[worked].sum() + penalty / 2 * at[1:] @ at[1:])

    found = minimize(loss, np.zeros(signals.shape[1] + 1)).x
    weights = found[1:] / np.where(spread > 0, spread, 1.0)
    return float(found[0] - mean @ weights), weights
