"""What a step of training sees: which examples are in its batch, and the pieces that the batch is cut into for
memory."""

import dataclasses
import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import example as case
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from lora_reuse.llm.adapters import training as experts
from lora_reuse.llm.adapters.modules import target_modules
from lora_reuse.llm.adapters.packing import padded
from lora_reuse.llm.adapters.training import expert
from lora_reuse.llm.decoding.models import load_base
from lora_reuse.runs.settings import SettingError
from tests.llm.training import TRAINING, WEIGHTS, close, is_bare, spec

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("tokens_once")


# Pieces of a batch

TOKENS = st.tuples(st.lists(st.integers(1, 9), max_size=30), st.lists(st.integers(1, 9), min_size=1, max_size=30))


@given(st.lists(TOKENS, min_size=1, max_size=20), st.integers(1, 20))
@case([([1], [2])] * 5, 4)
def test_pieces_hold_every_example_once_and_like_lengths_together(batch, micro):
    pieces = list(experts._pieces(batch, micro, 1.5))
    length = lambda e: len(e[0]) + len(e[1])  # noqa: E731
    assert Counter(id(e) for piece in pieces for e in piece) == Counter(id(e) for e in batch)
    assert all(1 <= len(piece) <= math.ceil(len(batch) / micro) for piece in pieces)
    assert all(max(map(length, piece)) <= 1.5 * min(map(length, piece)) for piece in pieces)
    if micro >= len(batch):
        assert len(pieces) == len(batch)


def with_lora(folder) -> Any:
    """A base with an adapter whose two factors are random."""
    base = load_base(str(folder))
    model = get_peft_model(base.model, LoraConfig(r=2, lora_alpha=4, target_modules=target_modules(base.model, "mlp")))
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def gradient(model) -> torch.Tensor:
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    model.zero_grad()
    return found


@pytest.mark.parametrize("loss", ["example", "token"])
def test_pieces_have_the_gradient_of_one_padded_batch(loss, base, folder):
    model, training = with_lora(folder), dataclasses.replace(TRAINING, loss=loss)
    own, bridge = experts.tokens(base, spec())
    batch = [*own[:3], *bridge[:2], *bridge[-4:]]
    found, attended, answered = padded(batch)
    losses = cross_entropy(
        model(input_ids=found, attention_mask=attended).logits[:, :-1].mT, found[:, 1:], reduction="none"
    )
    counts = answered.sum(1, keepdim=True) * len(batch) if loss == "example" else answered.sum()
    expected = (losses * answered[:, 1:] / counts).sum()
    expected.backward()
    right = gradient(model)
    for micro in (1, 2, 5, 9):
        assert len(list(experts._pieces(batch, micro, 1.5))) >= max(2, micro)
        assert experts._backward(model, batch, training, micro) == pytest.approx(expected.item(), rel=1e-5)
        torch.testing.assert_close(gradient(model), right, rtol=1e-3, atol=1e-4 * right.abs().max().item())


def test_padding_is_on_the_right_and_is_no_answer():
    found, attended, answered = padded([([5, 6], [7]), ([8], [9, 4, 3])])
    assert found.tolist() == [[5, 6, 7, 0], [8, 9, 4, 3]]
    assert attended.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert answered.tolist() == [[False, False, True, False], [False, True, True, True]]


# Which examples a step sees


def pool(count, first=0) -> list[tuple[list[int], list[int]]]:
    return [([first + i], [1]) for i in range(count)]


def seen(own, bridge, wanted, steps) -> list[list[int]]:
    return [[asked[0] for asked, _ in experts._batch(own, bridge, wanted, step)] for step in range(steps)]


@given(st.integers(1, 12), st.floats(0.01, 1), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_own_share_is_that_of_every_batch(batch, share, owns, bridges, same):
    wanted = spec(batch=batch, own_share=share, same_bridge=same)
    mine = max(1, round(batch * share))
    if mine >= batch:
        with pytest.raises(
            SettingError, match=r"^own_share: got .* with batch=\d+, which never shows the bridge; allowed: "
        ):
            seen(pool(owns), pool(bridges, 100), wanted, 1)
        return
    batches = seen(pool(owns), pool(bridges, 100), wanted, 20)
    assert all(len(b) == batch and sum(i < 100 for i in b) == mine for b in batches)
    for first, size in ((0, owns), (100, bridges)):  # each stream passes all of its examples before any again
        stream = [i for b in batches for i in b if (i < 100) == (first == 0)]
        assert all(
            sorted(stream[n : n + size]) == list(range(first, first + size))
            for n in range(0, len(stream) - size + 1, size)
        )


@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 9), st.sampled_from([0.0, 0.5]), st.booleans())
def test_without_a_share_or_a_bridge_all_examples_pass_once_an_epoch(batch, owns, bridges, share, same):
    bridge = [] if share else pool(bridges, owns)
    count = owns + len(bridge)
    batches = seen(pool(owns), bridge, spec(batch=batch, own_share=share, same_bridge=same), 3 * count)
    stream = [i for b in batches for i in b]
    assert all(len(b) == batch for b in batches)
    epochs = [stream[n : n + count] for n in range(0, len(stream), count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert count < 5 or any(epoch != epochs[0] for epoch in epochs)


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("same", [True, False])
def test_same_bridge_is_the_same_examples_at_the_same_steps(same, share):
    first, second = (
        seen(pool(40), pool(60, 100), spec(role=role, own_share=share, same_bridge=same), 50) for role in (1, 2)
    )
    bridges, owns = (
        [[[i for i in b if (i >= 100) == of_bridge] for b in batches] for batches in (first, second)]
        for of_bridge in (True, False)
    )
    assert (bridges[0] == bridges[1]) == same
    assert owns[0] != owns[1]
    assert (
        sum(i == j for b, c in zip(*owns, strict=True) for i, j in zip(b, c, strict=False)) < 15
    )  # and the own facts are not paired
    assert first != seen(pool(40), pool(60, 100), spec(seed=1, own_share=share, same_bridge=same), 50)


@pytest.mark.parametrize("same", [True, False])
def test_same_start_is_the_same_initial_a(same, base, tmp_path):
    paths = [
        expert(base, spec((f"R{role}",), role=role, same_start=same, rate=0.0, steps=1), tmp_path) for role in (1, 2)
    ]
    first, second = (load_file(path / WEIGHTS) for path in paths)
    for name in first:
        if "lora_A" in name:
            assert torch.equal(first[name], second[name]) == same
            assert first[name].any()
        else:
            assert not first[name].any()


# Memory


def small_memory(monkeypatch, most):
    """Memory for pieces of so many examples; a piece that fits has had its gradient added by the time another does
    not."""
    real, sizes = experts.spoken, []

    def spoken(model, piece):
        sizes.append(len(piece))
        if len(piece) > most:
            raise torch.OutOfMemoryError("no memory")
        return real(model, piece)

    monkeypatch.setattr(experts, "spoken", spoken)
    return sizes


def test_out_of_memory_halves_the_pieces_and_changes_nothing(base, tmp_path, monkeypatch, capsys):
    wanted = spec(batch=12)
    whole = expert(base, wanted, tmp_path / "whole")
    assert capsys.readouterr().out == ""
    sizes = small_memory(monkeypatch, 3)
    found = expert(base, wanted, tmp_path / "pieces")
    said = [f"out of memory: the batch of 12 goes in {pieces} pieces from here on" for pieces in (2, 4)]
    assert capsys.readouterr().out.splitlines() == said
    assert sum(size > 3 for size in sizes) == 2  # and never again
    close(found, whole)


def test_the_gradient_in_pieces_is_that_of_the_batch(base, folder, monkeypatch):
    """Adam would hide a gradient that is twice too large."""
    model, wanted = with_lora(folder), spec(clip=0.0)
    own, bridge = experts.tokens(base, wanted)
    batch = [
        own[0],
        *bridge[-3:],
    ]  # the short one is a piece of its own, and its gradient is there when memory runs out
    weights = [p for p in model.parameters() if p.requires_grad]
    moved = []
    for most in (4, 1):
        before = [w.detach().clone() for w in weights]
        with monkeypatch.context() as patch:
            small_memory(patch, most)
            experts._step(model, torch.optim.SGD(weights), batch, wanted, 0, 7, 1)
        moved.append([w.detach() - b for w, b in zip(weights, before, strict=True)])
        for w, b in zip(weights, before, strict=True):
            w.data.copy_(b)
    for one, other in zip(*moved, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * one.abs().max().item() + 1e-9)


def test_one_example_that_does_not_fit_is_one_line(base, tmp_path, monkeypatch):
    small_memory(monkeypatch, 0)
    with pytest.raises(SettingError) as error:
        expert(base, spec(), tmp_path)
    assert (
        str(error.value)
        == "batch: got 4, and one example alone does not fit; allowed: a smaller model or a larger device"
    )
    assert not any(tmp_path.iterdir())
    assert is_bare(base)
