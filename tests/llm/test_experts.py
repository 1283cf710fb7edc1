"""Experts against a plain PEFT loop; found again, interrupted, out of memory, on a base that stays as it was; and every family end to end."""

import dataclasses
import functools
import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example as case
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch.optim.lr_scheduler import LambdaLR

from llm import experts
from llm.adapters import load_expert
from llm.compositions import compose
from llm.data.facts import triplets
from llm.data.subsets import examples
from llm.evaluation import answers, gates
from llm.experts import Spec, expert
from llm.models import Base, load_base
from llm.modules import target_modules
from llm.resident import Resident
from llm.settings import Training
from runs.settings import SettingError
from tests.llm.tiny import FAMILIES, tiny

torch.set_num_threads(1)
# PEFT asks transformers for a property that transformers 5.23 renames.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
ROOT = Path(__file__).parents[2]
TRAINING = Training(rank=2, alpha=4, dropout=0.0, rate=3e-3, steps=7, batch=4)
TEXT = " ".join(f"{e.question} {e.answer}" for subset in ("R1", "R2", "F1", "F12-CoT") for e in examples(subset, triplets(subset[0])[:4]))
WEIGHTS = "adapter_model.safetensors"
ONCE = functools.cache(experts.example)


@pytest.fixture(autouse=True)
def _tokens_once(monkeypatch):
    monkeypatch.setattr(experts, "example", ONCE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny("qwen2", tmp_path_factory.mktemp("qwen2"), text=TEXT)


@pytest.fixture(scope="module")
def base(folder) -> Base:
    return load_base(str(folder))


def spec(own=("R1",), bridge=("F1", "F12-CoT"), role=1, seed=0, **training: Any) -> Spec:
    return Spec(own, bridge, 4, 4, dataclasses.replace(TRAINING, **training), seed, role)


def ids(rows=2, length=6):
    return torch.randint(10, 300, (rows, length), generator=torch.Generator().manual_seed(0))


def saved(path: Path) -> bytes:
    return (path / WEIGHTS).read_bytes()


def only(path: Path) -> bool:
    """Whether its folder holds the expert and nothing else."""
    return list(path.parent.iterdir()) == [path]


def close(path: Path, other: Path):
    for name, tensor in load_file(path / WEIGHTS).items():
        torch.testing.assert_close(tensor, load_file(other / WEIGHTS)[name], rtol=1e-3, atol=1e-5)


def is_bare(base: Base) -> bool:
    """Whether nothing of PEFT is left on the model, and it is frozen and in eval mode."""
    modules = list(base.model.modules())
    left = any(isinstance(m, BaseTunerLayer) for m in modules) or hasattr(base.model, "peft_config")
    return not (left or any(m.training for m in modules) or any(p.requires_grad for p in base.model.parameters()))


# The same as in PEFT


@pytest.mark.parametrize("loss", ["example", "token"])
def test_an_expert_is_what_a_plain_loop_with_peft_trains(loss, base, folder, tmp_path):
    wanted = spec(loss=loss, clip=0.022, weight_decay=0.1, warm_up=0.3)
    found = expert(base, wanted, tmp_path)
    plain, training = load_base(str(folder)), wanted.training
    torch.manual_seed(experts._seed(wanted, "start", wanted.role))
    modules = target_modules(plain.model, "mlp")
    model = get_peft_model(plain.model, LoraConfig(r=2, lora_alpha=4, target_modules=modules, task_type="CAUSAL_LM"))
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=training.rate, weight_decay=0.1)
    schedule = LambdaLR(optimizer, lambda step: (step + 1) / 2 if step < 2 else (7 - step) / 5)
    norms = []
    for step in range(7):
        batch = experts._batch(*wanted.tokens(plain), wanted, step)
        total = sum(len(told) for _, told in batch)
        for asked, told in batch:
            labels = torch.tensor([[-100] * len(asked) + told])
            mean = model(input_ids=torch.tensor([asked + told]), labels=labels).loss
            (mean / 4 if loss == "example" else mean * len(told) / total).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(weights, 0.022))
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    assert min(norms) < 0.022 < max(norms)  # some are clipped
    model.save_pretrained(str(tmp_path / "plain"))
    close(found, tmp_path / "plain")
    assert all(tensor.abs().max() > 1e-3 for tensor in load_file(found / WEIGHTS).values())


def test_loss_and_steps_are_on_the_card(base, tmp_path):
    wanted = spec(bridge=(), steps=0, epochs=2, batch=46, rate=1e-2)
    card = json.loads((expert(base, wanted, tmp_path) / "expert.json").read_text())
    assert (card["steps"], card["own"], card["bridge"], card["role"]) == (8, ["R1"], [], 1)  # 2 epochs of 4 triplets in 46 templates
    assert card["base_digest"] == base.digest
    assert card["training"] == dataclasses.asdict(wanted.training)
    assert 0 < card["loss"] < math.log(len(base.tokenizer))


def test_the_folder_is_an_ordinary_peft_folder(base, folder, tmp_path):
    path = expert(base, spec(), tmp_path)
    update = load_expert(path, base.model)
    assert list(update) == sorted(target_modules(base.model, "mlp"))
    with torch.no_grad(), Resident(base.model) as resident:
        resident.use([update])
        ours = base.model(ids()).logits
        theirs = PeftModel.from_pretrained(load_base(str(folder)).model, str(path)).eval()(ids()).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert json.loads((path / "adapter_config.json").read_text())["base_model_name_or_path"] == base.name


@pytest.mark.parametrize("name", ["somewhere/else", "~/nowhere"])
def test_saving_asks_nobody_for_the_base(name, base, tmp_path):
    """PEFT would look its config up on the hub."""
    path = expert(dataclasses.replace(base, name=name), spec(steps=1), tmp_path)
    assert set(load_expert(path, base.model)) == set(target_modules(base.model, "mlp"))


def test_the_base_stays_as_it_was(base, tmp_path):
    weights = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    before = base.model(ids()).logits
    for layers in ("mlp", "both"):
        expert(base, spec(layers=layers, dropout=0.1, rate=0.1), tmp_path)
        assert is_bare(base)
        assert base.model.state_dict().keys() == weights.keys()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in base.model.state_dict().items())
        assert torch.equal(base.model(ids()).logits, before)


# Pieces of a batch

TOKENS = st.tuples(st.lists(st.integers(1, 9), max_size=30), st.lists(st.integers(1, 9), min_size=1, max_size=30))


@given(st.lists(TOKENS, min_size=1, max_size=20), st.integers(1, 20))
@case([([1], [2])] * 5, 4)
def test_pieces_hold_every_example_once_and_like_lengths_together(batch, micro):
    pieces = list(experts._pieces(batch, micro))
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
    own, bridge = spec().tokens(base)
    batch = [*own[:3], *bridge[:2], *bridge[-4:]]
    whole = experts._padded(batch, loss, len(batch), sum(len(told) for _, told in batch))
    logs = torch.log_softmax(model(input_ids=whole[0], attention_mask=whole[1]).logits[:, :-1], -1)
    expected = -(logs.gather(-1, whole[0][:, 1:, None])[..., 0] * whole[2][:, 1:]).sum()
    expected.backward()
    right = gradient(model)
    for micro in (1, 2, 5, 9):
        assert len(list(experts._pieces(batch, micro))) >= max(2, micro)
        assert experts._backward(model, batch, training, micro) == pytest.approx(expected.item(), rel=1e-5)
        torch.testing.assert_close(gradient(model), right, rtol=1e-3, atol=1e-4 * right.abs().max().item())


def test_padding_and_weights():
    found, attended, weights = experts._padded([([5, 6], [7]), ([8], [9, 4, 3])], "example", 2, 4)
    assert found.tolist() == [[5, 6, 7, 0], [8, 9, 4, 3]]
    assert attended.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    torch.testing.assert_close(weights, torch.tensor([[0, 0, 1 / 2, 0], [0, 1 / 6, 1 / 6, 1 / 6]]))
    weights = experts._padded([([5, 6], [7]), ([8], [9, 4, 3])], "token", 2, 4)[2]
    torch.testing.assert_close(weights, torch.tensor([[0, 0, 1 / 4, 0], [0, 1 / 4, 1 / 4, 1 / 4]]))


# Which examples a step sees


def pool(count, first=0) -> list[tuple[list[int], list[int]]]:
    return [([first + i], [1]) for i in range(count)]


def seen(own, bridge, wanted, steps) -> list[list[int]]:
    return [[asked[0] for asked, _ in experts._batch(own, bridge, wanted, step)] for step in range(steps)]


@given(st.integers(1, 12), st.floats(0.01, 1), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_own_share_is_that_of_every_batch(batch, share, owns, bridges, same):
    wanted = spec(batch=batch, own_share=share, same_bridge=same)
    mine = min(batch, max(1, round(batch * share)))
    batches = seen(pool(owns), pool(bridges, 100), wanted, 20)
    assert all(len(b) == batch and sum(i < 100 for i in b) == mine for b in batches)
    for first, size in ((0, owns), (100, bridges)):  # each stream passes all of its examples before any again
        stream = [i for b in batches for i in b if (i < 100) == (first == 0)]
        assert all(sorted(stream[n : n + size]) == list(range(first, first + size)) for n in range(0, len(stream) - size + 1, size))


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
    first, second = (seen(pool(40), pool(60, 100), spec(role=role, own_share=share, same_bridge=same), 50) for role in (1, 2))
    bridges, owns = ([[[i for i in b if (i >= 100) == of_bridge] for b in batches] for batches in (first, second)] for of_bridge in (True, False))
    assert (bridges[0] == bridges[1]) == same
    assert owns[0] != owns[1]
    assert sum(i == j for b, c in zip(*owns, strict=True) for i, j in zip(b, c, strict=False)) < 15  # and the own facts are not paired
    assert first != seen(pool(40), pool(60, 100), spec(seed=1, own_share=share, same_bridge=same), 50)


@pytest.mark.parametrize("same", [True, False])
def test_same_start_is_the_same_initial_a(same, base, tmp_path):
    paths = [expert(base, spec((f"R{role}",), role=role, same_start=same, rate=0.0, steps=1), tmp_path) for role in (1, 2)]
    first, second = (load_file(path / WEIGHTS) for path in paths)
    for name in first:
        if "lora_A" in name:
            assert torch.equal(first[name], second[name]) == same
            assert first[name].any()
        else:
            assert not first[name].any()


# Found again


def test_an_expert_is_trained_once(base, tmp_path, monkeypatch):
    path = expert(base, spec(), tmp_path)
    before = saved(path)
    monkeypatch.setattr(experts, "_train", lambda *_: pytest.fail("trained again"))
    assert expert(base, spec(), tmp_path) == path
    assert saved(path) == before


def test_whatever_makes_an_expert_is_in_its_key(base, folder):
    wanted = spec()
    fields = {f.name: getattr(TRAINING, f.name) for f in dataclasses.fields(Training)}
    words = {"adapter": "lori_d", "loss": "token", "layers": "attention"}
    changed: dict[str, Any] = {n: words.get(n) or (not value if isinstance(value, bool) else value + 1) for n, value in fields.items()}
    specs = [dataclasses.replace(wanted, training=dataclasses.replace(TRAINING, **{name: value})) for name, value in changed.items()]
    specs += [spec(seed=1), spec(role=2), spec(own=("R2",)), spec(own=("R1", "R2")), spec(bridge=("F12-CoT", "F1")), spec(bridge=())]
    specs += [dataclasses.replace(wanted, triplets=3), dataclasses.replace(wanted, bridge_triplets=3)]
    bases = [dataclasses.replace(base, digest="0" * 16), dataclasses.replace(base, chat=True), load_base(str(folder), dtype="bfloat16")]
    keys = [wanted.key(base), *(one.key(base) for one in specs), *(wanted.key(one) for one in bases)]
    assert len(set(keys)) == len(keys) == len(fields) + 12
    assert all(len(key) == 16 for key in keys)
    assert wanted.key(dataclasses.replace(base, name="elsewhere")) == wanted.key(base)


def test_bridge_triplets_say_nothing_without_a_bridge(base):
    keys = {Spec(("R1",), (), 4, count, TRAINING, 0, 1).key(base) for count in (0, 4, 100)}
    assert len(keys) == 1
    assert Spec(("R1",), (), 4, 100, TRAINING, 0, 1).tokens(base)[1] == []


def test_settings_of_a_point_do_not_reach_the_key(base):
    """A protocol's row has the training settings and more: only those of Training make the expert."""

    @dataclasses.dataclass(frozen=True)
    class More(Training):
        temperature: float = 1.0

    one, other = (More(**dataclasses.asdict(TRAINING), temperature=t) for t in (1.0, 2.0))
    assert dataclasses.replace(spec(), training=one).key(base) == dataclasses.replace(spec(), training=other).key(base) == spec().key(base)


# Interrupted


def interrupting(monkeypatch, name, at, first=lambda *_, **__: None):
    """Lets `experts.name` be, but for the `at`-th call (from 0), which does `first` and is interrupted. Returns the list of calls."""
    real, calls = getattr(experts, name), []

    def call(*given, **named):
        calls.append(given)
        if len(calls) == at + 1:
            first(*given, **named)
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(experts, name, call)
    return calls


def test_interrupted_training_ends_in_the_same_bits(base, tmp_path, monkeypatch):
    wanted = spec(dropout=0.2, own_share=0.5, weight_decay=0.1)
    whole = expert(base, wanted, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(experts, "KEEP_EVERY", 2)
        for at, steps in ((3, [0, 1, 2, 3]), (0, [2]), (3, [2, 3, 4, 5])):
            with patch.context() as once:
                calls = interrupting(once, "_step", at)
                with pytest.raises(KeyboardInterrupt):
                    expert(base, wanted, tmp_path / "parts")
            assert [call[4] for call in calls] == steps
            assert not (tmp_path / "parts" / whole.name).exists()
            assert is_bare(base)
    calls = interrupting(monkeypatch, "_step", at=99)
    found = expert(base, wanted, tmp_path / "parts")
    assert [call[4] for call in calls] == [4, 5, 6]
    assert saved(found) == saved(whole)
    assert (found / "expert.json").read_text() == (whole / "expert.json").read_text()
    assert only(found)


def test_a_killed_process_leaves_no_expert_and_the_next_call_goes_on(base, folder, tmp_path, monkeypatch):
    wanted = spec(dropout=0.2)
    program = f"""
import time
import torch
torch.set_num_threads({torch.get_num_threads()})  # the bits depend on it
from llm import experts
from llm.experts import Spec, expert
from llm.models import load_base
from llm.settings import Training
from pathlib import Path
real, experts.KEEP_EVERY = experts._step, 2
def step(*given):
    if given[4] == 5:
        print("here", flush=True)
        time.sleep(600)
    return real(*given)
experts._step = step
expert(load_base({str(folder)!r}), {wanted!r}, Path({str(tmp_path / "parts")!r}))
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "here\n"
        child.kill()
    assert child.returncode == -9
    assert not (tmp_path / "parts" / wanted.key(base)).exists()
    calls = interrupting(monkeypatch, "_step", at=99)
    found = expert(base, wanted, tmp_path / "parts")
    assert [call[4] for call in calls] == [4, 5, 6]
    assert only(found)
    assert saved(found) == saved(expert(base, wanted, tmp_path / "whole"))


def half_an_adapter(_model, path, **_):
    Path(path).mkdir()
    (Path(path) / WEIGHTS).write_bytes(b"half")
    raise KeyboardInterrupt


def replace_but_for_folders(source, target, replace=os.replace):
    if Path(source).is_dir():
        raise KeyboardInterrupt
    replace(source, target)


@pytest.mark.parametrize("where", ["the second checkpoint", "the adapter", "the last rename"])
def test_half_a_folder_is_no_expert(where, base, tmp_path, monkeypatch):
    wanted = spec()
    whole = expert(base, wanted, tmp_path / "whole")
    monkeypatch.setattr(experts, "KEEP_EVERY", 2)
    with monkeypatch.context() as patch:
        if where == "the second checkpoint":
            interrupting(patch, "save_file", 1, lambda _, path, *__: path.write_bytes(b"half"))
        elif where == "the adapter":
            patch.setattr(PeftModel, "save_pretrained", half_an_adapter)
        else:
            patch.setattr(experts.os, "replace", replace_but_for_folders)
        with pytest.raises(KeyboardInterrupt):
            expert(base, wanted, tmp_path / "parts")
    assert any((tmp_path / "parts").iterdir())
    assert not (tmp_path / "parts" / whole.name).exists()
    found = expert(base, wanted, tmp_path / "parts")
    assert saved(found) == saved(whole)
    assert only(found)


@pytest.mark.parametrize("where", ["_step", "save_file", "save_pretrained"])
def test_two_processes_may_make_the_same_expert(where, base, folder, tmp_path, monkeypatch):
    """The other one does all of it while this one is in a step, before a checkpoint, or about to finish."""
    wanted = spec()
    whole = expert(base, wanted, tmp_path / "whole")
    other = load_base(str(folder))
    monkeypatch.setattr(experts, "KEEP_EVERY", 2)
    owner: Any = PeftModel if where == "save_pretrained" else experts
    real, found = getattr(owner, where), []

    def call(*given, **named):
        result = real(*given, **named)
        if not found:
            found.append(None)  # before the inner call comes here too
            found.append(expert(other, wanted, tmp_path / "both"))
        return result

    monkeypatch.setattr(owner, where, call)
    path = expert(base, wanted, tmp_path / "both")
    assert found[1] == path
    assert saved(path) == saved(whole)
    assert only(path)
    assert is_bare(base)


def test_a_full_disk_is_not_taken_for_an_expert(base, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(experts.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        expert(base, spec(steps=1), tmp_path)
    assert is_bare(base)


# Losses that are not finite, and memory


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_one_line_and_no_expert(loss, base, tmp_path, monkeypatch):
    monkeypatch.setattr(experts, "_backward", lambda *_: loss)
    with pytest.raises(SettingError) as error:
        expert(base, spec(), tmp_path)
    assert str(error.value) == f"rate: got 0.003, and the loss is {loss} at step 0; allowed: a rate at which training stays finite"
    assert not any(tmp_path.iterdir())
    assert is_bare(base)


def test_a_last_step_that_is_not_finite_is_no_expert_either(base, tmp_path, monkeypatch):
    real = experts._step

    def step(model, optimizer, batch, wanted, step, steps, micro):
        result = real(model, optimizer, batch, wanted, step, steps, micro)
        if step == steps - 1:
            next(p for p in model.parameters() if p.requires_grad).data[0, 0] = math.nan
        return result

    monkeypatch.setattr(experts, "_step", step)
    with pytest.raises(SettingError, match=r"^rate: got 0\.003, and weights are not finite in the end; allowed: .*$"):
        expert(base, spec(), tmp_path)
    assert not any(tmp_path.iterdir())


def small_memory(monkeypatch, most):
    """Memory for pieces of so many examples; a piece that fits has had its gradient added by the time another does not."""
    real, sizes = experts._padded, []

    def padded(piece, *rest):
        sizes.append(len(piece))
        if len(piece) > most:
            raise torch.OutOfMemoryError("no memory")
        return real(piece, *rest)

    monkeypatch.setattr(experts, "_padded", padded)
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
    own, bridge = wanted.tokens(base)
    batch = [own[0], *bridge[-3:]]  # the short one is a piece of its own, and its gradient is there when memory runs out
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
    assert str(error.value) == "batch: got 4, and one example alone does not fit; allowed: a smaller model or a larger device"
    assert not any(tmp_path.iterdir())
    assert is_bare(base)


# Every family


@pytest.mark.parametrize(
    ("family", "layers"), [(family, "mlp") for family in FAMILIES if family != "mixtral"] + [("gpt2", "attention"), ("mixtral", "attention")]
)
def test_every_family_from_training_to_answers(family, layers, tmp_path):
    base = load_base(str(tiny(family, tmp_path / "base", text=TEXT)))
    before = base.model(ids()).logits
    made = [expert(base, spec((f"R{role}",), (), role, layers=layers, steps=2, rate=0.1), tmp_path / "experts") for role in (1, 2)]
    assert is_bare(base)
    assert torch.equal(base.model(ids()).logits, before)
    library = [load_expert(path, base.model) for path in made]
    assert [sorted(one) for one in library] == [sorted(target_modules(base.model, layers))] * 2
    assert all(update.norm() > 0 for one in library for update in one.values())
    theirs = PeftModel.from_pretrained(load_base(base.name).model, str(made[0])).eval()(ids()).logits
    with torch.no_grad(), Resident(base.model) as resident:
        resident.use([library[0]])
        torch.testing.assert_close(base.model(ids()).logits, theirs, rtol=1e-4, atol=1e-4)
    compositions = [compose("arrow", library), None, compose("uniform", library)]
    asked = [e.question for e in examples("R12", triplets("R")[:4], "test")[:3]]
    together = answers(base, compositions, asked, 5)
    assert together == [answers(base, [one], asked, 5)[0] for one in compositions]
    assert len({tuple(said) for said in together}) > 1
    (weights,) = gates(base, compositions[0] or {}, asked[:1], ["Paris"])
    torch.testing.assert_close(weights.sum(-1), torch.ones(len(weights)))
