"""Adapters on a base that chained their relations: what they learn, how they are asked, what is right, and rows."""

import dataclasses
import itertools
import json
from collections import Counter

import pytest
import torch

from lora_reuse.llm import two_hop
from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.exposed import (
    PROTOCOL,
    Exposed,
    bound,
    controls,
    counts,
    experts,
    hops_of,
    questions,
    score,
    sensible,
)
from lora_reuse.llm.pocket import pretrain
from lora_reuse.llm.pocket.size import Size
from lora_reuse.llm.pocket.styles import step_styles
from lora_reuse.llm.protocols.protocol import main
from lora_reuse.llm.protocols.settings import TwoHop
from lora_reuse.runs.rows import load_rows

torch.set_num_threads(1)
POINT = Exposed(triplets=3, composition="sum", prompting="steps")
APART = dataclasses.replace(POINT, relations="apart")


def says(folder, **made):
    """A folder that says what a model of it read."""
    folder.mkdir()
    (folder / "pocket.json").write_text(json.dumps({"size": Size(**made).recorded}))
    return str(folder)


# What is learned and asked


def test_adapters_learn_one_hop_each_and_no_steps():
    for point, hops in ((POINT, ("R5", "R4")), (APART, ("R1", "R2"))):
        assert [spec.own for spec in experts(point, 0)] == [(hops[0],), (hops[1],)]
        assert [spec.own for spec in experts(dataclasses.replace(point, library="mixed"), 0)] == [hops]
        assert not any(spec.bridge for spec in experts(point, 0))
    assert experts(APART, 7) == two_hop.PROTOCOL.experts(TwoHop(triplets=3), 7)  # trained once


def test_the_relations_are_those_that_the_corpus_chained_or_not(tmp_path):
    assert (hops_of(POINT), hops_of(APART)) == ("54", "12")
    for name, made in (("same", {"skill": "same"}), ("half", {"exposure": 0.5})):
        folder = says(tmp_path / name, **made)
        assert hops_of(dataclasses.replace(POINT, model=folder)) == "12"
        assert sensible(dataclasses.replace(APART, model=folder)) is None
        assert sensible(dataclasses.replace(POINT, model=folder))


@pytest.mark.parametrize("point", [POINT, APART])
def test_a_question_is_in_the_corpus_s_words_or_in_the_papers(point):
    openings = [opening.partition("{q}") for opening, _ in step_styles(Size())]
    facts = triplets("R", 5)[:3]
    own = questions(point, 5)
    paper = questions(dataclasses.replace(point, words="paper"), 5)
    for found in (own, paper):
        assert Counter(q.group for q in found) == {"0": 2, "1": 2, "2": 2}
        for q in found:
            t = facts[q.about["triplet"]]
            chain = (t.d, t.b, t.s) if point.relations == "chained" else (t.a, t.b, t.c)
            assert (q.about["subject"], q.about["bridge"], q.about["gold"]) == chain
            assert chain[0] in q.prompt
            assert not {*chain[1:]} & {*q.prompt.split()}
    starts = lambda text: any(  # noqa: E731
        text.startswith(before) and text.endswith(after) for before, _, after in openings if before or after
    )
    assert all(starts(q.prompt) for q in own)
    assert all(q.prompt.startswith("Answer the following question step-by-step:\n") for q in paper)
    assert own == questions(point, 5) != questions(point, 6)
    at_once = questions(dataclasses.replace(point, prompting="direct"), 5)
    assert not any(starts(q.prompt) for q in at_once)


def test_single_questions_are_those_of_the_hops():
    for prompting, names in (("first", "db"), ("second", "bs")):
        found = questions(dataclasses.replace(POINT, prompting=prompting), 5)
        for q in found:
            t = triplets("R", 5)[q.about["triplet"]]
            assert (q.about["subject"], q.about["gold"]) == tuple(getattr(t, name) for name in names)
    kept = sensible(dataclasses.replace(POINT, prompting="first", words="paper"))
    assert kept == dataclasses.replace(POINT, prompting="first")


# What is right


@pytest.mark.parametrize(
    ("words", "answer", "right"),
    [
        ("pretraining", "First: Who is it?\nIt is {b}.\nSecond: Where?\nIn Paris.\nTherefore: {c}.", True),
        ("pretraining", "We ask who it is. It is {b}. {b} studies in {c}. Therefore: Paris.", False),
        ("pretraining", "", False),
        ("paper", "First, it is {b}. Second, {b} studies in {c}. Therefore, the answer is {c}.", True),
        ("paper", "First: It is {b}.\nSecond: In {c}.\nTherefore: {c}.", False),
    ],
)
def test_an_answer_in_steps_is_right_by_what_it_concludes(words, answer, right):
    question = questions(dataclasses.replace(POINT, words=words), 0)[0]
    said = answer.format(b=question.about["bridge"], c=question.about["gold"])
    assert score(question, said) == {"right": right, "b_named": bool(answer)}


def test_an_answer_at_once_is_its_first_line():
    question = questions(dataclasses.replace(POINT, prompting="direct"), 0)[0]
    gold = question.about["gold"]
    assert score(question, f"In {gold}.\nWhere is Plato? In Paris.") == {"right": True}
    assert score(question, f"In Paris.\nIn {gold}.") == {"right": False}


def answered(said, **settings):
    """The counts of answers `said(about, number)`."""
    point = dataclasses.replace(POINT, **settings)
    found = questions(point, 0)
    texts = [said(q.about, i) for i, q in enumerate(found)]
    records = [{**q.about, "answer": text, **score(q, text)} for q, text in zip(found, texts, strict=True)]
    return counts(point, found, records)


def test_counts_are_by_triplet_and_a_constant_answer_is_no_better_than_dealt_places():
    told = lambda about, i: f"It is {about['bridge']}. Therefore: {about['gold']}."  # noqa: E731
    every = answered(told)
    assert (every["hits"], every["total"], every["by_triplet"], every["b_named"]) == (6, 6, [2, 2, 2], 6)
    assert every["permuted"] == 2.0
    some = answered(lambda about, i: told(about, i) if i in (0, 1, 3) else "No.")
    assert (some["hits"], some["by_triplet"], some["b_named"]) == (3, [2, 1, 0], 3)
    place = triplets("R", 0)[1].s
    constant = answered(lambda about, i: f"Therefore: {place}.")
    assert constant["hits"] == constant["permuted"] == 2


# What is said beside


def test_the_bound_is_of_relations_that_nothing_chained():
    at_once = dataclasses.replace(APART, prompting="direct")
    assert bound(at_once) == 1 / 3
    for other in ({"relations": "chained"}, {"library": "mixed"}, {"prompting": "steps"}):
        assert bound(dataclasses.replace(at_once, **other)) is None


def test_the_controls_of_a_question_are_the_single_ones_whatever_its_words():
    for words in ("pretraining", "paper"):
        point = dataclasses.replace(POINT, words=words)
        asked = [dataclasses.replace(point, **control.settings) for control in controls(point)]
        assert asked == [dataclasses.replace(POINT, words="pretraining", prompting=hop) for hop in ("first", "second")]
        assert asked == [sensible(one) for one in asked]
    assert not controls(dataclasses.replace(POINT, library="mixed", composition="alone"))


@pytest.mark.parametrize(
    ("made", "words", "said"),
    [
        (None, [], "a pocket model's folder, whose pocket.json says what it read"),
        ({"skill": "none"}, ["prompting=steps", "words=pretraining"], "or a pocket model of skill=other or skill=same"),
    ],
)
def test_a_base_without_the_words_is_refused(tmp_path, capsys, made, words, said):
    folder = says(tmp_path / "model", **made) if made else str(tmp_path)
    assert main(PROTOCOL, [f"model={folder}", f"out={tmp_path / 'rows'}", *words]) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "rows").exists()


def test_rows_are_of_both_kinds_of_relations_in_both_words(tmp_path, capsys):
    size = Size(width=32, layers=1, heads=2, feed_forward=64, tokens=10_000)
    folder = tmp_path / "model"
    pretrain.pretrain(size, folder, progress=False)
    (folder / "pocket.json").write_text(json.dumps({"size": size.recorded}))
    words = [f"model={folder}", f"out={tmp_path}", "triplets=2", "epochs=1", "answer_tokens=2", "step_tokens=2"]
    assert main(PROTOCOL, [*words, "composition=base,sum", "log_probs=false", "workers=1"]) == 0
    rows = load_rows(tmp_path, "llm_exposed")
    asked = Counter((r["settings"]["relations"], r["settings"]["library"]) for r in rows)
    kinds = itertools.product(("chained", "apart"), ("none", "2-combination", "mixed"))
    assert asked == dict.fromkeys(kinds, 2 * 2 + 2)  # the two-hop question in two ways and words, and the single ones
    assert {row["measured"]["total"] for row in rows} == {4}
    assert "void: first hop kept 0 of 4" in capsys.readouterr().out
