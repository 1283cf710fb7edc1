"""The protocol of word problems: files in the published format, reusable code, the command and its table."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_reuse.llm import gsm as command
from lora_reuse.llm import reusable_code
from lora_reuse.llm.adapters.specs import lessons
from lora_reuse.llm.adapters.training import tokens
from lora_reuse.llm.data import gsm, word_problems
from lora_reuse.llm.data.word_problems import LEVELS, problem
from lora_reuse.llm.decoding.models import example, load_base
from lora_reuse.llm.gsm import PROTOCOL, Gsm, Taught, reported
from lora_reuse.llm.protocols import ask as asking
from lora_reuse.llm.protocols.measure import train_one
from lora_reuse.llm.protocols.protocol import main
from lora_reuse.llm.scoring import solutions
from lora_reuse.runs.rows import load_rows
from tests.llm.test_sandbox import confined
from tests.llm.tiny import tiny

torch.set_num_threads(1)


# Files in the published format


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three templates in the published format, GSM8K's two files, and reusable code."""
    made = tmp_path_factory.mktemp("gsm")
    word_problems.write(made, 3, 0)
    lines = [
        {
            "question": f"How much is {n} and 1,000?",
            "answer": f"It is {n}+1000=<<{n}+1000={n + 1000}>>{n + 1000}.\n#### {n + 1000:,}",
        }
        for n in range(9)
    ]
    for name in ("train", "test"):
        (made / f"gsm8k_{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return made


def test_files_are_read_as_they_are_published(folder: Path):
    keys = {"id", "instance", "question", "answer", "original_id", "original_question", "original_answer"}
    assert json.loads((folder / "GSM_p2.jsonl").read_text().splitlines()[0]).keys() == keys
    for level in LEVELS:
        assert gsm.problems(str(folder), level, 100, 0) == [
            p._replace(code="", reusable="") for p in word_problems.problems(level, 3, 0)
        ]
    assert gsm.trained(str(folder), "p1", 2, 0, code=True)[7] == word_problems.problems("p1", 2, 0)[7]._replace(code="")
    assert {p.id for p in gsm.problems(str(folder), "p1", 2, 0)} == {"0", "1"}


def test_gsm8k_is_read_without_its_calculator_notes(folder: Path):
    found = gsm.asked(str(folder), "gsm8k", 1, 0, "test")
    assert len(found) == 9
    assert found[3].answer == "It is 3+1000=1003.\n#### 1,003"
    assert gsm.final(found[3].answer) == 1003.0
    assert len(gsm.shots(str(folder), 0)) == 8


def test_the_split_is_by_instance_and_p2_is_sampled_two_a_template(folder: Path):
    found = gsm.problems(str(folder), "symbolic", 0, 0)
    parts = {name: gsm.part(found, name) for name in gsm.PARTS}
    assert {name: sorted({p.instance for p in part}) for name, part in parts.items()} == {
        "train": list(range(40)), "dev": list(range(40, 45)), "test": list(range(45, 50)),
    }  # fmt: skip
    assert gsm.asked(str(folder), "p1", 0, 5, "test") == gsm.part(gsm.problems(str(folder), "p1", 0, 0), "test")
    sampled = {seed: gsm.asked(str(folder), "p2", 0, seed, "test") for seed in range(4)}
    assert all([p.id for p in chosen] == ["0", "0", "1", "1", "2", "2"] for chosen in sampled.values())
    assert len({tuple(p.instance for p in chosen) for chosen in sampled.values()}) == 4
    reordered = gsm.sample(gsm.problems(str(folder), "p2", 0, 0)[::-1], 2)
    assert sorted(reordered) == sorted(sampled[2])
    dev = gsm.asked(str(folder), "p2", 0, 0, "dev")
    assert len(dev) == 6
    assert not set(dev) & set(sampled[0])


def test_numbers_are_compared_as_floats():
    assert gsm.final("so\n#### 45.0") == gsm.final("#### 45") == 45.0
    assert gsm.final("#### $1,234.5") == 1234.5
    assert solutions.equal(45.0, 45.0)
    assert solutions.equal(0.1 + 0.2, 0.3)
    assert not solutions.equal(45.01, 45.0)
    assert not solutions.equal(None, 0.0)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "GSM_p2.jsonl",
            None,
            "without GSM_p2.jsonl; allowed: own, or a folder with GSM_p2.jsonl; it comes from apple/ml-gsm-symbolic",
        ),
        ("GSM_p2.jsonl", "", "which is empty"),
        ("GSM_p2.jsonl", "{}\n", "GSM_p2.jsonl:1 without 'question'"),
        ("GSM_p2.jsonl", "[1]\n", "GSM_p2.jsonl:1, '[1]'; allowed: one JSON object a line"),
        (
            "GSM_p2.jsonl",
            '{"id": 1, "instance": 0, "question": "a", "answer": "b"}\n',
            "GSM_p2.jsonl:1 with an answer that ends 'b'",
        ),
        ("GSM_p2.jsonl", '{"id": 1, "question": "a", "answer": "#### 1"}\n', "GSM_p2.jsonl:1 without 'instance'"),
        ("GSM_p2.jsonl", '{"id": 1, "instance": "x", "question": "a", "answer": "#### 1"}\n', "with instance 'x'"),
        ("GSM_p2.jsonl", b"\xff\xfe\x00", "a file of UTF-8 text"),
        (
            "GSM_p1.jsonl",
            '{"id": 1, "instance": 0, "question": "a", "answer": "#### 1"}\n',
            "1 instances of template 1; allowed: ten or more",
        ),
        (
            "reusable_code.jsonl",
            None,
            "without reusable_code.jsonl; allowed: a folder with it; lora-reuse reusable_code",
        ),
        (
            "reusable_code.jsonl",
            '{"level": "p2", "id": 0, "instance": 0, "code": "print(1)"}\n',
            "without a solution of symbolic",
        ),
    ],
)
def test_bad_files_are_refused_in_one_line(
    folder: Path, tmp_path: Path, name: str, text: str | bytes | None, said: str, capsys: Any
):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).unlink()
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    out = tmp_path / "out"
    assert (
        main(PROTOCOL, [f"data={tmp_path}", "solutions=reusable", "composition=uniform", "templates=2", f"out={out}"])
        == 2
    )
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not out.exists()


# Reusable code


@confined
def test_reusable_code_is_written_checked_by_running_and_used(
    stub: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for path in folder.glob("GSM_*.jsonl"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    known = {p.question: p for level in LEVELS for p in word_problems.problems(level, 3, 0)}
    lock = threading.Lock()

    def answer(messages: list[dict[str, str]], before: int) -> str:
        """A good pupil that begins with a mistake, and that never gets one template and one problem right."""
        with lock:
            task = messages[0]["content"]
            asked = [p for question, p in known.items() if question in task]
            if len(messages) == 1 and (len(asked) > 1 or asked[0].instance < 2):
                return "```python\ndef solve(): return 0\nprint(solve())\n```"
            if len(messages) > 1:
                assert "It should define solve(...) and print" in messages[-1]["content"]
            if asked[0].id == "2" or (asked[0].id, asked[0].instance) == ("1", 1):
                return "I cannot."
            asked.sort(key=lambda p: len(p.question))
            function = asked[0].reusable.split("\n\nprint")[0]
            return (
                f"```python\n{function}\n\n"
                + "\n".join("print" + p.reusable.split("\n\nprint")[1] for p in asked)
                + "\n```"
            )

    server = stub(answer)
    words = [
        f"data={tmp_path}",
        f"endpoint={server.url}",
        "model=pupil",
        "allow_code_execution=true",
        "parallel=1",
        "templates=2",
    ]
    few = [p for level in LEVELS for p in gsm.problems(str(tmp_path), level, 3, 0) if p.instance < 10]
    for level in LEVELS:  # ten instances a template, of which eight are learned
        rows = [json.loads(line) for line in (tmp_path / gsm.FILES[level]).read_text().splitlines()]
        (tmp_path / gsm.FILES[level]).write_text(
            "".join(json.dumps(row) + "\n" for row in rows if row["instance"] < 10)
        )
    assert len(few) == 90
    assert reusable_code.main(words) == 0
    assert "2 of 2 templates have a function; 30 of 32 of their problems have a program" in capsys.readouterr().out
    assert len(server.asked) == 2 * 2 + 24 + 2 * 6 + 2 * reusable_code.TURNS
    with (tmp_path / "reusable_code.jsonl").open("a") as file:  # a kill tore the last line
        file.write('{"level": "symbolic", "id"')
    before = len(server.asked)
    assert reusable_code.main(words) == 0
    assert len(server.asked) == before + 2 * reusable_code.TURNS  # only what failed is tried again
    taught = Taught(str(tmp_path), ("symbolic", "p1"), "reusable", 2, 0).pairs()
    assert len(taught) == 30
    assert all("def solve(" in answer and "### Instruction" in question for question, answer in taught)


@pytest.mark.parametrize("torn", ["", '{"id": "b'])
def test_a_last_line_that_lacks_only_its_end_is_kept(torn: str, tmp_path: Path):
    path = tmp_path / "reusable_code.jsonl"
    path.write_text('{"id": "a"}' + ("\n" + torn if torn else ""))
    assert reusable_code._rows(path) == [{"id": "a"}]
    assert path.read_text() == '{"id": "a"}\n'


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data=x"], "allow_code_execution: got false; allowed: true"),
        (["allow_code_execution=true", "data=own"], "data=own has code of its own"),
        (["allow_code_execution=true", "data=x", "endpoint=ftp://x"], "endpoint: got 'ftp://x'"),
        (["allow_code_execution=true", "data=x", "endpoint=http://x"], "endpoint: got http://x without a model"),
        (
            ["allow_code_execution=true", "data=x", "endpoint=http://x", "model=m"],
            "data: got x without GSM_symbolic.jsonl",
        ),
    ],
)
def test_reusable_code_refuses_in_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reusable_code, "require", lambda: None)
    assert reusable_code.main(words) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


# The protocol


TEXT = " ".join(f"{p.question} {p.answer}" for p in word_problems.problems("p2", 1, 0)[:5]) + gsm.prompt(
    problem(0, "p2", 0, 0), "tir"
)
SMALL = "steps=1 batch=2 rank=2 templates=2 answer_tokens=4 workers=1".split()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny("qwen2", tmp_path_factory.mktemp("model"), text=TEXT)


def test_it_runs_from_its_command_and_resumes(
    model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = [
        f"model={model}",
        f"data={folder}",
        *SMALL,
        "composition=base,uniform,arrow",
        "shots=0,1",
        f"out={tmp_path}",
    ]
    assert main(PROTOCOL, [*words, "dry_run=true"]) == 0
    assert "2 experts (fewer, where they are there), 6 rows" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert main(PROTOCOL, words) == 0
    first = capsys.readouterr()
    assert "6 rows in" in first.out
    assert first.err == ""
    rows = load_rows(tmp_path, "llm_gsm")
    assert [row["measured"]["total"] for row in rows] == [4] * 6
    assert all(sum(row["measured"]["group_sizes"]) == 4 and len(row["measured"]["by_group"]) == 2 for row in rows)
    assert len(list((tmp_path / "experts").glob("*/adapter_model.safetensors"))) == 2
    for row in rows:
        kept = (tmp_path / "answers" / f"{row['hash']}.jsonl").read_text()
        assert len(kept.splitlines()) == 4
        assert "How many" not in kept  # the questions are not ours to copy
    before = (tmp_path / "llm_gsm.jsonl").read_bytes()
    assert main(PROTOCOL, words) == 0
    assert "0 new, 6 from before" in capsys.readouterr().out
    assert (tmp_path / "llm_gsm.jsonl").read_bytes() == before


@confined
def test_right_answers_are_counted_under_every_prompting_level_and_library(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A model that knows: the base answers all, the first composition none, by a table of right answers in place of
    decoding."""
    known = {p.question: p for level in LEVELS for p in gsm.problems("own", level, 2, 0)}

    def answers(base: Any, compositions: list, questions: list[str], longest: int, rows: int) -> list[list[str]]:
        right = []
        for question in questions:
            found = next(p for text, p in known.items() if text in question)
            right.append(f"```python\n{found.code}\n```" if "programs" in question else found.answer)
        return [right if composition is None else ["7 is 1 + 1 = 3"] * len(right) for composition in compositions]

    monkeypatch.setattr(asking, "answers", answers)
    words = [
        f"model={model}",
        *SMALL,
        "composition=base,sum",
        "asked=symbolic,p2",
        "prompting=cot,tir",
        "library=2-combination,oracle,mixed",
    ]
    words += ["solutions=reusable", "layers=mlp", "allow_code_execution=true", f"out={tmp_path}"]
    assert main(PROTOCOL, words) == 0
    for row in load_rows(tmp_path, "llm_gsm"):
        settings, counts = row["settings"], row["measured"]
        assert counts["total"] == {"symbolic": 10, "p2": 4}[settings["asked"]]
        assert counts["hits"] == (counts["total"] if settings["composition"] == "base" else 0)
        assert counts.get("kind_code", 0) == (
            counts["total"] if settings["composition"] == "base" and settings["prompting"] == "tir" else 0
        )
        assert counts.get("error_calculation", 0) == counts["total"] - counts["hits"]
        assert settings["composition"] == {"none": "base", "2-combination": "sum"}.get(settings["library"], "alone")
    shown = capsys.readouterr().out
    assert "16 rows in" in shown
    assert "10/10       100 %  " in shown, "one seed has no interval"


def test_an_expert_is_named_by_what_it_learned(model: Path, folder: Path, tmp_path: Path):
    base = load_base(str(model))
    point = Gsm(model=str(model), steps=1, batch=2, rank=2, templates=2)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    make = lambda data, levels=("symbolic",), role=1: lessons(Taught(str(data), levels, "text", 2, 0), point, 0, role)  # noqa: E731
    assert make(folder).key(base) == make(copy).key(base)
    assert len({make(folder).key(base), make(folder, ("p1",)).key(base), make(folder, role=2).key(base)}) == 3
    rows = (copy / "GSM_symbolic.jsonl").read_text().replace("Jamal", "Yusuf")
    (copy / "GSM_symbolic.jsonl").write_text(rows)
    assert make(folder).key(base) != make(copy).key(base)
    own, bridge = tokens(base, make(folder))
    first = gsm.trained(str(folder), "symbolic", 2, 0)[0]
    assert (len(own), bridge) == (80, [])
    assert own[0] == example(base, gsm.prompt(first, "cot"), first.answer)
    train_one(point, make(folder), PROTOCOL.options(out=str(tmp_path)))
    card = json.loads((tmp_path / "experts" / make(folder).key(base) / "expert.json").read_text())
    assert card["source"] == {
        "data": str(folder),
        "levels": ["symbolic"],
        "solutions": "text",
        "templates": 2,
        "seed": 0,
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("prompting=tir", "allow_code_execution: got false with prompting=tir; allowed: true"),
        ("asked=gsm8k", "asked: got gsm8k; allowed: symbolic | p1 | p2"),
        ("data={folder} solutions=code composition=sum", "solutions: got code with data="),
        ("data={folder} prompting=tir shots=8 allow_code_execution=true", "shots: got 8 with prompting=tir"),
        ("data=nowhere", "data: got nowhere without GSM_p2.jsonl"),
        ("judge=gpt", "endpoint: got ''"),
        ("composition=sum solutions=none", "the grid: got no point"),
        ("layers=none composition=sum", "the grid: got no point"),
        ("templates=101", "templates: got '101'"),
        ("allow_code_executoin=true", "did you mean 'allow_code_execution'?"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(
    words: str, said: str, folder: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
):
    monkeypatch.setattr("lora_reuse.llm.sandbox.require", lambda: None)
    assert main(PROTOCOL, [*words.format(folder=folder).split(), f"out={tmp_path / 'out'}"]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def settings(**changed: Any) -> dict[str, Any]:
    usual = {
        "data": "x",
        "model": "Qwen/Qwen2.5-Math-7B-Instruct",
        "asked": "p2",
        "composition": "uniform",
        "library": "2-combination",
    }
    return usual | {"layers": "attention", "shots": 0, "prompting": "cot", "solutions": "text"} | changed


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "34 %"),
        ({"composition": "arrow", "model": "Qwen/Qwen2.5-1.5B-Instruct"}, "9 %"),
        ({"composition": "base", "library": "none", "layers": "none", "solutions": "none"}, "68 %"),
        ({"composition": "arrow", "shots": 8}, "6 %"),
        ({"composition": "base", "library": "none", "layers": "none", "solutions": "none", "asked": "gsm8k"}, "95.3 %"),
        ({"composition": "base", "library": "none", "layers": "none", "solutions": "none", "asked": "p1"}, "76.8 %"),
        ({"prompting": "tir", "solutions": "reusable", "layers": "mlp"}, "39 %"),
        ({"prompting": "tir", "solutions": "none", "layers": "none", "composition": "base", "library": "none"}, "47 %"),
        ({"layers": "mlp"}, ""),
        ({"shots": 4}, ""),
        ({"composition": "sum"}, ""),
        ({"library": "p1", "composition": "alone"}, ""),
        ({"data": "own"}, ""),
        ({"model": "pocket"}, ""),
        ({"asked": "p1"}, ""),
    ],
)
def test_the_papers_number_stands_beside_the_same_cell_alone(changed: dict[str, Any], said: str):
    assert reported(Gsm(**settings(**changed))) == said


def test_the_command_knows_its_tables():
    assert len(command.questions(Gsm(asked="p2"), 0)) == 200
    assert len(command.questions(Gsm(asked="symbolic"), 0)) == 500
