"""The limit m → ∞ of a Gram matrix by randomised quasi-Monte Carlo: for numbers at m = ∞ where no closed form is known.

`width=` means a model of that many random features, which are independent draws. The limit itself is a Gaussian
integral of as many dimensions as the inputs have rank, and for up to six of them points that fill the space evenly
reach a given error with far fewer evaluations: it falls nearly like 1/N, and not like N^(−1/2)."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy.special import ndtri
from scipy.stats import qmc

from lora_reuse.runs.settings import SettingError
from lora_reuse.theory.gaussian import factor

MOST_DIMENSIONS = 6
_PART = 2**16


class Limit(NamedTuple):
    """An estimate of k, and the standard error of every entry, from the spread of independent scramblings."""

    k: Float64[np.ndarray, "n n"]
    stderr: Float64[np.ndarray, "n n"]


def limit_gram(
    S: Float64[np.ndarray, "n n"],
    nodes: int = 2**16,
    seed: int = 0,
    *,
    activation: Callable[[np.ndarray], np.ndarray] = lambda x: np.maximum(x, 0.0),
    scramblings: int = 8,
) -> Limit:
    """E[φ(x) φ(x)ᵀ] for x ~ N(0, S), at scrambled Sobol points through the normal quantile, each with its mirror image
    −x.

    Args:
        S: covariance of the preactivations, [n n], of rank up to six.
        nodes: points of each scrambling, a power of two; twice as many evaluations of φ.
        seed: of the scramblings.
        activation: φ, entry by entry.
        scramblings: how many independent ones, at least two.

    Returns:
        The mean over scramblings and its standard error, which has `scramblings` − 1 degrees of freedom.

    Raises:
        SettingError: for a rank beyond six, nodes that are no power of two, or fewer than two scramblings.

    Source: Owen, *Scrambled net variance for integrals of smooth functions*, Annals of Statistics 1997.

    Examples:
        >>> found = limit_gram(np.array([[2.0, 1.0], [1.0, 2.0]]))
        >>> found.k.round(3)  # the arc-cosine kernel
        array([[1.   , 0.609],
               [0.609, 1.   ]])
        >>> bool(found.stderr.max() < 1e-4)
        True
    """
    L = factor(S)
    if L.shape[1] > MOST_DIMENSIONS:
        raise SettingError("S", f"of rank {L.shape[1]}", f"rank up to {MOST_DIMENSIONS}", "take streamed features")
    if nodes < 1 or nodes & (nodes - 1):
        raise SettingError("nodes", nodes, "a power of two, which keeps Sobol points balanced")
    if scramblings < 2:
        raise SettingError("scramblings", scramblings, "at least 2, whose spread is the error")
    found = []
    for child in np.random.SeedSequence(seed).spawn(scramblings):
        sobol, G = qmc.Sobol(L.shape[1], rng=np.random.default_rng(child)), np.zeros_like(S)
        for start in range(0, nodes, _PART):
            x = ndtri(np.maximum(sobol.random(min(_PART, nodes - start)), 2.0**-54)) @ L.T
            for phi in (activation(x), activation(-x)):
                G += phi.T @ phi
        found.append(G / (2 * nodes))
    return Limit(np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / scramblings**0.5)
