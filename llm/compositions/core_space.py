"""Core Space: merging in the small common basis of the experts' factors (Panariello et al. 2025, arXiv 2509.17786)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.compositions import Composition, Library, each_module, rule
from lora_reuse.llm.compositions.sparse import Density, elect_and_average, keep_largest
from lora_reuse.llm.compositions.spectral import ROUNDING, Gain


@rule(static=True, gauge_free=True, alone=False, symmetric=True)
def core_space(library: Library, *, density: Density = 0.2, gain: Gain = 1.0) -> Composition:
    """TIES in Core Space: with U the left singular vectors of [A_1 … A_N] and V those of [B_1 … B_N], ΔW = gain U
    merge(Uᵀ ΔW_1 V, …, Uᵀ ΔW_N V) Vᵀ, where merge keeps the `density` share of largest entries of each core, elects a
    sign for each entry by the sum and averages the kept entries of that sign. The rank is up to the sum R of the ranks;
    it takes O((outputs + inputs) R² + N R³) operations and (outputs + inputs + N R) R numbers a module.

    U Uᵀ ΔW_i V Vᵀ is ΔW_i, so a sum, `tsv` and `iso_c` are the same in Core Space as on ΔW, and what looks at single
    entries is not. U and V are of the factors as they are on disk, so a number moved from A_i to B_i changes them,
    though it does not change ΔW_i; a rotation of the rank does not. Where singular values of the factors coincide, U
    and V are arbitrary."""

    def merge(name: str, updates: Sequence[LowRank]) -> LowRank:
        left = _directions(torch.cat([update.out for update in updates], dim=1))
        right = _directions(torch.cat([update.into for update in updates], dim=1))
        cores = [(left.T @ update.out.double()) @ (update.into.double().T @ right) for update in updates]
        merged = elect_and_average(torch.stack([keep_largest(core, density) for core in cores]))
        return LowRank((gain * left @ merged).float(), right.float().contiguous())

    return each_module(library, merge)


def _directions(columns: Float32[Tensor, "rows columns"]) -> Float64[Tensor, "rows rank"]:
    """The left singular vectors of the values above rounding."""
    left, values, _ = torch.linalg.svd(columns.double(), full_matrices=False)
    return left[:, values > ROUNDING * values[:1].sum()]
