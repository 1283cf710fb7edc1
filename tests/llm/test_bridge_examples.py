"""How many examples of a bridge: who is trained on which, which experts are those of other protocols, and the command
on a tiny model."""

import dataclasses
from pathlib import Path

import pytest

from lora_reuse.llm import bridge
from lora_reuse.llm.adapters.specs import Bridged
from lora_reuse.llm.bridge_examples import PROTOCOL, BridgeExamples, experts, sensible
from lora_reuse.llm.data.bridges import Bridge
from lora_reuse.llm.decoding.models import load_base
from lora_reuse.llm.protocols.protocol import library_of, main
from lora_reuse.llm.protocols.settings import Bridge as Setups
from lora_reuse.runs.rows import load_rows
from lora_reuse.runs.settings import SettingError
from tests.llm.tiny import tiny

SMALL = "triplets=2 bridge_triplets=2 steps=2 batch=4 rank=2 rate=0.05 step_tokens=8 answer_tokens=8 workers=1".split()


@pytest.mark.parametrize("where", ["first", "second", "both"])
def test_the_bridge_is_in_the_experts_that_are_named_and_the_other_is_that_of_setup_0(where):
    point = BridgeExamples(examples=5, bridge_in=where, choice="random")
    plain = library_of(bridge.PROTOCOL, Setups(setup="0", composition="arrow"), 3)
    for spec, other, name in zip(experts(point, 3), plain, ("first", "second"), strict=True):
        own, added = spec.pairs()
        assert own == other.pairs()[0]
        if where in (name, "both"):
            assert added == Bridge("random", 5, 100, 3).pairs()
        else:
            assert spec == other
    assert experts(BridgeExamples(examples=0), 3) == plain


def test_points_that_are_the_same_are_asked_once():
    assert sensible(BridgeExamples(examples=0, choice="random", bridge_in="both")) == sensible(
        BridgeExamples(examples=0)
    )
    assert sensible(BridgeExamples(examples=1, choice="one_triplet")) == BridgeExamples(examples=1)
    assert sensible(BridgeExamples(examples=2, choice="one_triplet")).choice == "one_triplet"


@pytest.mark.parametrize(("choice", "most"), [("random", 2 * 3 * 46), ("random_steps", 2 * 46)])
def test_no_more_are_drawn_than_there_are(choice, most):
    assert len(Bridge(choice, most, 2, 0).pairs()) == most
    with pytest.raises(SettingError, match=f"examples: got {most + 1} .* at most {most}"):
        BridgeExamples(examples=most + 1, choice=choice, bridge_triplets=2)


def test_examples_are_compiled_of_some_triplet():
    with pytest.raises(SettingError, match=r"examples: got 1 .* at most 0"):
        BridgeExamples(examples=1, choice="compiled", bridge_triplets=0)


# The command


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    text = " ".join(" ".join(pair) for pair in Bridge("compiled", 4, 2, 0).pairs())
    return tiny("qwen2", tmp_path_factory.mktemp("model"), text=text)


def test_an_expert_is_known_by_the_examples_of_its_bridge(model):
    (first, second), here = experts(BridgeExamples(examples=3, bridge_in="both"), 0), load_base(str(model))
    keys = [spec.key(here) for spec in (first, second)]
    assert isinstance(first, Bridged)
    source = Bridge("compiled", 3, 100, 0)
    assert first.source == source
    others = [{"choice": "random"}, {"count": 4}, {"triplets": 2}, {"seed": 1}]
    for other in others:
        keys.append(dataclasses.replace(first, source=dataclasses.replace(source, **other)).key(here))
    keys.append(dataclasses.replace(first, training=dataclasses.replace(first.training, rank=4)).key(here))
    assert len(set(keys)) == len(keys) == 7
    assert experts(BridgeExamples(examples=3, composition="sum"), 0)[0].key(here) == keys[0]


def test_the_command_trains_each_expert_once_and_asks_both_hops(model, tmp_path, capsys):
    words = [f"model={model}", *SMALL, "examples=0,3", "composition=sum,arrow", f"out={tmp_path}"]
    assert main(PROTOCOL, words) == 0
    assert f"18 rows in {tmp_path}: 18 new, 0 from before" in capsys.readouterr().out
    assert len(list((tmp_path / "experts").glob("*/adapter_model.safetensors"))) == 4
    rows = load_rows(tmp_path, "llm_bridge_examples")
    assert {row["settings"]["prompting"] for row in rows} == {"steps", "first", "second"}
    bound = {row["settings"]["examples"] for row in rows if row["predicted"]}
    assert not bound  # nothing is asked directly
