"""The area under the ROC curve (AUC), its interval over seeds, and paired differences of areas.

The area is P(score of a row that worked > score of one that did not) + P(=)/2 over all pairs of such rows (Mann &
Whitney), those of two seeds among them. Rows of one seed share their experts, so they are no independent evidence. The
influence of a row on the area A is

    (V − A)/M if it worked, V its share of the N others that it is ahead of;   (V − A)/N if not, V the share of the M
    that worked ahead of it

and the variance of A over G clusters is G/(G − 1) Σ_g (Σ_{row in g} influence)², the closed form of DeLong et al.
(1988) for clustered rows (Obuchowski 1997, Biometrics 53, 567), with one G, how many clusters hold rows that worked or
how many hold others, whichever is less. The standard error is the largest of those with seeds, pairs of experts and
rows as clusters, since a few seeds may agree by luck, as in `llm.scoring.intervals.difference`; Student's t has G − 1
degrees of freedom, G of the seeds. Limits are Wilson's with A(1 − A)/stderr² trials.
`tests/llm/test_forecast_ranking.py` measures the coverage: four seeds give more than is promised where a seed shifts a
score by no more than its noise. Where a seed shifts it by twice as much they give less, and few seeds cannot show
that."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from lora_reuse.llm.scoring.intervals import Difference, Limits, wilson

ROUNDING = 1e-12
Score = Float[np.ndarray, " rows"]
Worked = Bool[np.ndarray, " rows"]


class Area(NamedTuple):
    """An area (NaN where all rows worked or none did), the influence of each row on it, which is 0 in sum, and which
    rows worked."""

    value: float
    influence: Score
    worked: Worked


class Clusters(NamedTuple):
    """What rows vary with together: the seed whose experts they are of (on one base), and the pair of experts. A label
    a row."""

    seed: Sequence[str]
    pair: Sequence[str]


def area(score: Score, worked: Worked) -> Area:
    """The area under the ROC curve of a score."""
    yes, no = score[worked], score[~worked]
    if not len(yes) or not len(no):
        return Area(math.nan, np.full(len(score), math.nan), worked)
    ahead = np.empty(len(score))
    ahead[worked], ahead[~worked] = _share_below(no, yes), 1 - _share_below(yes, no)
    value = float(ahead[worked].mean())
    return Area(value, (ahead - value) / np.where(worked, len(yes), len(no)), worked)


def _share_below(others: Float[np.ndarray, " others"], values: Score) -> Score:
    """For each value the share of the others below it, equal ones counted half."""
    ordered = np.sort(others)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / (2 * len(others))


def seeds_of(worked: Worked, labels: Sequence[str]) -> int:
    """How many seeds (or pairs) tell how an area varies: how many have rows that worked, or how many have others,
    whichever is less."""
    named = np.asarray(labels)
    return min(len(set(named[worked])), len(set(named[~worked])))


def stderr(influence: Score, worked: Worked, clusters: Clusters) -> float:
    """The standard error of an area, or of a difference of areas, from the influence of each row; NaN where fewer than
    two seeds tell."""
    variances = []
    for labels in (*clusters, list(map(str, range(len(influence))))):
        count = seeds_of(worked, labels)
        if count > 1:
            sums = np.bincount(np.unique(np.asarray(labels), return_inverse=True)[1], weights=influence)
            variances.append(count / (count - 1) * float(sums @ sums))
    return math.sqrt(max(variances)) if seeds_of(worked, clusters.seed) > 1 else math.nan


def limits(found: Area, clusters: Clusters) -> Limits | None:
    """The 95 % interval of an area; of 0 and 1, which show no spread, with each seed as a trial. None where fewer than
    two seeds tell, so that nothing is known of how experts vary, and for a score that is the same for all rows, whose
    area is 1/2 whatever worked."""
    error, seeds = stderr(found.influence, found.worked, clusters), seeds_of(found.worked, clusters.seed)
    inside = 0 < found.value < 1
    if math.isnan(error) or (error < ROUNDING and inside):
        return None
    trials = found.value * (1 - found.value) / error**2 if inside else seeds
    return wilson(found.value * trials, trials, freedom=float(seeds - 1))


def difference(first: Area, second: Area, clusters: Clusters) -> Difference | None:
    """First − second, areas of two scores of the same rows, with Student's t over seeds. None where fewer than two
    seeds tell, and for unlike areas that no row's influence tells apart (1 and that of a constant): nothing then says
    how far they vary. Two scores of one order have no difference and p = 1."""
    error, mean = stderr(first.influence - second.influence, first.worked, clusters), first.value - second.value
    if math.isnan(error) or (error < ROUNDING < abs(mean)):
        return None
    if error < ROUNDING:
        return Difference(0.0, 0.0, 0.0, 1.0)
    freedom = seeds_of(first.worked, clusters.seed) - 1
    half = error * float(stats.t.isf(0.025, freedom))
    p = 2 * float(stats.t.sf(abs(mean) / error, freedom))
    return Difference(mean, max(-1.0, mean - half), min(1.0, mean + half), p)
