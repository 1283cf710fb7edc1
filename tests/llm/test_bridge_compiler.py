"""Compiled bridges: what they cover and in which order, what is never in them, and the command that writes them."""

import json
import re

import pytest

from lora_reuse.llm.bridge_compiler import main
from lora_reuse.llm.data.bridges import CHOICES, Bridge, by_coverage, compiled, descriptions
from lora_reuse.llm.data.facts import Triplet, triplets
from lora_reuse.llm.data.subsets import SPLITS, examples, templates

FIRST = [
    ("Who leads {a}?", "The head of {a} is {b}."),
    ("Who is at the top of {a}?", "{b} is at the top of {a}."),
    ("Whom does {a} obey?", "{b} is the one whom {a} obeys."),
]
SECOND = [("Where does {a} live?", "{a} lives in {b}."), ("Where is {a}'s home?", "{b} is {a}'s home.")]
FACTS = [Triplet("Acme", "Ann", "Rome", "", ""), Triplet("Bolt", "Bob", "Oslo", "", "")]


def train(relation):
    return templates(relation)[SPLITS["train"]]


def test_an_example_goes_from_the_two_hop_question_through_both_hops():
    (prompt, answer), *_ = compiled(FIRST[:1], SECOND[:1], FACTS, 1)
    assert prompt == "Answer the following question step-by-step:\nWhere does the head of Acme live?"
    assert answer.splitlines() == [
        "First, we need to answer the question:",
        "Who leads Acme?",
        "The head of Acme is Ann.",
        "Second, we need to answer the question:",
        "Where does Ann live?",
        "Ann lives in Rome.",
        "Therefore, the answer is Rome.",
    ]


def test_every_wording_of_either_relation_comes_once_before_any_comes_twice():
    facts = triplets("F")[:20]
    made = Bridge("compiled", 92, 20, 0).pairs()
    hops = [
        (examples(f"F{hop}", facts), [answer.splitlines()[line] for _, answer in made])
        for hop, line in ((1, 1), (2, 4))
    ]
    for of_hop, said in hops:
        number = {e.question: e.template for e in of_hop}
        order = [number[question] for question in said]
        assert sorted(order[:46]) == list(range(46))
        assert order[46:] == order[:46]
    people = [re.findall(r"\w+", answer.splitlines()[1]) for _, answer in made]
    asked = [next(t.a for t in facts if t.a in words) for words in people]
    assert asked[:20] == [t.a for t in facts]
    assert asked[20:40] == asked[:20]


def test_fewer_examples_are_the_first_of_more_and_the_same_again():
    whole = Bridge("compiled", 30, 20, 3).pairs()
    assert Bridge("compiled", 7, 20, 3).pairs() == whole[:7]
    assert len(set(whole)) == 30


def test_a_bridge_holds_no_name_that_is_asked():
    asked = {name for t in triplets("R", 1) for name in t}
    for choice in CHOICES:
        for text in Bridge(choice, 46, 20, 1).pairs():
            assert not [name for name in asked if name in " ".join(text)]


def test_the_choices_are_what_they_say():
    facts, seed = triplets("F", 2)[:20], 2
    whole = {(e.question, e.answer) for kind in ("F1", "F2", "F12-CoT") for e in examples(kind, facts)}
    steps = {(e.question, e.answer) for e in examples("F12-CoT", facts)}
    for choice, pool in (("random", whole), ("random_steps", steps)):
        drawn = Bridge(choice, 46, 20, seed).pairs()
        assert set(drawn) < pool
        assert len(set(drawn)) == 46
        assert drawn != Bridge(choice, 46, 20, seed + 1).pairs()
    assert not set(Bridge("random", 46, 20, seed).pairs()) <= steps
    assert all(
        answer.endswith(f"Therefore, the answer is {facts[0].c}.")
        for _, answer in Bridge("one_triplet", 46, 20, seed).pairs()
    )


def test_the_next_text_is_the_one_that_is_most_like_those_left():
    """By hand: the second text shares a word with each of the others; of these the last is then the least covered."""
    assert by_coverage(["red car", "red fast bike", "bike"])[0] == 1
    assert by_coverage(["a b", "a b", "c d"]) == [0, 2, 1]


def test_descriptions_are_of_who_is_in_between():
    assert set(descriptions(FIRST)) == {"the head of {a}", "the one whom {a} obeys"}
    found = descriptions(train("spouse_of"))
    assert found[0] == "the spouse of {a}"
    assert "the partner of {a}" in found
    assert all(text.count("{a}") == 1 and "{b}" not in text and " name " not in text for text in found)
    assert not descriptions([("Who leads {a}?", "{a} obeys {b}.")])


# The command


@pytest.fixture
def files(tmp_path):
    for name, lines in (("first", FIRST), ("second", SECOND)):
        text = "".join(f'"{question}","{answer}"\n' for question, answer in lines)
        (tmp_path / f"{name}.csv").write_text("question,answer\n" + text)
    (tmp_path / "facts.csv").write_text("a,b,c\nAcme,Ann,Rome\nBolt,Bob,Oslo\n")
    return tmp_path


def words(folder, **others):
    given = {"first": folder / "first.csv", "second": folder / "second.csv", "out": folder / "bridge.jsonl"}
    return [f"{name}={value}" for name, value in (given | others).items()]


def test_the_command_writes_the_examples_of_ones_own_wordings(files, capsys):
    assert main(words(files, facts=files / "facts.csv", examples=5)) == 0
    lines = [json.loads(line) for line in (files / "bridge.jsonl").read_text().splitlines()]
    assert [(line["prompt"], line["answer"]) for line in lines] == compiled(FIRST, SECOND, FACTS, 5)
    assert "5 examples, of 2 facts, 3 wordings of the first relation and 2 of the second" in capsys.readouterr().out
    assert main(words(files)) == 2
    assert "out: got" in capsys.readouterr().err


def test_our_relations_and_made_up_names_need_no_file(tmp_path):
    assert main(["first=spouse_of", "second=live_in", "seed=4", "examples=3", f"out={tmp_path / 'b.jsonl'}"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert [(line["prompt"], line["answer"]) for line in lines] == Bridge("compiled", 3, 100, 4).pairs()


def test_names_that_are_to_be_avoided_are_in_no_example(files):
    (files / "data.txt").write_text("Ann lives in Rome.")
    assert main(words(files, facts=files / "facts.csv", avoid=files / "data.txt")) == 0
    assert not re.search("Acme|Ann|Rome", (files / "bridge.jsonl").read_text())


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"first": "no.csv"}, "first: got no.csv (FileNotFoundError)"),
        ({"first": ""}, "first: got ''; allowed: a CSV file or a relation"),
        ({"facts": "{}/first.csv"}, "first.csv, which has not; allowed: a CSV file with the columns a and b and c"),
        ({"first": "{}/second.csv"}, "add one to its wordings"),
        ({"facts": "{}/facts.csv", "avoid": "{}/facts.csv"}, "other names"),
        ({"second": "{}/odd.csv"}, "odd.csv:2: got "),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(files, others, said, capsys):
    (files / "odd.csv").write_text("question,answer\nWhere does {b} live?,{b} lives here.\n")
    (files / "second.csv").write_text("question,answer\nWhere does {a} live?,{a} lives in {b}.\n")
    assert main(words(files, **{name: value.format(files) for name, value in others.items()})) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (files / "bridge.jsonl").exists()
