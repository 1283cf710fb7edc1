"""What in a bridge does it: what each condition changes and what it leaves, what stands before the questions, and the
command on a tiny model."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lora_reuse.llm import bridge, bridge_controls
from lora_reuse.llm.bridge_controls import CONDITIONS, PROTOCOL, BridgeControls, library
from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.data.subsets import Example, examples
from lora_reuse.llm.protocols import ask as asking
from lora_reuse.llm.protocols import hops, observers
from lora_reuse.llm.protocols.controls import verdicts
from lora_reuse.llm.protocols.protocol import library_of, main
from lora_reuse.llm.protocols.settings import Bridge
from lora_reuse.runs.grid import settings_of
from lora_reuse.runs.rows import load_rows
from lora_reuse.runs.settings import SettingError
from tests.llm.tiny import tiny

torch.set_num_threads(1)
FACTS = triplets("R", 1)[:4]
TEXT = " ".join(
    f"{e.question} {e.answer}"
    for subset in ("R1", "R2", "R12-CoT")
    for e in examples(subset, triplets("R")[:2], "test")
)
SMALL = "triplets=2 bridge_triplets=2 steps=2 batch=4 rank=2 rate=0.05 answer_tokens=4 step_tokens=8 workers=1".split()


# Experts


@pytest.mark.parametrize("condition", ["bridge", "first_given", "both_given"])
def test_the_experts_are_those_of_setup_2_where_their_data_are(condition):
    theirs = library_of(bridge.PROTOCOL, Bridge(setup="2", composition="arrow", bridge_triplets=20), 3)
    assert library_of(PROTOCOL, BridgeControls(condition=condition, bridge_triplets=20), 3) == theirs
    for role in (1, 2):
        alone = PROTOCOL.sensible(BridgeControls(condition=f"expert_{role}", bridge_triplets=20))
        assert alone is not None
        assert alone.composition == "alone"
        assert library_of(PROTOCOL, alone, 3) == [theirs[role - 1]]


def told(condition: str) -> tuple[list[str], list[str]]:
    """What the bridge of expert 1 says: its questions and answers on four triplets."""
    ((own, subsets, role), (_, others, _)) = library(BridgeControls(condition=condition))
    assert (own, role, subsets) == (("R1",), 1, others)
    made = [e for subset in subsets for e in examples(subset, triplets(subset[0], 1)[:4])]
    return [e.question for e in made], [e.answer for e in made]


def test_each_bridge_differs_from_setup_2_s_in_what_its_name_says():
    questions, answers = told("bridge")
    same, shuffled = told("shuffled")
    assert same == questions
    kept = re.compile(r"\nTherefore, the answer is .*\.$")
    assert shuffled != answers
    assert [kept.sub("", answer) for answer in shuffled] == [kept.sub("", answer) for answer in answers]
    _, ceiling = told("asked_triplets")
    assert all(any(t.c in answer and answer.endswith(f"the answer is {t.c}.") for answer in ceiling) for t in FACTS)
    questions, people = told("asked_people")
    everything = "\n".join([*questions, *people])
    for t in FACTS:
        assert len(re.findall(rf"\b{re.escape(t.b)}\b", everything)) > 100
        assert not [line for line in everything.split("\n") if t.a in line and t.b in line]
        assert not [
            answer
            for answer in people
            if answer.endswith(f"the answer is {t.c}.") and t.c != t.s and t.c not in {u.s for u in FACTS}
        ]


def test_a_bridge_of_the_asked_triplets_has_as_many():
    for condition in ("asked_triplets", "asked_people"):
        point = PROTOCOL.sensible(BridgeControls(condition=condition, triplets=20, bridge_triplets=50))
        assert point is not None
        assert [spec.bridge_triplets for spec in library_of(PROTOCOL, point, 0)] == [20, 20]


def test_what_is_asked_once():
    base = PROTOCOL.sensible(BridgeControls(composition="base"))
    for condition in CONDITIONS:
        point = PROTOCOL.sensible(BridgeControls(condition=condition, composition="base"))
        assert (point == base) == (condition not in ("first_given", "both_given"))
        assert PROTOCOL.sensible(BridgeControls(condition="both_given", prompting="first")) is None
    assert PROTOCOL.sensible(BridgeControls(condition="expert_1", prompting="second")) is None
    assert PROTOCOL.sensible(BridgeControls(beside=3)) == BridgeControls()
    assert PROTOCOL.sensible(BridgeControls(condition="both_given", beside=3)) == BridgeControls(
        condition="both_given", beside=3
    )


def test_a_cell_is_void_where_its_own_experts_do_not_keep_their_hops():
    """The controls are rows of the same experts and rule; with something given, those of the same experts asked without
    it."""

    def rows(first: int, second: int, **dials: Any) -> list[dict[str, Any]]:
        point = BridgeControls(composition="sum", beside=2, **dials)
        bare = dataclasses.replace(point, condition="bridge", beside=0) if "given" in point.condition else point
        cells = [
            (point, 0),
            (dataclasses.replace(bare, prompting="first"), first),
            (dataclasses.replace(bare, prompting="second"), second),
        ]
        return [{"settings": dataclasses.asdict(cell), "measured": {"hits": hits, "total": 40}} for cell, hits in cells]

    for condition in ("bridge", "shuffled", "both_given"):
        assert verdicts(PROTOCOL, rows(30, 30, condition=condition))[0] == ("", "")
        assert verdicts(PROTOCOL, rows(30, 3, condition=condition))[0] == ("second hop kept 3 of 40", "")
        assert verdicts(PROTOCOL, rows(30, 30, condition=condition)[:2])[0] == ("", "second hop")
    assert verdicts(PROTOCOL, rows(3, 30, condition="expert_2"))[0] == ("", "")
    assert verdicts(PROTOCOL, rows(3, 30, condition="expert_1"))[0] == ("first hop kept 3 of 40", "")


# Questions


def asked(module: Any, point: BridgeControls) -> list[Example]:
    """The examples of what a point asks with seed 1."""
    return [question.reference.example for question in module.questions(point, 1)]


def by_hand(module: Any) -> None:
    """The questions with what is given, of four triplets in the first dev template."""
    one, two, whole = (examples(f"R{kind}", FACTS, "dev") for kind in ("1", "2", "12"))
    for prompting, kind in (("direct", "12"), ("steps", "12-CoT")):
        found = examples(f"R{kind}", FACTS, "dev")
        point: Any = module.BridgeControls(prompting=prompting, triplets=4, split="dev", condition="bridge")
        given = lambda condition, beside=0, point=point: asked(  # noqa: E731
            module, dataclasses.replace(point, condition=condition, beside=beside)
        )
        head = "Answer the following question step-by-step:\n" if prompting == "steps" else ""
        assert given("bridge") == found
        assert [e.question for e in given("first_given")] == [
            f"{head}{a.answer} {w.question}" for a, w in zip(one, whole, strict=True)
        ]
        both = [f"{head}{a.answer} {b.answer} {w.question}" for a, b, w in zip(one, two, whole, strict=True)]
        assert [e.question for e in given("both_given")] == both
        among = given("both_given", 2)
        places = set()
        for e, original in zip(among, found, strict=True):
            assert e._replace(question="") == original._replace(question="")
            named = sorted((e.question.index(t.c), t.c) for t in FACTS if t.c in e.question)
            assert len(named) == 3
            order = [name for _, name in named]
            assert e.gold in order
            places.add(order.index(e.gold))
            for t in FACTS:  # a statement of a person is one of their triplet and of the question's template
                statement = next(b.answer for b in two if (b.triplet, b.template) == (FACTS.index(t), e.template))
                assert (statement in e.question) == (t.c in order)
        assert places == {0, 1, 2}  # where it stands does not tell which is right


def test_what_is_given_stands_before_the_question():
    by_hand(bridge_controls)


PLANTED = {
    "the second hop for the first": ('"first_given": "1"', '"first_given": "2"'),
    "the first hop for both": ('"both_given": "12"', '"both_given": "1"'),
    "the asked one first": ("draw.shuffle(told)", "pass"),
    "another template": ("hop[i, e.template]", "hop[i, found[0].reference.example.template]"),
    "another's statement": ("told = [e.triplet, *", "told = [(e.triplet + 1) % len(facts), *"),
    "before the prompt": ('f"{head}{statements} {e.question.removeprefix(head)}"', 'f"{statements} {e.question}"'),
    "one too few": ("e.triplet], point.beside)", "e.triplet], max(point.beside - 1, 0))"),
}


@pytest.mark.parametrize("mistake", PLANTED)
def test_a_planted_mistake_is_found(mistake):
    old, new = PLANTED[mistake]
    source = Path(bridge_controls.__file__).read_text()
    assert old in source
    planted: Any = ModuleType("planted_controls")
    sys.modules["planted_controls"] = planted  # where dataclasses look their module up
    exec(compile(source.replace(old, new), "planted_controls", "exec"), planted.__dict__)
    with pytest.raises(AssertionError):
        by_hand(planted)


def test_more_others_than_there_are_is_one_line_and_nothing_written(tmp_path, capsys):
    with pytest.raises(SettingError, match="beside: got 4 with triplets=4; allowed: at most 3"):
        BridgeControls(triplets=4, beside=4)
    assert main(PROTOCOL, ["condition=shufled", f"out={tmp_path / 'rows'}"]) == 2
    assert capsys.readouterr().err.endswith("did you mean 'shuffled'?\n")
    assert main(PROTOCOL, ["bridge_triplets=1", f"out={tmp_path / 'rows'}"]) == 2
    assert not (tmp_path / "rows").exists()


# The command


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny("qwen2", tmp_path_factory.mktemp("model"), text=TEXT)


def test_the_command_makes_rows_of_every_condition_and_goes_on_from_them(model, tmp_path, capsys):
    words = [f"model={model}", *SMALL, "composition=sum,base", f"out={tmp_path}"]
    assert main(PROTOCOL, [*words, "dry_run=true"]) == 0
    # 6 conditions of the sum, two experts alone, the base in three conditions, directly and in steps; hops of 4
    # conditions, 2 experts, the base
    assert f", 8 experts (fewer, where they are there), 34 rows in {tmp_path}" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert main(PROTOCOL, [*words, "shard=1/2"]) == 0
    assert main(PROTOCOL, words) == 0
    assert "34 rows" in capsys.readouterr().out
    assert len(list((tmp_path / "experts").glob("*/adapter_model.safetensors"))) == 8
    rows = load_rows(tmp_path, "llm_bridge_controls")
    for row in rows:
        assert row["settings"].keys() == settings_of((BridgeControls(), 0)).keys()
        assert row["predicted"] == {}
        assert row["measured"]["total"] == 4
        assert ("bridge_right" in row["measured"]) == (row["settings"]["prompting"] == "steps")
        assert ("logp_z" in row["measured"]) == (row["settings"]["prompting"] == "direct")
    assert main(PROTOCOL, words) == 0
    assert "0 new, 34 from before" in capsys.readouterr().out


def test_the_base_is_asked_with_both_facts_and_no_expert(model, tmp_path, capsys, monkeypatch):
    """A base that names the last place of the question is right without others, and not always with one; what it would
    have said before is asked anew for other questions."""
    places = sorted(hops.everywhere(), key=len, reverse=True)
    last = lambda question: max(places, key=lambda place: question.rfind(place))  # noqa: E731
    monkeypatch.setattr(
        asking, "answers", lambda base, listed, questions, *_: [[last(q) for q in questions] for _ in listed]
    )
    counted = []
    monkeypatch.setattr(
        observers, "old_answers", lambda base, asked, *_: (counted.append(asked), *[["Paris"] * len(asked)] * 3)[1:]
    )
    words = [f"model={model}", *SMALL[1:], "triplets=4", "composition=base", "prompting=direct", f"out={tmp_path}"]
    assert main(PROTOCOL, [*words, "condition=bridge,both_given"]) == 0, capsys.readouterr().err
    assert main(PROTOCOL, [*words, "condition=both_given", "beside=3"]) == 0
    assert not (tmp_path / "experts").exists()
    by = {(row["settings"]["condition"], row["settings"]["beside"]): row["measured"] for row in load_rows(tmp_path)}
    assert by["bridge", 0]["hits"] == 0
    assert by["both_given", 0]["hits"] == by["both_given", 0]["total"] == 8
    assert by["both_given", 3]["hits"] < 8
    assert len(counted) == 3


def test_help_is_quick_and_without_torch():
    code = (
        "import sys\nfrom llm.bridge_controls import PROTOCOL, main\nassert main(PROTOCOL, ['--help']) == 0\n"
        "assert main(PROTOCOL, ['dry_run=true']) == 0\nassert not {'torch', 'numpy', 'pandas', 'transformers'} & "
        "set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert "lora-reuse bridge_controls" in done.stdout


def test_no_condition_asks_other_questions_than_its_examples():
    found = examples("R12", FACTS, "test")
    for condition in CONDITIONS:
        point = BridgeControls(condition=condition, prompting="direct", triplets=4)
        assert [e._replace(question="") for e in asked(bridge_controls, point)] == [
            e._replace(question="") for e in found
        ]
