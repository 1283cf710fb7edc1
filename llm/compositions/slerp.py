"""SLERP: the middle of the arc between updates, in place of the middle of the chord (Shoemake 1985)."""

from collections.abc import Sequence

import torch

from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.compositions import Composition, Library, each_module, rule
from lora_reuse.llm.compositions.sums import concatenated
from lora_reuse.runs.settings import SettingError


@rule(static=True, gauge_free=True, alone=True, symmetric=True)
def slerp(library: Library) -> Composition:
    """ΔW = Σ_i ΔW_i / ‖Σ_i ΔW_i/‖ΔW_i‖‖, module by module: of two experts at the angle θ it is (ΔW_1 + ΔW_2) / (2 cos
    θ/2), SLERP with t = 1/2; of more it is their mean direction on the sphere, at a length that N equal experts keep.
    It is a multiple of `average`: √N times it where the experts are orthogonal, as adapters nearly are. mergekit's
    SLERP is of two whole weights, whose angle is near 0, so that it is nearly their average.

    ‖ · ‖² is Σ_ij cos θ_ij, from ⟨ΔW_i, ΔW_j⟩ = tr((A_iᵀ A_j)(B_jᵀ B_i)), in O((outputs + inputs) R²) operations, R the
    sum of the ranks. Raises SettingError for experts whose directions cancel."""
    return each_module(library, _mean_direction)


def _mean_direction(name: str, updates: Sequence[LowRank]) -> LowRank:
    ranks = [update.rank for update in updates]
    out, into = (torch.cat(factors, dim=1).double() for factors in zip(*updates, strict=True))
    # The entries of block (i, j) of (AᵀA) ∘ (BᵀB) sum to ⟨ΔW_i, ΔW_j⟩.
    blocks = ((out.T @ out) * (into.T @ into)).split(ranks, dim=0)
    inner = torch.stack([torch.stack([part.sum() for part in row.split(ranks, dim=1)]) for row in blocks])
    norms = inner.diagonal().clamp_min(0).sqrt()
    unit = torch.where(norms > 0, 1 / norms, 0.0)
    length = float((unit @ inner @ unit).clamp_min(0).sqrt())
    if length < 1e-3 and norms.any():
        raise SettingError(
            "library", f"opposite updates in {name}", "experts that have a mean direction", "take average"
        )
    return concatenated(updates, (1 / length if length else 0.0,) * len(updates))
