"""Orthant probabilities and moments of up to four Gaussians, in closed form.

What this module needs is NumPy alone. Throughout, x ~ N(0, S) with S [n n] symmetric and positive definite, and the
positive orthant is {x > 0}, all n entries positive.

| function | what it returns |
|---|---|
| `orthant_probability(S)` | P(x > 0), n ≤ 4 |
| `orthant_moment(S, powers)` | E[Π x_i^{a_i} 1{x > 0}], n ≤ 4 |
"""

import itertools

import numpy as np
from jaxtyping import Float64


def orthant_probability(S: Float64[np.ndarray, "n n"]) -> float:
    """P(x > 0) for x ~ N(0, S) of n ≤ 4 entries.

    Up to n = 3 it is a sum of arcsines of the correlations ρ: 1, 1/2, 1/4 + arcsin(ρ)/2π, 1/8 + Σ arcsin(ρ_ij)/4π. For
    n = 4 it is one smooth integral over the scale t of the correlations, dP/dt = Σ_{i<j} ρ_ij / (2π √(1 − t²ρ_ij²)) ·
    P(x_k, x_l > 0 | x_i = x_j = 0).

    Args:
        S: covariance of full rank, [n n].

    Returns:
        The probability.

    Source: Plackett, *A reduction formula for normal multivariate integrals*, Biometrika 1954.

    Examples:
        >>> orthant_probability(np.eye(4))
        0.0625
        >>> round(orthant_probability(np.array([[1, 0.5], [0.5, 1]])), 6)  # 1/4 + (π/6)/2π
        0.333333
    """
    scale = np.sqrt(np.diagonal(S))
    R = np.clip(S / np.outer(scale, scale), -1.0, 1.0)
    pairs = list(itertools.combinations(range(len(R)), 2))
    arcsines = float(sum(np.arcsin(R[i, j]) for i, j in pairs))
    if len(R) < 4:
        return (1.0, 0.5, 0.25 + arcsines / (2 * np.pi), 0.125 + arcsines / (4 * np.pi))[len(R)]
    nodes, weights = np.polynomial.legendre.leggauss(96)
    t = (nodes + 1) / 2
    slope = np.zeros_like(t)
    for i, j in pairs:
        k, l = (a for a in range(4) if a not in (i, j))  # noqa: E741
        r = {(a, b): t * R[a, b] for a, b in itertools.permutations(range(4), 2)}
        determinant = 1 - r[i, j] ** 2
        variance = lambda a: 1 - (r[a, i] ** 2 + r[a, j] ** 2 - 2 * r[i, j] * r[a, i] * r[a, j]) / determinant  # noqa: E731, B023
        covariance = (
            r[k, l]
            - (r[k, i] * r[l, i] + r[k, j] * r[l, j] - r[i, j] * (r[k, i] * r[l, j] + r[k, j] * r[l, i])) / determinant
        )
        both = 0.25 + np.arcsin(np.clip(covariance / np.sqrt(variance(k) * variance(l)), -1, 1)) / (2 * np.pi)
        slope += R[i, j] / (2 * np.pi * np.sqrt(determinant)) * both
    return 1 / 16 + float(weights @ slope) / 2


def orthant_moment(S: Float64[np.ndarray, "n n"], powers: tuple[int, ...]) -> float:
    """E[Π_i x_i^{a_i} 1{x > 0}] for x ~ N(0, S) of n ≤ 4 entries: so E[φ_iφ_jφ_kφ_l] of ReLU features, for any four
    prompts.

    Stein's identity lowers a power, at the price of the boundary of the orthant: with b = a − e_i, M(a) = Σ_j S_ij (b_j
    M(b − e_j) + [b_j = 0] N(0; S_jj) M_{x_j = 0}(b without j)), down to `orthant_probability`.

    Args:
        S: covariance of full rank, [n n].
        powers: a, one whole number ≥ 0 an entry.

    Returns:
        The moment, in the units of Π x_i^{a_i}.

    Source: Kan and Robotti, *On moments of folded and truncated multivariate normal distributions*, JCGS 2017.

    Examples:
        >>> orthant_moment(np.array([[4.0]]), (2,))  # half of the variance
        2.0
        >>> S = np.array([[1.0, 0.5], [0.5, 1.0]])
        >>> round(orthant_moment(S, (1, 1)), 4)  # the arc-cosine kernel of order 1
        0.3045
    """
    if not any(powers):
        return orthant_probability(S)
    i = next(i for i, a in enumerate(powers) if a)
    lowered = tuple(a - (j == i) for j, a in enumerate(powers))
    total = 0.0
    for j, power in enumerate(lowered):
        if power:
            total += S[i, j] * power * orthant_moment(S, tuple(a - (k == j) for k, a in enumerate(lowered)))
        else:
            rest = [k for k in range(len(S)) if k != j]
            conditional = S[np.ix_(rest, rest)] - np.outer(S[rest, j], S[j, rest]) / S[j, j]
            total += (
                S[i, j] / np.sqrt(2 * np.pi * S[j, j]) * orthant_moment(conditional, tuple(lowered[k] for k in rest))
            )
    return float(total)
