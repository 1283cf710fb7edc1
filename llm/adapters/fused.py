"""The forward and backward pass of a frozen linear layer with a LoRA adapter in as few products as there are, for
training."""

from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
from jaxtyping import Float, Int
from peft.tuners.lora import Linear
from torch import Tensor, nn

from lora_reuse.llm.adapters.packing import Tokens


def fuse(adapted: nn.Module) -> None:
    """Has PEFT's layers with one adapter and no dropout compute y = W x + b + (α/r) B A x in the dtype of x, until they
    are unloaded.

    PEFT casts x to the adapter's dtype, and autograd keeps each of its steps.
    """
    for layer in adapted.modules():
        if (
            not isinstance(layer, Linear)
            or len(layer.active_adapters) != 1
            or type(layer.get_base_layer()) is not nn.Linear
        ):
            continue
        (name,) = layer.active_adapters
        if isinstance(layer.lora_dropout[name], nn.Identity) and not layer.lora_variant and not layer.lora_bias[name]:
            layer.forward = MethodType(_forward, layer)


def _forward(layer: Any, x: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
    (name,), base = layer.active_adapters, layer.get_base_layer()
    A, B = layer.lora_A[name].weight, layer.lora_B[name].weight
    y: Any = _Adapted.apply(x.flatten(0, -2), base.weight, base.bias, A, B, layer.scaling[name])
    return y.unflatten(0, x.shape[:-1])


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scale: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        inner = (x @ A.T.to(x.dtype)).mul_(scale)
        ctx.save_for_backward(x, inner, weight, A, B)
        ctx.scale = scale
        return nn.functional.linear(x, weight, bias).addmm_(inner, B.T.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, inner, weight, A, B = ctx.saved_tensors
        into, _, _, for_A, for_B, _ = ctx.needs_input_grad
        dinner = (dy @ B.to(dy.dtype)).mul_(ctx.scale)
        dx = (dy @ weight).addmm_(dinner, A.to(dy.dtype)) if into else None
        return (
            dx,
            None,
            None,
            (dinner.T @ x).to(A.dtype) if for_A else None,
            (dy.T @ inner).to(B.dtype) if for_B else None,
            None,
        )


def surprise(
    logits: Float[Tensor, "tokens vocabulary"], told: Int[Tensor, " tokens"], weights: Float[Tensor, " tokens"]
) -> Float[Tensor, ""]:
    """Σ −weight · log softmax(logits)[told], in float32, with one tensor of the size of the logits where autograd holds
    several."""
    return _Surprise.apply(logits, told, weights)  # pyright: ignore[reportReturnType]


class _Surprise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, told: Tensor, weights: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        most = logits.amax(-1, keepdim=True)
        grown = (logits - most.float()).exp_()  # once: the gradient takes the softmax from it, too
        total = grown.sum(-1)
        ctx.save_for_backward(grown, total, told, weights)
        ctx.dtype = logits.dtype
        return ((total.log() + (most - logits.gather(1, told[:, None])).float()[:, 0]) * weights).sum()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        grown, total, told, weights = ctx.saved_tensors
        shares = weights * dy
        d = grown * (shares / total)[:, None]
        d.scatter_add_(1, told[:, None], -shares[:, None])
        return d.to(ctx.dtype), None, None


def in_loss(piece: Sequence[Tokens], batch: Sequence[Tokens], loss: str) -> Float[Tensor, " answered"]:
    """What each answer token of a piece weighs in the batch's loss: the mean over tokens of each example, or with
    `loss` "token" of all."""
    everything = sum(len(answer) for _, answer in batch)
    shares = [everything if loss == "token" else len(answer) * len(batch) for _, answer in piece for _ in answer]
    return 1 / torch.tensor(shares)
