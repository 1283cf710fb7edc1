"""The arc-cosine kernels, their moments, and the error bars that they give a finite width, in closed form.

This module needs NumPy and SciPy alone, so that it can be used for any model of random features. S = H Hᵀ [n n] is the
Gram matrix of n inputs h, the features are φ(u·h) with u ~ N(0, I), and G = φ(UH)ᵀφ(UH)/m is their Gram matrix at width
m, which tends to k = E[φφᵀ] (eq. 13-15). The scale of U cancels in every ratio of the paper. φ is the ReLU, or the
identity (`activation="linear"`, for the comparison with Nichani et al. in A.1.2).

| function | what it returns |
|---|---|
| `kernel(S)`, `arc_cosine(S, order)` | k, and the arc-cosine kernels of order 0, 1 and 2 |
| `kernel_change(S, change)` | dk for a small change of S |
| `pair_second_moment(S)`, `fourth_moments(S)` | E[(φφ')²] of every pair, E[φ_iφ_jφ_kφ_l] of all |
| `gram_stderr(S)` | √m times the standard deviation of every entry of G |
| `coefficient(G, ...)`, `coefficient_stderr(M, k, ...)` | c = G(η, ξ)/G(η, η), and √m times its standard deviation |

Orthant probabilities and moments of one to four Gaussians are in `lora_reuse.theory.gaussian`, the law of
‖G − k‖/‖k‖ in `lora_reuse.theory.distance`, means and error bars of any smooth function of G, to second order, in
`lora_reuse.theory.error_bars`.
"""

import itertools

import numpy as np
from jaxtyping import Float64

from lora_reuse.theory.gaussian import orthant_moment

Matrix = Float64[np.ndarray, "... n n"]


def kernel(S: Matrix, activation: str = "relu") -> Matrix:
    """k(h, h') = E[φ(u·h)φ(u·h')] = ‖h‖‖h'‖/(2π) · (sin θ + (π − θ) cos θ), the m → ∞ limit of G (eq. 13-15); h·h' for
    linear features.

    Args:
        S: Gram matrix of the inputs, [... n n].
        activation: `relu` or `linear`.

    Returns:
        k, [... n n].

    Source: Cho and Saul, *Kernel methods for deep learning*, NeurIPS 2009, of which this is half the kernel of order 1.

    Examples:
        >>> kernel(np.array([[2.0, 1.0], [1.0, 2.0]])).round(4)
        array([[1.   , 0.609],
               [0.609, 1.   ]])
    """
    return S.copy() if activation == "linear" else arc_cosine(S, 1)


def arc_cosine(S: Matrix, order: int) -> Matrix:
    """k_n(h, h') = E[(u·h)ⁿ(u·h')ⁿ 1{u·h > 0} 1{u·h' > 0}], the arc-cosine kernel of order n = 0 (steps), 1 (ReLU) or 2
    (its square):

        k₀ = (π − θ)/2π,    k₁ = ‖h‖‖h'‖ (sin θ + (π − θ) cos θ)/2π,
        k₂ = ‖h‖²‖h'‖² (3 sin θ cos θ + (π − θ)(1 + 2 cos² θ))/2π.

    They are written with ‖h‖‖h'‖ sin θ = √(‖h‖²‖h'‖² − (h·h')²) and arctan2, which keep their digits where
    arccos(cos θ) loses them.

    Args:
        S: Gram matrix of the inputs, [... n n].
        order: 0, 1 or 2.

    Returns:
        k_n, [... n n].

    Raises:
        ValueError: for another order.

    Source: Cho and Saul, NeurIPS 2009, eq. 1, 4-8; their kernels are twice these.

    Examples:
        >>> S = np.array([[1.0, 0.0], [0.0, 4.0]])
        >>> arc_cosine(S, 0)
        array([[0.5 , 0.25],
               [0.25, 0.5 ]])
        >>> arc_cosine(S, 2)
        array([[ 1.5,  1. ],
               [ 1. , 24. ]])
    """
    across, theta = angle(S)
    diagonal = np.einsum("...ii->...i", S)
    if order == 0:
        return (np.pi - theta) / (2 * np.pi)
    if order == 1:
        k = (across + (np.pi - theta) * S) / (2 * np.pi)
        np.einsum("...ii->...i", k)[...] = diagonal / 2
        return k
    if order == 2:
        squares = diagonal[..., :, None] * diagonal[..., None, :]
        return (3 * across * S + (np.pi - theta) * (squares + 2 * S**2)) / (2 * np.pi)
    raise ValueError(f"arc_cosine: order {order}; need 0, 1 or 2")


def kernel_change(S: Float64[np.ndarray, "n n"], change: Float64[np.ndarray, "n n"]) -> Float64[np.ndarray, "n n"]:
    """dk for a small change of S: ∂k/∂(h·h') = (π − θ)/(2π), ∂k/∂‖h‖² = ‖h'‖ sin θ/(4π ‖h‖), and d‖h‖²/2 on the
    diagonal (ReLU).

    Args:
        S: Gram matrix of the inputs, [n n].
        change: symmetric, [n n].

    Returns:
        dk, [n n].

    Examples:
        >>> S, dS = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])
        >>> np.allclose(kernel(S + 1e-6 * dS) - kernel(S), 1e-6 * kernel_change(S, dS))
        True
    """
    across, theta = angle(S)
    diagonal = np.diagonal(S)
    by_norm = across / (4 * np.pi * diagonal[:, None]) * np.diagonal(change)[:, None]
    dk = (np.pi - theta) / (2 * np.pi) * change + by_norm + by_norm.T
    np.einsum("ii->i", dk)[...] = np.diagonal(change) / 2
    return dk


def angle(S: Matrix) -> tuple[Matrix, Matrix]:
    """‖h‖‖h'‖ sin θ and the angle θ of every pair, each [... n n]."""
    diagonal = np.einsum("...ii->...i", S)
    norms = np.sqrt(diagonal[..., :, None] * diagonal[..., None, :])
    across = np.sqrt(np.maximum((norms - S) * (norms + S), 0.0))
    return across, np.arctan2(across, S)


def pair_second_moment(S: Matrix, activation: str = "relu") -> Matrix:
    """E[(φφ')²] for every pair: the arc-cosine kernel of order 2; ‖h‖²‖h'‖² + 2(h·h')² for linear features.

    Args:
        S: Gram matrix of the inputs, [... n n].
        activation: `relu` or `linear`.

    Returns:
        The moments, [... n n].

    Examples:
        >>> pair_second_moment(np.eye(2), "linear")
        array([[3., 1.],
               [1., 3.]])
    """
    if activation == "relu":
        return arc_cosine(S, 2)
    diagonal = np.einsum("...ii->...i", S)
    return diagonal[..., :, None] * diagonal[..., None, :] + 2 * S**2


def gram_stderr(S: Matrix, activation: str = "relu") -> Matrix:
    """√m times the standard deviation of every entry of G at width m, √(E[(φφ')²] − k²), exact at every width.

    Args:
        S: Gram matrix of the inputs, [... n n].
        activation: `relu` or `linear`.

    Returns:
        The standard deviations, [... n n].

    Examples:
        >>> gram_stderr(np.array([[1.0]]))  # √(3/2 − 1/4)
        array([[1.11803399]])
    """
    return np.sqrt(np.maximum(pair_second_moment(S, activation) - kernel(S, activation) ** 2, 0.0))


def fourth_moments(S: Float64[np.ndarray, "n n"], activation: str = "relu") -> Float64[np.ndarray, "n n n n"]:
    """M[i, j, k, l] = E[φ_i φ_j φ_k φ_l], by `gaussian.orthant_moment`; for linear features S_ij S_kl + S_ik S_jl +
    S_il S_jk (Isserlis).

    Args:
        S: Gram matrix of the inputs, [n n], of which every four are linearly independent.
        activation: `relu` or `linear`.

    Returns:
        M, [n n n n]: √m (G − k) has the covariance M_ijkl − k_ij k_kl.

    Examples:
        >>> S = np.array([[2.0, 1.0], [1.0, 2.0]])
        >>> np.allclose(np.einsum("iijj->ij", fourth_moments(S)), pair_second_moment(S))
        True
    """
    n = len(S)
    if activation == "linear":
        return np.einsum("ij,kl->ijkl", S, S) + np.einsum("ik,jl->ijkl", S, S) + np.einsum("il,jk->ijkl", S, S)
    M = np.empty((n, n, n, n))
    for chosen in itertools.combinations_with_replacement(range(n), 4):
        distinct = sorted(set(chosen))
        value = orthant_moment(S[np.ix_(distinct, distinct)], tuple(chosen.count(i) for i in distinct))
        for index in set(itertools.permutations(chosen)):
            M[index] = value
    return M


def coefficient(G: Matrix, edited: int, asked: int) -> Float64[np.ndarray, "..."]:
    """c = G(η, ξ)/G(η, η): the share of an edit's answer difference that appears on another prompt (eq. 19).

    Args:
        G: a Gram matrix, or a kernel, [... n n].
        edited: the index of the edited prompt, whose hidden state is η.
        asked: the index of the asked prompt, whose hidden state is ξ.

    Returns:
        c, [...].

    Examples:
        >>> round(float(coefficient(kernel(np.array([[2.0, 1.0], [1.0, 1.5]])), 0, 1)), 4)  # c₂ at d = m = ∞
        0.573
    """
    return np.asarray(G[..., edited, asked] / G[..., edited, edited])


def coefficient_stderr(
    M: Float64[np.ndarray, "n n n n"], k: Float64[np.ndarray, "n n"], edited: int, asked: int
) -> float:
    """√m times the standard deviation of c at width m, by the delta method: √E[φ_η²(φ_ξ − c φ_η)²] / k(η, η).

    Args:
        M: fourth moments of the features, [n n n n].
        k: their kernel, [n n].
        edited: the index of the edited prompt.
        asked: the index of the asked prompt.

    Returns:
        The standard deviation of one draw of U, to O(1/m).

    Examples:
        >>> S = np.array([[2.0, 1.0], [1.0, 1.5]])
        >>> round(coefficient_stderr(fourth_moments(S), kernel(S), 0, 1), 4)
        0.8881
    """
    c = coefficient(k, edited, asked)
    e, q = edited, asked
    return float(np.sqrt(M[e, e, q, q] - 2 * c * M[e, e, e, q] + c**2 * M[e, e, e, e]) / k[e, e])
