"""Programs in another language: assertions run in the sandbox, experts trained or brought."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_reuse.llm import cross_lingual
from lora_reuse.llm.cross_lingual import PROTOCOL, CrossLingual, Learned, checks, mark, prompt, reported
from lora_reuse.llm.data import mbpp, tasks
from lora_reuse.llm.data.mbpp import Columns, Task
from lora_reuse.llm.protocols import ask as asking
from lora_reuse.llm.protocols.protocol import Question, main
from lora_reuse.runs.rows import load_rows
from tests.llm.test_mbpp import per_language_files
from tests.llm.test_sandbox import confined
from tests.llm.tiny import tiny

torch.set_num_threads(1)


# Tasks and sentences of our own


def test_our_own_tasks_hold_in_both_languages_and_are_held_out():
    names: dict[str, set[str]] = {}
    for split in ("train", "dev", "test"):
        english, spanish = (tasks.tasks(language, split) for language in ("english", "spanish"))
        assert [t._replace(text="") for t in english] == [t._replace(text="") for t in spanish]
        assert not {t.text for t in english} & {t.text for t in spanish}
        names[split] = {t.code for t in english}
        for task in english:
            exec("\n".join([task.code, *task.tests]), {})
    assert [len(names[split]) for split in ("train", "dev", "test")] == [140, 20, 40]
    assert not names["train"] & names["test"]
    assert not names["dev"] & (names["train"] | names["test"])


def test_sentences_ask_for_no_program():
    told = tasks.sentences(9999, 0)
    assert len(told) == len(set(told)) == 280
    assert not any("function" in english for english, _ in told)
    assert tasks.sentences(5, 0) == told[:5] != tasks.sentences(5, 1)


# Answers


TASK = Task(
    "1", "Add one.", "def add(x):\n    return x + 1", ("assert add(1) == 2", "assert add(-1) == 0"), "import math"
)


@confined
def test_only_what_passes_every_assertion_is_right():
    answers = {
        "```python\ndef add(x):\n    return x + 1\n```": (True, "done"),
        "def add(x):\n    return math.floor(x + 1)": (True, "done"),
        "def add(x):\n    return x * 2": (False, "error"),
        "def add(x):\n    return x + 1\nimport sys\nsys.exit(0)": (False, "done"),
        "import os\ndef add(x):\n    os._exit(0)": (False, "done"),
        "class add:\n    def __init__(self, x): pass\n    def __eq__(self, other): exit()": (False, "done"),
        "def add(x):\n    while True: print('x' * 1000)": (False, "output"),
        "def add(x):\n    open('/etc/passwd')": (False, "denied"),
        "No lo sé.": (False, ""),
    }
    asked = [Question("", "1", {}, TASK) for _ in answers]
    marks = mark(CrossLingual(), asked, list(answers), PROTOCOL.options())
    assert [(m["right"], m["program"]) for m in marks] == list(answers.values())
    assert [m["no_code"] for m in marks] == [False] * 8 + [True]
    program, token = checks(TASK, "pass")
    assert program.endswith(f"print({token!r})")
    assert program.startswith("import math\npass\nassert add(1) == 2\n")


# The protocol


TEXT = " ".join(prompt(task) + task.code for language in mbpp.LANGUAGES for task in tasks.tasks(language, "test")[:5])
SMALL = "steps=1 batch=2 rank=2 pairs=4 answer_tokens=4 workers=1 allow_code_execution=true".split()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny("qwen2", tmp_path_factory.mktemp("model"), text=TEXT)


@confined
def test_it_runs_from_its_command_with_experts_trained_and_brought(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data, out = tmp_path / "data", tmp_path / "out"
    per_language_files(data)
    (tmp_path / "pairs.tsv").write_text("Hello.\tHola.\n" * 4)
    words = [
        f"model={model}",
        f"data={data}",
        f"sentences={tmp_path / 'pairs.tsv'}",
        *SMALL,
        "composition=base,uniform,arrow",
        f"out={out}",
    ]
    assert (
        main(PROTOCOL, [word for word in words if "code" not in word] + ["dry_run=true"]) == 0
    )  # before any code is allowed
    assert "2 experts (fewer, where they are there), 5 rows" in capsys.readouterr().out
    assert not out.exists()
    assert main(PROTOCOL, words) == 0
    first = capsys.readouterr()
    assert first.err == ""
    assert "5 rows in" in first.out
    rows = load_rows(out, "llm_cross_lingual")
    assert {(row["settings"]["library"], row["settings"]["composition"]) for row in rows} == {
        *(
            ("none", "base"),
            ("coding", "alone"),
            ("translation", "alone"),
            ("2-combination", "uniform"),
            ("2-combination", "arrow"),
        )
    }
    assert all(row["measured"]["total"] == row["measured"]["group_sizes"][0] == 1 for row in rows)
    assert main(PROTOCOL, words) == 0
    assert "0 new, 5 from before" in capsys.readouterr().out
    made = sorted((out / "experts").glob("*/expert.json"))
    cards = {json.loads(path.read_text())["own"][0]: path.parent for path in made}
    assert set(cards) == {"coding", "translation"}
    brought = [f"{name}_adapter={folder}" for name, folder in cards.items()]
    assert main(PROTOCOL, [*words[:-1], *brought, "library=2-combination,coding", f"out={tmp_path / 'brought'}"]) == 0
    assert not list((tmp_path / "brought").glob("experts/*"))
    assert len(load_rows(tmp_path / "brought", "llm_cross_lingual")) == 4
    key = lambda row: (row["settings"]["library"], row["settings"]["composition"])  # noqa: E731
    same = {key(row): row["measured"] for row in rows}
    assert all(row["measured"] == same[key(row)] for row in load_rows(tmp_path / "brought", "llm_cross_lingual"))


@confined
def test_right_programs_are_counted(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    known = {prompt(task): task for language in mbpp.LANGUAGES for task in tasks.tasks(language, "dev")}

    def answers(base: Any, compositions: list, questions: list[str], longest: int, rows: int) -> list[list[str]]:
        right = [
            known[question].code if "función" in question else known[question].code.replace("return", "yield")
            for question in questions
        ]
        return [right if composition is not None else ["No."] * len(right) for composition in compositions]

    monkeypatch.setattr(asking, "answers", answers)
    words = [
        f"model={model}",
        *SMALL,
        "composition=base,sum",
        "library=oracle",
        "asked=spanish,english",
        "split=dev",
        f"out={tmp_path}",
    ]
    assert main(PROTOCOL, words) == 0
    found = {
        (r["settings"]["asked"], r["settings"]["composition"]): r["measured"]
        for r in load_rows(tmp_path, "llm_cross_lingual")
    }
    assert {key: (m["hits"], m["total"]) for key, m in found.items()} == {
        **{
            ("spanish", "base"): (0, 20),
            ("spanish", "alone"): (20, 20),
            ("english", "base"): (0, 20),
            ("english", "alone"): (0, 20),
        }
    }
    assert found["english", "alone"]["program_error"] == 20
    assert found["spanish", "base"]["no_code"] == 20
    assert "20/20" in capsys.readouterr().out


def test_what_experts_learn():
    learn = lambda *skills: Learned(skills, "own", Columns(), "own", 7, 0).pairs()  # noqa: E731
    assert len(learn("coding")) == 140
    assert learn("coding")[0] == (
        prompt(tasks.tasks("english", "train")[0]),
        "```python\ndef add_2(x):\n    return x + 2\n```",
    )
    assert "Escribe una función" in learn("spanish")[0][0]
    assert all(question.startswith("Translate this sentence to Spanish:\n") for question, _ in learn("translation"))
    assert learn("coding", "translation") == learn("coding") + learn("translation")
    assert len(learn("translation")) == 7


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "",
            "allow_code_execution: got false; allowed: true; whether a program is right is seen by running it, "
            "confined",
        ),
        ("allow_code_execution=true data=nowhere", "data: got nowhere; allowed: own, or a folder"),
        ("allow_code_execution=true sentences=nowhere", "sentences: got nowhere"),
        ("allow_code_execution=true library=none composition=sum", "the grid: got no point"),
        ("allow_code_execution=true asked=french", "asked: got 'french'"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(
    words: str, said: str, tmp_path: Path, capsys: Any, monkeypatch: Any
):
    monkeypatch.setattr("lora_reuse.llm.sandbox.require", lambda: None)
    assert main(PROTOCOL, [*words.split(), f"out={tmp_path / 'out'}"]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "34.9 %"),
        ({"composition": "arrow", "model": "microsoft/phi-2"}, "28.8 %"),
        ({"library": "translation", "composition": "alone", "model": "microsoft/Phi-3-mini-4k-instruct"}, "37.2 %"),
        ({"library": "none", "composition": "base"}, "32.9 %"),
        ({"library": "coding", "composition": "alone", "asked": "english"}, "85.5 %"),
        ({"library": "translation", "composition": "alone", "asked": "english"}, ""),
        ({"library": "oracle", "composition": "alone"}, ""),
        ({"composition": "sum"}, ""),
        ({"data": "own"}, ""),
        ({"model": "pocket"}, ""),
    ],
)
def test_the_papers_number_stands_beside_the_same_cell_alone(changed: dict[str, Any], said: str):
    usual = {
        "data": "x",
        "model": "Qwen/Qwen2.5-7B-Instruct",
        "asked": "spanish",
        "composition": "uniform",
        "library": "2-combination",
    }
    assert reported(CrossLingual(**usual | changed)) == said


def test_a_library_is_what_the_paper_composes():
    assert cross_lingual.LIBRARIES["2-combination"] == (("coding",), ("translation",))
    roles = [
        spec.role for name in ("coding", "translation") for spec in PROTOCOL.experts(CrossLingual(library=name), 0)
    ]
    assert roles == [spec.role for spec in PROTOCOL.experts(CrossLingual(), 0)] == [1, 2]
