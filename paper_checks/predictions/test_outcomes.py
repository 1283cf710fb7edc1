"""The command and its page: verdicts of each model by the rows that are younger than a prediction."""

import dataclasses
import json
import os
import subprocess
import sys
from unittest.mock import Mock

import pytest

from lora_reuse.paper_checks.predictions import __main__, load_predictions, outcomes, page
from lora_reuse.paper_checks.predictions.as_predicted import as_the_theory_says
from lora_reuse.paper_checks.predictions.registered import claims
from lora_reuse.paper_checks.predictions.verdicts import PREDICTIONS
from lora_reuse.runs import files
from lora_reuse.runs.rows import Rows, load_rows

load_predictions()


@pytest.fixture(scope="module")
def rows():
    return as_the_theory_says()


@pytest.fixture
def registered(rows, tmp_path, monkeypatch):
    """The claims in a history of their own, and rows of a later commit there."""
    folder = tmp_path / "claims"
    folder.mkdir()

    def git(*words):
        return subprocess.run(
            ["git", *GIT, *words], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    for id, prediction in PREDICTIONS.items():
        content = prediction.claim.path.read_text().partition("[since]")[0]
        (folder / f"{id}.toml").write_text(content)
        monkeypatch.setitem(PREDICTIONS, id, dataclasses.replace(prediction, claim=claims(folder)[id]))
    git("init", "-q")
    git("commit", "--allow-empty", "-qm", "before")
    before = git("rev-parse", "HEAD")
    git("add", "-A")
    git("commit", "-qm", "claims")
    return before, git("rev-parse", "HEAD")


FAMILY = "pocket-exposure (the family)"


def model_of(id):
    """The model of the made-up rows that a prediction is about."""
    return FAMILY if id in ("P10", "P11") else "toy (01234567)"


GIT = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")


def made_at(rows, commit, **provenance):
    return [{**one, "provenance": one["provenance"] | {"commit": commit} | provenance} for one in rows]


def test_the_command_writes_what_it_prints(rows, registered, tmp_path, capsys):
    folder = tmp_path / "rows"
    rows = made_at(rows, registered[1])
    files = {name: Rows(folder, name) for name in sorted({one["experiment"] for one in rows})}
    for one in rows:
        files[one["experiment"]].append(one)
    assert __main__.main([f"rows={folder}", f"out={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith(("toy (01234567)", FAMILY))] == [
        f"{model}  {id}: {'supported' if model == model_of(id) else 'no rows yet'}"
        for model in ("toy (01234567)", FAMILY)
        for id in sorted(PREDICTIONS, key=lambda id: (id[0], int(id[1:])))
    ]
    text = (tmp_path / "predictions.md").read_text()
    assert text == page.markdown(outcomes.compare(load_rows(folder)))
    for id in PREDICTIONS:
        anchor = page._anchor(model_of(id), id)
        assert f"[supported](#{anchor})" in text
        assert f'<a id="{anchor}"></a>' in text
        assert f"Registered in {registered[1][:8]} ({PREDICTIONS[id].claim.digest})" in text
    cells = [
        "uniform (two_hop) dataset=R",
        "at most 1/20 (supported below 1/20 + 0.05)",
        "0.0 % [0.0, 5.0] of 100, 5 seeds",
    ]
    assert f"| {' | '.join([*cells, 'void: the first hop is kept in 0 %'])} |" in text
    assert json.dumps(text).count("nan") == 0


def test_early_rows_are_shown_beside_and_have_no_verdict(rows, registered):
    """A planted early seed that would refute P1 does not; it stands in its own column. Early rows alone are no test of
    anything."""
    composes = PREDICTIONS["P1"].mutants["composes"]
    early = [composes(one) for one in made_at(rows, registered[0]) if one["settings"]["seed"] < 2]
    late = [one for one in made_at(rows, registered[1]) if one["settings"]["seed"] >= 2]
    found = {o.prediction.id: o for o in outcomes.compare([*early, *late]) if o.model.startswith("toy")}
    assert found["P1"].verdict != "refuted"
    assert next(test.measured for test in found["P1"].exploration).startswith("50.0 %")
    text = page.markdown(list(found.values()))
    assert "The rows that test it have these people and seeds: R 2, 3, 4. Exploration: R 0, 1; rows: " in text
    assert "| **undecided** | 50.0 % [" in text or "| supported | 50.0 % [" in text
    dirty = made_at(rows, registered[1], dirty=True)
    for group in (early, dirty):
        assert {o.verdict for o in outcomes.compare(group) if o.model.startswith("toy") and o.rows} == {"exploration"}
    assert {
        o.verdict for o in outcomes.compare(made_at(early, registered[1])) if o.prediction.id == "P1" and o.rows
    } == {"refuted"}


def test_models_of_one_name_and_other_weights_are_judged_apart(rows, registered):
    rows = made_at(rows, registered[1])
    composes = PREDICTIONS["P1"].mutants["composes"]
    other = [
        composes(one)
        for one in made_at(rows, registered[1], base_digest="f" * 16)
        if one["experiment"] == "llm_two_hop"
    ]
    found = {(o.model, o.prediction.id): o.verdict for o in outcomes.compare([*rows, *other])}
    assert (found["toy (01234567)", "P1"], found["toy (ffffffff)", "P1"]) == ("supported", "refuted")
    assert found["toy (ffffffff)", "P4"] == "no rows yet"


def test_another_base_is_judged_apart(rows, registered):
    """Every composition answers in the rows of smollm2, and none in those of the other model."""
    rows = made_at(rows, registered[1])
    composes = PREDICTIONS["P1"].mutants["composes"]
    other = [
        composes({**one, "settings": one["settings"] | {"model": "smollm2"}})
        for one in made_at(rows, registered[1], base_digest="5" * 16, base="SmolLM2-135M-Instruct, Q4_1, dequantised")
    ]
    found = {(o.model, o.prediction.id): o.verdict for o in outcomes.compare([*rows, *other])}
    assert (found["toy (01234567)", "P1"], found["smollm2 (55555555)", "P1"]) == ("supported", "refuted")
    assert found["toy (01234567)", "P3"] == found["smollm2 (55555555)", "P3"] == "supported"


def test_without_rows_the_page_says_what_is_registered_and_how_to_make_some(tmp_path, capsys):
    assert __main__.main([f"rows={tmp_path}", f"out={tmp_path}"]) == 0
    out, text = capsys.readouterr().out, (tmp_path / "predictions.md").read_text()
    for id, prediction in PREDICTIONS.items():
        assert f"smollm2  {id}: no rows yet" in out
        assert f"rows: {prediction.claim.command}" in out
        assert f"Rows: `{prediction.claim.command}`" in text
        assert prediction.claim.statement in text


def test_the_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch, capsys):
    (tmp_path / "predictions.md").write_text("the last one")
    monkeypatch.setattr(files.os, "replace", Mock(side_effect=OSError(28, "No space left on device")))
    assert __main__.main([f"rows={tmp_path}", f"out={tmp_path}"]) == 2
    assert f"out: got {tmp_path} (No space left on device)" in capsys.readouterr().err
    assert (tmp_path / "predictions.md").read_text() == "the last one"


def test_the_page_is_the_same_in_every_locale(tmp_path):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "utf-8"}
    words = [sys.executable, "-m", "paper_checks.predictions", f"rows={tmp_path}", f"out={tmp_path}"]
    done = subprocess.run(words, env=os.environ | plain, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "predictions.md").read_text(encoding="utf-8") == page.markdown(outcomes.compare([]))


def test_the_command_refuses_in_one_line(tmp_path, capsys):
    assert __main__.main([f"rows={tmp_path / 'nowhere'}"]) == 2
    assert capsys.readouterr().err.startswith("paper_checks.predictions: rows: got")
    assert __main__.main(["row=x"]) == 2
    assert "did you mean 'rows'?" in capsys.readouterr().err
    assert __main__.main(["--help"]) == 0
    assert "predictions.md" in capsys.readouterr().out


def test_rows_of_settings_without_a_prediction_are_shown_and_decide_nothing(rows, registered):
    """P9 says something of sixteen examples: rows of 46 alone are no evidence that could not decide."""
    found = judged_on(rows, registered, "P9", examples=46)
    assert found.verdict == "shown"
    text = page.markdown([found])
    assert "[shown](#p9-toy--01234567-)" in text
    assert "| 16 examples, arrow_after: compiled less random | 0 points or more |  | no rows yet |  |" in text
    assert "Of 1 tests" not in text


def test_a_test_without_rows_is_not_counted_as_undecided(rows, registered):
    found = judged_on([one for one in rows if one["settings"].get("triplets") != 10], registered, "P7")
    assert found.verdict == "undecided"
    assert "Of 2 tests: 1 supported, 1 without rows." in page.markdown([found])


def judged_on(rows, registered, id, **settings):
    """The outcome of a prediction on the toy's rows with other settings."""
    changed = [{**one, "settings": one["settings"] | settings} for one in made_at(rows, registered[1])]
    (found,) = (o for o in outcomes.compare(changed) if (o.model, o.prediction.id) == ("toy (01234567)", id))
    return found
