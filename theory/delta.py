"""The delta method for anything computed from a Gram matrix: its limit, and its standard error at a finite width."""

import functools
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float64

from theory.kernels import fourth_moments, kernel

Values = Mapping[str, float]


def limit_and_stderr(
    quantities: Callable[[Float64[np.ndarray, "n n"]], Values], S: Float64[np.ndarray, "n n"], width: float, activation: str = "relu"
) -> tuple[dict[str, float], dict[str, float]]:
    """`quantities` at the kernel of S, and the standard deviation each has at width m.

    √m (G − k) is Gaussian with covariance M_ijkl − k_ij k_kl, M the fourth moments of the features; the gradient is by central differences.
    Holds for quantities that are smooth at k. S has full rank.
    """
    k = kernel(S, activation)
    M = _moments(S.tobytes(), len(S), activation)
    limit = quantities(k)
    step = 1e-5 * float(np.max(np.diagonal(k)))
    slopes = {name: np.zeros_like(k) for name in limit}
    for i in range(len(k)):
        for j in range(i + 1):
            moved = np.zeros_like(k)
            moved[i, j] = moved[j, i] = step
            up, down = quantities(k + moved), quantities(k - moved)
            for name in limit:
                slopes[name][i, j] = slopes[name][j, i] = (up[name] - down[name]) / (2 * step) / (1 if i == j else 2)
    stderr = {}
    for name, slope in slopes.items():
        variance = np.einsum("ij,kl,ijkl->", slope, slope, M) - np.sum(slope * k) ** 2
        stderr[name] = float(np.sqrt(max(variance, 0.0) / width))
    return dict(limit), stderr


@functools.lru_cache(maxsize=256)
def _moments(S: bytes, n: int, activation: str) -> Float64[np.ndarray, "n n n n"]:
    return fourth_moments(np.frombuffer(S).reshape(n, n), activation)
