"""How much bridge is enough: what each dial takes out of the bridge, which experts stay those of `llm.bridge`, and the
command on a tiny model."""

import re
from pathlib import Path
from typing import Any

import pytest

from lora_reuse.llm import bridge
from lora_reuse.llm.adapters import training as experts
from lora_reuse.llm.bridge_minimum import PROTOCOL, RELATIONS, BridgeMinimum, library, reported
from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.data.mixtures import SETUPS
from lora_reuse.llm.data.subsets import ATOMIC, SPLITS, examples, parts
from lora_reuse.llm.protocols.hops import subset_of
from lora_reuse.llm.protocols.protocol import library_of, main
from lora_reuse.llm.protocols.settings import Bridge
from lora_reuse.runs.grid import settings_of
from lora_reuse.runs.rows import load_rows
from lora_reuse.runs.settings import SettingError
from tests.llm.tiny import tiny

TEXT = " ".join(
    f"{e.question} {e.answer}"
    for subset in ("F1", "F2", "F12-CoT")
    for e in examples(subset, triplets("F")[:2], "test")
)
SMALL = "triplets=2 steps=2 batch=4 rank=2 rate=0.05 step_tokens=8 workers=1".split()


def names(**dials: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The bridge subsets of both experts."""
    (_, first, _), (_, second, _) = library(BridgeMinimum(**dials))
    return first, second


def told(*subsets: str, count: int = 5) -> list[Any]:
    return [e for subset in subsets for e in examples(subset, triplets("F")[:count], "train")]


# What the bridge holds


@pytest.mark.parametrize(
    ("setup", "dials"),
    [
        ("0", {"bridge_triplets": 0}),
        ("2", {}),
        ("2", {"bridge_triplets": 5}),
        ("3", {"steps_share": 0.0}),
        ("4", {"bridge_in": "first"}),
        ("5", {"bridge_in": "second"}),
    ],
)
def test_its_ends_are_the_experts_of_the_bridge_and_hash_alike(setup, dials):
    """Not one of them is trained again: every field that makes an expert is equal."""
    ours = PROTOCOL.sensible(BridgeMinimum(**dials))
    theirs = Bridge(setup=setup, composition="arrow", bridge_triplets=ours.bridge_triplets)
    assert library_of(PROTOCOL, ours, 4) == library_of(bridge.PROTOCOL, theirs, 4)
    assert subset_of(PROTOCOL.questions(ours, 4)) == f"{SETUPS[setup].asked}12" == "R12"


def test_fewer_templates_are_the_first_of_the_split_and_the_same_in_every_part():
    first, second = names(bridge_templates=3)
    assert first == second == ("F1/3", "F2/3", "F12-CoT/3")
    assert {e.template for e in told(*first)} == {0, 1, 2}
    for few, whole in zip(first, ("F1", "F2", "F12-CoT"), strict=True):
        assert told(few) == [e for e in told(whole) if e.template < 3]
    assert names(bridge_templates=46) == names()


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_a_share_of_the_two_hop_examples_is_step_by_step_and_the_rest_is_answered_at_once(share):
    *hops, mixed = names(steps_share=share)[0]
    assert hops == ["F1", "F2"]
    whole, direct, made = told("F12-CoT"), told("F12"), told(mixed)
    assert len(made) == len(whole) == 5 * 46
    steps = [e in whole for e in made]
    assert sum(steps) == round(share * len(whole))
    assert all(e == (w if step else d) for e, step, w, d in zip(made, steps, whole, direct, strict=True))
    for field in ("template", "triplet"):  # both kinds are of all triplets, and of many templates
        assert (
            len({getattr(e, field) for e, step in zip(made, steps, strict=True) if step})
            >= {"template": 15, "triplet": 5}[field]
        )
    fewer = told(names(steps_share=share / 2)[0][2])
    assert {i for i, e in enumerate(fewer) if e in whole} < {i for i, step in enumerate(steps) if step}


def test_shares_and_templates_go_together():
    assert names(steps_share=0.25, bridge_templates=8)[0] == ("F1/8", "F2/8", "F12-CoT:0.25/8")
    made = told("F12-CoT:0.25/8")
    assert len(made) == 40
    assert sum(e.question.startswith("Answer the following question step-by-step") for e in made) == 10
    assert names(steps_share=0.0, bridge_templates=8)[0] == ("F1/8", "F2/8", "F12/8")


def test_other_relations_are_others_and_reversed_ones_the_same_in_the_other_order():
    same, disjoint, turned = (names(relations=name)[0] for name in RELATIONS)
    digits = lambda subsets: {digit for subset in subsets for digit in parts(subset)[1][:2] if digit in ATOMIC}  # noqa: E731
    assert digits(same) == digits(turned) == {"1", "2"}
    assert digits(disjoint) == {"4", "5"}
    for e, other in zip(told(same[2]), told(turned[2]), strict=True):
        lines, back = e.answer.split("\n"), other.answer.split("\n")
        assert back == [lines[0], *lines[4:6], lines[3], *lines[1:3], lines[6]]
        assert e._replace(answer="") == other._replace(answer="")
    assert names(relations="reversed", steps_share=0.5)[0][2] == "F12-CoT-reversed:0.5"
    assert sum("First" in e.answer for e in told("F12-CoT-reversed:0.5")) == 115


def test_a_bridge_in_one_expert_is_in_that_one():
    for name, has in (("both", (True, True)), ("first", (True, False)), ("second", (False, True))):
        assert tuple(map(bool, names(bridge_in=name, bridge_templates=2))) == has


def test_the_bridge_never_speaks_of_who_is_asked():
    asked = {name for t in triplets("R") for name in t}
    for relations in RELATIONS:
        for e in told(*names(relations=relations, steps_share=0.5)[0], count=2):
            assert not [name for name in asked if re.search(rf"\b{re.escape(name)}\b", f"{e.question}\n{e.answer}")]


def test_points_that_are_the_same_are_asked_once():
    nothing = BridgeMinimum(bridge_triplets=0)
    varied: list[dict[str, Any]] = [
        {"bridge_templates": 2},
        {"steps_share": 0.5},
        {"relations": "disjoint"},
        {"bridge_in": "first"},
    ]
    for dials in varied:
        assert PROTOCOL.sensible(BridgeMinimum(bridge_triplets=0, **dials)) == nothing
    assert PROTOCOL.sensible(BridgeMinimum(relations="reversed", steps_share=0.0)).relations == "same"
    assert PROTOCOL.sensible(BridgeMinimum(relations="disjoint", steps_share=0.0)).relations == "disjoint"


@pytest.mark.parametrize(
    "name", ["F12-CoT:0.5/0", "F12-CoT/", "F12:0.5", "F1:0.5", "F12-CoT:1.5", "F12-CoT:0.5:0.5", "F12-CoT/5:0.5"]
)
def test_a_name_that_says_no_part_of_a_subset_is_refused(name):
    with pytest.raises(SettingError, match="subset: got "):
        examples(name, [])


# The command


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny("qwen2", tmp_path_factory.mktemp("model"), text=TEXT)


def test_the_command_trains_what_is_not_there_and_asks_step_by_step(model, tmp_path, capsys, monkeypatch):
    words = [
        f"model={model}",
        *SMALL,
        "bridge_triplets=0,2",
        "bridge_templates=2,46",
        "bridge_in=both,first",
        f"out={tmp_path}",
    ]
    # without a bridge, and with one: 2 templates x 2 places. R1 and R2 without, with few and with all templates.
    assert main(PROTOCOL, [*words, "dry_run=true"]) == 0
    assert f", 6 experts (fewer, where they are there), 25 rows in {tmp_path}" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert main(PROTOCOL, words) == 0
    assert f"25 rows in {tmp_path}: 25 new, 0 from before" in capsys.readouterr().out
    assert len(list((tmp_path / "experts").glob("*/adapter_model.safetensors"))) == 6
    rows = load_rows(tmp_path, "llm_bridge_minimum")
    assert {row["settings"]["prompting"] for row in rows} == {"steps"}
    assert {row["settings"]["composition"] for row in rows} == {"uniform", "average", "sum", "arrow", "arrow_after"}
    assert all(settings_of((BridgeMinimum(), 0)).keys() == row["settings"].keys() for row in rows)
    file = tmp_path / "llm_bridge_minimum.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-3]))
    monkeypatch.setattr(experts, "train", None)
    assert main(PROTOCOL, words) == 0
    assert "3 new, 22 from before" in capsys.readouterr().out
    setups = ["setup=0,2,4", "bridge_triplets=2", "composition=average", "prompting=steps"]
    assert main(bridge.PROTOCOL, [f"model={model}", *SMALL, *setups, f"out={tmp_path}"]) == 0  # with the same experts
    known = {row["settings"]["setup"]: row["measured"] for row in load_rows(tmp_path, "llm_bridge")}
    for row in rows:
        point = BridgeMinimum(**{name: value for name, value in row["settings"].items() if name != "seed"})
        if point.composition == "average" and point.bridge_templates == 46:
            setup = "0" if point.bridge_triplets == 0 else {"both": "2", "first": "4"}[point.bridge_in]
            assert known[setup]["update_ratio"] == pytest.approx(row["measured"]["update_ratio"])
            assert known[setup]["hits"] == row["measured"]["hits"]


def test_its_own_grid_is_not_replaced_by_the_pocket_model_s_setting(tmp_path, capsys):
    assert main(PROTOCOL, ["dry_run=true", f"out={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "bridge_triplets=0,1,2,5,10,20\n" in out
    assert "  triplets=20\n" in out
    assert ", 12 experts" in out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("bridge_templates=47", "bridge_templates: got '47'; allowed: a whole number from 1 to 46"),
        ("bridge_templates=0", "bridge_templates: got '0'"),
        ("steps_share=1.5", "steps_share: got '1.5'; allowed: a number from 0 to 1"),
        (
            "steps_share=0.1234567",
            "steps_share: got 0.1234567; allowed: a number from 0 to 1 with at most six decimals",
        ),
        ("relations=revers", "did you mean 'reversed'?"),
        ("bridge_in=1", "bridge_in: got '1'; allowed: both | first | second"),
        ("setup=2", "setup: got an unknown setting"),
    ],
)
def test_a_mistake_is_one_line_exit_code_2_and_nothing_written(model, tmp_path, capsys, words, line):
    assert main(PROTOCOL, [f"model={model}", words, f"out={tmp_path / 'rows'}"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("llm.bridge_minimum: ")
    assert line in captured.err
    assert not (tmp_path / "rows").exists()


def test_the_table_has_the_paper_s_numbers_where_the_bridge_is_one_of_its_setups():
    cell = {
        "model": "a/Qwen2.5-3B-Instruct",
        "layers": "mlp",
        "prompting": "steps",
        "composition": "arrow",
        "triplets": 100,
    }
    cell |= {
        "bridge_triplets": 100,
        "bridge_templates": SPLITS["train"].stop,
        "steps_share": 1.0,
        "relations": "same",
        "bridge_in": "both",
    }
    dials = [{}, {"bridge_triplets": 0}, {"steps_share": 0.0}, {"bridge_in": "first"}, {"bridge_in": "second"}]
    assert [reported(BridgeMinimum(**cell | dial)) for dial in dials] == ["73.5 %", "1 %", "1 %", "9.8 %", "10.8 %"]
    for other in (
        {"bridge_triplets": 50},
        {"bridge_templates": 23},
        {"steps_share": 0.5},
        {"relations": "reversed"},
        {"prompting": "direct"},
    ):
        assert reported(BridgeMinimum(**cell | other)) == ""
