import numpy as np
import pytest
from scipy import stats

from llm.intervals import by_triplet, wilson


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_method_3_of_newcombe_1998_table_1(hits, total, low, high):
    assert wilson(hits, total) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("hits", "total"), [(1, 102), (4, 102), (75, 102), (102, 102)])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_at_the_ends_of_wilsons_interval_the_share_is_z_standard_errors_away(hits, total, confidence):
    z = stats.norm.isf((1 - confidence) / 2)
    for p in wilson(hits, total, confidence):
        assert abs(hits / total - p) == pytest.approx(z * np.sqrt(p * (1 - p) / total), abs=1e-12)


def test_no_trials_say_nothing():
    assert wilson(0, 0) == (0, 1)
    assert by_triplet(np.array([], dtype=bool), np.array([], dtype=int), seed=0) == (0, 1)


def clustered(generator, triplets=60):
    """Hits of triplets that differ in size (1 to 4 prompts) and in how often they are right (Beta(0.6, 0.9): mostly always or never)."""
    triplet = np.repeat(np.arange(triplets), generator.integers(1, 5, size=triplets))
    return generator.random(len(triplet)) < generator.beta(0.6, 0.9, size=triplets)[triplet], triplet


def test_the_bootstrap_covers_what_it_says_and_an_interval_over_prompts_does_not():
    generator, truth = np.random.default_rng(0), 0.6 / 1.5
    covered = np.zeros(2)
    for seed in range(300):
        hits, triplet = clustered(generator)
        for i, (low, high) in enumerate([by_triplet(hits, triplet, seed, resamples=500), wilson(int(hits.sum()), len(hits))]):
            covered[i] += low <= truth <= high
    assert 0.90 <= covered[0] / 300 <= 0.98
    assert covered[1] / 300 < 0.90


def test_the_bootstrap_is_the_same_for_the_same_seed_whatever_the_triplets_are_called():
    hits, triplet = clustered(np.random.default_rng(1))
    interval = by_triplet(hits, triplet, seed=3)
    assert by_triplet(hits, triplet, seed=4) != interval
    assert by_triplet(hits.astype(float), 5 + 7 * triplet, seed=3) == interval
    assert interval[0] < hits.mean() < interval[1]


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_with_many_triplets_both_ends_are_the_normal_ones(confidence):
    shares = np.random.default_rng(4).random(2000)
    low, high = by_triplet(shares, np.arange(2000), 0, resamples=4000, confidence=confidence)
    half = stats.norm.isf((1 - confidence) / 2) * shares.std() / np.sqrt(2000)
    assert (low, high) == pytest.approx((shares.mean() - half, shares.mean() + half), abs=0.1 * half)


def test_more_confidence_is_a_longer_interval():
    hits, triplet = clustered(np.random.default_rng(2))
    inner, outer = by_triplet(hits, triplet, 0, confidence=0.5), by_triplet(hits, triplet, 0, confidence=0.99)
    assert outer[0] < inner[0] < inner[1] < outer[1]


@pytest.mark.parametrize("right", [False, True])
def test_triplets_that_all_agree_give_wilsons_interval_over_triplets(right):
    assert by_triplet(np.full(40, right), np.repeat(np.arange(20), 2), seed=0) == wilson(20 * right, 20)


def test_triplets_that_are_all_half_right_are_no_point_either():
    low, high = by_triplet(np.tile([True, False], 20), np.repeat(np.arange(20), 2), seed=0)
    assert (low, high) == wilson(10, 20)
