"""The delta method to second order, for anything computed from a Gram matrix: its mean and its standard error at a
finite width.

√m (G − k) has mean 0 and covariance C_ijkl = M_ijkl − k_ij k_kl, M the fourth moments of the features. With axes w_1 …
w_r of that law, Σ_a w_a w_aᵀ = C, a quantity F that is smooth at k has

    E F(G) = F(k) + (1/2m) Σ_a ∂²F/∂w_a² + O(m⁻²),        Var F(G) = (1/m) Σ_a (∂F/∂w_a)² + O(m⁻²).

A softmax over noisy scores is smooth on the scale of its temperature only: that is `routed_expansion`.
"""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64
from scipy import stats

from lora_reuse.theory.experiments import REMAINDER, Values
from lora_reuse.theory.gaussian import QUADRATURE_NODES, quadrature_features
from lora_reuse.theory.kernels import fourth_moments, gram_stderr, kernel

Square = Float64[np.ndarray, "n n"]
Quantities = Callable[[Square], Mapping[str, float]]
Vector = Float64[np.ndarray, " quantities"]
Axes = Float64[np.ndarray, "axes n n"]

_STEP = 1e-4  # of a numerical derivative, over the largest entry of k
_FARTHEST = 4.5  # standard deviations of the log odds that the quadrature covers: 7 rows of a million are beyond
_CONVERGES = 0.1  # second term of the variance over the first, up to which its series is taken to converge
_RARE = 3.5  # one row of 2000 is beyond


class Expansion(NamedTuple):
    """What each quantity has at width m: its mean, its standard deviation, and the estimated size of what the mean
    leaves out."""

    mean: Values
    stderr: Values
    remainder: Values

    def errors(self) -> Values:
        """Standard deviations and remainders, as `Result.stderr` has them."""
        return self.stderr | {name + REMAINDER: size for name, size in self.remainder.items()}


def expansion(quantities: Quantities, S: Square, width: int | float, activation: str = "relu") -> Expansion:
    """The expansion of quantities that are smooth at the kernel of S = H Hᵀ; where S is `dependent` their values there,
    without errors.

    Over what one feature adds, φφᵀ − k = Σ_a y_a w_a with third moments κ (by quadrature), and with F_a = ∂F/∂w_a and
    so on,

        E F = F + (1/2m) Σ_a F_aa + (1/m²) (Σ_abc κ_abc F_abc/6 + Σ_ab F_aabb/8) + O(m⁻³),
        Var F = (1/m) Σ_a F_a² + (1/m²) (Σ_abc κ_abc F_a F_bc + Σ_ab (F_ab²/2 + F_a F_abb)) + O(m⁻³).

    `mean` has the terms up to O(1/m), `remainder` is the size of the next, `stderr` has all that are printed. Where the
    second term of the variance is not below a tenth of the first the width is too small for the series: there
    `remainder` is all of `stderr`, and no number of seeds is in range."""
    k = kernel(S, activation)
    if dependent(S):
        return Expansion(dict(quantities(k)), {}, {})
    names = list(quantities(k))
    everything = _vector(quantities)
    mean, stderr, remainder = everything(k), np.zeros(len(names)), np.zeros(len(names))
    dependence = _dependence(everything, k)
    for entries in np.unique(dependence[:, dependence.any(axis=0)], axis=1).T:
        which = np.flatnonzero((dependence == entries[:, None]).all(axis=0))
        F = lambda G, which=which: everything(G)[which]  # noqa: E731
        axes, third = _axes(entries, k, S, activation)
        slopes, bends = _differences(F, k, axes, _small(k, axes))
        # What no feature changes, as an expert alone on its own prompt, varies by rounding alone.
        varies = np.maximum(np.abs(slopes), np.abs(bends) / 1000).max(axis=0, initial=0) > 1e-7
        mean[which] += varies * bends.sum(axis=0) / (2 * width)
        second, cubic, fourth = _higher(F, k, axes, min(width**-0.5, 0.02))
        added = (
            np.einsum("abc,aq,bcq->q", third, slopes, second)
            + np.sum(second**2, axis=(0, 1)) / 2
            + np.einsum("aq,abbq->q", slopes, cubic)
        )
        first, left_out = (
            np.sum(slopes**2, axis=0),
            np.abs(np.einsum("abc,abcq->q", third, cubic) / 6 + fourth / 8) / width**2,
        )
        stderr[which] = varies * np.sqrt(np.maximum(first + added / width, 0.0) / width)
        remainder[which] = np.where(np.abs(added) / width < _CONVERGES * first, varies * left_out, stderr[which])
    return _named(names, mean, stderr, remainder)


def routed_expansion(
    quantities: Quantities,
    log_odds: Callable[[Square], float],
    S: Square,
    width: int | float,
    activation: str = "relu",
    *,
    jumps: bool = False,
) -> Expansion:
    """The expansion of quantities that contain one softmax of two scores at any temperature, given its log odds ℓ(G),
    or that jump at ℓ = 0.

    For a given ℓ they are smooth. So w_1 is turned to where ℓ varies and t = (ℓ − E ℓ)/sd(ℓ) is integrated out, the
    other derivatives being taken along the surfaces of constant ℓ. With γ the skewness of ℓ,

        E F = E_t[(F + (1/2m) Σ_{a>1} ∂²F/∂w_a²)(1 + γ He₃(t)/6)],    Var F = Var_t F + (1/m) E_t Σ_{a>1} (∂F/∂w_a)²,
        t ~ N(0, 1).

    The mean leaves out a term of O(1/m) where sd(ℓ) is not small, and where it is (below 0.3, without jumps) the
    softmax is smooth and `expansion` is used. `remainder` is the next term of the Edgeworth series, in γ² and with the
    kurtosis of a gamma law, and that of `expansion` across ℓ at its mean. Where ℓ saturates the softmax, so that rows
    farther out than one in 2000 make more than a twentieth of the variance, a mean over rows is not normal whatever its
    error: there `remainder` is all of `stderr`, which is in range for no number of seeds."""
    k = kernel(S, activation)
    if dependent(S):
        return Expansion(dict(quantities(k)), {}, {})
    names = list(quantities(k))
    F, odds = _vector(quantities), _vector(lambda G: {"": log_odds(G)})
    entries = np.logical_or.reduce(_dependence(lambda G: np.append(F(G), odds(G)), k), axis=1)
    axes, third = _axes(entries, k, S, activation)
    axes = axes / width**0.5
    step = _small(k, axes)
    slopes, bends = (d[:, 0] for d in _differences(odds, k, axes, step))
    sd, mean = float(np.linalg.norm(slopes)), float(odds(k)[0] + bends.sum() / 2)
    if sd < 0.3 and (not jumps or abs(mean) > 6 * sd):
        return expansion(quantities, S, width, activation)
    turn = _turned_to(slopes / sd)
    axes = np.tensordot(turn, axes, 1)
    third = np.einsum("abc,xa,yb,zc->xyz", third, turn, turn, turn, optimize=True) * width**-0.5
    along, across = axes[0], axes[1:]
    skewness = float(third[0, 0, 0]) + 3 * _differences(odds, k, axes[:1], step)[1].item() / sd

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
    _, cubic, fourth = _higher(lambda G: F(level(G, 0.0)), level(k, 0.0), across, min(1.0, 0.02 * width**0.5))
    remainder += np.abs(np.einsum("abc,abcq->q", third[1:, 1:, 1:], cubic) / 6 + fourth / 8)
    rare = (weights * (np.abs(t) > _RARE)) @ squares > stderr**2 / 20
    varies = stderr * width**0.5 > 1e-6
    return _named(names, np.where(varies, found, F(k)), varies * stderr, varies * np.where(rare, stderr, remainder))


def dependent(S: Square) -> bool:
    """Whether hidden states are linearly dependent, to nine digits: there fourth moments have no closed form. So it is
    where attention saturates and two prompts become one."""
    return bool(np.linalg.eigvalsh(S)[0] < 1e-9 * np.trace(S))


def sure_signs(S: Square, width: int | float, activation: str) -> Bool[np.ndarray, "n n"]:
    """Which entries of G have the sign of k at this width, by four standard errors. Arrow scores an expert by
    |G(η, ξ)|, so what it weighs is not smooth in G at the others: at orthogonal prompts under an odd activation.
    Features that are never negative have no such entry."""
    k, phi = kernel(S, activation), quadrature_features(S, activation)
    return (np.abs(k) * width**0.5 > 4 * gram_stderr(S, activation)) | (phi.min() >= 0)


def _vector(quantities: Quantities) -> Callable[[Square], Vector]:
    return lambda G: np.array(list(quantities(G).values()))


def _named(names: list[str], mean: Vector, stderr: Vector, remainder: Vector) -> Expansion:
    return Expansion(*(dict(zip(names, map(float, values), strict=True)) for values in (mean, stderr, remainder)))


@functools.lru_cache(maxsize=256)
def _moments(S: bytes, n: int, activation: str) -> Float64[np.ndarray, "n n n n"]:
    return fourth_moments(np.frombuffer(S).reshape(n, n), activation)


def _dependence(F: Callable[[Square], Vector], k: Square) -> Bool[np.ndarray, "entries quantities"]:
    """Which entries i ≥ j of the Gram matrix each quantity depends on, asked near k but with none of the symmetries
    that k may have."""
    n = len(k)
    tilt = np.cos(np.add.outer(np.arange(n), 2.0 * np.arange(n)))
    near = k + 1e-3 * np.max(k) * tilt @ tilt.T / n
    at_near, changes = F(near), []
    for i, j in zip(*np.tril_indices(n), strict=True):
        moved = near.copy()
        moved[i, j] = moved[j, i] = near[i, j] + _STEP * np.max(k)
        changes.append(np.abs(F(moved) - at_near) > 1e-10)
    return np.array(changes)


def _axes(
    entries: Bool[np.ndarray, " entries"], k: Square, S: Square, activation: str
) -> tuple[Axes, Float64[np.ndarray, "axes axes axes"]]:
    """Axes of the law of √m (G − k): the principal axes of the given entries, the others following by regression. And
    the third moments of what one feature adds along them, φφᵀ − k = Σ_a y_a w_a."""
    n = len(k)
    rows, columns = (index[entries] for index in np.tril_indices(n))
    regressed = (_moments(S.tobytes(), n, activation) - np.multiply.outer(k, k))[:, :, rows, columns]
    variances, directions = np.linalg.eigh(regressed[rows, columns])
    kept = variances > 1e-12 * variances[-1]
    whiten = directions[:, kept] / np.sqrt(variances[kept])
    phi = _features(S.tobytes(), n, activation)
    y = (phi[:, rows] * phi[:, columns] - k[rows, columns]) @ whiten
    return np.moveaxis(regressed @ whiten, -1, 0), np.einsum("ua,ub,uc->abc", y, y, y, optimize=True) / len(y)


@functools.lru_cache(maxsize=16)
def _features(S: bytes, n: int, activation: str) -> Float64[np.ndarray, "nodes n"]:
    """Features at quadrature nodes, E φφᵀ = k."""
    return quadrature_features(np.frombuffer(S).reshape(n, n), activation) * QUADRATURE_NODES**0.5


def _higher(F: Callable[[Square], Vector], k: Square, axes: Axes, h: float) -> tuple[np.ndarray, np.ndarray, Vector]:
    """∂²F/∂w_a∂w_b, ∂³F/∂w_a∂w_b∂w_c and Σ_ab ∂⁴F/∂w_a²∂w_b², by central differences over steps h; the quantities are
    the last axis."""
    r = len(axes)
    at = lambda *steps: F(k + h * sum((s * axes[a] for a, s in steps), np.zeros_like(k)))  # noqa: E731
    zero = at()
    second, third, fourth = np.zeros((r, r, len(zero))), np.zeros((r, r, r, len(zero))), np.zeros(len(zero))
    one = [{s: at((a, s)) for s in (1, -1, 2, -2)} for a in range(r)]
    for a, f in enumerate(one):
        second[a, a] = (f[1] - 2 * zero + f[-1]) / h**2
        third[a, a, a] = (f[2] - 2 * f[1] + 2 * f[-1] - f[-2]) / (2 * h**3)
        fourth += (f[2] - 4 * f[1] + 6 * zero - 4 * f[-1] + f[-2]) / h**4
    for a, b in itertools.combinations(range(r), 2):
        f = {(s, t): at((a, s), (b, t)) for s in (1, -1) for t in (1, -1)}
        second[a, b] = second[b, a] = sum(s * t * value for (s, t), value in f.items()) / (4 * h**2)
        aab = sum(t * (f[1, t] - 2 * one[b][t] + f[-1, t]) for t in (1, -1)) / (2 * h**3)
        abb = sum(s * (f[s, 1] - 2 * one[a][s] + f[s, -1]) for s in (1, -1)) / (2 * h**3)
        third[a, a, b] = third[a, b, a] = third[b, a, a] = aab
        third[a, b, b] = third[b, a, b] = third[b, b, a] = abb
        fourth += 2 * (sum(f.values()) - 2 * (one[a][1] + one[a][-1] + one[b][1] + one[b][-1]) + 4 * zero) / h**4
    for chosen in itertools.combinations(range(r), 3):
        signs = itertools.product((1, -1), repeat=3)
        mixed = sum(np.prod(s) * at(*zip(chosen, s, strict=True)) for s in signs) / (8 * h**3)
        for order in itertools.permutations(chosen):
            third[order] = mixed
    return second, third, fourth


def _small(k: Square, axes: Axes) -> float:
    return _STEP * float(np.max(k)) / float(np.abs(axes).max(initial=1e-300))


def _differences(
    F: Callable[[Square], Vector], at: Square, axes: Axes, step: float
) -> tuple[Float64[np.ndarray, "axes quantities"], Float64[np.ndarray, "axes quantities"]]:
    """First and second derivatives of F along each axis, by central differences."""
    centre = F(at)
    up, down = (
        np.array([F(at + sign * step * axis) for axis in axes]).reshape(len(axes), len(centre)) for sign in (1, -1)
    )
    return (up - down) / (2 * step), (up - 2 * centre + down) / step**2


def _turned_to(unit: Float64[np.ndarray, " axes"]) -> Float64[np.ndarray, "axes axes"]:
    """An orthogonal matrix whose first row is the given unit vector."""
    Q = np.linalg.qr(np.column_stack([unit, np.eye(len(unit))[:, : len(unit) - 1]]) + 0.0)[0].T
    return Q * np.sign(Q[0] @ unit)


def _nodes(mean: float, sd: float) -> tuple[Float64[np.ndarray, " nodes"], Float64[np.ndarray, " nodes"]]:
    """Nodes and weights for E_t, t ~ N(0, 1): Gauss-Legendre in panels that are finer near ℓ = 0 and end there, where
    `top_k` jumps."""
    zero = -mean / sd
    edges = np.array([zero, *(zero + side * width / sd for side in (-1, 1) for width in (3, 12)), -3.0, 0.0, 3.0])
    edges = np.unique(np.append(np.clip(edges, -_FARTHEST, _FARTHEST), [-_FARTHEST, _FARTHEST]))
    x, w = np.polynomial.legendre.leggauss(6)
    half = np.diff(edges)[:, None] / 2
    t = (edges[:-1, None] + half * (1 + x)).ravel()
    weights = (half * w).ravel() * stats.norm.pdf(t)
    return t, weights / weights.sum()
