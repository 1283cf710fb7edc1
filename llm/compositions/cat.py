"""CAT (LoRA Soups): one weight an expert, on the updates (eq. 26)."""

from lora_reuse.llm.compositions import Composition, Library, Weighting, each_module, rule, weights_for
from lora_reuse.llm.compositions.sums import concatenated


@rule(static=True, gauge_free=True, alone=True, symmetric=True)
def cat(library: Library, *, weights: Weighting = None) -> Composition:
    """ΔW = Σ_i α_i A_i B_iᵀ (eq. 26), with α given (`weights`, by module too, as LoRA Soups has them), or 1. There are
    no cross terms. `average` is α_i = 1/N, and the concatenated merge of LoRI is α_i as published (0.3 to 0.5)."""
    return each_module(
        library, lambda name, updates: concatenated(updates, weights_for(weights, name, len(updates), 1.0))
    )
