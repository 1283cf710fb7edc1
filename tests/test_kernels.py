import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lora_reuse.theory import kernels
from lora_reuse.theory.distance import relative_rms_law
from lora_reuse.theory.limit import limit_geometry
from lora_reuse.theory.model import coefficients
from lora_reuse.theory.orthant import orthant_probability

X, Y, U, R1, R2 = range(5)
PROMPTS = [(X, R1), (Y, R2), (X, R1, R2), (U, R1, R2)]


@pytest.fixture(params=range(3))
def S(request):
    H = np.random.default_rng(request.param).standard_normal((4, 7))
    return H @ H.T


def sampled(S, m=2_000_000):
    return np.maximum(np.random.default_rng(9).standard_normal((m, len(S))) @ np.linalg.cholesky(S).T, 0)


def test_kernel_is_the_mean_of_the_features_products(S):
    phi = sampled(S)
    z = (phi.T @ phi / len(phi) - kernels.kernel(S)) / np.sqrt(
        (kernels.pair_second_moment(S) - kernels.kernel(S) ** 2) / len(phi)
    )
    assert np.abs(z).max() < 5.3  # a right kernel fails once in 1e6
    without_pi_minus_theta = (kernels.angle(S)[0] + kernels.angle(S)[1] * S) / (2 * np.pi)
    wrong = (phi.T @ phi / len(phi) - without_pi_minus_theta) / np.sqrt(kernels.pair_second_moment(S) / len(phi))
    assert np.abs(wrong).max() > 100


def test_kernel_keeps_its_digits_at_small_angles():
    # k(θ) = ½(1 − θ²/2 + θ³/(3π) − …) for unit vectors, so the loss against θ = 0 is θ²/4 to leading order.
    for theta in (1e-2, 1e-4, 1e-6):
        h = np.array([[1.0, 0.0], [np.cos(theta), np.sin(theta)]])
        loss = 0.5 - kernels.kernel(h @ h.T)[0, 1]
        assert abs(loss - (theta**2 / 4 - theta**3 / (6 * np.pi))) < theta**4 + 1e-16
    h = np.array([[1.0, 0.0], [-1.0, 0.0]])
    np.testing.assert_allclose(kernels.kernel(h @ h.T), [[0.5, 0.0], [0.0, 0.5]], atol=1e-16)


vectors = st.lists(st.lists(st.floats(-10, 10), min_size=3, max_size=3), min_size=2, max_size=5).map(np.array)


@given(vectors, st.floats(0.01, 100), st.integers(0, 2**31))
def test_kernel_invariances(H, scale, seed):
    k = kernels.kernel(H @ H.T)
    size = 1e-9 * (1 + np.abs(k).max())
    rotation = stats.special_ortho_group.rvs(3, random_state=seed)
    np.testing.assert_allclose(kernels.kernel((H @ rotation) @ (H @ rotation).T), k, atol=1e-7 * (1 + np.abs(k).max()))
    np.testing.assert_allclose(
        kernels.kernel(scale**2 * H @ H.T), scale**2 * k, atol=size * scale**2
    )  # k(ah, ah') = a² k(h, h')
    assert np.linalg.eigvalsh(k)[0] > -size


def test_kernel_change_is_the_derivative(S):
    rng = np.random.default_rng(1)
    H = np.linalg.cholesky(S) @ np.eye(4)
    step = rng.standard_normal((4, 4)) * 1e-6
    moved = (H + step) @ (H + step).T
    np.testing.assert_allclose(
        kernels.kernel(moved) - kernels.kernel(S), kernels.kernel_change(S, moved - S), atol=1e-10
    )


def test_all_fourth_moments(S):
    phi = sampled(S)
    M = kernels.fourth_moments(S)
    for i, j, k, l in itertools.combinations_with_replacement(range(4), 4):  # noqa: E741
        products = phi[:, i] * phi[:, j] * phi[:, k] * phi[:, l]
        assert abs(products.mean() - M[i, j, k, l]) < 6 * products.std() / np.sqrt(len(phi))
    np.testing.assert_allclose(np.einsum("iijj->ij", M), kernels.pair_second_moment(S), rtol=1e-12)
    np.testing.assert_allclose(np.einsum("iiii->i", M), 1.5 * np.diagonal(S) ** 2, rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_orthant_probabilities_against_an_independent_integral(S, n):
    expected = stats.multivariate_normal(np.zeros(n), S[:n, :n], allow_singular=True).cdf(np.zeros(n), rng=0)
    assert abs(orthant_probability(S[:n, :n]) - expected) < 2e-4
    identity = orthant_probability(np.eye(n))
    assert abs(identity - 0.5**n) < 1e-15


def test_linear_features_have_isserlis_moments(S):
    M = kernels.fourth_moments(S, "linear")
    np.testing.assert_allclose(np.einsum("iijj->ij", M), kernels.pair_second_moment(S, "linear"))
    np.testing.assert_allclose(kernels.kernel(S, "linear"), S)


def test_error_bars_are_those_of_finite_width(S):
    m, replicates = 4000, 3000
    k, M = kernels.kernel(S), kernels.fourth_moments(S)
    phi = np.maximum(
        np.random.default_rng(4).standard_normal((replicates, m, 4), dtype=np.float32)
        @ np.linalg.cholesky(S).T.astype(np.float32),
        0,
    )
    G = (phi.transpose(0, 2, 1) @ phi / m).astype(np.float64)
    tolerance = (
        5 / np.sqrt(2 * replicates) * 1.5
    )  # the sample deviation of near-Gaussian values; 1.5 for their tails at this m
    for e, q in ((0, 2), (1, 2), (0, 3)):
        spread = kernels.coefficient(G, e, q).std() * np.sqrt(m)
        assert abs(spread / kernels.coefficient_stderr(M, k, e, q) - 1) < tolerance
        uncorrelated = (
            np.sqrt(M[e, e, q, q] - k[e, q] ** 2 + (k[e, q] / k[e, e]) ** 2 * (M[e, e, e, e] - k[e, e] ** 2)) / k[e, e]
        )
        assert abs(spread / uncorrelated - 1) > tolerance  # G(η, ξ) and G(η, η) taken for independent
    relative = np.linalg.norm(G - k, axis=(1, 2)) / np.linalg.norm(k) * np.sqrt(m)
    mean, spread = relative_rms_law(M, k)
    assert abs(relative.mean() - mean) < 5 * spread / np.sqrt(replicates)
    assert abs(relative.std() / spread - 1) < tolerance


def test_the_limit_geometry_gives_the_coefficients_known_in_closed_form():
    attended, residual = coefficients(PROMPTS, 5)
    S = limit_geometry(attended, residual)
    np.testing.assert_allclose(S, [[2, 0, 0.5, 0], [0, 2, 1, 1], [0.5, 1, 1.5, 1.25], [0, 1, 1.25, 1.5]])
    k = kernels.kernel(S)
    assert abs(kernels.coefficient(k, 0, 2) - 0.4122) < 1e-4
    assert abs(kernels.coefficient(k, 1, 2) - 0.5730) < 1e-4
    k = kernels.kernel(
        limit_geometry(attended, residual, "variance")
    )  # the other reading reverses which fact dominates
    assert abs(kernels.coefficient(k, 0, 2) - 0.5342) < 1e-4
    assert abs(kernels.coefficient(k, 1, 2) - 0.2251) < 1e-4
    one_hop = limit_geometry(*coefficients([(X, R1), (U, R1), (U, R2)], 5))
    assert abs(kernels.coefficient(kernels.kernel(one_hop), 0, 1) - 0.6090) < 1e-4
    assert abs(kernels.coefficient(kernels.kernel(one_hop), 0, 2) - 1 / np.pi) < 1e-15
