"""LoRI adapters (Zhang et al. 2025, arXiv 2504.07448): LoRA with a random A that is never trained, and in LoRI-S with
most of B zero.

Every expert has an A of its own, since random subspaces that differ are what keeps experts apart. The original has no
dropout; here it is a dial, as for LoRA."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Bool
from safetensors.torch import load_file
from torch import Tensor, nn

from lora_reuse.llm.adapters.folders import WEIGHTS
from lora_reuse.llm.adapters.kinds import BeforeStep, adapter
from lora_reuse.runs.settings import Number

Masks = dict[str, Bool[Tensor, "outputs rank"]]
Kept = Annotated[int | float, Number(1e-6, 1), "share of B's entries that is trained; published: a sparsity of 90 %"]


@adapter(label="LoRI-D")
def lori_d(model: nn.Module, calibrated: Path | None) -> None:
    """B alone"""
    for name, weight in model.named_parameters():
        if ".lora_A." in name:
            weight.requires_grad_(False)


@adapter(label="LoRI-S", calibrated_by="lori_d")
def lori_s(model: nn.Module, calibrated: Path, *, kept: Kept = 0.1) -> BeforeStep:
    """those entries of B that are largest in LoRI-D"""
    lori_d(model, None)
    return keep_sparse(model, masks(calibrated, kept))


def masks(calibrated: Path, kept: int | float) -> Masks:
    """The entries of B that a trained LoRI-D expert keeps in each module: the `kept` share of largest over all modules
    together."""
    trained = {
        key.split(".lora_B.")[0]: weight.abs()
        for key, weight in load_file(calibrated / WEIGHTS).items()
        if ".lora_B." in key
    }
    sizes = torch.cat([weight.flatten() for weight in trained.values()])
    cut = sizes.kthvalue(len(sizes) - max(round(kept * len(sizes)), 1) + 1).values
    return {name: weight >= cut for name, weight in trained.items()}


def keep_sparse(model: nn.Module, masks: Mapping[str, Tensor]) -> BeforeStep:
    """Zeroes the gradients of B outside the masks, after clipping as the original does; B starts at zero and stays so
    there."""
    masked = [
        (weight, masks[name.split(".lora_B.")[0]].to(weight.device))
        for name, weight in model.named_parameters()
        if ".lora_B." in name
    ]

    def mask_gradients(*_: Any) -> None:
        for weight, mask in masked:
            if weight.grad is not None:
                weight.grad.mul_(mask)

    return mask_gradients
