"""What the two coefficients of the two-hop prompt tend to as L → ∞ (docs/theory.md, *Deeper and deeper*). The recursion
here is that of `theory.depth` (a test compares the two), made for depths that it refuses: without a norm all that grows
like 2^L or 4^L is divided by it, and with RMSNorm, where only log L counts, one step takes many like blocks at once."""

import numpy as np
import pytest

from lora_reuse.theory.depth import attention, blocks, last_token, prefixes, steps, tangent_kernel
from lora_reuse.theory.kernels import kernel
from lora_reuse.theory.settings import INF, Model

KEYS_AND_PROMPT = [(0, 2), (1, 3), (0, 2, 3)]  # x r1, y r2, x r1 r2


def coefficients(norm: str, mask: str, like_blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """c₁, c₂ of the readout and of the tangent kernel; `like_blocks` has how many blocks each step is."""
    positions = prefixes(KEYS_AND_PROMPT)
    step = steps(KEYS_AND_PROMPT, Model(width=INF, depth=2, adapted="all", mask=mask))
    A, growth = attention(positions, mask), {"none": {"strict": 2.0, "causal": 4.0}[mask], "rms": 1.0}[norm]
    last = np.array([last_token(prefix) for prefix in positions])
    K = (last[:, None] == last).astype(float)
    up = []
    for w in like_blocks:
        stream = lengths(K) if norm == "rms" else np.ones_like(K)
        h = K + w * A @ (K / stream) @ A.T
        state = lengths(h) if norm == "rms" else np.ones_like(K)
        size, cosine = lengths(h) / state, np.clip(h / lengths(h), -1, 1)
        k, k0 = size * kappa(cosine) / 2, (np.pi - np.arccos(cosine)) / (2 * np.pi)
        up.append((w, *(step.spread(M) for M in (k, k0, stream, state))))
        K = (h + w * 2 * k) / growth
    ends = np.ix_(step.last, step.last)
    readout = T = up[-1][1][ends]
    of_prompt = (np.arange(3)[:, None] == step.prompt).astype(float)
    B = np.zeros_like(step.A)
    for w, k, k0, stream, state in reversed(up):
        T = T + w * 2 * of_prompt @ (B * k) @ of_prompt.T
        units = 2 * B if B.any() else np.outer(step.last, step.last)
        B = B + w * units * k0 / state
        B = (B + w * step.A.T @ B @ step.A / stream) / growth
    return shares(readout), shares(T)


def kappa(cosine):
    """Twice the kernel of unit vectors, without the checks of `kernels.kernel`, which are most of its time here."""
    return (np.sqrt(1 - cosine**2) + (np.pi - np.arccos(cosine)) * cosine) / np.pi


def lengths(K: np.ndarray) -> np.ndarray:
    return np.sqrt(np.outer(np.diagonal(K), np.diagonal(K)))


def shares(T: np.ndarray) -> np.ndarray:
    return T[:2, 2] / np.diagonal(T)[:2]


def to_log(depth: float) -> np.ndarray:
    """A hundred blocks, then steps of a twentieth of the blocks so far, up to log L = depth."""
    return np.r_[np.ones(100), np.diff(100 * np.exp(np.arange(0, depth - np.log(100), 0.05)))]


@pytest.mark.parametrize("norm", ["none", "rms"])
@pytest.mark.parametrize("mask", ["strict", "causal"])
def test_the_recursion_is_that_of_the_theory(norm: str, mask: str) -> None:
    model = Model(width=INF, depth=8, adapted="all", norm=norm, mask=mask)
    readout, tangent = coefficients(norm, mask, np.ones(8))
    positions = prefixes(KEYS_AND_PROMPT)
    asked = [positions.index(prompt) for prompt in KEYS_AND_PROMPT]
    top = kernel(blocks(positions, model)[-1].S)[np.ix_(asked, asked)]
    np.testing.assert_allclose(readout, shares(top), rtol=1e-12)
    np.testing.assert_allclose(tangent, shares(tangent_kernel(KEYS_AND_PROMPT, model)), rtol=1e-12)


@pytest.mark.parametrize("depth", [2, 7, 40])
def test_a_key_in_closed_form(depth: int) -> None:
    model = Model(width=INF, depth=depth, adapted="all")
    np.testing.assert_allclose(tangent_kernel([(0, 2)], model)[0, 0], 2.0 ** (depth - 3) * (depth + 1) ** 2)


def test_without_a_norm_a_strict_mask_takes_both_to_zero() -> None:
    readout, tangent = coefficients("none", "strict", np.ones(2**14))
    np.testing.assert_allclose(readout, np.sqrt(2**14 / 8), rtol=0.03)
    law = lambda L: np.pi / np.sqrt(2) * (6 * np.pi * (1.5 - np.sqrt(2))) ** (-1 / 3) * L ** (-1 / 6)  # noqa: E731
    np.testing.assert_allclose(law(1.0), 1.89, atol=0.005)
    np.testing.assert_allclose(tangent, law(2**14), rtol=0.02)
    for depth, expected in ((128, [0.686, 0.640]), (1024, [0.572, 0.555])):
        np.testing.assert_allclose(coefficients("none", "strict", np.ones(depth))[1], expected, atol=5e-4)


def test_without_a_norm_an_ordinary_mask_keeps_the_first_and_a_quarter_of_the_second() -> None:
    readout, tangent = coefficients("none", "causal", np.ones(2**13))
    np.testing.assert_allclose(readout, [1, 1], atol=1e-4)
    np.testing.assert_allclose(tangent, [1, 1 / 4], atol=1e-3)


@pytest.mark.parametrize(("mask", "readout", "first"), [("strict", 0.862, 0.403), ("causal", 1.0, 1.0)])
def test_with_rmsnorm_the_second_is_a_quarter_of_the_first(mask: str, readout: float, first: float) -> None:
    """The tangent kernel's approach is like 1/log L, so half of it is taken off two depths."""
    half, whole = (coefficients("rms", mask, to_log(log_L)) for log_L in (100, 200))
    np.testing.assert_allclose(whole[0], [readout] * 2, atol=0.006)
    np.testing.assert_allclose(2 * whole[1] - half[1], [first, first / 4], atol=0.006)


def test_rmsnorm_in_closed_form() -> None:
    """0.862 and 0.403 of the documentation."""
    early = fixed_point(lambda rho: kappa(rho) / np.sqrt(2))
    attended = (1 + early) / 2
    rho = fixed_point(lambda rho: (kappa(rho) + attended) / np.sqrt(2 * (1 + attended)))
    omega = (1 - np.arccos(rho) / np.pi) / np.sqrt(2 * (1 + attended))
    np.testing.assert_allclose([early, rho, kappa(rho)], [0.373, 0.843, 0.862], atol=5e-4)
    np.testing.assert_allclose(omega / (2 * (1 - omega)), 0.403, atol=5e-4)


def fixed_point(step) -> float:
    rho = 0.5
    for _ in range(200):
        rho = step(rho)
    return rho
