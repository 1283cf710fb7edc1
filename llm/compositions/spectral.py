"""Rules on the singular vectors of the ΔW_i: TSV-Merge, Iso-C and WUDI-Merging.

They were published for whole weights, and are written here for updates of low rank: every singular vector comes from
the small cores between the Q of the factors (`supported`), so that no ΔW is formed. With R the sum of the ranks
they take O((outputs + inputs) R² + R³) operations and (outputs + inputs) R numbers a module. Singular values below 1e-5
of a ΔW's largest are rounding, and count as 0."""

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Float32
from torch import Tensor

from lora_reuse.llm.adapters.lowrank import CoreSVD, LowRank, triangle
from lora_reuse.llm.compositions import Composition, Library, each_module, rule
from lora_reuse.llm.compositions.sums import concatenated
from lora_reuse.runs.settings import Number

ROUNDING = 1e-5
Gain = Annotated[int | float, Number(-1e3, 1e3), "the result is multiplied by it"]


@rule(static=True, gauge_free=True, alone=True, symmetric=True)
def tsv(library: Library, *, gain: Gain = 1.0) -> Composition:
    """TSV-Merge (Gargiulo et al. 2025, arXiv 2412.00081): with ΔW_i = U_i Σ_i V_iᵀ, ΔW = gain U diag(Σ_1 … Σ_N) Vᵀ, U
    the nearest matrix with orthonormal columns to [U_1 … U_N] (its polar factor) and V to [V_1 … V_N]. The rank is the
    sum of the ranks. Experts that share no direction are summed; N equal ones give one of them.

    The paper keeps 1/N of the min(outputs, inputs) singular vectors of each ΔW_i; here all that belong to values above
    0 are kept, which an adapter has fewer of. The published software fills up with vectors of the value 0, which are
    arbitrary and turn the others."""

    def merge(name: str, updates: Sequence[LowRank]) -> LowRank:
        parts = [supported(update) for update in updates]
        left, right = (
            polar(torch.cat(vectors, dim=1)) for vectors in zip(*((p.left, p.right) for p in parts), strict=True)
        )
        return LowRank(gain * left * torch.cat([part.values for part in parts]), right)

    return each_module(library, merge)


@rule(static=True, gauge_free=True, alone=False, symmetric=True)
def iso_c(library: Library, *, gain: Gain = 1.0) -> Composition:
    """Iso-C (Marczak et al. 2025, arXiv 2502.04959): with Σ_i ΔW_i = U Σ Vᵀ of rank R, ΔW = gain (tr Σ / R) U Vᵀ: the
    sum with all singular values at their mean.

    The paper takes the mean over min(outputs, inputs) values, of which a sum of adapters has R above 0; the vectors of
    the others are arbitrary, and are left out here, as in Core Space (`core_space`). Its gain is tuned on held-out
    data."""

    def merge(name: str, updates: Sequence[LowRank]) -> LowRank:
        left, values, right = supported(concatenated(updates, (1.0,) * len(updates)))
        return LowRank(gain * values.sum() / max(len(values), 1) * left, right)

    return each_module(library, merge)


@rule(static=True, gauge_free=True, alone=True, symmetric=True)
def wudi(library: Library) -> Composition:
    """WUDI-Merging (Cheng et al. 2025, arXiv 2503.08099): the ΔW of least Σ_i ‖(ΔW − ΔW_i) ΔW_iᵀ‖² / ‖ΔW_i‖², and of
    those the least ‖ΔW‖. With ΔW_i = U_i Σ_i V_iᵀ and n_i = ‖ΔW_i‖ that is ΔW = [U_i Σ_i²/n_i] [V_i Σ_i/n_i]⁺.

    Where no V_i depends on the others the loss is 0: ΔW does to the input directions of each expert what that expert
    does, and is the least ΔW that does so. Experts of orthogonal inputs are summed.

    The paper takes 300 steps of Adam at the rate 1e-5 from the sum, in every entry of ΔW. How near they come to the
    least loss depends on the scale of the entries, and they leave the span of the experts' inputs, which does not
    change the loss: their ΔW has full rank, and is not this one."""

    def merge(name: str, updates: Sequence[LowRank]) -> LowRank:
        parts = [supported(update) for update in updates]
        shares = [part.values / torch.linalg.vector_norm(part.values) for part in parts]
        out = torch.cat([p.left * (p.values * share) for p, share in zip(parts, shares, strict=True)], dim=1)
        into = torch.cat([p.right * share for p, share in zip(parts, shares, strict=True)], dim=1)
        return LowRank(out, torch.linalg.pinv(into.double(), rtol=ROUNDING).T.float().contiguous())

    return each_module(library, merge)


def supported(update: LowRank) -> CoreSVD:
    """The singular values above rounding and their vectors; none of ΔW = 0."""
    # With A = Q_A R, B = Q_B S and R Sᵀ = U Σ Vᵀ, the left vectors are Q_A U = A Sᵀ V/Σ, the right ones B Rᵀ U/Σ.
    r, s = triangle(update.out), triangle(update.into)
    left, values, right = torch.linalg.svd(r @ s.T, full_matrices=False)
    kept = values > ROUNDING * values[:1].sum()
    left, values, right = left[:, kept], values[kept], right[kept].T
    return CoreSVD(
        (update.out.double() @ (s.T @ right / values)).float(),
        values.float(),
        (update.into.double() @ (r.T @ left / values)).float(),
    )


def polar(columns: Float32[Tensor, "rows columns"]) -> Float32[Tensor, "rows columns"]:
    """P Qᵀ of the columns' SVD P D Qᵀ, without the vectors of the value 0: C (CᵀC)^(-1/2). The eigenvalues of CᵀC are
    D², in float64 right to 1e-6 down to ROUNDING, in less than half of the time of an SVD."""
    wide = columns.double()
    squares, vectors = torch.linalg.eigh(wide.T @ wide)
    kept = squares > ROUNDING**2 * squares[-1:].sum()
    vectors, squares = vectors[:, kept], squares[kept]
    return (wide @ ((vectors * squares.rsqrt()) @ vectors.T)).float()
