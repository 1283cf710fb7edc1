"""ΔW of one module as a product of two factors, from the tensors that each kind of adapter stores of it."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from lora_reuse.llm.adapters.lowrank import LowRank, whole

Shapes = Mapping[str, tuple[int, ...]]


class Sizes(NamedTuple):
    """What the shapes of a module's tensors say: ΔW's shape, and each rank that one of its products has."""

    shape: tuple[int, int]
    ranks: Collection[int]


class Kind(NamedTuple):
    """A kind of adapter: its name, ΔW up to its scaling, the tensors that a module may have, what their shapes say and
    the update that they make."""

    title: str
    formula: str
    tensors: tuple[frozenset[str], ...]
    sizes: Callable[[Shapes], Sizes]
    update: Callable[[Mapping[str, Tensor]], LowRank]


def khatri_rao(tensors: Mapping[str, Float32[Tensor, "_ _"]]) -> LowRank:
    """LoHa: ΔW = (w1_a w1_b)∘(w2_a w2_b) = Σ_ij (w1_a[:, i]∘w2_a[:, j]) (w1_b[i]∘w2_b[j])ᵀ, of rank r² at most.

    Source: Hyeon-Woo et al. 2022 (FedPara, arXiv 2108.06098), Proposition 1."""
    (a1, b1), (a2, b2) = ((tensors[f"{w}_a"], tensors[f"{w}_b"].T) for w in ("w1", "w2"))
    if a1.shape[1] * a2.shape[1] >= min(len(a1), len(b1)):
        return whole((a1 @ b1.T) * (a2 @ b2.T))
    return LowRank(_columns(a1, a2), _columns(b1, b2))


def kronecker(tensors: Mapping[str, Float32[Tensor, "_ _"]]) -> LowRank:
    """LoKr: ΔW = w1 ⊗ w2 = (out1 ⊗ out2)(into1 ⊗ into2)ᵀ, where w_i = out_i into_iᵀ; its rank is the product of theirs.

    Source: Edalati et al. 2022 (KronA, arXiv 2212.10650); Yeh et al. 2024 (LyCORIS, arXiv 2309.14859)."""
    one, other = (_side(tensors, w) for w in ("w1", "w2"))
    return LowRank(*(torch.kron(a.contiguous(), b.contiguous()) for a, b in zip(one, other, strict=True)))


def _side(tensors: Mapping[str, Tensor], name: str) -> LowRank:
    """One side of a Kronecker product, which is stored whole or as two factors."""
    if name in tensors:
        return whole(tensors[name])
    a, b = tensors[f"{name}_a"], tensors[f"{name}_b"]
    return whole(a @ b) if a.shape[1] >= min(len(a), b.shape[1]) else LowRank(a, b.T)


def _columns(one: Float[Tensor, "rows r"], other: Float[Tensor, "rows s"]) -> Float[Tensor, "rows rs"]:
    """Every column of one times every column of the other, entry by entry."""
    return (one[:, :, None] * other[:, None, :]).flatten(1)


def _product(shapes: Shapes, first: str, second: str) -> Sizes:
    a, b = shapes[first], shapes[second]
    return Sizes((a[0], b[1]), {a[1], b[0]})


def _loha_sizes(shapes: Shapes) -> Sizes:
    one, other = (_product(shapes, f"{w}_a", f"{w}_b") for w in ("w1", "w2"))
    shape = one.shape if one.shape == other.shape else (0, 0)
    return Sizes(shape, {*one.ranks, *other.ranks})


def _lokr_sizes(shapes: Shapes) -> Sizes:
    one, other = (
        Sizes((shapes[w][0], shapes[w][1]), ()) if w in shapes else _product(shapes, f"{w}_a", f"{w}_b")
        for w in ("w1", "w2")
    )
    (a, b), (c, d) = one.shape, other.shape
    return Sizes((a * c, b * d), {*one.ranks, *other.ranks})


def _sets(*names: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(name.split()) for name in names)


KINDS = {
    "LORA": Kind(
        "LoRA",
        "B A",
        _sets("A B"),
        lambda shapes: _product(shapes, "B", "A"),
        lambda tensors: LowRank(tensors["B"], tensors["A"].T),
    ),
    "ADALORA": Kind(
        "AdaLoRA",
        "B diag(E) A",
        _sets("A B E"),
        lambda shapes: _product(shapes, "B", "A"),
        lambda tensors: LowRank(tensors["B"] * tensors["E"].flatten(), tensors["A"].T),
    ),
    "LOHA": Kind("LoHa", "(w1_a w1_b)∘(w2_a w2_b)", _sets("w1_a w1_b w2_a w2_b"), _loha_sizes, khatri_rao),
    "LOKR": Kind(
        "LoKr",
        "w1 ⊗ w2",
        _sets("w1 w2", "w1 w2_a w2_b", "w1_a w1_b w2", "w1_a w1_b w2_a w2_b"),
        _lokr_sizes,
        kronecker,
    ),
}
"""By PEFT's name. (VeRA's modules share tensors: `llm.adapters.updates` puts it together.)"""
