"""LoRA updates in closed form on a module of a language model: Proposition 1, eq. 23 and ROME; `theory.edits` has the
same in NumPy."""

import torch
from jaxtyping import Float
from torch import Tensor

from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.runs.settings import SettingError


def min_norm_edit(
    keys: Float[Tensor, "inputs edits"],
    residuals: Float[Tensor, "outputs edits"],
    C: Float[Tensor, "inputs inputs"] | None = None,
) -> LowRank:
    """ΔW = D (KᵀC⁻¹K)⁻¹ KᵀC⁻¹, with ΔW K = D exactly: the keys K get the residuals D added to their outputs.

    One key and C = I is Proposition 1 (eq. 1), several are eq. 23, and C = E[kkᵀ] over other text is ROME (Meng et al.
    2022), the least change tr(ΔW C ΔWᵀ) to it. Computed in float64. Raises SettingError when keys are linearly
    dependent: no ΔW gives them any residuals."""
    K = keys.double()
    dual = K if C is None else torch.linalg.solve(C.double(), K)
    inner = K.T @ dual
    scale = inner.diagonal().sqrt()
    if not scale.all() or torch.linalg.eigvalsh(inner / torch.outer(scale, scale))[0] < 1e-10:
        got = f"{keys.shape[1]} keys of {keys.shape[0]} numbers that depend on each other"
        raise SettingError(
            "edits",
            got,
            "prompts that the layer tells apart, no more than it has inputs",
            "fewer triplets, or another layer",
        )
    return LowRank(residuals.float(), torch.linalg.solve(inner, dual.T).T.float())


def added(first: LowRank, second: LowRank) -> LowRank:
    """ΔW₁ + ΔW₂, of rank r₁ + r₂."""
    return LowRank(torch.cat([first.out, second.out], dim=1), torch.cat([first.into, second.into], dim=1))
