"""Closed-form edits: identities in float64 to near rounding, and what is least about them by moving away from them."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from lora_reuse.theory.edits import LowRank, leading_change, min_norm_edit
from lora_reuse.theory.gram import coordinates, geometry
from lora_reuse.theory.settings import Model
from lora_reuse.theory.streaming import features, stream

EDITS = [(x, 20 + r) for x in range(4) for r in range(2)]


def keys_of(width, prompts=EDITS, seed=0):
    S = geometry(prompts, Model(width=width), [seed])[0]
    return features(S, width, stream(seed))


def differences(count, entities=20):
    """i_new − i_old for facts that share no answers."""
    D = np.zeros((entities, count))
    D[np.arange(count), np.arange(count)], D[np.arange(count) + count, np.arange(count)] = 1, -1
    return D


def penalty(edit):
    return np.sum(edit.out**2) + np.sum(edit.into**2)


def test_one_fact_is_proposition_1():
    v, w = keys_of(300)[:, :1], differences(1)
    edit = min_norm_edit(v, w)
    np.testing.assert_allclose(edit.dense(), w @ v.T / np.sum(v**2), rtol=1e-13)
    assert edit.rank == 1


def test_many_facts_are_eq_23_with_its_inverse_gram_matrix():
    K, D = keys_of(300), differences(8)
    edit = min_norm_edit(K, D)
    np.testing.assert_allclose(edit @ K, D, atol=1e-12)
    np.testing.assert_allclose(edit.dense(), D @ np.linalg.pinv(K), atol=1e-13)
    dropped = LowRank(D, K / np.sum(K**2, axis=0))  # a sum of rank-one edits, the inverse Gram matrix left out
    assert np.abs(dropped @ K - D).max() > 0.5


@pytest.mark.parametrize("seed", range(3))
def test_no_other_interpolating_adapter_has_a_smaller_penalty(seed):
    rng = np.random.default_rng(seed)
    K, D = keys_of(60), differences(8)
    best = min_norm_edit(K, D).balanced()
    outside = rng.standard_normal((60, 20))
    outside -= K @ np.linalg.lstsq(K, outside, rcond=None)[0]
    for size in (1e-3, 1e-1, 10):
        other = LowRank(np.eye(20), (best.dense() + size * outside.T).T)
        np.testing.assert_allclose(other @ K, D, atol=1e-9)
        assert penalty(other.balanced()) > penalty(best)
    mixed = LowRank(best.out @ np.diag([2.0] * 8), best.into / 2)
    assert penalty(mixed) > penalty(best)
    np.testing.assert_allclose(penalty(best), 2 * best.singular_values().sum(), rtol=1e-12)


def test_the_factors_are_unique_only_up_to_a_rotation_of_the_rank():
    rng = np.random.default_rng(0)
    best = min_norm_edit(keys_of(60), differences(8)).balanced()
    rotation = np.linalg.qr(rng.standard_normal((8, 8))).Q
    turned = LowRank(best.out @ rotation, best.into @ rotation)
    np.testing.assert_allclose(turned.dense(), best.dense(), atol=1e-13)
    np.testing.assert_allclose(penalty(turned), penalty(best), rtol=1e-12)
    assert np.abs(turned.out - best.out).max() > 0.1


def test_a_covariance_gives_rome():
    K, D = keys_of(60), differences(8)
    others = keys_of(60, [(x, 20 + r) for x in range(4, 20) for r in range(3)], seed=1)
    C = others @ others.T / others.shape[1] + 1e-3 * np.eye(60)
    rome, plain = min_norm_edit(K[:, :1], D[:, :1], C), min_norm_edit(K[:, :1], D[:, :1])
    u = np.linalg.solve(C, K[:, 0])
    np.testing.assert_allclose(
        rome.dense(), np.outer(D[:, 0], u) / (u @ K[:, 0]), rtol=1e-8
    )  # Meng et al. (2022), eq. 2
    cost = lambda e: np.trace(e.dense() @ C @ e.dense().T)  # noqa: E731
    assert cost(rome) < cost(plain)
    assert rome.norm() > plain.norm()


@pytest.mark.parametrize("width", [40, 300])
def test_coordinates_of_the_gram_matrix_serve_as_well_as_the_features(width):
    K, D = keys_of(width), differences(4)
    phi = coordinates(K.T @ K)
    explicit, spanned = min_norm_edit(K[:, :4], D), min_norm_edit(phi[:, :4], D)
    np.testing.assert_allclose(explicit @ K, spanned @ phi, atol=1e-9)
    np.testing.assert_allclose(explicit.singular_values(), spanned.singular_values(), rtol=1e-9)


@pytest.mark.parametrize("mask", ["strict", "causal"])
def test_the_ordinary_mask_changes_the_key_and_nothing_else(mask):
    S = geometry(EDITS, Model(mask=mask), [0])[0]
    assert S[0, 0] == (2 if mask == "strict" else 1.5)  # ‖V e_x + e_r‖² and ‖½(V e_x + V e_r) + e_r‖²
    K = features(S, 200, stream(1))
    np.testing.assert_allclose(min_norm_edit(K, differences(8)) @ K, differences(8), atol=1e-12)


def test_dependent_keys_are_refused():
    K = keys_of(60)
    with pytest.raises(ValueError, match="keys: got 3 that are linearly dependent"):
        min_norm_edit(K[:, [0, 1, 0]], differences(3))
    with pytest.raises(ValueError, match="linearly dependent"):
        min_norm_edit(keys_of(4), differences(8))
    with pytest.raises(ValueError, match="singular; add a ridge"):
        min_norm_edit(K, differences(8), np.zeros((60, 60)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rounded_keys_are_fitted_in_float64_and_refused_where_they_depend_on_each_other_to_rounding(dtype):
    for seed in range(40):
        K = np.maximum(np.random.default_rng(seed).standard_normal((512, 7)), 0).astype(dtype)
        update = min_norm_edit(K, differences(7).astype(dtype))
        assert update.out.dtype == update.into.dtype == np.float64
        assert np.abs(update @ K.astype(np.float64) - differences(7)).max() < 1e-12
        K[:, 6] = K[:, 0] + dtype(0.3) * K[:, 1]
        with pytest.raises(ValueError, match="keys: got 7 that are linearly dependent"):
            min_norm_edit(K, differences(7))


shapes = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**31))


@given(shapes)
def test_low_rank_is_the_matrix_it_stands_for(shape):
    outputs, inputs, rank, seed = shape
    rng = np.random.default_rng(seed)
    a, b = (LowRank(rng.standard_normal((outputs, rank)), rng.standard_normal((inputs, rank))) for _ in range(2))
    x = rng.standard_normal((inputs, 3))
    np.testing.assert_allclose(a @ x, a.dense() @ x, atol=1e-12)
    np.testing.assert_allclose((a + b).dense(), a.dense() + b.dense(), atol=1e-12)
    np.testing.assert_allclose((2.0 * a).dense(), 2 * a.dense(), atol=1e-12)
    np.testing.assert_allclose(a.norm(), np.linalg.norm(a.dense()), atol=1e-12)
    np.testing.assert_allclose(a.balanced().dense(), a.dense(), atol=1e-10)


NAMED = """
import numpy as np
from lora_reuse.theory.edits import LowRank, min_norm_edit
a = LowRank(np.ones((4, 2)), np.ones((6, 2)))
for wrong in (lambda: LowRank(np.ones((4, 2)), np.ones((6, 3))), lambda: a @ np.ones((5, 1)),
              lambda: a + LowRank(np.ones((4, 2)), np.ones((7, 2))),
              lambda: min_norm_edit(np.ones((6, 2)), np.ones((4, 3)))):
    try:
        wrong()
    except ValueError as error:
        print(error)
"""


def test_shapes_that_do_not_fit_are_named_where_no_shape_checker_runs():
    done = subprocess.run([sys.executable, "-c", NAMED], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert "out (4, 2) and into (6, 3)" in lines[0]
    assert "shape (4, 6) cannot read features of shape (5, 1)" in lines[1]
    assert "shape (4, 6) cannot be added to one of shape (4, 7)" in lines[2]
    assert "keys (6, 2) and residuals (4, 3)" in lines[3]


def leading_by_optimiser(answers, margin):
    """min ‖w‖² so that i_0 + w has its entry 1 above every other entry by the margin."""
    old = np.eye(answers)[0]
    others = [i for i in range(answers) if i != 1]
    ahead = {"type": "ineq", "fun": lambda w: (old + w)[1] - (old + w)[others] - margin}
    found = optimize.minimize(lambda w: w @ w, np.zeros(answers), jac=lambda w: 2 * w, constraints=[ahead], tol=1e-12)
    assert found.success
    return found.x


@pytest.mark.parametrize("answers", [2, 3, 7])
@pytest.mark.parametrize("margin", [0.0, 0.4, 1.0, 1.7, 6.0])
def test_a_leading_change_is_the_least_with_that_margin(answers, margin):
    np.testing.assert_allclose(leading_change(answers, 0, 1, margin), leading_by_optimiser(answers, margin), atol=1e-6)


def test_a_lead_of_one_is_the_paper_s_difference():
    np.testing.assert_array_equal(leading_change(5, 2, 4, 1.0), np.eye(5)[4] - np.eye(5)[2])


def test_a_negative_lead_is_refused():
    with pytest.raises(ValueError, match=r"margin -1\.0; need at least 0"):
        leading_change(5, 2, 4, -1.0)
