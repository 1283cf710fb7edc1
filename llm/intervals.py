"""Confidence intervals for hits of a total."""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats


def wilson(hits: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """(p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n) with p = hits/n (Wilson 1927); of no trials, everything from 0 to 1."""
    if total == 0:
        return 0.0, 1.0
    interval = stats.binomtest(hits, total).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def by_triplet(
    hits: Bool[np.ndarray, " prompts"] | Float[np.ndarray, " prompts"],
    triplet: Int[np.ndarray, " prompts"],
    seed: int,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """The percentile bootstrap of the mean over prompts, drawing whole triplets with replacement (Davison & Hinkley 1997, section 3.8).

    The prompts of a triplet ask for the same entities and are right or wrong together: they are fewer trials than they are prompts,
    and an interval that takes each for a trial is too short. Where every triplet has the same mean, all right or all wrong above
    all, a resample can be nothing else and the interval would be a point: it is then Wilson's, with a trial a triplet.
    """
    _, cluster = np.unique(triplet, return_inverse=True)
    sizes = np.bincount(cluster)
    sums = np.bincount(cluster, weights=hits)
    means = sums / sizes
    if np.allclose(means, means[:1]):
        return wilson(round(float(means.sum())), len(means), confidence)
    drawn = np.random.default_rng(seed).integers(len(sizes), size=(resamples, len(sizes)))
    resampled = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
