"""Confidence intervals for shares of right answers, and for differences of shares, when experts are trained anew with
each seed.

Answers vary on two levels: between seeds, because each trains other experts on other facts, and within a seed, between
triplets, whose prompts ask for the same people and are right or wrong together. An interval that pools the triplets of
all seeds takes the experts for fixed and is too short: over the step-by-step cells of `llm_bridge` the shares of seeds
have more variance than triplets alone would give them, in some cells several times as much (D̂ below;
`tests/llm/test_intervals.py`).

The variance of a mean over S seeds of T triplets is written D·v/(S·T): v is the variance of one triplet, and D, the
design effect, is 1 if seeds do not differ. Three to ten seeds say little about D, so it is moderated (Smyth 2004, eq.
3, with fixed prior):

    D = max(1, (ν₀·D₀ + (S − 1)·D̂) / (ν₀ + S − 1)),   D̂ = T·s²/v,   s² the sample variance of the seeds' shares

and limits are of Student's t with ν₀ + S − 1 degrees of freedom. For a share v = p(1 − p), and the limits are Wilson's
with the effective number of trials S·T/D and that t in place of z (Franco et al. 2019, J. Surv. Stat. Methodol. 7, 334,
"Wilson"). So no hits still have an upper limit, and limits stay in [0, 1]. `tests/llm/test_intervals.py` measures the
coverage."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

PRIOR_SEEDS = 4.0
"""ν₀, near what Smyth's estimator gave for the pocket model's cells of five seeds when it was fixed. It is not fitted
again as rows are added."""
PRIOR_DESIGN = 1.5
"""D₀, fixed with it: above 1, because seeds differ (`tests/llm/test_intervals.py`)."""

Seeds = Float[np.ndarray, " seeds"]


class Limits(NamedTuple):
    """The ends of a confidence interval."""

    low: float
    high: float


class Difference(NamedTuple):
    """A mean paired difference of two shares, its interval and the two-sided p-value of no difference."""

    mean: float
    low: float
    high: float
    p: float


@functools.cache
def quantile(confidence: float, freedom: float | int) -> float:
    """Between −t and t lies `confidence` of Student's t with so many degrees of freedom."""
    return float(stats.t.isf((1 - confidence) / 2, freedom))


def wilson(hits: float | int, total: float | int, confidence: float = 0.95, freedom: float = math.inf) -> Limits:
    """(p + t²/2n ± t √(p(1 − p)/n + t²/4n²)) / (1 + t²/n) with p = hits/n (Wilson 1927), t Student's with `freedom`
    degrees, the normal's if infinite; of no trials, everything from 0 to 1. Neither number need be whole."""
    if not total:
        return Limits(0.0, 1.0)
    t, p = quantile(confidence, freedom), hits / total
    centre, half = p + t * t / (2 * total), t * math.sqrt(max(p * (1 - p), 0.0) / total + t * t / (4 * total * total))
    low, high = (centre - half) / (1 + t * t / total), (centre + half) / (1 + t * t / total)
    return Limits(0.0 if p <= 0 else max(0.0, low), 1.0 if p >= 1 else min(1.0, high))


def over_seeds(hits: Seeds, asked: Seeds, triplets: int, confidence: float = 0.95) -> Limits | None:
    """The interval of the share hits/asked from each seed's hits and questions, with so many triplets in all seeds
    together.

    None for one seed: nothing is then known of how experts vary, and a count should stand alone. Raises ValueError for
    no seeds."""
    if not len(hits):
        raise ValueError("an interval over seeds needs seeds")
    if len(hits) == 1:
        return None
    share = float(hits.sum() / asked.sum())
    effect, freedom = _design(hits / asked, share * (1 - share), triplets)
    return wilson(share * triplets / effect, triplets / effect, confidence, freedom)


def share_above(hits: Seeds, asked: Seeds, triplets: int, bound: float) -> float | None:
    """The one-sided p-value of a share of `bound`, 0 < bound < 1, or less, against a larger one; None for one seed.

    The score test that `over_seeds` inverts: its lower limit at confidence 1 − 2p is `bound`. One minus it is the
    p-value of `bound` or more."""
    if len(hits) < 2:
        return None
    share = float(hits.sum() / asked.sum())
    effect, freedom = _design(hits / asked, share * (1 - share), triplets)
    return float(stats.t.sf((share - bound) / math.sqrt(effect * bound * (1 - bound) / triplets), freedom))


class Mean(NamedTuple):
    """A mean over seeds, its standard error, and the degrees of freedom of Student's t."""

    value: float
    error: float
    freedom: int

    def limits(self, confidence: float = 0.95) -> Limits:
        """value ± t · error."""
        half = self.error * quantile(confidence, self.freedom)
        return Limits(self.value - half, self.value + half)

    def above(self, bound: float) -> float:
        """The one-sided p-value of a mean of `bound` or less, against a larger one."""
        return float(stats.t.sf((self.value - bound) / self.error, self.freedom))


def mean_over_seeds(values: Sequence[Float[np.ndarray, " _triplets"]], least: float = 0.0) -> Mean | None:
    """The mean of the seeds' means, one array of values by triplet a seed, of any length; None for one seed.

    Student's t over seeds, S − 1 degrees of freedom, with D = max(1, D̂): the error is that between seeds, and that
    within them where it is larger. `least` is the least variance that a single value is taken to have."""
    if len(values) < 2:
        return None
    means, every = np.array([value.mean() for value in values]), np.concatenate(values)
    variance = max(float(means.var(ddof=1)) / len(means), max(float(every.var()), least) / len(every))
    return Mean(float(means.mean()), math.sqrt(variance), len(means) - 1)


def difference(
    first: Sequence[Float[np.ndarray, " _triplets"]], second: Sequence[Float[np.ndarray, " _triplets"]]
) -> Difference | None:
    """The mean of first − second, shares by triplet of the same seeds and questions: one array a seed; None for one
    seed.

    `mean_over_seeds`: a claim that one rule beats another borrows nothing from other cells. The variance of a triplet's
    difference is at least 1/n of n triplets, as if one of them were off by one: equal differences everywhere are no
    proof of their value."""
    pairs = [a - b for a, b in zip(first, second, strict=True)]
    found = mean_over_seeds(pairs, 1 / sum(map(len, pairs))) if pairs else None
    if found is None:
        return None
    low, high = found.limits()
    p = 2 * float(stats.t.sf(abs(found.value) / found.error, found.freedom))
    return Difference(found.value, max(-1.0, low), min(1.0, high), p)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (Holm 1979): among all those below α, one or more is a false finding with probability α
    at most."""
    order = np.argsort(p)
    adjusted = np.maximum.accumulate([(len(p) - rank) * p[i] for rank, i in enumerate(order)])
    found = np.empty(len(p))
    found[order] = np.minimum(adjusted, 1.0)
    return found.tolist()


def _design(shares: Seeds, variance: float, triplets: int) -> tuple[float, float]:
    """The moderated design effect D of the seeds' shares, and the degrees of freedom."""
    freedom = PRIOR_SEEDS + len(shares) - 1
    moderated = PRIOR_SEEDS * PRIOR_DESIGN + (len(shares) - 1) * _seen(shares, variance, triplets)
    return max(1.0, moderated / freedom), freedom


def _seen(shares: Seeds, variance: float, triplets: int) -> float:
    """D̂; nothing is seen where no triplet differs from another."""
    return triplets / len(shares) * float(shares.var(ddof=1)) / variance if variance > 0 else 0.0
