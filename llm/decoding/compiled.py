"""A base whose layers torch.compile compiles for training: all that is no product runs in a few loops of C++, where
torch runs one an operation.

It is asked for (`compile=true`): it rounds otherwise, and needs a C++ compiler and, the first time, a minute. From then
on its cache serves every process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._inductor.exc import InductorError
from transformers import PreTrainedModel

from lora_reuse.llm.decoding.widened import lacks_products
from lora_reuse.runs.settings import SettingError


def refuse_compiling(model: PreTrainedModel, place: str) -> None:
    """Raises SettingError for a model that names no layers, and where there is nothing to gain: a GPU has its graphs
    (llm/adapters/graphed.py), and a processor without products in half precision has each of them intercepted
    (llm/decoding/widened.py)."""
    if place != "cpu":
        raise SettingError("compile", f"true on {place}", "true on a CPU", "compile=false")
    if lacks_products(model):
        got = f"true in {str(model.dtype).removeprefix('torch.')}, which this processor does not multiply in"
        raise SettingError("compile", got, "true in float32", "dtype=float32 or compile=false")
    if not _layers(model):
        raise SettingError("compile", f"true for {type(model).__name__}, which names no layers", "compile=false")


@contextmanager
def compiled_layers(model: PreTrainedModel) -> Iterator[None]:
    """Within, the model's layers run compiled, with the adapters that are on them and for batches of any size. Raises
    SettingError where nothing here compiles."""
    layers = _layers(model)
    try:
        for layer in layers:
            layer.forward = compiled_function(layer.forward)
        # Each placement of adapters has graphs of its own, and torch would run those after the eighth uncompiled.
        with torch._dynamo.config.patch(recompile_limit=1000):
            yield
    except InductorError as error:
        got = f"true, and torch compiles nothing here ({str(error).splitlines()[0]})"
        raise SettingError("compile", got, "true where a C++ compiler is", "name it in CXX= or compile=false") from None
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def compiled_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled for tensors of any size, with torch's own random numbers: what it drops out stays."""
    return torch.compile(function, dynamic=True, options={"fallback_random": True})


def _layers(model: nn.Module) -> list[Any]:
    named = getattr(model, "_no_split_modules", None) or ()
    return [module for module in model.modules() if type(module).__name__ in named]
