"""Answers are kept only where they count up to the committed row, the first of each row, whatever they say."""

import json
import re
from pathlib import Path

import pytest

from lora_reuse.llm import answers
from lora_reuse.llm.protocols.by_name import protocol_of
from lora_reuse.llm.protocols.controls import point_of
from lora_reuse.runs.rows import load_rows
from tests.rows_of_models import row, write

PAPER = Path(__file__).parents[2] / "results" / "paper"
HITS = 3
"""So many questions of a run are answered right, the first ones."""


def run_of(folder, seeds=(0, 1), experiment="llm_bridge", **settings):
    """The folder of a run of two triplets with its answers, and its rows."""
    protocol, rows = protocol_of(experiment), []
    for seed in seeds:
        one = row(experiment, [2, 1], triplets=2, prompting="direct", seed=seed, **settings)
        point = point_of(protocol, one["settings"])
        records = []
        for i, q in enumerate(protocol.questions(point, seed)):
            said = q.about["gold"] if i in (0, 1, 3) else f"<script>{i}</script> nobody knows"
            records.append({**q.about, "answer": said, **protocol.score(q, said)})
        one["measured"] |= protocol.counts(point, protocol.questions(point, seed), records)
        assert one["measured"]["hits"] == HITS
        (folder / "answers").mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "answers" / f"{one['hash']}.jsonl").write_text(lines)
        rows.append(one)
    write(folder, *rows)
    return rows


def kept(folder, experiment="llm_bridge"):
    return [json.loads(line) for line in (folder / "answers" / f"{experiment}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("experiment", ["llm_bridge", "llm_exposed"])
def test_the_first_questions_of_the_lowest_seed_are_kept(tmp_path, capsys, experiment):
    """Also of a protocol whose records do not repeat the question."""
    first, second = run_of(tmp_path / "run", (1, 0), experiment)
    write(tmp_path / "rows", first, second)
    words = [f"run={tmp_path / 'run'}", f"rows={tmp_path / 'rows'}", "count=3"]
    assert answers.main(words) == 0
    assert f"{experiment}.jsonl: 1 rows" in capsys.readouterr().out
    (line,) = kept(tmp_path / "rows", experiment)
    said = [json.loads(it) for it in (tmp_path / f"run/answers/{second['hash']}.jsonl").read_text().splitlines()[:3]]
    assert (line["row"], line["asked"], line["commit"]) == (second["hash"], 4, second["provenance"]["commit"])
    protocol = protocol_of(experiment)
    asked = protocol.questions(point_of(protocol, second["settings"]), 0)
    assert line["answers"] == [
        {"question": q.prompt, "gold": it["gold"], "answer": it["answer"], "hit": hit}
        for q, it, hit in zip(asked[:3], said, [True, True, False], strict=True)
    ]
    before = (tmp_path / f"rows/answers/{experiment}.jsonl").read_bytes()
    assert answers.main(words) == 0
    assert (tmp_path / f"rows/answers/{experiment}.jsonl").read_bytes() == before


def test_samples_of_other_rows_stay(tmp_path):
    one, other = (run_of(tmp_path / name, seeds=(0,), composition=name)[0] for name in ("sum", "arrow"))
    write(tmp_path / "rows", one, other)
    for name in ("sum", "arrow", "sum"):
        assert answers.main([f"run={tmp_path / name}", f"rows={tmp_path / 'rows'}"]) == 0
    assert [line["row"] for line in kept(tmp_path / "rows")] == [one["hash"], other["hash"]]


def flipped(run, rows):
    """Another answer than was counted, with the marks of the old one."""
    path = run / "answers" / f"{rows[0]['hash']}.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[0]["answer"] = "nobody knows"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def moved(run, rows):
    """As many hits, of another triplet."""
    rows[0]["measured"]["by_triplet"] = rows[0]["measured"]["by_triplet"][::-1]


def fewer(run, rows):
    path = run / "answers" / f"{rows[0]['hash']}.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[1:]) + "\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flipped, r"with 2 hits of 4 \(hits is not as committed\); allowed: .* 3 of 4"),
        (moved, r"by_triplet is not as committed"),
        (fewer, r"3 answers of row \w+; allowed: 4, one a question"),
        (lambda run, rows: rows[0]["measured"].update(hits=4), r"hits is not as committed"),
        (lambda run, rows: rows[0]["provenance"].update(base_digest="other"), r"allowed: .* weights, other"),
        (lambda run, rows: rows[0].update(hash="0" * 16), r"with row \w+; allowed: rows that rows= has, too"),
        (lambda run, rows: (run / "answers" / f"{rows[0]['hash']}.jsonl").unlink(), r"without answers/\w+.jsonl"),
    ],
)
def test_other_answers_than_were_counted_are_refused_in_one_line(tmp_path, capsys, change, said):
    rows = run_of(tmp_path / "run", seeds=(0,))
    change(tmp_path / "run", rows)
    write(tmp_path / "rows", *rows)
    assert answers.main([f"run={tmp_path / 'run'}", f"rows={tmp_path / 'rows'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("llm.answers: run: got ")
    assert re.search(said, line)
    assert not (tmp_path / "rows" / "answers").exists()


@pytest.mark.parametrize(("words", "said"), [([""], "no value"), (["run=nowhere"], "which has no rows")])
def test_a_run_that_is_none_is_one_line(capsys, words, said):
    assert answers.main(words) == 2
    assert said in capsys.readouterr().err


def test_a_line_that_is_no_sample_is_named(tmp_path):
    (tmp_path / "llm_bridge.jsonl").write_text('{"row": "0"}\n')
    with pytest.raises(
        ValueError, match=r"llm_bridge.jsonl:1: got .*; allowed: a line that `lora-reuse answers` wrote"
    ):
        list(answers.read(tmp_path / "llm_bridge.jsonl"))


@pytest.mark.parametrize("path", sorted(PAPER.glob("answers/*.jsonl")), ids=lambda path: path.stem)
def test_committed_samples_are_the_first_questions_marked_as_today(path):
    protocol, rows = protocol_of(path.stem), {row["hash"]: row for row in load_rows(PAPER, path.stem)}
    lines = list(answers.read(path))
    assert len({line["row"] for line in lines}) == len(lines) > 10
    for line in lines:
        settings = rows[line["row"]]["settings"]
        questions = protocol.questions(point_of(protocol, settings), settings["seed"])
        assert line["asked"] == rows[line["row"]]["measured"]["total"]
        for said, question in zip(line["answers"], questions, strict=False):
            assert (said["question"], said["gold"]) == (question.prompt, question.about["gold"])
            assert said["hit"] == protocol.score(question, said["answer"])["strict"]
