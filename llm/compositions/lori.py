"""The two merges of LoRI (Zhang et al. 2025, arXiv 2504.07448), for adapters trained with `adapter=lori_d` or `lori_s`:
those of PEFT."""

import math

from lora_reuse.llm.compositions import (
    Composition,
    Library,
    Weighting,
    Weights,
    each_module,
    rule,
    weights_for,
)
from lora_reuse.llm.compositions.sums import concatenated, factor_sum
from lora_reuse.runs.settings import SettingError


@rule(static=True, gauge_free=True, alone=True, symmetric=True)
def lori_concat(library: Library, *, weights: Weighting = None) -> Composition:
    """ΔW = Σ_i w_i A_i B_iᵀ, with w given or as published for LoRI-D: 0.5 for up to three experts, 0.4 from four on
    (for LoRI-S 0.4 and 0.3; for two experts nothing is published). One expert keeps weight 1. With two it is
    `average`."""
    return each_module(
        library,
        lambda name, updates: concatenated(updates, weights_for(weights, name, len(updates), published(len(updates)))),
    )


@rule(static=True, gauge_free=False, alone=True, symmetric=True)
def lori_linear(library: Library, *, weights: Weighting = None) -> Composition:
    """ΔW = (Σ_i √w_i A_i)(Σ_i √w_i B_i)ᵀ with the w of `lori_concat`: eq. 27 with PEFT's root, which puts w_i on the
    diagonal and √(w_i w_j) on cross terms. With two experts of one α/r it is twice `uniform`. A factor of lower
    rank gets columns of zeros. Raises SettingError for a weight below 0."""
    return each_module(
        library,
        lambda name, updates: factor_sum(
            updates, _roots(weights_for(weights, name, len(updates), published(len(updates))))
        ),
    )


def published(experts: int) -> float:
    """The weight that LoRI's scripts give each of so many LoRI-D experts."""
    return 1.0 if experts == 1 else 0.5 if experts <= 3 else 0.4


def _roots(weights: Weights) -> Weights:
    if min(weights) < 0:
        raise SettingError("weights", weights, "numbers from 0, as lori_linear takes their roots", "linear takes any")
    return tuple(math.sqrt(w) for w in weights)
