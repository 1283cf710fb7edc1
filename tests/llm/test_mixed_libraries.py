"""Libraries whose experts differ in kind, modules and ranks, composed and saved as an adapter that PEFT loads."""

from typing import Any

import pytest
import torch
from peft import PeftModel

from lora_reuse.llm.adapters.folders import complete, load_expert
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.saving import Card, load_composition, save_composition
from lora_reuse.llm.compositions import RULES, compose
from lora_reuse.llm.compositions.arrow import Routed
from lora_reuse.llm.decoding.resident import Resident
from tests.llm.test_adapter_kinds import written
from tests.llm.test_adapters import IDS, qwen, with_composition

torch.set_num_threads(1)


STATIC = [name for name, rule in RULES.items() if rule.static]
MIXED = ("rslora", "attention and mlp", "one layer")
"""Kinds of one base whose modules and ranks differ."""


def mixed(tmp_path) -> tuple[list[Any], list[dict[str, torch.Tensor]]]:
    found = [written(kind, tmp_path / str(i), seed=i) for i, kind in enumerate(MIXED)]
    return [load_expert(tmp_path / str(i), qwen()) for i in range(len(MIXED))], [deltas for _, deltas, _ in found]


@pytest.mark.parametrize("rule", STATIC)
def test_a_composition_of_different_kinds_is_an_adapter_that_peft_loads(rule, tmp_path):
    library, _ = mixed(tmp_path)
    composition = compose(rule, library)
    assert composition.keys() == set().union(*library)
    save_composition(composition, qwen(), tmp_path / "merged", Card("tiny", rule))
    theirs = PeftModel.from_pretrained(qwen(), str(tmp_path / "merged"))(IDS).logits
    torch.testing.assert_close(with_composition(qwen(), composition), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rule", "weights"), [("sum", (1, 1, 1)), ("average", (1 / 3,) * 3), ("cat", (1, 1, 1))])
def test_rules_on_updates_take_a_missing_module_for_zero(rule, weights, tmp_path):
    library, deltas = mixed(tmp_path)
    assert_weighted_sum(compose(rule, library), deltas, weights)


def assert_weighted_sum(composition, deltas, weights):
    """The composition is Σ w_i ΔW_i in every module that any expert changes, in float64."""
    assert composition.keys() == set().union(*deltas)
    for name, update in composition.items():
        zero = torch.zeros(update.shape, dtype=torch.float64)
        wanted = sum(w * delta.get(name, zero) for w, delta in zip(weights, deltas, strict=True))
        assert isinstance(update, LowRank)
        torch.testing.assert_close(update.dense().double(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", ["linear", "uniform", "lori_linear"])
def test_rules_on_factors_pad_them_with_zeros(rule, tmp_path):
    library, _ = mixed(tmp_path)
    w = {"linear": 1.0, "uniform": 1 / 3, "lori_linear": 0.5**0.5}[rule]
    for name, update in compose(rule, library).items():
        rank = max(expert[name].rank for expert in library if name in expert)
        factors = []
        for which in (0, 1):
            total = torch.zeros(update.shape[which], rank)
            for expert in library:
                if name in expert:
                    factor = expert[name][which]
                    total[:, : factor.shape[1]] += w * factor
            factors.append(total)
        assert isinstance(update, LowRank)
        torch.testing.assert_close(update.dense(), factors[0] @ factors[1].T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", ["arrow", "arrow_after"])
def test_a_router_leaves_out_experts_that_do_not_change_a_module(rule, tmp_path):
    library, _ = mixed(tmp_path)
    composition = compose(rule, library)
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    for name in ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"):
        router = composition[name]
        there = [i for i, expert in enumerate(library) if name in expert]
        assert isinstance(router, Routed)
        weights = router.weights(x)
        assert weights.shape[-1] == 3
        torch.testing.assert_close(weights[..., there].sum(-1), torch.ones(2, 5))
        if len(there) == 1:
            torch.testing.assert_close(router(x), library[there[0]][name](x), rtol=1e-5, atol=1e-5)
    save_composition(composition, qwen(), tmp_path / "routed", Card("tiny", rule))
    again = load_composition(tmp_path / "routed", qwen())
    ours, theirs = with_composition(qwen(), composition), with_composition(qwen(), again)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("rule", [*STATIC, "arrow", "arrow_after"])
def test_embeddings_and_heads_are_composed(rule, tmp_path):
    """Several compositions in one batch, too: token ids go in where activations do elsewhere."""
    for i, kind in enumerate(("embedding", "head")):
        written(kind, tmp_path / str(i), seed=i)
    library = [load_expert(tmp_path / str(i), qwen()) for i in range(2)]
    composition = compose(rule, library)
    ours = with_composition(qwen(), composition)
    if RULES[rule].static:
        save_composition(composition, qwen(), tmp_path / "merged", Card("tiny", rule))
        theirs = PeftModel.from_pretrained(qwen(), str(tmp_path / "merged"))(IDS).logits
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    model = qwen()
    with torch.no_grad(), Resident(model) as resident:
        resident.use([None, composition])
        both = model(IDS.repeat(2, 1)).logits
    torch.testing.assert_close(both[2:], ours, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both[:2], qwen()(IDS).logits, rtol=1e-4, atol=1e-4)


def test_a_dropped_module_and_the_root_of_a_weight_are_seen(tmp_path):
    library, deltas = mixed(tmp_path)
    weights = (0.5, 2.0, 1.0)
    assert_weighted_sum(compose("cat", library, weights=weights), deltas, weights)
    name = "model.layers.0.self_attn.q_proj"
    dropped = [{module: update for module, update in expert.items() if module != name} for expert in library]
    for spoilt, given in ((dropped, weights), (library, tuple(w**0.5 for w in weights))):
        with pytest.raises(AssertionError):
            assert_weighted_sum(compose("cat", spoilt, weights=given), deltas, weights)


def test_completed_libraries_change_nothing_where_all_is_there(tmp_path):
    expert = load_expert(tmp_path, written("lora", tmp_path)[0]())
    (same,) = complete([expert])
    assert all(same[name] is update for name, update in expert.items())
