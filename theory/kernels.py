"""The kernels of random features, their moments, and the error bars that they give a finite width, in closed form.

This module needs NumPy and SciPy alone, so that it can be used for any model of random features. S = H Hᵀ [n n] is the
Gram matrix of n inputs h, the features are φ(u·h) with u ~ N(0, I), and G = φ(UH)ᵀφ(UH)/m is their Gram matrix at width
m, which tends to k = E[φφᵀ] (eq. 13-15). φ is the ReLU, whose k is the arc-cosine kernel of order 1, or another class
of `lora_reuse.theory.activations`, by its name.

| function | what it returns |
|---|---|
| `kernel(S)`, `derivative_kernel(S)` | k = E[φφ'], and the same of the derivative of φ |
| `arc_cosine(S, order)` | the arc-cosine kernels of order 0, 1 and 2 |
| `kernel_change(S, change)` | dk for a small change of S |
| `pair_second_moment(S)`, `fourth_moments(S)` | E[(φφ')²] of every pair, E[φ_iφ_jφ_kφ_l] of all |
| `gram_stderr(S)` | √m times the standard deviation of every entry of G |
| `coefficient(G, ...)`, `coefficient_stderr(M, k, ...)` | c = G(η, ξ)/G(η, η), and √m times its standard deviation |

Orthant probabilities and moments of one to four Gaussians are in `lora_reuse.theory.orthant`, the law of
‖G − k‖/‖k‖ in `lora_reuse.theory.distance`, means and error bars of any smooth function of G, to second order, in
`lora_reuse.theory.error_bars`.
"""

import itertools

import numpy as np
from jaxtyping import Float64

from lora_reuse.theory.activations import ACTIVATIONS, relu

Matrix = Float64[np.ndarray, "... n n"]


def kernel(S: Matrix, activation: str = "relu") -> Matrix:
    """k(h, h') = E[φ(u·h)φ(u·h')] = ‖h‖‖h'‖/(2π) · (sin θ + (π − θ) cos θ), the m → ∞ limit of G (eq. 13-15), for
    ReLU features; `Activation.dual` for others.

    Args:
        S: Gram matrix of the inputs, [... n n].
        activation: a name of `ACTIVATIONS`.

    Returns:
        k, [... n n].

    Source: Cho and Saul, *Kernel methods for deep learning*, NeurIPS 2009, of which this is half the kernel of order 1.

    Examples:
        >>> kernel(np.array([[2.0, 1.0], [1.0, 2.0]])).round(4)
        array([[1.   , 0.609],
               [0.609, 1.   ]])
    """
    phi = ACTIVATIONS[activation]
    k = phi.dual(*_pairs(S))
    np.einsum("...ii->...i", k)[...] = phi.mean_square(np.einsum("...ii->...i", S))
    return k


def derivative_kernel(S: Matrix, activation: str = "relu") -> Matrix:
    """E[φ'(u·h)φ'(u·h')], which is ∂k/∂(h·h').

    Args:
        S: Gram matrix of the inputs, [... n n].
        activation: a name of `ACTIVATIONS`.

    Returns:
        The kernel of the derivative, [... n n].

    Examples:
        >>> derivative_kernel(np.eye(2))  # two independent signs
        array([[0.5 , 0.25],
               [0.25, 0.5 ]])
    """
    return ACTIVATIONS[activation].dual_of_derivative(*_pairs(S))


def _pairs(S: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """‖h‖², h·h' and ‖h'‖² of every pair."""
    diagonal = np.einsum("...ii->...i", S)
    var_u, cov, var_v = np.broadcast_arrays(diagonal[..., :, None], S, diagonal[..., None, :])
    return var_u, cov, var_v


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
    return relu.arc_cosine(*_pairs(S), order)


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
    return relu.angle(*_pairs(S))


def pair_second_moment(S: Matrix, activation: str = "relu") -> Matrix:
    """E[(φφ')²] for every pair: the arc-cosine kernel of order 2 for ReLU features, `Activation.pair_second_moment`
    for others.

    Args:
        S: Gram matrix of the inputs, [... n n].
        activation: a name of `ACTIVATIONS`.

    Returns:
        The moments, [... n n].

    Examples:
        >>> pair_second_moment(np.eye(2), "linear")
        array([[3., 1.],
               [1., 3.]])
    """
    return ACTIVATIONS[activation].pair_second_moment(*_pairs(S))


def gram_stderr(S: Matrix, activation: str = "relu") -> Matrix:
    """√m times the standard deviation of every entry of G at width m, √(E[(φφ')²] − k²), exact at every width.

    Args:
        S: Gram matrix of the inputs, [... n n].
        activation: a name of `ACTIVATIONS`.

    Returns:
        The standard deviations, [... n n].

    Examples:
        >>> gram_stderr(np.array([[1.0]]))  # √(3/2 − 1/4)
        array([[1.11803399]])
    """
    return np.sqrt(np.maximum(pair_second_moment(S, activation) - kernel(S, activation) ** 2, 0.0))


def fourth_moments(
    S: Float64[np.ndarray, "*batch n n"], activation: str = "relu"
) -> Float64[np.ndarray, "*batch n n n n"]:
    """M[i, j, k, l] = E[φ_i φ_j φ_k φ_l], each four once by `Activation.fourth_moment`.

    Args:
        S: Gram matrices of the inputs, [... n n]; every four inputs have to be linearly independent.
        activation: a name of `ACTIVATIONS`.

    Returns:
        M, [... n n n n]: √m (G − k) has the covariance M_ijkl − k_ij k_kl.

    Examples:
        >>> S = np.array([[2.0, 1.0], [1.0, 2.0]])
        >>> np.allclose(np.einsum("iijj->ij", fourth_moments(S)), pair_second_moment(S))
        True
    """
    n = S.shape[-1]
    M = np.empty((*S.shape[:-2], n, n, n, n))
    for powers in (a for r in range(1, 5) for a in itertools.product(range(1, 5), repeat=r) if sum(a) == 4):
        chosen = np.array(list(itertools.combinations(range(n), len(powers))), dtype=int).reshape(-1, len(powers))
        values = ACTIVATIONS[activation].fourth_moment(S[..., chosen[:, :, None], chosen[:, None, :]], powers)
        for index in set(itertools.permutations(np.repeat(np.arange(len(powers)), powers).tolist())):
            M[..., *chosen[:, index].T] = values
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
