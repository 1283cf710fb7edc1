"""A mixture of the experts: a linear router in every module, trained, that weighs them for each token."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor

from lora_reuse.llm.adapters.lowrank import Inputs, LowRank, times
from lora_reuse.llm.compositions import Composition, Library, each_module, kind
from lora_reuse.llm.compositions.arrow import Routed
from lora_reuse.llm.learned import learned
from lora_reuse.llm.learned.fitting import Parameters


def level(library: Library) -> Parameters:
    """A router of zeros in each module: the average of the updates."""
    return {name: torch.zeros(len(library), update.shape[1]) for name, update in library[0].items()}


@learned(level, static=False, rate=1e-3, gauge_free=True, alone=True, symmetric=True)
def moe(library: Library, parameters: Parameters) -> Composition:
    """ΔW(x) = Σ_i w_i A_i B_iᵀ, w = softmax(R x), R trained in each module: the learned mixture that LoRA Soups
    compares with, merged after the product. `arrow_after` is the same with |v_i·x| for R x, and needs no data."""
    return each_module(library, lambda name, updates: _router(updates, parameters[name]))


@kind
@dataclass(frozen=True)
class Router(Routed):
    """Arrow's layer with trained rows in place of its prototypes, and with their signs."""

    def weights(self, x: Inputs) -> Float32[Tensor, "*batch experts"]:
        """softmax(R x), in float32 whatever x is."""
        with torch.autocast(x.device.type, enabled=False):
            return torch.softmax(times(x.float() if x.is_floating_point() else x, self.prototypes.T), dim=-1)


def _router(updates: Sequence[LowRank], rows: Float32[Tensor, "experts inputs"]) -> Router:
    out, into = (torch.cat([update[factor] for update in updates], dim=1) for factor in (0, 1))
    return Router(out, into, rows, tuple(update.rank for update in updates), before=False)
