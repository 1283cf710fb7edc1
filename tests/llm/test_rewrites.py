"""Facts of a file written in closed form or learned: what they are asked, and the measures of CounterFact."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lora_reuse.llm import edit
from lora_reuse.llm.compositions import compose
from lora_reuse.llm.data import __main__ as data_command
from lora_reuse.llm.data.fact_files import counterfact, facts
from lora_reuse.llm.decoding.models import Base, example, load_base
from lora_reuse.llm.edits.editing import before_answer
from lora_reuse.llm.pocket.corpus import World
from lora_reuse.llm.pocket.size import Corpus
from lora_reuse.llm.protocols.protocol import Asked, main
from lora_reuse.llm.protocols.rewrites import ASKED, asked, below, counts, preferences
from lora_reuse.llm.protocols.settings import Options
from lora_reuse.runs.rows import load_rows
from lora_reuse.runs.settings import SettingError
from tests.llm.test_evaluation import library, logits, louder
from tests.llm.tiny import tiny
from tests.rows_of_models import row

torch.set_num_threads(1)


def rewrite(subject, new, old, near=("Where does Bo live ?",)):
    said = {
        "subject": subject,
        "prompt": "Where does {} live ?",
        "target_new": {"str": new},
        "target_true": {"str": old},
    }
    others = {"paraphrase_prompts": [f"What city is {subject} in ?"], "neighborhood_prompts": list(near)}
    return {"requested_rewrite": said} | others


@pytest.fixture
def file(tmp_path):
    records = [rewrite("Ann", "Paris town", "Paris city"), rewrite("Lee", "Rome", "Paris", ("Who ?", "Where ?"))]
    (tmp_path / "facts.json").write_text(json.dumps(records))
    return str(tmp_path / "facts.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny("qwen2", tmp_path_factory.mktemp("model"), tie=False)


# The measures


def test_score_and_magnitude_are_means_over_prompts_then_over_facts(file):
    """As in CounterFact's `summarize.py`. The first fact has one neighbour and the second two, so a mean over all
    prompts is another number; a tie is no success."""
    questions = [q for i, fact in enumerate(facts(file, 0)) for q in asked(fact, "neighbours", str(i), {})]
    marks = {"right": True, "p_gold_before": 0.5, "p_other_before": 0.5}
    ahead = {"Where does Bo live ?": (0.75, 0.25), "Who ?": (0.5, 0.25), "Where ?": (0.125, 0.25)}
    records = [marks | dict(zip(("p_gold", "p_other"), ahead[q.prompt], strict=True)) for q in questions]
    measured = counts(None, questions, records)
    assert measured["score"] == pytest.approx((1 + 0.5) / 2)
    assert measured["magnitude"] == pytest.approx((0.5 + (0.25 - 0.125) / 2) / 2)
    assert measured["score_before"] == measured["magnitude_before"] == 0
    assert (measured["hits"], measured["total"]) == (3, 3)
    with pytest.raises(SettingError, match="dtype: got float16, and magnitude is nan"):
        counts(SimpleNamespace(dtype="float16"), questions, [record | {"p_gold": math.nan} for record in records])


def test_of_a_fact_the_new_answer_is_right_and_of_a_neighbour_the_old(file):
    ann = next(fact for fact in facts(file, 0) if fact.subject == "Ann")
    own, paraphrased, near = (asked(ann, way, "0", {})[0] for way in ASKED)
    assert own.reference[:2] == paraphrased.reference[:2] == ("Paris town", "Paris city")
    assert near.reference[:2] == ("Paris city", "Paris town")
    assert [q.prompt for q in (own, paraphrased, near)] == [
        "Where does Ann live ?",
        "What city is Ann in ?",
        "Where does Bo live ?",
    ]


def preferred(base: Base, file, way, compositions, log_probs=True):
    questions = [q for i, fact in enumerate(facts(file, 0)) for q in asked(fact, way, str(i), {})]
    options = Options(log_probs=log_probs)
    return questions, preferences(Asked(base, 0, [None], compositions, questions, [], [], options))


def test_p_is_of_every_token_of_an_answer_what_both_begin_with_too(folder, file):
    """exp of the mean over the answer's tokens: "Paris town" and "Paris city" share the first, which counts."""
    base = louder(folder)
    composition = compose("uniform", library(base))
    questions, (plain, composed) = preferred(base, file, "own", [None, composition])
    for question, alone, marks in zip(questions, plain, composed, strict=True):
        for name, text in zip(("p_gold", "p_other"), question.reference[:2], strict=True):
            prompt, said = example(base, question.prompt, text)
            for model, found in ((composition, marks[name]), (None, marks[f"{name}_before"]), (None, alone[name])):
                logs = torch.log_softmax(logits(base, model, prompt + said[:-1]), -1)
                each = [float(logs[len(prompt) + n - 1, token]) for n, token in enumerate(said[:-1])]
                assert found == pytest.approx(math.exp(sum(each) / len(each)), rel=1e-3)
    assert composed[0]["p_gold"] != pytest.approx(composed[0]["p_gold_before"], rel=1e-3)


def test_p_is_not_asked_where_no_answer_was_replaced_or_the_run_does_without(folder, file, tmp_path):
    base = load_base(str(folder))
    (tmp_path / "book.json").write_text('{"Ann Lee": "5"}')
    assert preferred(base, str(tmp_path / "book.json"), "own", [None])[1] == [[{}]]
    assert preferred(base, file, "own", [None], log_probs=False)[1] == [[{}, {}]]


def rows_of(scores, seed=0):
    return [
        row("llm_capacity", [1], seed=seed, asked=way, composition="alone", data="x.json", measured=
            {"score": score, "magnitude": 0.5, "score_before": 1.0, "magnitude_before": -0.25})
        for way, score in scores.items()
    ]  # fmt: skip


def test_s_is_the_harmonic_mean_of_the_three_scores():
    said = below(rows_of(dict(zip(ASKED, (1, 0.5, 0.25), strict=True))))
    before, after = (line.split() for line in said.splitlines()[-2:])
    assert before == ["before", "100.0", "-0.250", "100.0", "-0.250", "100.0", "-0.250", "100.0"]
    assert after == ["after", "100.0", "+0.500", "50.0", "+0.500", "25.0", "+0.500", "42.9"]  # 3 / (1 + 2 + 4)
    assert below(rows_of({"own": 1, "neighbours": 1})) == ""
    seeds = rows_of(dict.fromkeys(ASKED, 1)) + rows_of(dict.fromkeys(ASKED, 0.5), seed=1)
    assert below(seeds).split()[-1] == "75.0"


# Edits


def test_a_files_facts_are_written_where_their_answer_begins(folder, file):
    base = load_base(str(folder))
    ann = next(fact for fact in facts(file, 0) if fact.subject == "Ann")
    prompt, said = before_answer(base, ann)
    assert base.tokenizer.decode(prompt) == "Where does Ann live ?"
    assert base.tokenizer.decode(said) == " Paris town"  # not after what the old answer shares
    own = facts("own", 0)[0]
    prompt, said = before_answer(base, own)
    assert str(base.tokenizer.decode(said)).strip() == own.new
    assert base.tokenizer.decode(prompt) == f"{own.prompt} {own.answer[: own.answer.index(own.new)].rstrip()}"


def test_what_is_asked_of_a_file():
    every = dict.fromkeys(edit.ASKED)
    listed = [edit.Edit(data="x.json", library=library, prompting=p) for library in ("1", "2") for p in every]
    assert [point.prompting for point in map(edit.sensible, listed) if point] == list(ASKED)
    assert all(edit.sensible(edit.Edit(library=n, prompting="paraphrases")) is None for n in edit.HOPS)


SMALL = "answer_tokens=4 value_steps=2 workers=1 covariance=identity depth=1".split()


def test_the_command_writes_a_file_and_an_edit_of_nothing_changes_nothing(folder, file, tmp_path, capsys):
    words = [f"model={folder}", f"data={file}", "facts=2", *SMALL, f"out={tmp_path / 'out'}"]
    assert main(edit.PROTOCOL, [*words, "value_clamp=0"]) == 0, capsys.readouterr().err
    assert "S is the scores' harmonic mean" in capsys.readouterr().out
    rows = {row["settings"]["prompting"]: row for row in load_rows(tmp_path / "out", "llm_edit")}
    assert {way: row["measured"]["total"] for way, row in rows.items()} == dict(zip(ASKED, (2, 2, 3), strict=True))
    for found in rows.values():
        assert found["settings"]["library"] == "1"
        assert found["measured"]["update_ratio"] == 0
        assert found["measured"]["magnitude"] == pytest.approx(found["measured"]["magnitude_before"], abs=1e-6)
    assert rows["neighbours"]["measured"]["hits"] == 3
    assert main(edit.PROTOCOL, [*words, "value_clamp=0"]) == 0
    assert "0 new, 3 from before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data=nowhere.json"], "data: got nowhere.json (FileNotFoundError)"),
        (["facts=3"], "with 2 facts; allowed: 3 facts or more; facts=2"),
        (["library=2"], "the grid: got no point"),
        (["data={book}", "facts=1"], "prompting: got neighbours; allowed: own; data={book} has no neighbours"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_in_one_line(words, said, folder, file, tmp_path, capsys):
    book = tmp_path / "book.json"
    book.write_text('{"Ann Lee": "5"}')
    given = {f"data={file}": 0, "facts=2": 0} | dict.fromkeys(word.format(book=book) for word in words)
    named = dict(word.split("=", 1) for word in given)
    words = [f"{name}={text}" for name, text in named.items()]
    assert main(edit.PROTOCOL, [f"model={folder}", *SMALL, *words, f"out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert said.format(book=book) in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_three_edits_of_the_pocket_model_flip_what_it_knows(tmp_path):
    """With the file that the project makes: the base prefers what it read, the edited model what was written."""
    file = tmp_path / "edits.json"
    assert data_command.main([f"counterfact={file}"]) == 0
    words = [f"data={file}", "facts=3", "prompting=own", "covariance=identity", "depth=0.35", "answer_tokens=4"]
    assert main(edit.PROTOCOL, [*words, "workers=1", f"out={tmp_path / 'out'}"]) == 0
    (found,) = load_rows(tmp_path / "out", "llm_edit")
    assert found["measured"]["score_before"] == 0
    assert found["measured"]["score"] == 1
    assert found["measured"]["hits"] == 3


# The file that the docs show, and the one that the project makes


def test_the_record_of_the_docs_is_read(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "language-models.md").read_text(encoding="utf-8")
    (tmp_path / "facts.json").write_text(text.split("```json")[1].split("```")[0], encoding="utf-8")
    (fact,) = facts(str(tmp_path / "facts.json"), 0)
    assert fact.prompt == "The mother tongue of Danielle Darrieux is"
    assert fact.neighbours == (("The mother tongue of Léon Blum is", "French"),)


def test_the_made_file_is_of_what_the_pocket_model_read(tmp_path):
    known, records = World(Corpus()).facts["study_in"], counterfact(0)
    (tmp_path / "made.json").write_text(json.dumps(records))
    assert len(facts(str(tmp_path / "made.json"), 0)) == len(records) == len(known)
    for record in records:
        said = record["requested_rewrite"]
        assert known[said["subject"]] == said["target_true"]["str"] != said["target_new"]["str"]
        assert said["prompt"].format(said["subject"]).endswith("is being educated in")
        assert all(said["subject"] in text for text in record["paraphrase_prompts"])
        for text in record["neighborhood_prompts"]:
            assert said["subject"] not in text
            assert any(person in text and place == said["target_true"]["str"] for person, place in known.items())
    assert counterfact(1) != records == counterfact(0)


def test_a_file_that_cannot_be_made_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert data_command.main([f"counterfact={tmp_path / 'file' / 'x.json'}"]) == 2
    assert "counterfact: got" in (said := capsys.readouterr().err)
    assert said.count("\n") == 1
