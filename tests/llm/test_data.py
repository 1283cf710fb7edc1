"""The command that shows and writes the two-hop data."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lora_reuse.llm.data import __main__ as command
from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.data.graphs import facts_of
from lora_reuse.llm.data.subsets import SPLITS, SUBSETS, Example, examples
from lora_reuse.runs.settings import SettingError

ROOT = Path(__file__).parents[2]


def test_show_prints_examples(capsys):
    assert command.main(["show=R12", "count=2"]) == 0
    first, second = examples("R12", triplets("R"), "test")[:2]
    assert (
        capsys.readouterr().out == f"{first.question}\n    {first.answer}\n\n{second.question}\n    {second.answer}\n\n"
    )


def test_show_indents_every_line_of_an_answer_alike(capsys):
    assert command.main(["show=F12-CoT", "count=1", "split=train"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Answer the following question step-by-step:"
    assert lines[2] == "    First, we need to answer the question:"
    assert [line.startswith("    ") and line[4] != " " for line in lines[:9]] == [False] * 2 + [True] * 7


@pytest.mark.parametrize(
    ("given", "parts_of_the_line"),
    [
        (["show=R12-cot"], ["'R12-cot'", "14-CoT", "did you mean 'R12-CoT'?"]),
        (["show=Q7"], ["'Q7'", "F, H or R"]),
        (["count=2"], ["show", "nothing", "write=..."]),
        (["shwo=R12"], ["shwo", "did you mean 'show'?"]),
        (["show=R12", "split=tets"], ["'tets'", "did you mean 'test'?"]),
        (["show=R12", "triplets=101"], ["triplets", "'101'", "1 to 100"]),
        (["write={file}/folder"], ["write", "{file}/folder", "can be written"]),
    ],
)
def test_mistakes_are_one_line_that_helps(given, parts_of_the_line, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    assert command.main([word.format(file=file) for word in given]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert all(part.format(file=file) in err for part in parts_of_the_line), err


def test_an_unknown_subset_is_refused_by_the_library_too():
    with pytest.raises(SettingError, match="did you mean 'R12-CoT'"):
        examples("R12-Cot", [])


def test_what_is_written_reads_back(tmp_path, capsys):
    assert command.main([f"write={tmp_path / 'data'}", "triplets=2", "seed=4"]) == 0
    assert f"76 subsets in {tmp_path / 'data'}" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == sorted(SUBSETS)
    for subset in SUBSETS:
        folder = tmp_path / "data" / subset
        assert sorted(path.name for path in folder.iterdir()) == ["dev.jsonl", "test.jsonl", "train.jsonl"]
        for split in SPLITS:
            rows = [Example(**json.loads(line)) for line in (folder / f"{split}.jsonl").read_text().splitlines()]
            assert rows == examples(subset, facts_of(subset, 3 if subset[0] == "S" else 2, 4), split)
    if importlib.util.find_spec("datasets"):
        from datasets import load_dataset  # pyright: ignore[reportMissingImports]

        read: Any = load_dataset("json", data_dir=str(tmp_path / "data" / "R12"), cache_dir=str(tmp_path / "cache"))
        assert [Example(**row) for row in read["train"]] == examples("R12", triplets("R", 4)[:2])


def test_a_reader_may_have_enough():
    """`| head` closes the pipe before everything is printed."""
    code = f"{sys.executable} -m llm.data show=R12-CoT split=train count=5000 | head -n 1"
    run = subprocess.run(["bash", "-o", "pipefail", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "Answer the following question step-by-step:\n", "")


def test_help_is_quick_and_knows_no_torch():
    code = """if True:
        import sys
        from lora_reuse.llm.data.__main__ import main
        assert main(["--help"]) == 0 and main([]) == 0
        print([name for name in ("torch", "transformers", "jax", "numpy") if name in sys.modules])"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("lora-reuse data show=R12")
    assert all(name in run.stdout for name in ("show", "write", "split", "count", "triplets", "seed"))
    assert run.stdout.endswith("[]\n")
