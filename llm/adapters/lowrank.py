"""ΔW = out · intoᵀ, kept as its factors: what an adapter does to one module.

(The paper writes ΔW = B Aᵀ in eq. 26-28 and PEFT ΔW = (α/r) B A; `out` is B with PEFT's α/r multiplied in, `into` is A
with one column a rank.)"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float32, Float64, Int
from torch import Tensor, nn

Inputs = Float[Tensor, "*batch inputs"] | Int[Tensor, "*batch"]
"""What goes into a module: activations of a linear one, token ids of an embedding, each for its one-hot vector."""


def times(x: Inputs, matrix: Float[Tensor, "inputs columns"]) -> Float[Tensor, "*batch columns"]:
    """xᵀ matrix, in the dtype of x; for token ids the rows of the matrix."""
    return x @ matrix.to(x.dtype) if x.is_floating_point() else matrix[x]


class CoreSVD(NamedTuple):
    """ΔW = left · diag(values) · rightᵀ, values from large to small."""

    left: Float32[Tensor, "outputs rank"]
    values: Float32[Tensor, " rank"]
    right: Float32[Tensor, "inputs rank"]


class LowRank(NamedTuple):
    """ΔW = out · intoᵀ, in float32 unless moved by `to`."""

    out: Float[Tensor, "outputs rank"]
    into: Float[Tensor, "inputs rank"]

    @property
    def rank(self) -> int:
        return self.out.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        return self.out.shape[0], self.into.shape[0]

    def __call__(self, x: Inputs) -> Float[Tensor, "*batch outputs"]:
        """ΔW x, in the dtype of x; of token ids, in the dtype of the factors."""
        inner = self.inner(x)
        return inner @ self.out.to(inner.dtype).T

    def inner(self, x: Inputs) -> Float[Tensor, "*batch rank"]:
        """intoᵀ x."""
        return times(x, self.into)

    def to(self, device: torch.device, dtype: torch.dtype) -> "LowRank":
        return LowRank(self.out.to(device, dtype), self.into.to(device, dtype))

    def padded(self, rank: int) -> "LowRank":
        """The same ΔW, with columns of zeros after its own."""
        zeros = rank - self.rank
        return LowRank(nn.functional.pad(self.out, (0, zeros)), nn.functional.pad(self.into, (0, zeros)))

    def dense(self) -> Float[Tensor, "outputs inputs"]:
        """The whole of ΔW: for tests."""
        return self.out @ self.into.T

    def norm(self) -> float:
        """‖ΔW‖_F = ‖R_o R_iᵀ‖_F; of a whole matrix, which has no smaller core, its own."""
        if self.rank >= min(self.shape):
            return float(torch.linalg.norm(self.dense().double()))
        return float(torch.linalg.norm(triangle(self.out) @ triangle(self.into).T))

    def core_svd(self) -> CoreSVD:
        """The singular values and vectors of ΔW = Q_o (R_o R_iᵀ) Q_iᵀ, from those of the small matrix between the two
        Q. In float64: singular vectors move by rounding over the gap between singular values, and gaps can be small."""
        q_out, r_out = torch.linalg.qr(self.out.double())
        q_into, r_into = torch.linalg.qr(self.into.double())
        left, values, right = torch.linalg.svd(r_out @ r_into.T, full_matrices=False)
        return CoreSVD((q_out @ left).float(), values.float(), (q_into @ right.T).float())

    def top_input_direction(self) -> Float32[Tensor, " inputs"]:
        """The right singular vector of the largest singular value, up to its sign; zero for ΔW = 0, which has none."""
        svd = self.core_svd()
        return svd.right[:, 0] if svd.values.any() else svd.right.new_zeros(len(svd.right))


def triangle(columns: Float[Tensor, "rows columns"]) -> Float64[Tensor, "small columns"]:
    """R of the columns' QR factors, in float64: it has their lengths and angles. Q, which is left out here, takes about
    as long again. (LAPACK takes matrices column by column.)"""
    return torch.linalg.qr(columns.T.contiguous().T.double(), mode="r").R


Expert = Mapping[str, LowRank]  # by the full dotted name of the module in the base: "model.layers.0.mlp.up_proj"


def padded(updates: Sequence[LowRank]) -> list[LowRank]:
    """The same updates, with columns of zeros after the factors of those whose rank is not the largest: for rules that
    add factors column by column or entry by entry."""
    rank = max(update.rank for update in updates)
    return [update.padded(rank) for update in updates]


def whole(change: Float[Tensor, "outputs inputs"]) -> LowRank:
    """A whole matrix as the product of itself and the identity on its shorter side."""
    outputs, inputs = change.shape
    if outputs < inputs:
        return LowRank(torch.eye(outputs, dtype=change.dtype), change.T)
    return LowRank(change, torch.eye(inputs, dtype=change.dtype))


def cosine(one: Expert, other: Expert) -> float:
    """⟨ΔW_1, ΔW_2⟩/(‖ΔW_1‖‖ΔW_2‖) of all modules together; a module that only one of the two changes is 0 in the
    other. NaN where all of ΔW is 0 in one, as of an adapter before its training."""
    both = [(one[name], other[name]) for name in one if name in other]
    inner = sum(float(((a.out.T @ b.out) * (a.into.T @ b.into)).sum()) for a, b in both)
    norms = [sum(update.norm() ** 2 for update in expert.values()) ** 0.5 for expert in (one, other)]
    return inner / (norms[0] * norms[1]) if all(norms) else math.nan
