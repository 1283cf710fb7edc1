"""Orthant probabilities and moments of up to four Gaussians, in closed form, of one covariance or of a batch of them.

What this module needs is NumPy alone. Throughout, x ~ N(0, S) with S [... n n] symmetric and positive definite, and the
positive orthant is {x > 0}, all n entries positive.

| function | what it returns |
|---|---|
| `orthant_probability(S)` | P(x > 0), n ≤ 4 |
| `orthant_moment(S, powers)` | E[Π x_i^{a_i} 1{x > 0}], n ≤ 4 |
| `given_zero(S, j)` | the covariance of x given x_j = 0 |
"""

import functools
import itertools

import numpy as np
from jaxtyping import Float64


def orthant_probability(S: Float64[np.ndarray, "*batch n n"]) -> Float64[np.ndarray, "*batch"]:
    """P(x > 0) for x ~ N(0, S) of n ≤ 4 entries.

    Up to n = 3 it is a sum of arcsines of the correlations ρ: 1, 1/2, 1/4 + arcsin(ρ)/2π, 1/8 + Σ arcsin(ρ_ij)/4π. For
    n = 4 it is one smooth integral over the scale t of the correlations, dP/dt = Σ_{i<j} ρ_ij / (2π √(1 − t²ρ_ij²)) ·
    P(x_k, x_l > 0 | x_i = x_j = 0).

    Args:
        S: covariances of full rank, [... n n].

    Returns:
        The probabilities, [...].

    Source: Plackett, *A reduction formula for normal multivariate integrals*, Biometrika 1954.

    Examples:
        >>> float(orthant_probability(np.eye(4)))
        0.0625
        >>> orthant_probability(np.array([[[1, 0.5], [0.5, 1]], [[1, 0], [0, 1]]])).round(6)  # 1/4 + (π/6)/2π, 1/4
        array([0.333333, 0.25    ])
    """
    n = S.shape[-1]
    scale = np.sqrt(np.diagonal(S, axis1=-2, axis2=-1))
    R = np.clip(S / (scale[..., :, None] * scale[..., None, :]), -1.0, 1.0)
    pairs = list(itertools.combinations(range(n), 2))
    arcsines = sum((np.arcsin(R[..., i, j]) for i, j in pairs), np.zeros(S.shape[:-2]))
    if n < 4:
        constant, share = ((1.0, 0.0), (0.5, 0.0), (0.25, 1 / (2 * np.pi)), (0.125, 1 / (4 * np.pi)))[n]
        return np.asarray(constant + share * arcsines)
    nodes, weights = _legendre(96)
    t = (nodes + 1) / 2
    r = {(a, b): t * R[..., a, b, None] for a, b in itertools.permutations(range(4), 2)}
    slope = np.zeros((*S.shape[:-2], len(t)))
    for i, j in pairs:
        k, l = (a for a in range(4) if a not in (i, j))  # noqa: E741
        determinant = 1 - r[i, j] ** 2
        variance = lambda a: 1 - (r[a, i] ** 2 + r[a, j] ** 2 - 2 * r[i, j] * r[a, i] * r[a, j]) / determinant  # noqa: E731, B023
        covariance = (
            r[k, l]
            - (r[k, i] * r[l, i] + r[k, j] * r[l, j] - r[i, j] * (r[k, i] * r[l, j] + r[k, j] * r[l, i])) / determinant
        )
        both = 0.25 + np.arcsin(np.clip(covariance / np.sqrt(variance(k) * variance(l)), -1, 1)) / (2 * np.pi)
        slope += R[..., i, j, None] / (2 * np.pi * np.sqrt(determinant)) * both
    return np.asarray(1 / 16 + slope @ weights / 2)


@functools.cache
def _legendre(points: int) -> tuple[Float64[np.ndarray, "points"], Float64[np.ndarray, "points"]]:
    return np.polynomial.legendre.leggauss(points)


def given_zero(S: Float64[np.ndarray, "*batch n n"], j: int) -> Float64[np.ndarray, "*batch n n"]:
    """The covariance of x given x_j = 0, S − S_j S_jᵀ/S_jj: its row and column j are 0.

    Args:
        S: covariances, [... n n].
        j: an index whose variance is not 0.
    """
    row = S[..., j, :]
    return S - row[..., :, None] * row[..., None, :] / row[..., j, None, None]


def orthant_moment(S: Float64[np.ndarray, "*batch n n"], powers: tuple[int, ...]) -> Float64[np.ndarray, "*batch"]:
    """E[Π_i x_i^{a_i} 1{x > 0}] for x ~ N(0, S) of n ≤ 4 entries: so E[φ_iφ_jφ_kφ_l] of ReLU features, for any four
    prompts.

    Stein's identity lowers a power, at the price of the boundary of the orthant: with b = a − e_i, M(a) = Σ_j S_ij (b_j
    M(b − e_j) + [b_j = 0] N(0; S_jj) M_{x_j = 0}(b without j)), down to `orthant_probability`.

    Args:
        S: covariances of full rank, [... n n].
        powers: a, one whole number ≥ 0 an entry.

    Returns:
        The moments, [...], in the units of Π x_i^{a_i}.

    Source: Kan and Robotti, *On moments of folded and truncated multivariate normal distributions*, JCGS 2017.

    Examples:
        >>> float(orthant_moment(np.array([[4.0]]), (2,)))  # half of the variance
        2.0
        >>> S = np.array([[1.0, 0.5], [0.5, 1.0]])
        >>> round(float(orthant_moment(S, (1, 1))), 4)  # the arc-cosine kernel of order 1
        0.3045
    """
    everything = tuple(range(len(powers)))

    @functools.cache
    def given(inside: tuple[int, ...]) -> Float64[np.ndarray, "..."]:
        """The covariance given that all that is not `inside` is 0."""
        if inside == everything:
            return S
        j = max(i for i in everything if i not in inside)
        return given_zero(given(tuple(sorted((*inside, j)))), j)

    @functools.cache
    def moment(inside: tuple[int, ...], powers: tuple[int, ...]) -> Float64[np.ndarray, "..."]:
        C = given(inside)
        if not any(powers):
            return orthant_probability(C[..., inside, :][..., inside])
        first = next(at for at, a in enumerate(powers) if a)
        lowered = _less(powers, first)
        total = np.zeros(S.shape[:-2])
        for at, (j, power) in enumerate(zip(inside, lowered, strict=True)):
            if power:
                part = power * moment(inside, _less(lowered, at))
            else:
                part = moment(_without(inside, at), _without(lowered, at)) / np.sqrt(2 * np.pi * C[..., j, j])
            total = total + C[..., inside[first], j] * part
        return np.asarray(total)

    return moment(everything, powers)


def _less(powers: tuple[int, ...], at: int) -> tuple[int, ...]:
    return tuple(a - (k == at) for k, a in enumerate(powers))


def _without(entries: tuple[int, ...], at: int) -> tuple[int, ...]:
    return entries[:at] + entries[at + 1 :]
