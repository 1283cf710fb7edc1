"""Rules that look at single weights: TIES and DARE on ΔW, and KnOTS, which aligns the experts' outputs first.

They depend on the basis of the features, so at infinite width they are evaluated on quadrature features
(`library.prepared`)."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from jaxtyping import Float64

from lora_reuse.runs.settings import Number
from lora_reuse.theory.compositions import Context, Library, rule

Dense = Float64[np.ndarray, "outputs features"]
Density = Annotated[float, Number(0.001, 1.0), "share of weights kept"]


@rule(span=False, gauge_free=True, basis_free=False, alone=False, smooth=False)
def ties(library: Library, context: Context, *, density: Density = 0.2) -> Dense:
    """TIES-Merging (Yadav et al. 2023) on the whole of each ΔW: keep its `density` share of largest weights, elect a
    sign for each weight by the sum, average the kept weights of that sign. Experts with no output in common have no
    conflict, and it is a trimmed sum."""
    return merge_ties([expert.dense() for expert in library], density)


@rule(span=False, gauge_free=True, basis_free=False, alone=False, smooth=False, draws=True)
def dare(library: Library, context: Context, *, density: Density = 0.2) -> Dense:
    """DARE (Yu et al. 2024): ΔW = Σ_i M_i ∘ ΔW_i / p with M_i Bernoulli(p), p = `density`. Unbiased: its coefficients
    are those of the sum, with extra noise of order (p m)^(−1/2)."""
    dense = [expert.dense() for expert in library]
    if np.isinf(context.width):  # the masks average out
        return np.sum(dense, axis=0)
    random = np.random.default_rng([context.seed, 4])
    return np.sum([np.where(random.random(d.shape) < density, d / density, 0.0) for d in dense], axis=0)


@rule(span=False, gauge_free=True, basis_free=False, alone=False, smooth=False)
def knots(library: Library, context: Context, *, density: Density = 0.2) -> Dense:
    """KnOTS-TIES (Stoica et al. 2025): [ΔW₁ … ΔW_N] = U Σ [V₁ … V_N]ᵀ, then TIES on the ΣV_iᵀ, then U times the result.
    Where singular values coincide U is arbitrary, and so is what is trimmed."""
    stacked = np.hstack([expert.dense() for expert in library])
    # U and ΣVᵀ through the small matrix of outputs: the features are many.
    values, vectors = np.linalg.eigh(stacked @ stacked.T)
    U = vectors[:, values > 1e-10 * values[-1]]
    return U @ merge_ties([U.T @ expert.dense() for expert in library], density)


def merge_ties(matrices: Sequence[np.ndarray], density: float) -> np.ndarray:
    """Trim, elect, and take the mean over the experts that agree."""
    if not matrices[0].size:  # in a basis of what no expert changes
        return matrices[0]
    trimmed = []
    for matrix in matrices:
        kept = max(round(density * matrix.size), 1)
        cut = np.partition(np.abs(matrix).ravel(), matrix.size - kept)[matrix.size - kept]
        trimmed.append(np.where(np.abs(matrix) >= cut, matrix, 0.0))
    stack = np.stack(trimmed)
    agree = (np.sign(stack) == np.sign(stack.sum(axis=0))) & (stack != 0)
    return np.where(agree, stack, 0.0).sum(axis=0) / np.maximum(agree.sum(axis=0), 1)
