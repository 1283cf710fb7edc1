"""Sums: of the updates (`sum`, `average`), or of their factors before the product (`linear`, `uniform`, eq. 27)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lora_reuse.llm.adapters.lowrank import LowRank, padded
from lora_reuse.llm.compositions import Composition, Library, Weighting, each_module, rule, weights_for


@rule(static=True, gauge_free=True, alone=True, symmetric=True)
def sum_(library: Library) -> Composition:
    """ΔW = Σ_i ΔW_i (Theorem 2); the rank is the sum of the ranks."""
    return each_module(library, lambda name, updates: concatenated(updates, (1.0,) * len(updates)))


@rule(static=True, gauge_free=True, alone=True, symmetric=True)
def average(library: Library) -> Composition:
    """ΔW = (1/N) Σ_i ΔW_i: the mean of the updates, not of their factors."""
    return each_module(library, lambda name, updates: concatenated(updates, (1 / len(updates),) * len(updates)))


@rule(static=True, gauge_free=False, alone=True, symmetric=True)
def linear(library: Library, *, weights: Weighting = None) -> Composition:
    """ΔW = (Σ_i w_i A_i)(Σ_i w_i B_i)ᵀ (eq. 27), w_i = 1 unless given. The factors are those on disk, with α/r in A;
    one of lower rank gets columns of zeros. The cross terms w_i w_j A_i B_jᵀ depend on how each ΔW_i is factored.
    PEFT's `linear` has √w_i in place of w_i (and the sign of w_i on one factor only)."""
    return each_module(
        library, lambda name, updates: factor_sum(updates, weights_for(weights, name, len(updates), 1.0))
    )


@rule(static=True, gauge_free=False, alone=True, symmetric=True)
def uniform(library: Library) -> Composition:
    """ΔW = (1/N Σ_i A_i)(1/N Σ_i B_i)ᵀ: eq. 27 with equal weights, as the paper's software averages factors; each ΔW_i
    enters with 1/N². A factor of lower rank gets columns of zeros."""
    return each_module(library, lambda name, updates: factor_sum(updates, (1 / len(updates),) * len(updates)))


def concatenated(updates: Sequence[LowRank], weights: Sequence[int | float | Tensor]) -> LowRank:
    """Σ_i w_i ΔW_i, exactly, as the factors side by side; where all have one factor in common, as whole matrices have
    the identity, as that one and the sum of the others. A weight may be a tensor of one number, with its gradient."""
    first = updates[0]
    if all(torch.equal(update.into, first.into) for update in updates):
        return LowRank(sum_of([update.out for update in updates], weights), first.into)
    if all(torch.equal(update.out, first.out) for update in updates):
        return LowRank(first.out, sum_of([update.into for update in updates], weights))
    out = torch.cat([w * update.out for w, update in zip(weights, updates, strict=True)], dim=1)
    return LowRank(out, torch.cat([update.into for update in updates], dim=1))


def factor_sum(updates: Sequence[LowRank], weights: Sequence[int | float]) -> LowRank:
    """(Σ_i w_i A_i)(Σ_i w_i B_i)ᵀ; a factor of lower rank gets columns of zeros."""
    return LowRank(*(sum_of(factors, weights) for factors in zip(*padded(updates), strict=True)))


def sum_of(factors: Sequence[Tensor], weights: Sequence[int | float | Tensor]) -> Tensor:
    """Σ_i w_i of the factors, which have one shape."""
    return torch.stack([w * factor for w, factor in zip(weights, factors, strict=True)]).sum(dim=0)
