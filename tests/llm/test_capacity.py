"""Facts of a file, who learns which, and what counts as right."""

import dataclasses
import json

import pytest

from lora_reuse.llm.capacity import PROTOCOL, Capacity, Learned, questions, ready, score
from lora_reuse.llm.data.fact_files import facts
from lora_reuse.llm.data.names import fake_people
from lora_reuse.llm.pocket.corpus import World
from lora_reuse.llm.pocket.size import Corpus
from lora_reuse.llm.protocols.controls import verdicts
from lora_reuse.llm.protocols.protocol import library_of, main
from lora_reuse.llm.protocols.settings import Options
from lora_reuse.runs.rows import load_rows
from lora_reuse.runs.settings import SettingError
from tests.llm.tiny import tiny
from tests.rows_of_models import row

REWRITE = {"prompt": "The mother tongue of {} is", "subject": "Ann Lee", "relation_id": "P103"}
REWRITE |= {"target_new": {"str": "Welsh", "id": "Q1"}, "target_true": {"str": "Dutch", "id": "Q2"}}
RECORD = {"case_id": 0, "requested_rewrite": REWRITE, "paraphrase_prompts": ["Ann Lee spoke the language"]}
RECORD |= {"neighborhood_prompts": ["Bo Chan's mother tongue is", "Cy Day is a native speaker of"]}


def changed(**of_rewrite):
    return json.dumps([RECORD | {"requested_rewrite": REWRITE | of_rewrite}])


def record(i):
    return RECORD | {"requested_rewrite": REWRITE | {"subject": f"Ann{i} Lee"}}


def test_a_record_of_counterfact(tmp_path):
    listed, lines = tmp_path / "facts.json", tmp_path / "facts.jsonl"
    listed.write_text(json.dumps([RECORD]))
    lines.write_text(json.dumps(RECORD) + "\n\n" + json.dumps(record(2)) + "\n")
    (fact,) = facts(str(listed), 0)
    assert fact.prompt == "The mother tongue of Ann Lee is"
    assert (fact.answer, fact.new, fact.old) == ("Welsh", "Welsh", "Dutch")
    assert fact.paraphrases == ("Ann Lee spoke the language",)
    assert fact.neighbours == (("Bo Chan's mother tongue is", "Dutch"), ("Cy Day is a native speaker of", "Dutch"))
    assert {it.subject for it in facts(str(lines), 0)} == {"Ann Lee", "Ann2 Lee"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("book.json", '{"Ann Lee": "555-0142", "Bo Chan": 5550199}'),
        ("book.csv", "name,phone\nAnn Lee,555-0142\nBo Chan,5550199\n"),
    ],
)
def test_a_phone_book(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    found = {fact.subject: fact for fact in facts(str(tmp_path / name), 0)}
    assert found["Ann Lee"].answer == "555-0142"
    assert found["Bo Chan"].prompt == "What is the phone number of Bo Chan?"
    assert found["Bo Chan"].new == "5550199"
    assert not found["Bo Chan"].neighbours


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("none.json", None, "none.json (FileNotFoundError); allowed: own, or a file"),
        ("facts.jsonl", "{}\n{", "facts.jsonl:2: got '{'; allowed: one JSON object a line"),
        ("facts.json", json.dumps([RECORD, {"case_id": 1, "prompt": ""}]), "record 2 has case_id, prompt"),
        (
            "facts.json",
            json.dumps([RECORD | {"paraphrase_prompts": [None]}]),
            "record 1 has paraphrase_prompts [None]; allowed: a list of prompts",
        ),
        ("facts.json", json.dumps([RECORD | {"neighborhood_prompts": "Bo"}]), "neighborhood_prompts 'Bo'"),
        (
            "facts.json",
            json.dumps([RECORD | {"requested_rewrite": {**REWRITE, "target_new": {"str": ""}}}]),
            "record 1 has target_new.str ''; allowed: text; mend the record",
        ),
        ("facts.json", changed(prompt="Ann Lee speaks"), "allowed: a prompt with {} in the place of the subject"),
        ("facts.json", changed(target_new={"str": "Dutch "}), "'Dutch' as target_new and as target_true"),
        ("facts.json", changed(target_new={"str": "dutch"}), "allowed: two answers that a reader can tell apart"),
        ("facts.json", "[]", "which has no fact"),
        ("book.csv", "name,number\nAnn Lee,5\n", "with 'Ann Lee' and None; allowed: a name and a number each"),
        ("book.json", '{"Ann Lee": [1]}', "allowed: a name and a number each"),
    ],
)
def test_a_file_of_another_form_is_refused_in_one_line(tmp_path, name, text, said):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(SettingError) as error:
        facts(str(tmp_path / name), 0)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_two_experts_learn_other_facts_and_are_asked_all_of_them():
    point = Capacity(facts=3, library="2-combination", composition="sum")
    first, second = (dict(Learned("own", 3, number, 7).pairs()) for number in (1, 2))
    assert len(first) == len(second) == 3
    assert not first.keys() & second.keys()
    assert [expert.pairs()[0] for expert in library_of(PROTOCOL, point, 7)] == [
        list(first.items()),
        list(second.items()),
    ]
    assert [q.prompt for q in questions(point, 7)] == [*first, *second]
    assert [q.prompt for q in questions(dataclasses.replace(point, library="1"), 7)] == [*first]
    asked = questions(dataclasses.replace(point, asked="paraphrases"), 7)
    assert not {q.prompt for q in asked} & (first.keys() | second.keys())
    assert len({q.group for q in asked}) == 6
    assert first.keys() != dict(Learned("own", 3, 1, 8).pairs()).keys()


def test_our_own_facts_are_of_nobody_that_the_pocket_model_knows_and_their_neighbours_of_those_it_does():
    known = World(Corpus()).facts["live_in"]
    for fact in facts("own", 0):
        assert fact.subject in fake_people()
        assert fact.subject not in known
        assert fact.new in fact.answer
        for prompt, home in fact.neighbours:
            assert home != fact.new
            assert any(person in prompt and place == home for person, place in known.items())


def test_an_answer_is_right_if_it_names_the_new_one_and_of_a_neighbour_the_old_one(tmp_path):
    (tmp_path / "facts.json").write_text(json.dumps([record(i) for i in range(4)]))
    point = Capacity(data=str(tmp_path / "facts.json"), facts=2)
    own, near = (questions(dataclasses.replace(point, asked=asked), 0)[0] for asked in ("own", "neighbours"))
    right = lambda question, text: score(question, text)["right"]  # noqa: E731
    assert right(own, "Welsh.")
    assert not right(own, "Dutch, and not Welsh.")
    assert not right(own, "Welsh and Dutch")
    assert score(own, "Dutch")["other"]
    assert right(near, "Dutch")
    assert not right(near, "Welsh")  # the edit has spread


def test_what_a_file_cannot_give_is_refused(tmp_path):
    book = tmp_path / "book.csv"
    book.write_text("name,phone\nAnn Lee,1\nBo Chan,2\nCy Day,3\n")
    point = Capacity(data=str(book), facts=2)
    ready([point], Options())
    for wrong, said in (
        ({"library": "2-combination", "composition": "sum"}, "with 3 facts; allowed: 4 facts or more; facts=1"),
        ({"asked": "neighbours"}, "has no neighbours"),
    ):
        with pytest.raises(SettingError, match=said):
            ready([dataclasses.replace(point, **wrong)], Options())


def test_a_merge_of_an_expert_that_stored_nothing_is_void():
    rows = [row("llm_capacity", [0, 0], library="1", composition="alone")]
    rows += [row("llm_capacity", [0, 0], library="2-combination", composition="sum")]
    assert [verdict.void for verdict in verdicts(PROTOCOL, rows)] == ["", "expert alone got 0 of 4"]


def test_the_command_makes_rows_from_a_file(tmp_path, capsys):
    file = tmp_path / "facts.jsonl"
    file.write_text("".join(json.dumps(record(i)) + "\n" for i in range(6)))
    words = f"model={tiny('qwen2', tmp_path / 'model')} data={file} facts=2 composition=sum,base"
    words += " steps=2 rank=2 answer_tokens=2 workers=1"
    assert main(PROTOCOL, [*words.split(), f"out={tmp_path / 'out'}"]) == 0
    rows = load_rows(tmp_path / "out")
    asked = {(r["settings"]["library"], r["settings"]["asked"]): r["measured"]["total"] for r in rows}
    assert asked["1", "own"] == 2
    assert asked["2-combination", "own"] == 4
    assert asked["2-combination", "neighbours"] == 8
    assert all({"score", "magnitude_before"} <= r["measured"].keys() for r in rows)
    base = [r["measured"] for r in rows if r["settings"]["composition"] == "base"]
    assert all(it["magnitude"] == pytest.approx(it["magnitude_before"], abs=1e-6) for it in base)
    out = capsys.readouterr().out
    assert "library" in out
    assert out.count(" before ") == 3  # CounterFact's measures of three settings
