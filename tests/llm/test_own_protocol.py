"""A protocol in a file of one's own, outside the repository: other experts, other questions, other scoring. And the
scoring of `two_hop` replaced in one line."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lora_reuse.llm import two_hop
from lora_reuse.llm.forecast.__main__ import main as forecast
from lora_reuse.llm.protocols.by_name import protocol_in
from lora_reuse.llm.protocols.protocol import main
from lora_reuse.runs.rows import load_rows
from tests.llm.tiny import tiny

OWN = Path(__file__).parents[2] / "docs" / "examples" / "my_protocol.py"
SMALL = "steps=1 batch=2 rank=2 answer_tokens=4".split()


@pytest.fixture
def words(tmp_path) -> list[str]:
    return [f"model={tiny('qwen2', tmp_path / 'model')}", *SMALL, f"out={tmp_path / 'out'}"]


@pytest.fixture
def script(words, tmp_path):
    """Runs the file as a script, in its own folder; returns what it printed."""
    (tmp_path / "mine").mkdir()
    shutil.copy(OWN, tmp_path / "mine")
    root = str(Path(__file__).parents[2])

    def call(*more: str) -> str:
        done = subprocess.run(
            [sys.executable, "my_protocol.py", *words, *more],
            cwd=tmp_path / "mine",
            env={**os.environ, "PYTHONPATH": root},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


@pytest.fixture
def run(words, capsys):
    """Runs the protocol of the file in this process, which has torch; returns what it printed."""

    def call(*more: str) -> str:
        assert main(protocol_in(OWN), [*words, *more]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return call


def test_a_file_of_ones_own_is_a_protocol(run, script, tmp_path):
    dry = run("number=3,7", "dry_run=true")
    assert "my_protocol: 2 groups, 4 experts (fewer, where they are there), 4 rows" in dry
    assert "cost: 4 experts, 12 answers" in dry
    assert not (tmp_path / "out").exists()
    assert "2 rows in" in run("number=3,7", "shard=1/2", "workers=1")
    assert (tmp_path / "out" / "llm_my_protocol.1-of-2.jsonl").exists()
    printed = script("number=3,7", "workers=2")
    assert "4 rows in" in printed
    assert "2 new, 2 from before" in printed
    assert {"number", "spoken", "paper", "theory", "42", "<="} <= set(printed.split())
    for row in load_rows(tmp_path / "out", "llm_my_protocol"):
        said = [
            json.loads(line)
            for line in (tmp_path / "out" / "answers" / f"{row['hash']}.jsonl").read_text().splitlines()
        ]
        assert [record["of"] for record in said] == [0, 1, 2]
        assert row["measured"]["by_group"] == [len(record["answer"]) % 2 == 0 for record in said]
        assert row["measured"].get("spoken", 0) == sum(bool(record["answer"]) for record in said)
        assert row["predicted"] == {"at_most": 1.5}
    assert len(list((tmp_path / "out" / "experts").iterdir())) == 4


def test_its_rows_are_forecast(run, tmp_path, capsys):
    run("composition=sum,average", "workers=1")
    out = tmp_path / "forecasts"
    words = [f"validate={tmp_path / 'out'}", f"out={out}", "asked=2"]
    assert forecast([*words, f"protocol={OWN}"]) == 0, capsys.readouterr().err
    assert {row["settings"]["of"] for row in load_rows(out, "llm_forecast")} == {"llm_my_protocol"}
    assert len(load_rows(out, "llm_forecast")) == 2
    assert forecast([*words, f"protocol={tmp_path / 'none.py'}"]) == 2
    assert "allowed: a Python file with PROTOCOL" in capsys.readouterr().err


def test_a_launched_job_finds_the_file(script, tmp_path):
    assert "2 rows in" in script("composition=base,sum", "launcher=local", "jobs=1", "workers=1")
    assert len(load_rows(tmp_path / "out", "llm_my_protocol")) == 2


def test_the_scoring_of_two_hop_is_replaced_in_one_line(tmp_path):
    mine = dataclasses.replace(two_hop.PROTOCOL, score=lambda question, answer: {"strict": True, "lenient": False})
    small = "triplets=2 bridge_triplets=2 steps=1 batch=2 rank=2 answer_tokens=2 workers=1 log_probs=false".split()
    words = ["dataset=F", "library=2-combination", "composition=sum", "prompting=direct"]
    assert main(mine, [f"model={tiny('qwen2', tmp_path / 'model')}", *small, *words, f"out={tmp_path / 'out'}"]) == 0
    (row,) = load_rows(tmp_path / "out", "llm_two_hop")
    assert (row["measured"]["hits"], row["measured"]["lenient"], row["measured"]["total"]) == (4, 0, 4)
