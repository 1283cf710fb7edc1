"""CAT (LoRA Soups, Prabhakar et al. 2024): one weight an expert and module, on the updates, trained (eq. 26)."""

import torch

from lora_reuse.llm.compositions import Composition, Library, each_module
from lora_reuse.llm.compositions.sums import concatenated
from lora_reuse.llm.learned import learned
from lora_reuse.llm.learned.fitting import Parameters


def equal(library: Library) -> Parameters:
    """1/N for each expert in each module: the average of the updates."""
    return {name: torch.full((len(library),), 1 / len(library)) for name in library[0]}


@learned(equal, static=True, rate=0.05, gauge_free=True, alone=False, symmetric=True)
def cat(library: Library, parameters: Parameters) -> Composition:
    """ΔW = Σ_i α_i A_i B_iᵀ (eq. 26), α free, as the paper writes it; it starts at the average. ΔW is never formed: α
    scales the columns."""
    return each_module(library, lambda name, updates: concatenated(updates, parameters[name].unbind()))


def level(library: Library) -> Parameters:
    """0 for each expert in each module: softmax makes it the average."""
    return {name: torch.zeros(len(library)) for name in library[0]}


@learned(level, static=True, rate=0.05, gauge_free=True, alone=True, symmetric=True)
def cat_softmax(library: Library, parameters: Parameters) -> Composition:
    """`cat` with α = softmax(s), as LoRA Soups trains it (there from random s; here from 0, the average)."""
    return cat(library, {name: torch.softmax(s, dim=0) for name, s in parameters.items()})
