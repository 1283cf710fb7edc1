"""Half precision on a CPU without instructions for it."""

import copy
import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lora_reuse import train_adapter
from lora_reuse.llm.decoding import widened
from lora_reuse.llm.decoding.models import load_base
from tests.llm.tiny import tiny

IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


class Products(TorchDispatchMode):
    """The dtypes in which matrices are multiplied."""

    def __init__(self):
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in widened.PRODUCTS:
            self.dtypes |= {arg.dtype for arg in args if isinstance(arg, Tensor)}
        return func(*args, **kwargs or {})


@pytest.fixture(params=[torch.bfloat16, torch.float16])
def without(request, monkeypatch) -> torch.dtype:
    """A dtype for which the processor has no instructions."""
    monkeypatch.setitem(widened.MULTIPLIES, request.param, lambda: False)
    return request.param


def _products(model: nn.Module) -> tuple[set[torch.dtype], Tensor]:
    with Products() as products, torch.no_grad():
        return products.dtypes, model(input_ids=IDS).logits


def test_a_model_multiplies_in_float32_and_says_what_it_said(without, monkeypatch, tmp_path):
    """On this processor, and on one that has none: as far apart as roundings are."""
    name = str(tiny("llama", tmp_path))
    dtype = str(without).removeprefix("torch.")
    wide = load_base(name, dtype=dtype).model
    monkeypatch.setitem(widened.MULTIPLIES, without, lambda: True)
    plain = load_base(name, dtype=dtype).model
    (slow, expected), (fast, got), (copied, again) = map(_products, (plain, wide, copy.deepcopy(wide)))
    assert slow == {without}
    assert fast == copied == {torch.float32}
    assert got.dtype == without
    assert torch.equal(got, again)
    torch.testing.assert_close(got, expected, rtol=0, atol=8 * torch.finfo(without).eps * expected.abs().max().item())
    assert _products(plain)[0] == {without}  # a call leaves nothing behind


@pytest.mark.parametrize("product", ["mm", "addmm", "addmm_", "bmm", "linear"])
def test_a_product_is_rounded_once(without, product):
    weight = nn.Parameter(torch.zeros(1, dtype=without))
    draws = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(24, 24, generator=draws).to(without) for _ in range(3))
    exact = a.double() @ b.double()
    with widened.widened(nn.ParameterList([weight])):
        got, wanted = {
            "mm": lambda: (a @ b, exact),
            "addmm": lambda: (torch.addmm(c, a, b), c + exact),
            "addmm_": lambda: (c.clone().addmm_(a, b), c + exact),
            "bmm": lambda: (torch.bmm(a[None], b[None])[0], exact),
            "linear": lambda: (nn.functional.linear(a, b.T), exact),
        }[product]()
    assert got.dtype == without
    assert ((got.double() - wanted).abs() <= torch.finfo(without).eps / 2 * wanted.abs() + 1e-6).all()


def test_gradients_are_those_of_float32_products(without):
    layer = nn.Linear(8, 8, dtype=without)
    x = torch.ones(4, 8, dtype=without, requires_grad=True)
    with Products() as products, widened.widened(layer):
        layer(x).sum().backward()
    assert products.dtypes == {torch.float32}
    assert x.grad is not None
    assert x.grad.dtype == without


def test_a_model_that_fails_leaves_the_next_alone(without, tmp_path):
    base = load_base(str(tiny("llama", tmp_path)), dtype=str(without).removeprefix("torch."))
    with pytest.raises(IndexError):
        base.model(input_ids=torch.tensor([[10**6]]))
    layer = nn.Linear(8, 8, dtype=without)
    with Products() as products:
        layer(torch.zeros(1, 8, dtype=without))
    assert products.dtypes == {without}


def test_other_dtypes_and_processors_multiply_as_they_did(monkeypatch):
    for dtype in (torch.bfloat16, torch.float32):
        monkeypatch.setitem(widened.MULTIPLIES, torch.bfloat16, lambda: True)
        layer = nn.Linear(8, 8, dtype=dtype)
        with Products() as products, widened.widened(layer):
            layer(torch.zeros(1, 8, dtype=dtype))
        assert products.dtypes == {dtype}


def test_a_build_that_cannot_say_multiplies_as_it_does(monkeypatch):
    """As a Mac's, where torch has no such operators; nor may the import ask for them."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", None)
    importlib.reload(widened)
    assert all(has() for has in widened.MULTIPLIES.values())


def test_within_its_own_calls_a_model_may_be_widened_again(without, tmp_path):
    model = load_base(str(tiny("llama", tmp_path)), dtype=str(without).removeprefix("torch.")).model
    with Products() as products, widened.widened(model), torch.no_grad():
        model(input_ids=IDS)
        nn.functional.linear(torch.ones(1, 8, dtype=without), torch.ones(8, 8, dtype=without))
    assert products.dtypes == {torch.float32}


def test_training_multiplies_in_float32_forth_and_back(without, tmp_path):
    base = load_base(str(tiny("llama", tmp_path / "base")), dtype=str(without).removeprefix("torch."))
    with Products() as products:
        train_adapter(base, [("Who?", "Ada."), ("Where?", "Here.")], str(tmp_path / "adapter"), steps=1)
    assert products.dtypes == {torch.float32}
