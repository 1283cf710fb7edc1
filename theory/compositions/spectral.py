"""Rules on the singular vectors of the updates: truncated sums, TSV-Merge, Iso-C, WUDI-Merging, TIES in Core Space, and
SLERP.

Output vectors are combinations of the experts' answer differences, and input vectors enter through inner products
alone, so each has an exact infinite width. Singular values below 1e-8 of the largest count as 0."""

import functools
import operator
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from jaxtyping import Float64

from lora_reuse.runs.settings import Number, SettingError, Whole
from lora_reuse.theory.compositions import Context, Library, rule
from lora_reuse.theory.compositions.sparse import Density, merge_ties
from lora_reuse.theory.compositions.sums import Weights, weights_for
from lora_reuse.theory.edits import LowRank

ROUNDING = 1e-8
Gain = Annotated[float, Number(-1e3, 1e3), "the result is multiplied by it"]
MergedRank = Annotated[int, Whole(0, 10**5), "rank of the result; 0: the largest among the experts"]


@rule(span=True, gauge_free=True, basis_free=True, alone=True, smooth=True)
def svd(library: Library, context: Context, *, weights: Weights = None, merged_rank: MergedRank = 0) -> LowRank:
    """ΔW = the nearest matrix of rank `merged_rank` (0: the largest among the experts) to Σ_i w_i ΔW_i, w_i = 1 unless
    given: PEFT's `svd`. Smooth where the singular value that is kept last is above the next."""
    w = weights_for(library, weights)
    left, values, right = components(_sum([float(a) * expert for a, expert in zip(w, library, strict=True)]))
    rank = merged_rank or max(expert.rank for expert in library)
    return LowRank(left[:, :rank] * values[:rank], right[:, :rank])


@rule(span=True, gauge_free=True, basis_free=True, alone=True, smooth=True)
def tsv(library: Library, context: Context, *, gain: Gain = 1.0) -> LowRank:
    """TSV-Merge (Gargiulo et al. 2025, arXiv 2412.00081): with ΔW_i = U_i Σ_i V_iᵀ, ΔW = gain U diag(Σ_1 … Σ_N) Vᵀ, U
    the nearest matrix with orthonormal columns to [U_1 … U_N] (its polar factor) and V to [V_1 … V_N]; all singular
    vectors of values above 0 are kept."""
    left, values, right = zip(*map(components, library), strict=True)
    return LowRank(gain * polar(np.hstack(left)) * np.concatenate(values), polar(np.hstack(right)))


@rule(span=True, gauge_free=True, basis_free=True, alone=False, smooth=True)
def iso_c(library: Library, context: Context, *, gain: Gain = 1.0) -> LowRank:
    """Iso-C (Marczak et al. 2025, arXiv 2502.04959): with Σ_i ΔW_i = U Σ Vᵀ of rank R, ΔW = gain (tr Σ / R) U Vᵀ."""
    left, values, right = components(_sum(library))
    return LowRank(gain * values.sum() / max(len(values), 1) * left, right)


@rule(span=True, gauge_free=True, basis_free=True, alone=True, smooth=True)
def wudi(library: Library, context: Context) -> LowRank:
    """WUDI-Merging (Cheng et al. 2025, arXiv 2503.08099): the ΔW of least Σ_i ‖(ΔW − ΔW_i) ΔW_iᵀ‖² / ‖ΔW_i‖², and of
    those the least ‖ΔW‖: [U_i Σ_i²/n_i] [V_i Σ_i/n_i]⁺ with ΔW_i = U_i Σ_i V_iᵀ and n_i = ‖ΔW_i‖. Where the keys of all
    experts are linearly independent it is eq. 23 on all facts at once, the joint edit."""
    parts = [(*components(expert), expert.norm()) for expert in library]
    out = np.hstack([left * values**2 / norm for left, values, _, norm in parts])
    into = np.hstack([right * values / norm for _, values, right, norm in parts])
    return LowRank(out, np.linalg.pinv(into, rcond=ROUNDING).T)


@rule(span=True, gauge_free=True, basis_free=True, alone=False, smooth=False)
def core_space(library: Library, context: Context, *, density: Density = 0.2, gain: Gain = 1.0) -> LowRank:
    """TIES in Core Space (Panariello et al. 2025, arXiv 2509.17786): with balanced factors A_i B_iᵀ, U the left
    singular vectors of [A_1 … A_N] and V those of [B_1 … B_N], ΔW = gain U TIES(Uᵀ ΔW_1 V, …) Vᵀ. Experts of equal
    norms without a common answer leave U arbitrary, and so what is trimmed."""
    balanced = [expert.balanced() for expert in library]
    left = directions(np.hstack([expert.out for expert in balanced]))[0]
    right = directions(np.hstack([expert.into for expert in balanced]))[0]
    cores = [(left.T @ expert.out) @ (expert.into.T @ right) for expert in balanced]
    return LowRank(gain * left @ merge_ties(cores, density), right)


@rule(span=True, gauge_free=True, basis_free=True, alone=True, smooth=True)
def slerp(library: Library, context: Context) -> LowRank:
    """ΔW = Σ_i ΔW_i / ‖Σ_i ΔW_i/‖ΔW_i‖‖: of two experts SLERP with t = 1/2, (ΔW_1 + ΔW_2) / (2 cos θ/2). Experts
    without a common answer are orthogonal, and it is √N times the average. An expert of norm 0 has no direction."""
    norms = [expert.norm() for expert in library]
    if not any(norms):
        return _sum(library)
    length = _sum([1 / norm * expert for norm, expert in zip(norms, library, strict=True) if norm]).norm()
    if length < 1e-9:
        raise SettingError("library", "opposite updates", "experts that have a mean direction", "take average")
    return 1 / length * _sum(library)


def components(
    expert: LowRank,
) -> tuple[Float64[np.ndarray, "outputs rank"], Float64[np.ndarray, " rank"], Float64[np.ndarray, "features rank"]]:
    """The left singular vectors, the singular values above rounding and the right singular vectors of ΔW."""
    out_q, out_r = np.linalg.qr(expert.out)
    into_q, into_r = np.linalg.qr(expert.into)
    left, values, right = np.linalg.svd(out_r @ into_r.T, full_matrices=False)
    kept = values > ROUNDING * values[0]
    return out_q @ left[:, kept], values[kept], into_q @ right[kept].T


def polar(columns: Float64[np.ndarray, "rows columns"]) -> Float64[np.ndarray, "rows columns"]:
    """P Qᵀ of the columns' SVD P D Qᵀ, without the vectors of the value 0."""
    left, right = directions(columns)
    return left @ right.T


def directions(
    columns: Float64[np.ndarray, "rows columns"],
) -> tuple[Float64[np.ndarray, "rows rank"], Float64[np.ndarray, "columns rank"]]:
    """The left and the right singular vectors of the values above rounding."""
    left, values, right = np.linalg.svd(columns, full_matrices=False)
    kept = values > ROUNDING * values[:1].sum()
    return left[:, kept], right[kept].T


def _sum(updates: Sequence[LowRank]) -> LowRank:
    return functools.reduce(operator.add, updates)
