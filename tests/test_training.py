import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_reuse.theory.edits import LowRank, min_norm_edit
from lora_reuse.theory.training import predicted_alignment, train_lora, train_penalised

W = jnp.array([1.0, -1.0, 0, 0, 0, 0])


def key_of(getkey, width):
    return jax.nn.relu(jnp.float32(2**0.5) * jax.random.normal(getkey(), (width,), jnp.float32))


def low_rank(factors):
    return LowRank(*(np.asarray(f, np.float64) for f in factors))


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("width", [64, 4096])
def test_without_the_penalty_annealed_away_gradients_reach_proposition_1(getkey, rank, width):
    v = key_of(getkey, width)
    closed = min_norm_edit(np.asarray(v, np.float64)[:, None], np.asarray(W, np.float64)[:, None])
    trained = low_rank(train_penalised(getkey(), v, W, rank=rank))
    assert (trained + -1.0 * closed).norm() / closed.norm() < 1e-3
    hurried = low_rank(train_penalised(getkey(), v, W, rank=rank, steps=100))
    assert (hurried + -1.0 * closed).norm() / closed.norm() > 1e-3  # the bound can be missed


@pytest.mark.parametrize(("optimiser", "tolerance"), [("adamw", 0.02), ("sgd", 2e-3)])
@pytest.mark.parametrize("width", [256, 4096])
def test_lora_as_trained_ends_where_its_optimiser_takes_it(getkey, optimiser, tolerance, width):
    v = key_of(getkey, width)
    rate, steps = (0.02 * width**-0.5, 500) if optimiser == "adamw" else (0.02 * width**-0.5, 3000)
    factors, start = train_lora(getkey(), v, W, rank=1, learning_rate=rate, steps=steps, optimiser=optimiser)
    trained = low_rank(factors)
    closed = min_norm_edit(np.asarray(v, np.float64)[:, None], np.asarray(W, np.float64)[:, None])
    np.testing.assert_allclose(trained @ np.asarray(v, np.float64)[:, None], np.asarray(W)[:, None], atol=1e-3)
    alignment = np.sum(trained.dense() * closed.dense()) / trained.norm() / closed.norm()
    np.testing.assert_allclose(alignment, predicted_alignment(v, start, optimiser=optimiser), atol=tolerance)
    np.testing.assert_allclose(alignment * trained.norm() / closed.norm(), 1, atol=1e-3)
    other = predicted_alignment(v, start, optimiser="sgd" if optimiser == "adamw" else "adamw")
    assert abs(alignment - other) > 5 * tolerance


def test_gradient_flow_turns_away_from_the_closed_form_as_width_grows(getkey):
    cosines = []
    for width in (2**12, 2**16, 2**20):
        v = key_of(getkey, width)
        start = jax.random.uniform(getkey(), (width, 1), jnp.float32, -(width**-0.5), width**-0.5)
        cosines.append(float(predicted_alignment(v, start, optimiser="sgd")))
    ratios = np.array(cosines[:-1]) / np.array(cosines[1:])
    np.testing.assert_allclose(ratios, 2, atol=0.15)  # width^(-1/4), so a factor 16 halves it
