"""Rules that learn as protocols ask them: from which examples, with what in their rows."""

import dataclasses

import pytest
import torch

from lora_reuse.llm import two_hop
from lora_reuse.llm.adapters.training import Spec
from lora_reuse.llm.adapters.training import tokens as trained_on
from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.data.mixtures import SETUPS, data_mix, oracle, pair
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.learned import LEARNED, learn
from lora_reuse.llm.protocols import dials
from lora_reuse.llm.protocols.composed import DATA
from lora_reuse.llm.protocols.protocol import main
from lora_reuse.llm.protocols.settings import Training, TwoHop
from lora_reuse.runs.rows import load_rows
from tests.llm.test_learned import QUICK, experts
from tests.llm.test_learned import asked as asked
from tests.llm.test_learned import base as base
from tests.llm.test_learned import folder as folder

torch.set_num_threads(1)


def test_the_settings_offer_every_rule_under_every_source():
    assert set(dials.SOURCES) == set(DATA)
    assert set(dials.LEARNED) == {f"{name}:{source}" for name in LEARNED for source in DATA}


SMALL = (
    "triplets=2 bridge_triplets=2 steps=2 batch=4 rank=2 rate=0.05 answer_tokens=4 step_tokens=8 workers=1 "
    "learn_steps=2 learn_tries=3"
).split()


def test_learned_compositions_are_asked_like_any_other(folder, tmp_path, capsys):
    words = [
        f"model={folder}",
        *SMALL,
        "dataset=F",
        "library=2-combination",
        f"composition={','.join(dials.LEARNED)}",
        f"out={tmp_path}",
    ]
    assert main(two_hop.PROTOCOL, [*words, "prompting=direct", "log_probs=false"]) == 0, capsys.readouterr().err
    rows = load_rows(tmp_path)
    assert len(rows) == 10
    for row in rows:
        name, _, source = row["settings"]["composition"].partition(":")
        counts = row["measured"]
        assert (
            counts["examples_used"] == {"two_hop": 4, "own": 2 * 5}[source]
        )  # two triplets in two templates; 5 % of 92, for each expert
        assert (
            counts["extra_parameters"]
            == {"cat": 12, "cat_softmax": 12, "lorahub": 2, "lorahub_cat": 2, "moe": 2 * 2 * (32 + 32 + 48)}[name]
        )
        assert row["provenance"]["compose_seconds"] > 0
        assert ("gate_1" in counts) == (name == "moe")
    words[-2] = "composition=moe:own"
    assert main(two_hop.PROTOCOL, [*words, "prompting=steps"]) == 0, capsys.readouterr().err
    (steps,) = (row for row in load_rows(tmp_path) if row["settings"]["prompting"] == "steps")
    assert steps["measured"]["gate_1"] + steps["measured"]["gate_2"] == pytest.approx(1)
    words[-2] = "composition=cat:two_hop"
    assert main(two_hop.PROTOCOL, [*words, "split=dev"]) == 2
    assert "split: got dev with composition=cat:two_hop; allowed: test" in capsys.readouterr().err


def test_what_weights_are_for_is_a_dial(base, asked):
    """With the same optimiser: a weight an expert for each module, for each layer, or for all of them."""
    pair, build, of_module = experts(base), LEARNED["cat"].build, lambda update: update.dense()
    layers = {name: name.partition(".mlp")[0] for name in pair[0]}
    groups = {"module": set(pair[0]), "layer": set(layers.values()), "all": {"all"}}
    assert len(groups["layer"]) < len(groups["module"])
    for granularity, names in groups.items():
        made = learn("cat", pair, base, asked, "two_hop", QUICK, granularity=granularity)
        assert made.parameters.keys() == names
        assert made.extra_parameters == 2 * len(names)
        each = {m: made.parameters[{"module": m, "layer": layers[m], "all": "all"}[granularity]] for m in pair[0]}
        assert not any(torch.equal(value, torch.full((2,), 0.5)) for value in each.values())
        alike = build(pair, each)
        assert all(torch.equal(of_module(update), of_module(alike[m])) for m, update in made.composition.items())


def test_where_the_examples_come_from(base):
    training = Training(rank=2)
    specs = [Spec((f"F{role}",), ("H12-CoT",), 2, 2, training, 0, role) for role in (1, 2)]
    told = [base.tokenizer.decode(asked) for asked, _ in DATA["two_hop"](base, specs, "F12", 0.05)]
    assert told == [e.question for e in examples("F12", triplets("F")[:2], "dev")]
    assert not set(told) & {
        e.question for split in ("train", "test") for e in examples("F12", triplets("F")[:2], split)
    }
    own = DATA["own"](base, specs, "F12", 0.05)
    everything = [[e for part in trained_on(base, spec) for e in part] for spec in specs]
    assert len(own) == sum(-(-len(part) // 20) for part in everything)
    half = len(own) // 2
    assert all(e in everything[0] for e in own[:half])
    assert all(e in everything[1] for e in own[half:])
    assert own == DATA["own"](base, specs, "F12", 0.05)
    other = [dataclasses.replace(spec, seed=1) for spec in specs]
    assert own != DATA["own"](base, other, "F12", 0.05)
    assert sorted(DATA["own"](base, specs, "F12", 1.0)) == sorted(e for part in everything for e in part)
    more = DATA["own"](base, specs, "F12", 0.1)
    assert more[:half] == own[:half]
    assert len(more) == sum(-(-len(part) // 10) for part in everything)


def test_the_single_experts_that_a_pair_is_measured_against():
    two_hop_experts = {name: two_hop.library(TwoHop(dataset="R", library=name)) for name in ("oracle", "mixed")}
    assert pair(SETUPS["4"]) == [(("R1",), ("F1", "F2", "F12-CoT"), 1), (("R2",), (), 2)]
    assert data_mix(SETUPS["7"]) == [(("R1", "R2"), ("F1", "F12-CoT", "F2"), 4)]
    assert data_mix(SETUPS["0"]) == two_hop_experts["mixed"]
    assert oracle(SETUPS["0"]) == oracle(SETUPS["2"]) == two_hop_experts["oracle"]
    assert oracle(SETUPS["1"]) == [(("F12",), (), 3)]
