"""A method of mergekit on the whole ΔW of each module: any that its registry has."""

import torch
from mergekit.merge_methods.api import merge_tensors  # pyright: ignore[reportMissingImports]

from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.compositions import each_module, rule


def merged(name, updates):
    """With ΔW = 0 as mergekit's base model."""
    changes = [update.dense() for update in updates]
    base = torch.zeros_like(changes[0])
    merged = merge_tensors([base, *changes], "ties", base_index=0, parameters={"weight": 1.0, "density": 0.2})
    left, values, right = torch.linalg.svd(merged, full_matrices=False)
    return LowRank(left * values, right.T.contiguous())


@rule(static=True, gauge_free=True, alone=False, symmetric=True)
def mergekit_ties(library):
    """TIES on ΔW, as mergekit has it."""
    return each_module(library, merged)
