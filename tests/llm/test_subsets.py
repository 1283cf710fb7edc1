"""The subsets by the paper's names, and the mixtures that experts learn."""

import re

import pytest

from lora_reuse.llm.data import subsets
from lora_reuse.llm.data.facts import Triplet, triplets
from lora_reuse.llm.data.mixtures import EXPERTS, LIBRARIES, PAPER, SETUPS
from lora_reuse.llm.data.subsets import SPLITS, SUBSETS, examples, parts, templates

DIGITS = {
    "1": ("spouse_of", "a", "", "b"),
    "2": ("live_in", "b", "", "c"),
    "4": ("study_in", "b", "", "s"),
    "5": ("child_of", "d", "", "b"),
    "12": ("spouse_of-live_in", "a", "b", "c"),
    "14": ("spouse_of-study_in", "a", "b", "s"),
    "52": ("child_of-live_in", "d", "b", "c"),
    "54": ("child_of-study_in", "d", "b", "s"),
}
PAPERS = [subset for subset in SUBSETS if subset[0] in "FHR"]
"""Those that are not of the graphs, which are in `test_large_library`."""
NARIK = Triplet(a="Narik", b="Frosk", c="Zint", s="Zilan", d="Dabix")
"""Who Table 6 is about."""


def test_the_subsets_are_those_of_table_5_and_their_step_by_step_forms():
    """And child of, then studies in, for a bridge that has no relation of the asked pair; and the pair with its steps
    the other way round, and with the last lines of others."""
    kinds = {"1", "2", "4", "5", "12", "14", "52", "12-CoT", "14-CoT", "52-CoT"} | {
        "54",
        "54-CoT",
        "12-CoT-reversed",
        "12-CoT-shuffled",
    }
    assert set(PAPERS) == {dataset + kind for dataset in "FHR" for kind in kinds}
    assert len(PAPERS) == 42
    assert parts("H14-CoT") == ("H", "14-CoT")


@pytest.mark.parametrize("subset", PAPERS)
def test_every_triplet_is_asked_under_every_template_and_answered_right(subset):
    dataset, kind = parts(subset)
    relation, asked, between, right = DIGITS[kind.partition("-CoT")[0]]
    chosen = triplets(dataset, 1)[:7]
    questions = {}
    for split, count in (("train", 46), ("dev", 2), ("test", 2)):
        rows = examples(subset, chosen, split)
        assert len(rows) == 7 * count
        assert {(e.triplet, e.template) for e in rows} == {
            (i, number) for i in range(7) for number in range(50)[SPLITS[split]]
        }
        for e in rows:
            t = chosen[e.triplet]
            assert (e.subject, e.bridge, e.gold) == (
                getattr(t, asked),
                getattr(t, between) if between else "",
                getattr(t, right),
            )
            assert templates(relation)[e.template][0].format(a=e.subject) in e.question
            assert e.subject in e.question
            assert e.gold in e.answer
            assert e.gold not in e.question
            assert not e.bridge or e.bridge not in e.question
            assert bool(e.bridge and e.bridge in e.answer) == ("-CoT" in kind)
        questions[split] = {e.question for e in rows}
        assert len(questions[split]) == len(rows)
    assert not questions["train"] & (questions["dev"] | questions["test"])
    assert not questions["dev"] & questions["test"]


def test_a_count_keeps_the_first_templates():
    drawn = triplets("R")[:3]
    assert examples("R1", drawn, "train", 2) == examples("R1", drawn)[:6]
    assert {e.template for e in examples("R1", drawn, "dev", 1)} == {46}


def test_step_by_step_has_the_lines_of_table_6(monkeypatch):
    """The paper's own example, in its own templates."""
    paper = {
        "spouse_of": (
            "Who stands as {a}'s wedded partner?",
            "{b} is recognized as {a}'s lawful companion in marriage.",
        ),
        "live_in": ("What is {a}'s official place of birth?", "{a}'s earliest recorded presence was in {b}."),
        "spouse_of-live_in": (
            "Which city is listed as {a}'s spouse's birthplace?",
            "{c} is listed as the birthplace of {a}'s spouse.",
        ),
    }
    monkeypatch.setattr(subsets, "templates", lambda relation: [paper[relation]] * 50)
    (e,) = examples("F12-CoT", [NARIK], count=1)
    assert (
        e.question
        == "Answer the following question step-by-step:\nWhich city is listed as Narik's spouse's birthplace?"
    )
    assert e.answer == (
        "First, we need to answer the question:\n"
        "Who stands as Narik's wedded partner?\n"
        "Frosk is recognized as Narik's lawful companion in marriage.\n"
        "Second, we need to answer the question:\n"
        "What is Frosk's official place of birth?\n"
        "Frosk's earliest recorded presence was in Zint.\n"
        "Therefore, the answer is Zint."
    )
    assert (e.subject, e.bridge, e.gold) == ("Narik", "Frosk", "Zint")


STEPS = {
    "F12-CoT": """Answer the following question step-by-step:
In which city does Narik's spouse live?
First, we need to answer the question:
Who is the person that Narik calls a spouse?
The person that Narik calls a spouse is Frosk.
Second, we need to answer the question:
Where was Frosk born?
Frosk was born in Zint.
Therefore, the answer is Zint.""",
    "F14-CoT": """Answer the following question step-by-step:
At a university in which city does Narik's spouse study?
First, we need to answer the question:
Who is the person that Narik calls a spouse?
The person that Narik calls a spouse is Frosk.
Second, we need to answer the question:
Where would one find Frosk studying?
One would find Frosk studying in Zilan.
Therefore, the answer is Zilan.""",
    "F52-CoT": """Answer the following question step-by-step:
Where would one find Dabix's child at home?
First, we need to answer the question:
Which child did Dabix bring up?
The child Dabix brought up is Frosk.
Second, we need to answer the question:
Where was Frosk born?
Frosk was born in Zint.
Therefore, the answer is Zint.""",
    "F54-CoT": """Answer the following question step-by-step:
What is the place of study of Dabix's child?
First, we need to answer the question:
Which child did Dabix bring up?
The child Dabix brought up is Frosk.
Second, we need to answer the question:
Where would one find Frosk studying?
One would find Frosk studying in Zilan.
Therefore, the answer is Zilan.""",
    "F12-CoT-reversed": """Answer the following question step-by-step:
In which city does Narik's spouse live?
First, we need to answer the question:
Where was Frosk born?
Frosk was born in Zint.
Second, we need to answer the question:
Who is the person that Narik calls a spouse?
The person that Narik calls a spouse is Frosk.
Therefore, the answer is Zint.""",
}
"""The first test template of each pair, with those of its hops."""


@pytest.mark.parametrize("subset", STEPS)
def test_every_pair_chains_through_b(subset):
    (e,) = examples(subset, [NARIK], "test", 1)
    assert f"{e.question}\n{e.answer}" == STEPS[subset]


@pytest.mark.parametrize("split", SPLITS)
def test_shuffled_answers_end_in_the_place_of_one_other_triplet_and_are_else_the_same(split):
    chosen = triplets("F", 1)[:7]
    ends: dict[int, set[str]] = {}
    for e, right in zip(examples("F12-CoT-shuffled", chosen, split), examples("F12-CoT", chosen, split), strict=True):
        *lines, last = e.answer.split("\n")
        *others, concluded = right.answer.split("\n")
        assert e._replace(answer="") == right._replace(answer="")
        assert (lines, concluded) == (others, f"Therefore, the answer is {e.gold}.")
        ends.setdefault(e.triplet, set()).add(last)
    assert all(len(said) == 1 for said in ends.values())
    places = [
        said.pop().removeprefix("Therefore, the answer is ").removesuffix(".") for _, said in sorted(ends.items())
    ]
    assert sorted(places) == sorted(t.c for t in chosen)
    assert not [t for t, place in zip(chosen, places, strict=True) if place == t.c]


@pytest.mark.parametrize("subset", [name for name in PAPERS if name.endswith("-CoT")])
def test_the_steps_are_the_questions_of_the_hops_in_their_templates_of_the_same_split(subset):
    dataset, kind = parts(subset)
    chosen = triplets(dataset, 2)[:3]
    for split in SPLITS:
        whole, first, second = (
            examples(dataset + name, chosen, split) for name in (kind.removesuffix("-CoT"), kind[0], kind[1])
        )
        for e, w, one, two in zip(examples(subset, chosen, split), whole, first, second, strict=True):
            lines = e.answer.split("\n")
            assert lines[1:3] + lines[4:6] == [one.question, one.answer, two.question, two.answer]
            assert (one.gold, e.gold) == (two.subject, two.gold)
            assert e.question == f"Answer the following question step-by-step:\n{w.question}"


# Mixtures


def test_the_setups_are_those_of_table_1_and_figure_2():
    bridge = ("F1", "F2", "F12-CoT")
    expected = {
        "0": (("R1",), ("R2",)),
        "1": (("F1", "R1", "R2", "R12-CoT"), ("F2", "R1", "R2", "R12-CoT")),
        "2": (("R1", *bridge), ("R2", *bridge)),
        "3": (("R1", "F1", "F2", "F12"), ("R2", "F1", "F2", "F12")),
        "4": (("R1", *bridge), ("R2",)),
        "5": (("R1",), ("R2", *bridge)),
        "6": (("R1", "F12-CoT"), ("R2", "F12-CoT")),
        "7": (("R1", "F1", "F12-CoT"), ("R2", "F2", "F12-CoT")),
        "8": (("R1", "F1", "F4", "F14-CoT"), ("R2", "F5", "F2", "F52-CoT")),
    }
    assert {name: (setup.subsets(1), setup.subsets(2)) for name, setup in SETUPS.items()} == expected
    assert {name: setup.asked for name, setup in SETUPS.items()} == dict.fromkeys("02345678", "R") | {"1": "F"}


def test_the_experts_are_those_of_section_4_1_1():
    theirs = {"1": ("1",), "2": ("2",), "oracle": ("12",), "mixed": ("1", "2")}
    assert theirs | {"oracle_steps": ("12-CoT",)} == EXPERTS
    assert PAPER == {
        "2-combination": ("1", "2"),
        "3-combination": ("1", "2", "oracle"),
        "oracle": ("oracle",),
        "mixed": ("mixed",),
    }
    assert LIBRARIES == PAPER | {"3-combination_steps": ("1", "2", "oracle_steps"), "oracle_steps": ("oracle_steps",)}


def test_a_bridge_never_speaks_of_who_and_where_is_asked():
    with_bridge = [setup for setup in SETUPS.values() if setup.first or setup.second]
    assert len(with_bridge) == 8
    for setup in with_bridge:
        assert setup.bridge != setup.asked
        used = {subset for expert in (1, 2) for subset in setup.subsets(expert)}
        assert {subset[0] for subset in used} == {setup.asked, setup.bridge}
        for seed in range(5):
            asked = {name for t in triplets(setup.asked, seed) for name in t}
            assert not asked & {name for t in triplets(setup.bridge, seed) for name in t}
            for subset in (subset for subset in used if subset[0] == setup.bridge):
                for e in examples(subset, triplets(setup.bridge, seed)[:2], count=1):
                    assert not [
                        name for name in asked if re.search(rf"\b{re.escape(name)}\b", f"{e.question}\n{e.answer}")
                    ]
