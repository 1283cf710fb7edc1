import numpy as np
import pytest

from lora_reuse.theory.facts import draw_world
from lora_reuse.theory.gram import coordinates, feature_keys, geometry
from lora_reuse.theory.kernels import kernel
from lora_reuse.theory.readout import min_norm_readout, one_hot, unstored_share
from lora_reuse.theory.settings import Model
from lora_reuse.theory.streaming import features

WORLD = draw_world(0, entities=16, edits=0)
PROMPTS, ANSWERS = WORLD.known()
Y = one_hot(ANSWERS, 16)


def stored(width, seed=0, activation="relu"):
    model = Model(width=width, activation=activation)
    S = geometry(PROMPTS, model, [seed])[0]
    keys = features(S, width, feature_keys(model, [seed])[0], activation)
    return min_norm_readout(keys, Y), keys, S


def test_a_wide_readout_stores_every_fact_with_the_least_norm():
    W, keys, _ = stored(300)
    np.testing.assert_allclose(W @ keys, Y, atol=1e-10)
    outside = np.random.default_rng(0).standard_normal((300, 16))
    outside -= keys @ np.linalg.lstsq(keys, outside, rcond=None)[0]
    np.testing.assert_allclose((W.dense() + outside.T) @ keys, Y, atol=1e-9)
    assert np.linalg.norm(W.dense() + outside.T) > W.norm()
    np.testing.assert_allclose(np.sum(W.dense() * outside.T), 0, atol=1e-9)


def test_the_kernel_stores_every_fact():
    phi = coordinates(kernel(geometry(PROMPTS, Model(), [0])[0]))
    np.testing.assert_allclose(min_norm_readout(phi, Y) @ phi, Y, atol=1e-8)


@pytest.mark.parametrize("width", [16, 32, 64])
def test_below_the_threshold_what_is_lost_is_what_the_effective_ridge_says(width):
    """The mean over 40 seeds against the deterministic equivalent, whose own error is of order 1/m: 5 standard errors
    and 3/m."""
    shares, predicted = [], 0.0
    for seed in range(40):
        W, keys, S = stored(width, seed)
        shares.append(np.sum((W @ keys - Y) ** 2) / np.sum(Y**2))
        predicted = unstored_share(kernel(S), Y, width)
    assert abs(np.mean(shares) - predicted) < 5 * np.std(shares) / np.sqrt(40) + 3 / width * predicted
    assert abs(np.mean(shares) - (1 - width / len(PROMPTS))) > 10 * np.std(shares) / np.sqrt(40)  # not mere counting


def test_a_linear_model_stores_no_more_than_its_rank():
    W, keys, S = stored(400, activation="linear")
    share = np.sum((W @ keys - Y) ** 2) / np.sum(Y**2)
    assert share > 0.3
    np.testing.assert_allclose(unstored_share(S, Y, 400), share, atol=1e-6)
