"""Gaussian vectors: a factor of the covariance, and features at the nodes of a quadrature.

What this module needs is NumPy and SciPy. Throughout, x ~ N(0, S) with S [n n] symmetric and positive semidefinite.

| function | what it returns |
|---|---|
| `factor(S)` | L with L Lᵀ = S, of as many columns as S has rank |
| `quadrature_nodes(S)` | quasi-random x ~ N(0, S) |
| `quadrature_features(S)` | φ(x) at quasi-random nodes, for moments that have no closed form |
"""

import numpy as np
from jaxtyping import Float64
from scipy import stats

from lora_reuse.theory.activations import ACTIVATIONS

QUADRATURE_NODES = 2**14


def factor(S: Float64[np.ndarray, "n n"], tolerance: float = 1e-10) -> Float64[np.ndarray, "n rank"]:
    """L with L Lᵀ = S and as many columns as S has rank: Cholesky, with no column for an entry in the span of those
    before it.

    Unlike an eigendecomposition it is unique, so what is drawn as L z, z ~ N(0, I), is the same numbers on every
    machine.

    Args:
        S: covariance, [n n], of any rank.
        tolerance: the share of S_ii below which what entry i adds to the span counts as rounding.

    Returns:
        L, [n rank].

    Examples:
        >>> factor(np.array([[1.0, 2.0], [2.0, 4.0]]))
        array([[1.],
               [2.]])
    """
    L = np.zeros_like(S)
    pivots: list[int] = []
    for i in range(len(S)):
        rank = len(pivots)
        for column, pivot in enumerate(pivots):
            L[i, column] = (S[i, pivot] - L[i, :column] @ L[pivot, :column]) / L[pivot, column]
        left = S[i, i] - L[i, :rank] @ L[i, :rank]
        if left > tolerance * S[i, i]:
            L[i, rank] = np.sqrt(left)
            pivots.append(i)
    return L[:, : max(len(pivots), 1)]


def quadrature_nodes(S: Float64[np.ndarray, "n n"], nodes: int = QUADRATURE_NODES) -> Float64[np.ndarray, "nodes n"]:
    """Quasi-random nodes x (Sobol points through the normal quantile), in place of random draws from N(0, S).

    Args:
        S: covariance, [n n].
        nodes: how many; a power of 2 keeps the points balanced.

    Returns:
        x, [nodes n].

    Examples:
        >>> x = quadrature_nodes(np.array([[1.0, 0.5], [0.5, 1.0]]))
        >>> (x.T @ x / len(x)).round(3)
        array([[1. , 0.5],
               [0.5, 1. ]])
    """
    L = factor(S)
    points = stats.qmc.Sobol(L.shape[1], rng=0).random(nodes)
    return stats.norm.ppf(np.clip(points, 1e-12, 1 - 1e-12)) @ L.T


def quadrature_features(
    S: Float64[np.ndarray, "n n"], activation: str = "relu", nodes: int = QUADRATURE_NODES
) -> Float64[np.ndarray, "nodes n"]:
    """φ(x)/√nodes at the nodes of `quadrature_nodes`, in place of random rows of U: ΦᵀΦ stands for m → ∞.

    Args:
        S: covariance of the preactivations, [n n].
        activation: a name of `ACTIVATIONS`.
        nodes: how many; a power of 2 keeps the points balanced.

    Returns:
        Φ, [nodes n], with Φᵀ Φ = E[φφᵀ] up to the error of the quadrature.

    Examples:
        >>> Phi = quadrature_features(np.array([[1.0, 0.5], [0.5, 1.0]]))
        >>> (Phi.T @ Phi).round(3)
        array([[0.5  , 0.304],
               [0.304, 0.5  ]])
    """
    return ACTIVATIONS[activation](quadrature_nodes(S, nodes)) / np.sqrt(nodes)
