"""LoRI adapters (Zhang et al. 2025, arXiv 2504.07448): LoRA with a random A that is never trained, and in LoRI-S with
most of B zero.

Every expert has an A of its own, since random subspaces that differ are what keeps experts apart. The original has no
dropout; here it is a dial, as for LoRA."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from lora_reuse.llm.adapters.folders import WEIGHTS
from safetensors.torch import load_file
from torch import Tensor, nn

KEPT = 0.1
"""The share of B's entries that LoRI-S trains: the published 90 % sparsity."""
Masks = dict[str, Bool[Tensor, "outputs rank"]]


def freeze(model: nn.Module) -> None:
    """Leaves A of every adapter as it was drawn: only B is trained (LoRI-D)."""
    for name, weight in model.named_parameters():
        if ".lora_A." in name:
            weight.requires_grad_(False)


def masks(calibrated: Path) -> Masks:
    """The entries of B that a trained LoRI-D expert keeps in each module: the `KEPT` share of largest over all modules
    together."""
    trained = {
        key.split(".lora_B.")[0]: weight.abs()
        for key, weight in load_file(calibrated / WEIGHTS).items()
        if ".lora_B." in key
    }
    sizes = torch.cat([weight.flatten() for weight in trained.values()])
    cut = sizes.kthvalue(len(sizes) - max(round(KEPT * len(sizes)), 1) + 1).values
    return {name: weight >= cut for name, weight in trained.items()}


def keep_sparse(model: nn.Module, optimizer: torch.optim.Optimizer, masks: Mapping[str, Tensor]) -> None:
    """Zeroes the gradients of B outside the masks before every step, after clipping as the original does; B starts at
    zero and stays so there."""
    masked = [
        (weight, masks[name.split(".lora_B.")[0]].to(weight.device))
        for name, weight in model.named_parameters()
        if ".lora_B." in name
    ]

    def mask_gradients(*_: Any) -> None:
        for weight, mask in masked:
            if weight.grad is not None:
                weight.grad.mul_(mask)

    optimizer.register_step_pre_hook(mask_gradients)
