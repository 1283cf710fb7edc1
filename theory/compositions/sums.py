"""Sums: of the updates (`sum`, `average`), or of their factors before the product (`linear`, `uniform`, eq. 27)."""

import functools
import operator
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float64
from scipy import stats

from lora_reuse.runs.settings import Numbers, SettingError
from lora_reuse.theory.compositions import Context, Library, rule
from lora_reuse.theory.edits import LowRank

Gauge = Annotated[Literal["plus", "minus", "random"], "which balanced factors are added"]
Weights = Annotated[tuple[float, ...] | None, Numbers(), "one weight an expert; none: 1 each"]


@rule(span=True, gauge_free=True, basis_free=True, alone=True, smooth=True)
def sum_(library: Library, context: Context) -> LowRank:
    """ΔW = Σ_i ΔW_i (Theorem 2). Invariant under the factorisation of each expert and under rotations of the
    features."""
    return functools.reduce(operator.add, library)


@rule(span=True, gauge_free=True, basis_free=True, alone=True, smooth=True)
def average(library: Library, context: Context) -> LowRank:
    """ΔW = (1/N) Σ_i ΔW_i: the mean of the updates, not of their factors. Invariant as the sum is."""
    return (1 / len(library)) * functools.reduce(operator.add, library)


@rule(span=True, gauge_free=False, basis_free=True, alone=True, smooth=True)
def linear(library: Library, context: Context, *, gauge: Gauge = "plus", weights: Weights = None) -> LowRank:
    """ΔW = (Σ_i w_i A_i)(Σ_i w_i B_i)ᵀ (eq. 27), w_i = 1 unless given. The cross terms w_i w_j A_i B_jᵀ depend on how
    each ΔW_i is factored: Proposition 1 fixes ΔW_i and leaves its balanced factors free up to a sign, or at rank n a
    rotation. `gauge=minus` turns the sign of every second expert, `gauge=random` rotates each one's factors."""
    w = weights_for(library, weights)
    factors = gauged(library, gauge, context.seed)
    return LowRank(sum_of([f.out for f in factors], w), sum_of([f.into for f in factors], w))


@rule(span=True, gauge_free=False, basis_free=True, alone=True, smooth=True)
def uniform(library: Library, context: Context, *, gauge: Gauge = "plus") -> LowRank:
    """ΔW = (1/N Σ_i A_i)(1/N Σ_i B_i)ᵀ: eq. 27 with equal weights, as the paper's software averages factors; each ΔW_i
    enters with 1/N²."""
    return linear(library, context, gauge=gauge, weights=(1 / len(library),) * len(library))


def weights_for(library: Library, weights: Weights) -> Float64[np.ndarray, " experts"]:
    """One weight an expert, 1 unless given. Raises SettingError when their numbers differ."""
    if weights is not None and len(weights) != len(library):
        raise SettingError("weights", len(weights), f"one for each of the {len(library)} experts")
    return np.ones(len(library)) if weights is None else np.array(weights)


def gauged(library: Library, gauge: str, seed: int) -> list[LowRank]:
    """The balanced factors of each expert, as Proposition 1's penalty leaves them, in this gauge.

    Of the balanced factors the one nearest to the fitting form D · dual (column j of `out` along the j-th answer
    difference) is taken."""
    if len({expert.rank for expert in library}) > 1:
        ranks = [expert.rank for expert in library]
        raise SettingError(
            "library", f"ranks {ranks}", "experts of one rank, because eq. 27 and 28 add their factors column by column"
        )
    factors = []
    for i, expert in enumerate(library):
        balanced = expert.balanced()
        # Procrustes: the rotation that brings the balanced factors closest to the expert's own, so that the result does
        # not hang on the order in which an SVD happens to return equal singular values.
        left, _, right = np.linalg.svd(balanced.out.T @ expert.out)
        turn = left @ right
        if gauge == "minus" and i % 2:
            turn = -turn
        elif gauge == "random":
            turn = (
                turn @ stats.ortho_group.rvs(expert.rank, random_state=np.random.default_rng([seed, i]))
                if expert.rank > 1
                else turn * _sign(seed, i)
            )
        factors.append(LowRank(balanced.out @ turn, balanced.into @ turn))
    return factors


def _sign(seed: int, i: int) -> float:
    return float(np.random.default_rng([seed, i]).choice([-1.0, 1.0]))


def sum_of(matrices: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Σ_i w_i M_i."""
    return np.einsum("i,ijk->jk", weights, np.stack(matrices))
