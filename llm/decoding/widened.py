"""Products of matrices in half precision on a processor that has no instructions for them.

There torch multiplies element by element: a core with AVX2 alone does 7 GFLOP/s in bfloat16, where it does 50 in
float32."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
PRODUCTS = {aten.mm.default, aten.addmm.default, aten.addmm_.default, aten.bmm.default, aten.linear.default}
"""What linear layers, `@` and their gradients come down to."""


def _asked(name: str) -> Callable[[], bool]:
    """What torch's compiler asks. A build without mkldnn, as a Mac's, cannot say, and multiplies as it does."""
    return lambda: not torch.backends.mkldnn.is_available() or getattr(torch.ops.mkldnn, name)()


MULTIPLIES = {
    torch.bfloat16: _asked("_is_mkldnn_bf16_supported"),
    torch.float16: _asked("_is_mkldnn_fp16_supported"),
}
"""Whether this processor has instructions for a dtype."""


def widen(model: nn.Module) -> None:
    """Has the model's own calls run as within `widened`; a copy of the model, too, since its hooks know no model."""
    if lacks_products(model):
        model.register_forward_pre_hook(_enter)
        model.register_forward_hook(_leave, always_call=True)


def widened(model: nn.Module) -> AbstractContextManager[object]:
    """Within, products of matrices in half precision are taken in float32 and rounded once, if a CPU without
    instructions for them would take `model`'s. That is what the instructions do, but for the order of the sums."""
    return _WIDENED if lacks_products(model) else nullcontext()


def lacks_products(model: nn.Module) -> bool:
    """Whether the model is in half precision on a CPU that has no instructions for its products."""
    weight = next(model.parameters())
    return weight.device.type == "cpu" and weight.dtype in MULTIPLIES and not MULTIPLIES[weight.dtype]()


class _Widened(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in PRODUCTS or args[0].dtype not in MULTIPLIES or args[0].device.type != "cpu":
            return func(*args, **kwargs or {})
        wide = func(*(arg.float() if isinstance(arg, Tensor) else arg for arg in args), **kwargs or {})
        return args[0].copy_(wide) if func is aten.addmm_.default else wide.to(args[0].dtype)


_WIDENED = _Widened()


def _enter(*_: Any) -> None:
    _WIDENED.__enter__()


def _leave(*_: Any) -> None:
    _WIDENED.__exit__(None, None, None)
