"""One factor a module, learned."""

import torch

from lora_reuse.llm.compositions import Composition, Library, each_module
from lora_reuse.llm.compositions.sums import concatenated
from lora_reuse.llm.learned import learned
from lora_reuse.llm.learned.fitting import Parameters


def one(library: Library) -> Parameters:
    return {name: torch.ones(1) for name in library[0]}


@learned(one, static=True, rate=0.05, gauge_free=True, alone=False, symmetric=True)
def scaled_sum(library: Library, parameters: Parameters) -> Composition:
    """ΔW = s Σ_i A_i B_iᵀ, one s a module."""
    return each_module(library, lambda name, updates: concatenated(updates, [parameters[name][0]] * len(updates)))
