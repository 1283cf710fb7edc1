"""Whom composition reaches: who is asked, what is right, who is known, and rows of a small pretraining."""

import json
from collections import Counter

import pytest
import torch

from lora_reuse.llm.exposure import PROTOCOL, WAYS, Exposure, chains, counts, questions, score, sensible, world_of
from lora_reuse.llm.pocket import pretrain
from lora_reuse.llm.pocket.size import Size
from lora_reuse.llm.protocols.protocol import main
from lora_reuse.runs.rows import load_rows
from lora_reuse.runs.settings import SettingError

torch.set_num_threads(1)


def says(folder, **made):
    """A folder that says what a model of it read."""
    folder.mkdir()
    (folder / "pocket.json").write_text(json.dumps({"size": Size(**made).recorded}))
    return str(folder)


@pytest.fixture
def model(tmp_path):
    return says(tmp_path / "quarter", exposure=0.25, seed=3)


def test_those_who_were_chained_and_the_others_are_asked_apart(model):
    world = world_of(model)
    asked = {people: [a for a, _, _ in chains(Exposure(model=model, people=people))] for people in ("chained", "never")}
    assert set(asked["chained"]) == world.exposed
    assert sorted(asked["chained"] + asked["never"]) == sorted(world.facts["spouse_of"])
    assert (len(asked["chained"]), len(asked["never"])) == (25, 75)


@pytest.mark.parametrize("prompting", ["direct", "steps"])
def test_each_person_is_asked_both_hops_beside(model, prompting):
    point = Exposure(model=model, prompting=prompting, wordings=3)
    found = questions(point, 0)
    facts = world_of(model).facts
    assert Counter(q.about["way"] for q in found) == dict.fromkeys(WAYS, 75 * 3)
    for q in found:
        a, b, c = (q.about[name] for name in "abc")
        assert (b, c) == (facts["spouse_of"][a], facts["live_in"][b])
        assert (b if q.about["way"] == "second" else a) in q.prompt
        assert q.about["way"] == "second" or b not in q.prompt
        assert not q.prompt.endswith("{q}")
    assert len({q.prompt for q in found if q.group == found[0].group}) > 6
    assert found == questions(point, 0) != questions(point, 1)


def test_a_model_that_chained_all_or_nobody_has_one_kind_of_people(tmp_path):
    for share, empty in ((0.0, "chained"), (1.0, "never")):
        folder = says(tmp_path / f"{share}", exposure=share)
        kept = [sensible(Exposure(model=folder, people=people)) for people in ("chained", "never")]
        assert [point.people for point in kept if point] == [p for p in ("chained", "never") if p != empty]


@pytest.mark.parametrize(
    ("way", "prompting", "answer", "right"),
    [
        ("two", "direct", "Plato's spouse lives in Rome.", True),
        ("two", "direct", "Plato's spouse lives in Rome.\nWhere does Euclid live? Euclid lives in Paris.", True),
        ("two", "direct", "Plato's spouse lives in Paris.\nEuclid lives in Rome.", False),
        ("two", "direct", "It is Rome or Paris.", False),
        ("two", "direct", "", False),
        ("two", "steps", "First: Who is it?\nIt is Socrates.\nSecond: Where?\nIn Paris.\nTherefore: Rome.", True),
        ("two", "steps", "We ask who it is. It is Socrates. He lives in Rome. Therefore: Paris.", False),
        ("first", "steps", "Plato is married to Socrates.\nWho is Euclid's child? It is Voltaire.", True),
        ("first", "direct", "Plato is married to Voltaire.", False),
        ("second", "direct", "Socrates lives in Rome.", True),
        ("second", "steps", "Socrates lives in Paris.", False),
    ],
)
def test_an_answer_is_right_by_what_it_concludes(model, way, prompting, answer, right):
    made = questions(Exposure(model=model, prompting=prompting, wordings=1), 0)
    about = {"way": way, "a": "Plato", "b": "Socrates", "c": "Rome"}
    question = made[0]._replace(about=about, reference=(way, prompting))
    assert score(question, answer)["right"] is right
    assert score(question, answer).get("b_named", "Socrates" in answer) is ("Socrates" in answer)


def answered(model, said):
    """The counts of answers `said(way, a, b, c, number)`, two wordings of every question."""
    point = Exposure(model=model, wordings=2)
    asked = questions(point, 0)
    texts = [said(*q.about.values(), i) for i, q in enumerate(asked)]
    records = [{**q.about, "answer": text, **score(q, text)} for q, text in zip(asked, texts, strict=True)]
    return counts(point, asked, records)


def true(way, a, b, c, number):
    return {"two": f"In {c}.", "first": f"{a} wed {b}.", "second": f"{b} lives in {c}."}[way]


def test_only_those_are_known_whose_hops_are_right_in_every_wording(model):
    found = answered(model, true)
    assert (found["hits"], found["total"], found["known"], found["hits_known"]) == (150, 150, 150, 150)
    once = lambda way, a, b, c, i: "No." if way == "first" and i == 150 else true(way, a, b, c, i)  # noqa: E731
    found = answered(model, once)
    assert (found["hits"], found["known"], found["hits_known"], found["first_right"]) == (150, 148, 148, 149)
    assert found["known_by_group"] == [0] + [1] * 74
    nothing = answered(model, lambda *_: "No.")
    assert (nothing["hits"], nothing["known"], nothing["permuted_known"]) == (0, 0, 0.0)


def test_a_constant_answer_is_no_better_than_dealt_places(model):
    places = [c for _, _, c in chains(Exposure(model=model))]
    often, count = Counter(places).most_common(1)[0]
    found = answered(model, lambda way, a, b, c, i: f"In {often}." if way == "two" else true(way, a, b, c, i))
    assert found["hits"] == found["permuted_known"] == 2 * count


def test_whose_spouse_is_the_spouse_of_somebody_chained_is_marked(model):
    world = world_of(model)
    bridges = {world.facts["spouse_of"][a] for a in world.exposed}
    met = answered(model, true)["met_by_group"]
    assert met == [int(b in bridges) for _, b, _ in chains(Exposure(model=model))]
    assert 0 < sum(met) < 75


def test_a_model_that_does_not_say_what_it_read_is_refused(tmp_path, capsys):
    with pytest.raises(SettingError, match="pocket model"):
        world_of(str(tmp_path))
    assert main(PROTOCOL, [f"model={tmp_path}", f"out={tmp_path / 'rows'}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "rows").exists()


def test_rows_say_what_was_read_and_the_chained_are_the_control_of_the_others(tmp_path, capsys):
    size = Size(width=32, layers=1, heads=2, feed_forward=64, tokens=10_000, exposure=0.5, direct=3.0, seed=1)
    folder = tmp_path / "model"
    pretrain.pretrain(size, folder, progress=False)
    (folder / "pocket.json").write_text(json.dumps({"size": size.recorded}))
    words = [f"model={folder}", f"out={tmp_path}", "wordings=1", "answer_tokens=2", "step_tokens=2", "workers=1"]
    assert main(PROTOCOL, words) == 0
    rows = load_rows(tmp_path, "llm_exposure")
    assert {(r["settings"]["people"], r["settings"]["prompting"]) for r in rows} == {
        (people, prompting) for people in ("chained", "never") for prompting in ("direct", "steps")
    }
    for row in rows:
        assert row["measured"]["total"] == 50
        assert (row["provenance"]["pocket"]["exposure"], row["provenance"]["pocket"]["seed"]) == (0.5, 1)
    assert "void: the chained people got 0 of 50" in capsys.readouterr().out
