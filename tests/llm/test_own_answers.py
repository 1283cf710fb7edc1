"""Each expert's own answers: whose questions are asked, what is counted for whom, which rows are the controls."""

import dataclasses

import pytest

from lora_reuse.llm.data.graphs import facts_of
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.own_answers import OWN, PROTOCOL, OwnAnswers, controls, counts, kept, questions, score, sensible
from lora_reuse.llm.protocols.controls import verdicts
from lora_reuse.llm.protocols.dials import LEARNED
from lora_reuse.llm.protocols.protocol import library_of
from lora_reuse.runs.settings import SettingError
from tests.rows_of_models import row

POINT = OwnAnswers(triplets=4, library="135", composition="sum")


@pytest.mark.parametrize("graph", ["shared", "disjoint"])
def test_every_expert_is_asked_what_it_learned(graph):
    point = dataclasses.replace(POINT, graph=graph)
    asked = questions(point, 3)
    for digit, expert in zip("135", library_of(PROTOCOL, point, 3), strict=True):
        own = [q.reference[0] for q in asked if q.reference[1] == digit]
        facts = {(e.subject, e.gold) for e in own}
        learned = {(e.subject, e.gold) for name in expert.own for e in examples(name, facts_of(name, 4, 3))}
        assert facts == learned
        assert {e.template for e in own} == {48, 49}
        assert expert.role == int(digit)


def test_an_answer_counts_for_the_expert_whose_question_it_is():
    asked = questions(POINT, 0)
    said = [q.reference[0].answer if q.reference[1] == "3" else "nobody" for q in asked]
    measured = counts(POINT, asked, [score(q, text) for q, text in zip(asked, said, strict=True)])
    assert measured["by_expert"] == [0, 8, 0]
    assert measured["asked_of_each"] == [8, 8, 8]
    assert (measured["hits"], measured["total"]) == (8, 24)
    assert kept({"measured": measured}) == [0, 1, 0]
    others = [q.reference[0].answer for q in asked[8:]] + [q.reference[0].answer for q in asked[:8]]
    assert not any(score(q, text)["right"] for q, text in zip(asked, others, strict=True))


def test_a_row_is_void_where_an_expert_does_not_know_its_own():
    assert [control.settings["library"] for control in controls(POINT)] == ["1", "3", "5"]
    assert not controls(dataclasses.replace(POINT, library="1", composition="alone"))
    known = {digit: [2, 2] if digit != "3" else [0, 0] for digit in "135"}
    rows = [row("llm_own_answers", right, library=d, composition="alone") for d, right in known.items()]
    composed = row("llm_own_answers", [0, 0, 1, 0], library="135", composition="sum")
    pair = row("llm_own_answers", [0, 0, 1, 0], library="15", composition="sum")
    found = verdicts(PROTOCOL, [*rows, composed, pair])
    assert [verdict.void for verdict in found[3:]] == ["expert 3 alone got 0 of 4", ""]


def test_what_is_asked_of_whom():
    base = OwnAnswers(triplets=4, library="none", composition="base")
    assert sensible(dataclasses.replace(base, library="135")) == base
    alone = dataclasses.replace(POINT, library="4", composition="alone")
    assert sensible(dataclasses.replace(alone, composition="sum")) == alone
    assert sensible(dataclasses.replace(POINT, library="none")) is None
    assert {q.reference[1] for q in questions(OwnAnswers(library="none", composition="base"), 0)} == set("12345")
    assert set(OWN) < set(LEARNED)


@pytest.mark.parametrize("library", ["31", "11", "16", "", "pair"])
def test_a_library_that_is_not_one_is_refused(library):
    with pytest.raises(SettingError, match=r"library: got .*digits 1 to 5, each once and in order"):
        OwnAnswers(library=library)
