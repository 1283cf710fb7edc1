"""Compositions on a resident base: groups of a batch against runs of their own, and the base as it was afterwards."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

from lora_reuse.llm.adapters.folders import linear_shape
from lora_reuse.llm.adapters.lowrank import Expert, LowRank
from lora_reuse.llm.compositions import RULES, Delta, compose
from lora_reuse.llm.compositions.arrow import Routed
from lora_reuse.llm.decoding.resident import Resident
from lora_reuse.runs.settings import SettingError

torch.set_num_threads(1)


def qwen() -> Any:
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config).eval()


def gpt2() -> Any:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=0)
    ).eval()


def library(model, ends=("up_proj", "down_proj", "c_fc"), count=3, seed=0) -> list[Expert]:
    random = torch.Generator().manual_seed(seed)
    shapes = {name: linear_shape(module) for name, module in model.named_modules() if name.endswith(ends)}
    draw = lambda size: LowRank(  # noqa: E731
        0.3 * torch.randn(size[0], 3, generator=random), torch.randn(size[1], 3, generator=random)
    )
    return [{name: draw(shape) for name, shape in shapes.items()} for _ in range(count)]


def ids(rows=2, length=6, seed=0):
    return torch.randint(1, 64, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model, compositions, batch):
    with Resident(model) as resident:
        resident.use(compositions)
        return model(batch).logits


def rounded(actual, expected):
    """Equal but for the order of additions in products of other batch sizes."""
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [qwen, gpt2])
def test_groups_of_one_batch_are_runs_of_their_own(make):
    model = make()
    compositions = [compose(name, library(model)) for name in RULES] + [None, library(model)[0]]
    batch = ids(2 * len(compositions))
    together = logits(model, compositions, batch)
    with torch.no_grad():
        base = model(batch).logits
    for k, composition in enumerate(compositions):
        rows = slice(2 * k, 2 * k + 2)
        rounded(together[rows], logits(model, [composition], batch[rows]))
        changed = (together[rows] - base[rows]).abs().max()
        if composition is None:
            assert torch.equal(together[rows], base[rows])
        else:
            assert changed > 1e-2


def test_a_composition_is_what_it_adds_to_the_weights():
    model, merged = qwen(), qwen()
    composition = compose("sum", library(model))
    with torch.no_grad():
        for name, delta in composition.items():
            assert isinstance(delta, LowRank)
            merged.get_submodule(name).weight += delta.dense()
        rounded(logits(model, [composition], ids()), merged(ids()).logits)


def test_compositions_of_different_modules_share_a_batch():
    model = qwen()
    first, second = library(model, ("up_proj",))[0], library(model, ("q_proj", "lm_head"))[1]
    together = logits(model, [first, second], ids(4))
    rounded(together[:2], logits(model, [first], ids(4)[:2]))
    rounded(together[2:], logits(model, [second], ids(4)[2:]))


def test_afterwards_the_base_is_as_it_was():
    model = qwen()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        before = model(ids()).logits
        with Resident(model) as resident:
            resident.use([compose("arrow", library(model))])
            assert not torch.equal(model(ids()).logits, before)
            resident.use([None])
            assert torch.equal(model(ids()).logits, before)
            resident.use([compose("sum", library(model))])
        assert torch.equal(model(ids()).logits, before)
        with pytest.raises(IndexError):
            logits(model, [compose("sum", library(model))], ids() + 1000)
        assert torch.equal(model(ids()).logits, before)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_switching_is_as_a_fresh_start():
    model = qwen()
    one, two = compose("arrow", library(model)), compose("uniform", library(model))
    with torch.no_grad(), Resident(model) as resident:
        for composition in (one, two, one):
            resident.use([composition])
            assert torch.equal(model(ids()).logits, logits(qwen(), [composition], ids()))


@pytest.mark.parametrize("beams", [1, 2])
def test_generate_answers_every_group_as_alone(beams):
    model = qwen()
    compositions = [
        compose("arrow", library(model)),
        None,
        compose("average", library(model)),
        compose("arrow_after", library(model)),
    ]
    prompts = ids(2, 5)
    prompts[0, :2] = 0
    ask: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "num_beams": beams}
    alone = []
    with Resident(model) as resident:
        for composition in compositions:
            resident.use([composition])
            alone.append(model.generate(prompts, attention_mask=prompts != 0, **ask))
        resident.use(compositions)
        together = model.generate(prompts.repeat(4, 1), attention_mask=prompts.repeat(4, 1) != 0, **ask)
    assert torch.equal(together, torch.cat(alone))
    assert len({tuple(answers.flatten().tolist()) for answers in alone}) == 4


def test_record_keeps_the_gates_of_every_token():
    model = qwen()
    experts = library(model)
    compositions = [
        compose("arrow", experts),
        compose("sum", experts),
        compose("arrow_after", experts, top_k=1),
    ]
    with torch.no_grad(), Resident(model, record=True) as resident:
        resident.use(compositions)
        recorded = model(ids(6)).logits
        model(ids(6))
        gates = resident.gates
        resident.use([None])
        assert resident.gates == [{}]
    assert torch.equal(recorded, logits(model, compositions, ids(6)))
    assert [set(by_module) for by_module in gates] == [set(experts[0]), set(), set(experts[0])]
    for by_module in (gates[0], gates[2]):
        for weights in by_module.values():
            assert [w.shape for w in weights] == [(2, 6, 3), (2, 6, 3)]
            torch.testing.assert_close(weights[0].sum(dim=-1), torch.ones(2, 6))
    name = "model.layers.0.mlp.up_proj"
    seen = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(ids(6))
    handle.remove()
    router = compositions[0][name]
    assert isinstance(router, Routed)
    rounded(gates[0][name][0], router.weights(seen[0][:2]).detach())
    assert set(gates[2][name][0].flatten().tolist()) == {0.0, 1.0}


def test_a_bfloat16_base_gets_bfloat16_factors_and_float32_gates():
    exact, model = qwen(), qwen().bfloat16()
    composition = compose("arrow_after", library(model))
    with torch.no_grad(), Resident(model, record=True) as resident:
        resident.use([composition])
        out = model(ids()).logits
    assert out.dtype == torch.bfloat16
    assert all(w.dtype == torch.float32 for weights in resident.gates[0].values() for w in weights)
    expected = logits(exact, [composition], ids())
    assert (out.float() - expected).norm() < 0.1 * expected.norm()


@dataclass(frozen=True)
class Counted:
    """An update that counts how often it is moved."""

    update: LowRank
    moves: list[str]
    name: str

    @property
    def shape(self):
        return self.update.shape

    def __call__(self, x):
        return self.update(x)

    def to(self, device, dtype):
        self.moves.append(self.name)
        return self.update.to(device, dtype)


def test_factors_are_moved_once_for_as_long_as_they_are_in_use():
    model, moves = qwen(), []
    composition: Mapping[str, Delta] = {
        name: Counted(update, moves, name) for name, update in library(model)[0].items()
    }
    with torch.no_grad(), Resident(model) as resident:
        resident.use([composition])
        assert not moves
        model(ids())
        resident.use([composition, None, composition])
        model(ids(3))
        assert sorted(moves) == sorted(composition)
        resident.use([None])
        resident.use([composition])
        model(ids())
        assert sorted(moves) == sorted([*composition, *composition])


def test_gradients_reach_the_factors():
    """So that weights and experts can be trained under the same hooks."""
    model = qwen().requires_grad_(False)
    expert = {name: LowRank(update.out.requires_grad_(), update.into) for name, update in library(model)[0].items()}
    with Resident(model) as resident:
        resident.use([expert, None])
        model(ids(2)).logits.sum().backward()
    assert all(update.out.grad is not None and update.out.grad.any() for update in expert.values())


def test_refusals_are_one_line_and_leave_the_hooks_alone():
    model = qwen()
    (expert, *_) = library(model)
    name = next(iter(expert))
    with torch.no_grad(), Resident(model) as resident:
        resident.use([expert])
        before = model(ids()).logits
        for compositions, message in (
            ([], "compositions: got none"),
            (
                [None, {"model.layers.0.mlp.up_pro": expert[name]}],
                "composition: got module model.layers.0.mlp.up_pro; allowed: modules of the model; did you",
            ),
            ([{"model.norm": expert[name]}], "composition: got model.norm, a Qwen2RMSNorm"),
            (
                [{name: LowRank(expert[name].into, expert[name].out)}],
                f"composition: got an update of shape (32, 48) for {name}; allowed: shape (48, 32)",
            ),
        ):
            with pytest.raises(SettingError) as error:
                resident.use(compositions)
            assert message in str(error.value)
            assert "\n" not in str(error.value)
            assert torch.equal(model(ids()).logits, before)
        resident.use([expert, None])
        with pytest.raises(
            SettingError,
            match=r"batch: got \(3, 6, 32\) into .* for 2 compositions; allowed: \[2 n rows, tokens, features\]",
        ):
            model(ids(3))
        with pytest.raises(SettingError, match=r"batch: got \(4, 32\) into"):
            model.get_submodule(name)(torch.zeros(4, 32))
