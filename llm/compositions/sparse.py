"""Rules that look at single weights: TIES and DARE on the factors, and KnOTS on ΔW, which aligns the experts' outputs
first.

`theory.compositions.sparse` has TIES and DARE on ΔW. Here ΔW is never formed, so they work on A and B, as the paper's
software and PEFT do, and depend on the factorisation: on a rotation of the rank, and on which factor has α/r in it
(here A)."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from lora_reuse.llm.adapters.lowrank import Expert, LowRank, padded, triangle
from lora_reuse.llm.compositions import Composition, Library, Seed, each_module, generator, rule
from lora_reuse.llm.compositions.sums import concatenated, factor_sum
from lora_reuse.runs.settings import Number

Density = Annotated[int | float, Number(1e-6, 1), "share of the weights that is kept"]
Trim = Annotated[Literal["global", "module"], "what the share is taken of"]
Then = Annotated[Literal["sum", "linear", "ties"], "what follows the dropping"]


@rule(static=True, gauge_free=False, alone=False, symmetric=True)
def ties(library: Library, *, density: Density = 0.2, trim: Trim = "global") -> Composition:
    """TIES-Merging (Yadav et al. 2023): ΔW = merge(A_1 … A_N) merge(B_1 … B_N)ᵀ. Of each expert keep the `density`
    share of largest weights, elect a sign for each weight by the sum, average the kept weights of that sign.
    `trim=global` takes the share over all weights of A and B of all modules together (the original trims the whole task
    vector; mttl pools the factors so), `trim=module` of each factor of each module (PEFT). After
    trimming, a factor of lower rank gets columns of zeros, which do not vote."""
    cuts = [smallest_kept(expert, density) if trim == "global" else None for expert in library]

    def merge(name: str, updates: Sequence[LowRank]) -> LowRank:
        return elected(padded([_trimmed(*pair, density) for pair in zip(updates, cuts, strict=True)]))

    return each_module(library, merge)


@rule(static=True, gauge_free=False, alone=False, symmetric=False)
def dare(library: Library, *, density: Density = 0.2, then: Then = "sum", seed: Seed = 0) -> Composition:
    """DARE (Yu et al. 2024): each weight of A_i and of B_i is dropped with probability 1 − `density` and else divided
    by `density` (PEFT; the original and the theory drop weights of ΔW), then: `sum` ΔW = Σ_i Ã_i B̃_iᵀ, whose mean over
    masks is the sum; `linear` (Σ_i Ã_i)(Σ_i B̃_i)ᵀ, PEFT's dare_linear; `ties` elects signs and averages, PEFT's
    dare_ties."""

    def merge(name: str, updates: list[LowRank]) -> LowRank:
        kept = []
        for i, update in enumerate(updates):
            factors = []
            for which, factor in zip(("out", "into"), update, strict=True):
                draw = torch.rand(factor.shape, generator=generator(seed, "dare", name, i, which))
                factors.append(torch.where(draw < density, factor / density, 0.0))
            kept.append(LowRank(*factors))
        if then == "ties":
            return elected(padded(kept))
        return {"sum": concatenated, "linear": factor_sum}[then](kept, (1.0,) * len(kept))

    return each_module(library, merge)


@rule(static=True, gauge_free=True, alone=False, symmetric=True)
def knots(library: Library, *, density: Density = 0.2) -> Composition:
    """KnOTS-TIES (Stoica et al. 2025): [ΔW₁ … ΔW_N] = U Σ [V₁ … V_N]ᵀ, then TIES on the ΣV_iᵀ of each module, then U
    times the result. With [A₁ … A_N] = Q [R₁ … R_N] the SVD is that of [R_i B_iᵀ], which has one row a rank, and ΔW =
    (Q U') merge(Σ V_iᵀ) is low-rank as it is."""
    return each_module(library, lambda name, updates: _knots(updates, density))


def _knots(updates: list[LowRank], density: int | float) -> LowRank:
    columns = torch.cat([update.out for update in updates], dim=1)
    parts = triangle(columns).split([update.rank for update in updates], dim=1)
    # ΔW_i = Q R_i S_iᵀ Q_iᵀ with B_i = Q_i S_i: the core [R_i S_iᵀ] has the singular values and left vectors of all
    # ΔW_i side by side, which with right vectors P are [A_i S_iᵀ] P / Σ.
    inner = [triangle(update.into) for update in updates]
    core = torch.cat([part @ s.T for part, s in zip(parts, inner, strict=True)], dim=1)
    left, values, right = torch.linalg.svd(core, full_matrices=False)
    kept = values > 1e-5 * values[0]
    left, turn = left[:, kept], torch.block_diag(*(s.T for s in inner)) @ (right[kept].T / values[kept])
    blocks = [(left.T @ part) @ update.into.double().T for part, update in zip(parts, updates, strict=True)]
    merged = elect_and_average(torch.stack([keep_largest(block, density) for block in blocks]))
    return LowRank((columns.double() @ turn).float(), merged.T.float().contiguous())


def smallest_kept(expert: Expert, density: int | float) -> float:
    """The size of the smallest weight in the `density` share of largest ones, over all factors of all modules together.

    Sizes in float32 are in the order of their bits as whole numbers. Two passes over the modules count them, first by
    the upper 16 bits and then, where the upper ones are those of the size sought, by the lower 16."""

    def sizes() -> Iterator[Int32[Tensor, " entries"]]:
        for update in expert.values():
            yield from (factor.float().abs().flatten().view(torch.int32) for factor in update)

    upper = torch.zeros(2**15, dtype=torch.int64)
    for bits in sizes():
        upper += torch.bincount(bits >> 16, minlength=2**15)
    above = max(round(density * int(upper.sum())), 1)
    high, above = _place_from_above(upper, above)
    lower = torch.zeros(2**16, dtype=torch.int64)
    for bits in sizes():
        lower += torch.bincount(bits[bits >> 16 == high] & 0xFFFF, minlength=2**16)
    low, _ = _place_from_above(lower, above)
    return float(torch.tensor(high << 16 | low, dtype=torch.int32).view(torch.float32))


def _place_from_above(counts: Int64[Tensor, " bins"], number: int) -> tuple[int, int]:
    """The bin in which the `number`-th largest lies, and which one of the bin it is."""
    from_above = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_above, number))
    return len(counts) - 1 - place, number - int(from_above[place] - counts.flip(0)[place])


def _trimmed(update: LowRank, cut: float | None, density: int | float) -> LowRank:
    """The update with the entries of its factors below `cut` zeroed; without a cut all but the `density` share of
    largest ones of each factor."""
    if cut is None:
        return LowRank(*(keep_largest(factor, density) for factor in update))
    return LowRank(*(torch.where(factor.abs() >= cut, factor, 0.0) for factor in update))


def keep_largest(matrix: Float[Tensor, "rows columns"], density: int | float) -> Float[Tensor, "rows columns"]:
    """The matrix with all but its `density` share of largest entries zeroed."""
    sizes = matrix.abs()
    return torch.where(sizes >= smallest_of(sizes.flatten(), density), matrix, 0.0) if sizes.numel() else matrix


def smallest_of(sizes: Float[Tensor, " entries"], density: int | float) -> float:
    """The smallest of the `density` share of largest sizes."""
    place = len(sizes) - max(round(density * len(sizes)), 1)
    return float(np.partition(sizes.numpy(), place)[place])  # several times as fast as torch's kthvalue


def elected(updates: list[LowRank]) -> LowRank:
    """Both factors merged by `elect_and_average`."""
    return LowRank(*(elect_and_average(torch.stack(factors)) for factors in zip(*updates, strict=True)))


def elect_and_average(stack: Float[Tensor, "experts rows columns"]) -> Float[Tensor, "rows columns"]:
    """The sign of each entry's sum, and the mean of the entries that have it; 0 where the sum is 0."""
    agree = stack.sign() == stack.sum(dim=0).sign()  # where the sum is 0, zeros alone
    return torch.where(agree, stack, 0.0).sum(dim=0) / agree.sum(dim=0).clamp_min(1)
