"""The delta method to second order, for anything computed from a Gram matrix: its mean and its standard error at a finite width.

√m (G − k) has mean 0 and covariance C_ijkl = M_ijkl − k_ij k_kl, M the fourth moments of the features. With axes w_1 … w_r of that law,
Σ_a w_a w_aᵀ = C, a quantity F that is smooth at k has

    E F(G) = F(k) + (1/2m) Σ_a ∂²F/∂w_a² + O(m⁻²),        Var F(G) = (1/m) Σ_a (∂F/∂w_a)² + O(m⁻²).

A softmax over noisy scores is smooth on the scale of its temperature only: that is `routed_expansion`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy import stats

from theory.experiments import REMAINDER, Values
from theory.kernels import fourth_moments, kernel
from theory.library import quadrature_features

Square = Float64[np.ndarray, "n n"]
Quantities = Callable[[Square], Mapping[str, float]]
Vector = Float64[np.ndarray, " quantities"]
Axes = Float64[np.ndarray, "axes n n"]

_STEP = 1e-4  # of a numerical derivative, over the largest entry of k
_FARTHEST = 4.5  # standard deviations of the log odds that the quadrature covers: 7 rows of a million are beyond
_RARE = 3.5  # one row of 2000 is beyond


class Expansion(NamedTuple):
    """What each quantity has at width m: its mean, its standard deviation, and the estimated size of what the mean leaves out."""

    mean: Values
    stderr: Values
    remainder: Values

    def errors(self) -> Values:
        """Standard deviations and remainders, as `Result.stderr` has them."""
        return self.stderr | {name + REMAINDER: size for name, size in self.remainder.items()}


def expansion(quantities: Quantities, S: Square, width: float, activation: str = "relu") -> Expansion:
    """The expansion of quantities that are smooth at the kernel of S = H Hᵀ, S being of full rank.

    The mean leaves out a term of O(m⁻²), the standard deviation one of relative size O(1/m). `remainder` is the Gaussian part
    (1/8m²) Σ_a ∂⁴F/∂w_a⁴ of the former, from second differences over steps of √3 standard deviations.
    """
    k = kernel(S, activation)
    names = list(quantities(k))
    F = _vector(quantities)
    axes = _axes(F, k, S, activation)
    slopes, bends = _differences(F, k, axes, _small(k, axes))
    _, wide = _differences(F, k, axes, (3 / width) ** 0.5)
    # What no feature changes, as an expert alone on its own prompt, varies by rounding alone.
    varies = np.maximum(np.abs(slopes), np.abs(bends) / 1000).max(axis=0, initial=0) > 1e-7
    slopes, bends, wide = (np.where(varies, derivatives, 0) for derivatives in (slopes, bends, wide))
    mean, stderr = F(k) + bends.sum(axis=0) / (2 * width), np.sqrt(np.sum(slopes**2, axis=0) / width)
    return _named(names, mean, stderr, np.abs((wide - bends).sum(axis=0)) / (2 * width))


def routed_expansion(quantities: Quantities, log_odds: Callable[[Square], float], S: Square, width: float, activation: str = "relu") -> Expansion:
    """The expansion of quantities that contain one softmax of two scores, at any temperature or with `top_k`, given its log odds ℓ(G).

    For a given ℓ they are smooth. So w_1 is turned to where ℓ varies and t = (ℓ − E ℓ)/sd(ℓ) is integrated out, the other derivatives being
    taken along the surfaces of constant ℓ. With γ the skewness of ℓ,

        E F = E_t[(F + (1/2m) Σ_{a>1} ∂²F/∂w_a²)(1 + γ He₃(t)/6)],    Var F = Var_t F + (1/m) E_t Σ_{a>1} (∂F/∂w_a)²,    t ~ N(0, 1).

    The mean leaves out a term of O(1/m) where sd(ℓ) is not small and of O(m⁻²) where it is. `remainder` is the next term of the Edgeworth
    series, in γ² and with the kurtosis of a gamma law. Where ℓ saturates the softmax, so that rows farther out than one in 2000 make more
    than a twentieth of the variance, a mean over rows is not normal whatever its error: there `remainder` is all of `stderr`.
    """
    k = kernel(S, activation)
    names = list(quantities(k))
    F, odds = _vector(quantities), _vector(lambda G: {"": log_odds(G)})
    axes = _axes(lambda G: np.append(F(G), odds(G)), k, S, activation) / width**0.5
    step = _small(k, axes)
    slopes, bends = (d[:, 0] for d in _differences(odds, k, axes, step))
    sd, mean = float(np.linalg.norm(slopes)), float(odds(k)[0] + bends.sum() / 2)
    if sd < 0.3 and abs(mean) > 6 * sd:
        return expansion(quantities, S, width, activation)
    axes = np.tensordot(_turned_to(slopes / sd), axes, 1)
    along, across = axes[0], axes[1:]
    curvature = _differences(odds, k, axes[:1], step)[1].item()
    skewness = _third_moment(odds, k, S, activation) / width**2 / sd**3 + 3 * curvature / sd

    def level(G: Square, t: float) -> Square:
        """Where the line through G along w_1 meets the surface of constant ℓ, by Newton's method."""
        for _ in range(3):
            G = G + (mean + t * sd - odds(G).item()) / sd * along
        return G

    t, weights = _nodes(mean, sd)
    values, bent, spread = np.zeros((3, len(t), len(names)))
    for i, x in enumerate(t):
        base = level(k + x * along, x)
        values[i] = F(base)
        slopes_across, bends_across = _differences(lambda G, x=x: F(level(G, x)), base, across, step)
        bent[i], spread[i] = bends_across.sum(axis=0) / 2, np.sum(slopes_across**2, axis=0)
    He = [np.polynomial.hermite_e.hermeval(t, unit) for unit in np.eye(7)]
    squares = (values - weights @ values) ** 2
    stderr = np.sqrt(weights @ (squares + spread))
    found = (weights * (1 + skewness * He[3] / 6)) @ (values + bent)
    remainder = np.abs(skewness**2 * (weights * (He[6] / 72 + He[4] / 16)) @ values)
    rare = (weights * (np.abs(t) > _RARE)) @ squares > stderr**2 / 20
    varies = stderr * width**0.5 > 1e-6
    return _named(names, np.where(varies, found, F(k)), varies * stderr, varies * np.where(rare, stderr, remainder))


def _vector(quantities: Quantities) -> Callable[[Square], Vector]:
    return lambda G: np.array(list(quantities(G).values()))


def _named(names: list[str], mean: Vector, stderr: Vector, remainder: Vector) -> Expansion:
    return Expansion(*(dict(zip(names, map(float, values), strict=True)) for values in (mean, stderr, remainder)))


@functools.lru_cache(maxsize=256)
def _moments(S: bytes, n: int, activation: str) -> Float64[np.ndarray, "n n n n"]:
    return fourth_moments(np.frombuffer(S).reshape(n, n), activation)


def _axes(F: Callable[[Square], Vector], k: Square, S: Square, activation: str) -> Axes:
    """Axes of the law of √m (G − k): the principal axes of the entries that F depends on, the other entries following by regression."""
    n = len(k)
    C = _moments(S.tobytes(), n, activation) - np.multiply.outer(k, k)
    # Where F is asked which entries it depends on: near k, but with none of the symmetries k may have.
    tilt = np.cos(np.add.outer(np.arange(n), 2.0 * np.arange(n)))
    near = k + 1e-3 * np.max(k) * tilt @ tilt.T / n
    at_near, entries = F(near), []
    for i in range(n):
        for j in range(i + 1):
            moved = near.copy()
            moved[i, j] = moved[j, i] = near[i, j] + _STEP * np.max(k)
            if np.any(np.abs(F(moved) - at_near) > 1e-10):
                entries.append((i, j))
    if not entries:
        return np.zeros((0, n, n))
    i, j = np.array(entries).T
    regressed = C[:, :, i, j]
    variances, directions = np.linalg.eigh(regressed[i, j])
    kept = variances > 1e-12 * variances[-1]
    return np.moveaxis(regressed @ (directions[:, kept] / np.sqrt(variances[kept])), -1, 0)


def _small(k: Square, axes: Axes) -> float:
    return _STEP * float(np.max(k)) / float(np.abs(axes).max(initial=1e-300))


def _differences(
    F: Callable[[Square], Vector], at: Square, axes: Axes, step: float
) -> tuple[Float64[np.ndarray, "axes quantities"], Float64[np.ndarray, "axes quantities"]]:
    """First and second derivatives of F along each axis, by central differences."""
    centre = F(at)
    up, down = (np.array([F(at + sign * step * axis) for axis in axes]).reshape(len(axes), len(centre)) for sign in (1, -1))
    return (up - down) / (2 * step), (up - 2 * centre + down) / step**2


def _turned_to(unit: Float64[np.ndarray, " axes"]) -> Float64[np.ndarray, "axes axes"]:
    """An orthogonal matrix whose first row is the given unit vector."""
    Q = np.linalg.qr(np.column_stack([unit, np.eye(len(unit))[:, : len(unit) - 1]]) + 0.0)[0].T
    return Q * np.sign(Q[0] @ unit)


def _third_moment(odds: Callable[[Square], Vector], k: Square, S: Square, activation: str) -> float:
    """E[ψ³] of the influence ψ = Σ_ij (∂ℓ/∂G_ij)(φ_iφ_j − k_ij) of one feature on ℓ, by quadrature over the features."""
    gradient, step = np.zeros_like(k), _STEP * float(np.max(k))
    for i in range(len(k)):
        for j in range(i + 1):
            moved = np.zeros_like(k)
            moved[i, j] = moved[j, i] = step
            gradient[i, j] = gradient[j, i] = (odds(k + moved) - odds(k - moved)).item() / (2 * step) / (1 if i == j else 2)
    phi = quadrature_features(S, activation)
    psi = np.einsum("ui,ij,uj->u", phi, gradient, phi) * len(phi) - np.sum(gradient * k)
    return float(np.mean(psi**3))


def _nodes(mean: float, sd: float) -> tuple[Float64[np.ndarray, " nodes"], Float64[np.ndarray, " nodes"]]:
    """Nodes and weights for E_t, t ~ N(0, 1): Gauss-Legendre in panels that are finer near ℓ = 0 and end there, where `top_k` jumps."""
    zero = -mean / sd
    edges = np.array([zero, *(zero + side * width / sd for side in (-1, 1) for width in (3, 12)), -3.0, 0.0, 3.0])
    edges = np.unique(np.append(np.clip(edges, -_FARTHEST, _FARTHEST), [-_FARTHEST, _FARTHEST]))
    x, w = np.polynomial.legendre.leggauss(6)
    half = np.diff(edges)[:, None] / 2
    t = (edges[:-1, None] + half * (1 + x)).ravel()
    weights = (half * w).ravel() * stats.norm.pdf(t)
    return t, weights / weights.sum()
