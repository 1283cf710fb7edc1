"""A merge method of sd-mecha on the whole ΔW of each module."""

import sd_mecha  # pyright: ignore[reportMissingImports]
import torch

from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.compositions import each_module, rule


def merged(name, updates):
    change = sd_mecha.ties_sum_extended.__wrapped__(*(update.dense() for update in updates), k=0.2)
    left, values, right = torch.linalg.svd(change, full_matrices=False)
    return LowRank(left * values, right.T.contiguous())


@rule(static=True, gauge_free=True, alone=False, symmetric=True)
def mecha_ties_stock(library):
    """TIES on ΔW, scaled as Model Stock has it."""
    return each_module(library, merged)
