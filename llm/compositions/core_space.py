"""Core Space: merging in the small common basis of the experts' factors (Panariello et al. 2025, arXiv 2509.17786)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.compositions import Composition, Library, each_module, rule
from lora_reuse.llm.compositions.sparse import Density, elect_and_average, keep_largest
from lora_reuse.llm.compositions.spectral import ROUNDING, Gain


@rule(static=True, gauge_free=False, alone=False, symmetric=True)
def core_space(library: Library, *, density: Density = 0.2, gain: Gain = 1.0) -> Composition:
    """TIES in Core Space: with U the left singular vectors of [A_1 … A_N] and V those of [B_1 … B_N], ΔW = gain U
    merge(Uᵀ ΔW_1 V, …, Uᵀ ΔW_N V) Vᵀ, where merge keeps the `density` share of largest entries of each core, elects a
    sign for each entry by the sum and averages the kept entries of that sign. The rank is up to the sum R of the ranks;
    it takes O((outputs + inputs) R² + N R³) operations and (outputs + inputs + N R) R numbers a module.

    U Uᵀ ΔW_i V Vᵀ is ΔW_i, so a sum, `tsv` and `iso_c` are the same in Core Space as on ΔW, and what looks at single
    entries is not. U and V are of the factors as they are on disk: a number moved from A_i to B_i changes them, though
    it does not change ΔW_i; a rotation of the rank does not. (The theory balances the factors first, and is gauge-free
    there.) Where singular values of the factors coincide, U and V are arbitrary."""

    def merge(name: str, updates: Sequence[LowRank]) -> LowRank:
        out, into = (torch.cat(columns, dim=1).double() for columns in zip(*updates, strict=True))
        ranks = [update.rank for update in updates]
        left, of_out = _directions(out)
        right, of_into = _directions(into)
        parts = zip(of_out.split(ranks, dim=1), of_into.split(ranks, dim=1), strict=True)
        cores = torch.stack([keep_largest(a @ b.T, density) for a, b in parts])
        return LowRank((out @ (gain * left @ elect_and_average(cores))).float(), (into @ right).float())

    return each_module(library, merge)


def _directions(columns: Float64[Tensor, "rows columns"]) -> tuple[Tensor, Tensor]:
    """Of the columns' SVD P D Qᵀ, without the values that are rounding: Q D⁻¹, which turns the columns into P, and D
    Qᵀ, which is Pᵀ times the columns. D² and Q are of the columns' Gram matrix, as in `spectral.polar`."""
    squares, vectors = torch.linalg.eigh(columns.T @ columns)
    kept = squares > ROUNDING**2 * squares[-1:].sum()
    values, vectors = squares[kept].sqrt(), vectors[:, kept]
    return vectors / values, (vectors * values).T
