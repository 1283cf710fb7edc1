"""What a LoRA with biases (PEFT's lora_bias) adds to a module's output, ΔW x + b. Rules compose ΔW; those that are
linear in it compose b by the same weights."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lora_reuse.llm.adapters.lowrank import Inputs, LowRank

LINEAR = ("sum", "average", "cat", "lori_concat")
"""The rules whose ΔW is Σ_i w_i ΔW_i, with weights that do not depend on the ΔW."""


class Biased(NamedTuple):
    """ΔW x + b = out · [intoᵀ x, 1]: the last column of `out` is b, and its input is constant."""

    out: Float[Tensor, "outputs rank_and_one"]
    into: Float[Tensor, "inputs rank"]

    @property
    def shape(self) -> tuple[int, int]:
        return self.update.shape

    @property
    def update(self) -> LowRank:
        """ΔW."""
        return LowRank(self.out[:, :-1], self.into)

    @property
    def bias(self) -> Float[Tensor, " outputs"]:
        """b."""
        return self.out[:, -1]

    def __call__(self, x: Inputs) -> Float[Tensor, "*batch outputs"]:
        """ΔW x + b, in the dtype of x."""
        inner = self.inner(x)
        return inner @ self.out.to(inner.dtype).T

    def inner(self, x: Inputs) -> Float[Tensor, "*batch rank_and_one"]:
        """intoᵀ x, and 1."""
        return torch.nn.functional.pad(self.update.inner(x), (0, 1), value=1.0)

    def to(self, device: torch.device, dtype: torch.dtype) -> "Biased":
        return Biased(self.out.to(device, dtype), self.into.to(device, dtype))


def constant(bias: Float[Tensor, " outputs"]) -> LowRank:
    """A bias as the ΔW of an input that is always 1."""
    return LowRank(bias[:, None], bias.new_ones(1, 1))


def biased(name: str, update: LowRank, biases: Mapping[str, LowRank]) -> LowRank | Biased:
    """The update with the bias of its module, if there is one among `biases` (as `constant` makes them)."""
    if name not in biases:
        return update
    return Biased(torch.cat([update.out, biases[name].dense()], dim=1), update.into)
