"""LoraHub (Huang et al. 2024): one weight an expert for all modules, found without gradients."""

import torch

from lora_reuse.llm.compositions import Composition, Library, Weights, compose
from lora_reuse.llm.learned import learned
from lora_reuse.llm.learned.fitting import Parameters


def nothing(library: Library) -> Parameters:
    """0 for each expert, LoraHub's start: the base alone."""
    return {"weights": torch.zeros(len(library))}


@learned(nothing, static=True, rate=0, gauge_free=False, alone=False, symmetric=False)
def lorahub(library: Library, parameters: Parameters) -> Composition:
    """ΔW = (Σ_i w_i A_i)(Σ_i w_i B_i)ᵀ (eq. 27), w by `fitting.search`. The sign of w_i is on both factors, so it shows
    in cross terms only (PEFT's linear has it on one)."""
    return compose("linear", library, weights=_weights(parameters))


@learned(nothing, static=True, rate=0, gauge_free=True, alone=False, symmetric=False)
def lorahub_cat(library: Library, parameters: Parameters) -> Composition:
    """ΔW = Σ_i w_i A_i B_iᵀ (eq. 26) with the same search: no cross terms."""
    return compose("cat", library, weights=_weights(parameters))


def _weights(parameters: Parameters) -> Weights:
    return tuple(parameters["weights"].tolist())
