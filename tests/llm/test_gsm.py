"""Word problems: the generator and its three solutions, the published format, marks by rule and by a judge, reusable code, the protocol."""

import contextlib
import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from llm import gsm as command
from llm import judge, marking, reusable_code, solutions, solving
from llm.data import gsm, word_problems
from llm.data.arithmetic import evaluate
from llm.data.gsm import Problem
from llm.data.word_problems import INSTANCES, LEVELS, graph, problem, templates
from llm.endpoint import Endpoint
from llm.exam import Question
from llm.gsm import PROTOCOL, Gsm, Taught, reported
from llm.lessons import lessons
from llm.models import example, load_base
from llm.protocol import main, train_one
from runs.rows import load_rows
from runs.settings import SettingError
from tests.llm.test_sandbox import confined
from tests.llm.tiny import tiny

torch.set_num_threads(1)


# The generator


def printed(code: str) -> float:
    """What a program of ours prints, run here."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})
    return float(out.getvalue())


@pytest.mark.parametrize("level", LEVELS)
def test_words_and_both_programs_of_every_template_agree(level: str):
    for number in range(len(templates())):
        made = problem(number, level, 0, seed=1)
        gold = gsm.final(made.answer)
        assert printed(made.code) == printed(made.reusable) == gold > 0, made
        stated = solutions.equations(made.answer)
        assert len(stated) == len(graph(templates()[number], level)) == made.answer.count("\n")
        assert all(equation.holds for equation in stated)
        assert float(stated[-1].right) == gold
        assert "{" not in made.question + made.answer + made.code


def test_a_level_is_a_clause_and_a_node_more_on_the_same_graph():
    for template in templates():
        nodes = [[step[:2] for step in graph(template, level)] for level in LEVELS]
        assert [len(n) - len(nodes[0]) for n in nodes] == [0, 1, 2]
        assert nodes[2][:-1] == nodes[1]
        assert nodes[1][:-1] == nodes[0]
    questions = [problem(0, level, 0, seed=0).question for level in LEVELS]
    assert [len(re.findall(r"[.?](?= |$)", q)) - len(re.findall(r"[.?](?= |$)", questions[0])) for q in questions] == [0, 1, 2]


def test_the_reusable_function_is_the_same_at_every_level_and_its_defaults_change_nothing():
    for number in range(0, len(templates()), 7):
        levels = [problem(number, level, 3, seed=0) for level in LEVELS]
        assert len({p.reusable.split("\n\nprint")[0] for p in levels}) == 1
        assert [p.reusable.split("\n\nprint")[1].count("=") - levels[0].reusable.split("\n\nprint")[1].count("=") for p in levels] == [0, 1, 2]
        assert len({p.code.count("\n") for p in levels}) == 3


def test_nothing_that_is_held_out_was_trained_on():
    for level in LEVELS:
        found = word_problems.problems(level, 4, seed=0)
        assert len(found) == len({p.question for p in found}) == 4 * INSTANCES
    taught = {p.question for level in LEVELS for p in gsm.trained("own", level, 4, 0)}
    for level in LEVELS:
        for split in ("dev", "test"):
            assert not taught & {p.question for p in gsm.asked("own", level, 4, 0, split)}
    assert min(int(p.id) for p in gsm.shots("own", 0)) >= 100  # the most templates that are asked


def test_the_same_seed_draws_the_same_and_another_another():
    one, again, other = (word_problems.problems("p1", 1, seed) for seed in (0, 0, 1))
    assert one == again
    assert not {p.question for p in one} & {p.question for p in other}


def test_the_command_shows_and_writes(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert word_problems.main(["show=p1", "count=1", "solutions=reusable"]) == 0
    assert "def solve(" in capsys.readouterr().out
    assert word_problems.main([f"write={tmp_path}", "templates=1"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["GSM_p1.jsonl", "GSM_p2.jsonl", "GSM_symbolic.jsonl", "reusable_code.jsonl"]
    assert word_problems.main(["show=p3"]) == 2
    assert word_problems.main([f"write={tmp_path / 'GSM_p1.jsonl'}"]) == 2
    assert capsys.readouterr().err.count("\n") == 2


# Files in the published format


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three templates in the published format, GSM8K's two files, and reusable code."""
    made = tmp_path_factory.mktemp("gsm")
    word_problems.write(made, 3, 0)
    lines = [
        {"question": f"How much is {n} and 1,000?", "answer": f"It is {n}+1000=<<{n}+1000={n + 1000}>>{n + 1000}.\n#### {n + 1000:,}"}
        for n in range(9)
    ]
    for name in ("train", "test"):
        (made / f"gsm8k_{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return made


def test_files_are_read_as_they_are_published(folder: Path):
    keys = {"id", "instance", "question", "answer", "original_id", "original_question", "original_answer"}
    assert json.loads((folder / "GSM_p2.jsonl").read_text().splitlines()[0]).keys() == keys
    for level in LEVELS:
        assert gsm.problems(str(folder), level, 100, 0) == [p._replace(code="", reusable="") for p in word_problems.problems(level, 3, 0)]
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
        ("GSM_p2.jsonl", None, "without GSM_p2.jsonl; allowed: own, or a folder with GSM_p2.jsonl; it comes from apple/ml-gsm-symbolic"),
        ("GSM_p2.jsonl", "", "which is empty"),
        ("GSM_p2.jsonl", "{}\n", "GSM_p2.jsonl:1 without 'question'"),
        ("GSM_p2.jsonl", "[1]\n", "GSM_p2.jsonl:1, '[1]'; allowed: one JSON object a line"),
        ("GSM_p2.jsonl", '{"id": 1, "instance": 0, "question": "a", "answer": "b"}\n', "GSM_p2.jsonl:1 with an answer that ends 'b'"),
        ("GSM_p2.jsonl", '{"id": 1, "question": "a", "answer": "#### 1"}\n', "GSM_p2.jsonl:1 without 'instance'"),
        ("GSM_p2.jsonl", '{"id": 1, "instance": "x", "question": "a", "answer": "#### 1"}\n', "with instance 'x'"),
        ("GSM_p2.jsonl", b"\xff\xfe\x00", "a file of UTF-8 text"),
        ("GSM_p1.jsonl", '{"id": 1, "instance": 0, "question": "a", "answer": "#### 1"}\n', "1 instances of template 1; allowed: ten or more"),
        ("reusable_code.jsonl", None, "without reusable_code.jsonl; allowed: a folder with it; python -m llm.reusable_code"),
        ("reusable_code.jsonl", '{"level": "p2", "id": 0, "instance": 0, "code": "print(1)"}\n', "without a solution of symbolic"),
    ],
)
def test_bad_files_are_refused_in_one_line(folder: Path, tmp_path: Path, name: str, text: str | bytes | None, said: str, capsys: Any):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).unlink()
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    out = tmp_path / "out"
    assert main(PROTOCOL, [f"data={tmp_path}", "solutions=reusable", "composition=uniform", "templates=2", f"out={out}"]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not out.exists()


# Prompts


def test_prompts_are_those_of_figure_7():
    asked = Problem("0", 0, "Q?", "A\n#### 1", "", "print(1)")
    assert gsm.prompt(asked, "cot") == "### Instruction:\nQ?\n\n### Response: Let's think step by step."
    assert gsm.prompt(asked, "tir") == (
        "### Instruction:\nPlease integrate natural language reasoning with programs to solve the problem:\nQ?\n\n"
        "### Response: Let's reason step by step using natural language with programs to solve the problem."
    )
    assert gsm.lesson(asked, "text") == (gsm.prompt(asked, "cot"), "A\n#### 1")
    assert gsm.lesson(asked, "reusable") == (gsm.prompt(asked, "tir"), "```python\nprint(1)\n```")


def test_eight_solved_examples_come_before_the_question():
    asked = problem(0, "p2", 0, 0)
    told = gsm.prompt(asked, "cot", gsm.shots("own", 0))
    assert told.endswith("\n\n" + gsm.prompt(asked, "cot"))
    assert told.count("### Instruction:") == 9
    assert told.count("\n#### ") == 8
    assert solutions.own(told.split("Let's think step by step.")[1]) == gsm.shots("own", 0)[0].answer  # where a base goes on, it is cut


# Marks


@pytest.mark.parametrize(
    ("expression", "value"), [("12 * (100 - 25) / 100", 9), ("-3 + 4", 1), ("0.1 + 0.2", 0.3), ("7 // 2", 3), ("a * 2", 10), ("1 / 3 * 3", 1)]
)
def test_arithmetic_is_exact(expression: str, value: float):
    assert float(evaluate(expression, {"a": 5})) == value


@pytest.mark.parametrize("expression", ["", "1 +", "2 ** 9", "b", "1 / 0", "f(1)", "'a'", "(" * 300, "1e999", "True", "[1]", "1 if 1 else 2"])
def test_what_is_not_arithmetic_is_refused(expression: str):
    with pytest.raises(ValueError, match="not arithmetic"):
        evaluate(expression, {"a": 5})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("5 apples cost 3 * 4 = 12 coins. Then 12 + 5 = 18.", [(12, 12, True), (17, 18, False)]),
        ("1. 3*4=12\n2. (12+3)/2 = 7.5", [(12, 12, True), (7.5, 7.5, True)]),
        (r"\(3 \times 4 = 12\), \[\frac{12}{5} = 2.4\]", [(12, 12, True), (2.4, 2.4, True)]),
        ("total = 3 + 4 = 7", [(7, 7, True)]),
        ("2 + 3 = 5 + 1 = 6", [(5, 6, False), (6, 6, True)]),
        ("10/3 = 3.33, 20/3 = 6.67", [(10 / 3, 3.33, True), (20 / 3, 6.67, True)]),
        ("10/3 = 3.43", [(10 / 3, 3.43, False)]),
        ("$1,200 + $300 = $1,500", [(1500, 1500, True)]),
        ("50 * 20% = 10", [(10, 10, True)]),
        ("- 3 x 4 = 12", [(12, 12, True)]),
        ("x = 5 and 7 = 7, as 3 apples + 4 pears = 7", []),
    ],
)
def test_equations_are_found_and_executed(text: str, found: list[tuple[float, float, bool]]):
    assert [(float(e.left), float(e.right), e.holds) for e in solutions.equations(text)] == found


@pytest.mark.parametrize(
    ("text", "last", "marked"),
    [
        ("It is 12.\n#### 12", 12, 12),
        ("So \\boxed{1,234.50} coins", 1234.5, 1234.5),
        ("The answer is: **$7**.", 7, 7),
        ("He has -3 left", -3, None),
        ("no number", None, None),
        ("the answer is 5, said on day 3", 3, 5),
    ],
)
def test_the_number_that_counts(text: str, last: float | None, marked: float | None):
    assert (solutions.last_number(text), solutions.marked(text)) == (last, marked)


@pytest.mark.parametrize(
    ("text", "kind", "program"),
    [
        ("Ada has 3 apples.", "text", ""),
        ("We write\n```python\nx = 3\nprint(x)\n```\nso 3", "code", "x = 3\nprint(x)\n"),
        ("```python\na = 1\n```\nand\n```python\nprint(a)\n```\n```output\n9\n```\n```python\nno\n```", "code", "a = 1\n\nprint(a)\n"),
        ("x = 3\nprint(x * 2)", "code", "x = 3\nprint(x * 2)"),
        ("```python\nprint(", "unidentified", ""),
        ("```python\nprint(5)", "code", "print(5)"),
        ("```\n3 * 4 apples are twelve\n```\nThat makes 12 of them.", "text", ""),
        ("", "unidentified", ""),
        ("#### 5", "unidentified", ""),
        ("12 12 12 12", "unidentified", ""),
    ],
)
def test_the_kind_of_a_solution(text: str, kind: str, program: str):
    assert (solutions.kind(text), solutions.program(text)) == (kind, program)


REFERENCE = problem(8, "p2", 0, 0).answer


def test_every_error_is_told_from_the_others_on_the_generators_own_solutions():
    """Each solution spoiled in each way; the rules name the way (planted mistakes, of which none may pass as another)."""
    for number in range(60):
        reference = problem(number, "p2", 0, 0).answer
        lines = reference.split("\n")
        assert solutions.error(reference, True, reference) == "none"
        assert solutions.error("\n".join(lines[:-2]), False, reference) == "step_missing"
        wrong = re.sub(r"= (\d+)", lambda m: f"= {int(m[1]) + 1}", lines[0])
        assert solutions.error("\n".join([wrong, *lines[1:]]), False, reference) == "calculation"
        misread = lines[0] + "\nThen 1000 * 1001 = 1001000."
        assert solutions.error(misread, False, reference) == "semantic"
        assert solutions.error("I think it is 7 or so.", False, reference) == "unidentified"


def test_the_error_of_a_program_is_read_from_what_it_printed():
    code = "```python\nprint(1)\n```"
    step = float(solutions.equations(REFERENCE)[0].right)
    assert solutions.error(code, False, REFERENCE, printed=step) == "step_missing"
    assert solutions.error(code, False, REFERENCE, printed=-1.0) == "semantic"
    assert solutions.error(code, False, REFERENCE, printed=None) == "unidentified"


@confined
def test_what_a_program_prints_is_its_answer_and_the_run_goes_on():
    chosen = [problem(n, "p2", 0, 0) for n in range(5)]
    said = [
        f"So:\n```python\n{chosen[0].reusable}\n```\nIt is 1.",
        "```python\nwhile True: print('x' * 1000)\n```",
        "```python\nimport os\nos.fork()\n```",
        chosen[3].answer,
        f"```python\n{chosen[4].code}\n```\n```output\n0\n```",
    ]
    marks = marking.mark(chosen, said, execute=True)
    assert [m["right"] for m in marks] == [True, False, False, True, True]
    assert [m.get("program") for m in marks] == ["done", "output", "denied", None, "done"]
    assert [m["kind"] for m in marks] == ["code", "code", "code", "text", "code"]
    unrun = marking.mark(chosen, said, execute=False)
    assert [m["right"] for m in unrun] == [False, False, False, True, False]
    assert not any("program" in m for m in unrun)


# An endpoint


class Stub(NamedTuple):
    """A local server that answers like a chat model, and what it was asked."""

    url: str
    asked: list[dict[str, Any]]
    headers: list[dict[str, str]]


@pytest.fixture
def stub() -> Iterator[Callable[[Callable[[list[dict[str, str]], int], str | int]], Stub]]:
    """Starts a server that answers by a function of the messages and of how many came before; a number is a status."""
    servers = []

    def start(answer: Callable[[list[dict[str, str]], int], str | int]) -> Stub:
        asked, headers = [], []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                said = answer(body["messages"], len(asked))
                asked.append(body | {"path": self.path})
                headers.append(dict(self.headers))
                whole = json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]}).encode()
                whole = b"not now" if isinstance(said, int) else whole if said else b"{}"
                self.send_response(said if isinstance(said, int) else 200)
                self.send_header("Content-Length", str(len(whole)))
                self.end_headers()
                self.wfile.write(whole)

            def log_message(self, format: str, *args: Any) -> None: ...

        server = HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return Stub(f"http://127.0.0.1:{server.server_port}/v1", asked, headers)

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_endpoint_is_asked_in_the_usual_form(stub: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("A_KEY", "the secret")
    server = stub(lambda messages, before: messages[-1]["content"].upper() if before else 503)
    said = Endpoint(server.url + "/", "small", "A_KEY", pause=0.0).say([("system", "be loud"), ("user", "hello")])
    assert said == "HELLO"
    assert len(server.asked) == 2  # once more after a 503
    assert server.asked[1]["path"] == "/v1/chat/completions"
    assert (server.asked[1]["model"], server.asked[1]["temperature"]) == ("small", 0)
    assert server.headers[1]["Authorization"] == "Bearer the secret"


@pytest.mark.parametrize(("answer", "tries", "why"), [(401, 1, "status 401, not now"), (429, 3, "status 429"), ("", 1, "no chat completion")])
def test_an_endpoint_that_gives_no_answer_is_one_line_without_the_key(stub: Any, monkeypatch: Any, answer: str | int, tries: int, why: str):
    monkeypatch.setenv("A_KEY", "the secret")
    server = stub(lambda messages, before: answer)
    with pytest.raises(SettingError, match=why) as error:
        Endpoint(server.url, "small", "A_KEY", tries=3, pause=0.0).say([("user", "hello")])
    assert len(server.asked) == tries
    assert "the secret" not in str(error.value)


def test_nobody_there_is_one_line():
    with pytest.raises(SettingError, match=r"endpoint: got http://127\.0\.0\.1:9/v1"):
        Endpoint("http://127.0.0.1:9/v1", "small", "NO_KEY", tries=2, pause=0.0).say([("user", "hello")])


def test_a_judge_is_heard_and_compared_with_the_rules(stub: Any):
    chosen = [problem(n, "p2", 0, 0) for n in range(4)]
    said = [chosen[0].answer, chosen[1].answer.rsplit("\n", 2)[0], "1 + 1 = 3", chosen[3].answer]
    opinions = [
        '{"kind": "text", "correct": true, "error": "none"}',
        'Well: {"kind": "text", "correct": false, "error": "step_missing"}',
        '```json\n{"kind": "code", "correct": true, "error": "none"}\n```',
        '{"kind": "poem", "correct": true, "error": "none"}',
    ]
    server = stub(lambda messages, before: opinions[before])
    marks = marking.mark(chosen, said, False, Endpoint(server.url, "judge", "NO_KEY"))
    assert [m["judge_unclear"] for m in marks] == [False, False, False, True]
    assert [m.get("agreed") for m in marks] == [True, True, False, None]
    assert [m.get("same_error") for m in marks] == [None, True, False, None]
    assert [m.get("judged_kind") for m in marks] == ["text", "text", "code", None]
    asked = [Question("", p.id, {}, p) for p in chosen]
    counts = solving.counted(asked, marks)["measured"]
    assert (counts["hits"], counts["total"], counts["agreed"], counts["same_error"], counts["judge_unclear"]) == (2, 4, 2, 1, 1)
    assert (counts["judged_kind_text"], counts["error_calculation"], counts["error_none"]) == (2, 1, 2)
    told = server.asked[1]["messages"][1]["content"]
    assert all(part in told for part in (chosen[1].question, chosen[1].answer, said[1]))


@pytest.mark.parametrize("said", ["", "no", "{", "[]", '{"kind": "text"}', '{"kind": ["text"], "correct": 1, "error": "none"}'])
def test_a_judge_that_rambles_has_no_opinion(said: str):
    class Rambling(Endpoint):
        def say(self, messages: Any) -> str:
            return said

    assert judge.judge(Rambling("http://nowhere", "m"), "q", "r", "s") is None


# Reusable code


@confined
def test_reusable_code_is_written_checked_by_running_and_used(stub: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
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
            return f"```python\n{function}\n\n" + "\n".join("print" + p.reusable.split("\n\nprint")[1] for p in asked) + "\n```"

    server = stub(answer)
    words = [f"data={tmp_path}", f"endpoint={server.url}", "model=pupil", "allow_code_execution=true", "parallel=1", "templates=2"]
    few = [p for level in LEVELS for p in gsm.problems(str(tmp_path), level, 3, 0) if p.instance < 10]
    for level in LEVELS:  # ten instances a template, of which eight are learned
        rows = [json.loads(line) for line in (tmp_path / gsm.FILES[level]).read_text().splitlines()]
        (tmp_path / gsm.FILES[level]).write_text("".join(json.dumps(row) + "\n" for row in rows if row["instance"] < 10))
    assert len(few) == 90
    assert reusable_code.main(words) == 0
    assert "2 of 2 templates have a function; 30 of 32 of their problems have a program" in capsys.readouterr().out
    assert len(server.asked) == 2 * 2 + 24 + 2 * 6 + 2 * reusable_code.TURNS
    before = len(server.asked)
    assert reusable_code.main(words) == 0
    assert len(server.asked) == before + 2 * reusable_code.TURNS  # only what failed is tried again
    taught = Taught(str(tmp_path), ("symbolic", "p1"), "reusable", 2, 0).pairs()
    assert len(taught) == 30
    assert all("def solve(" in answer and "### Instruction" in question for question, answer in taught)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data=x"], "allow_code_execution: got false; allowed: true"),
        (["allow_code_execution=true", "data=own"], "data=own has code of its own"),
        (["allow_code_execution=true", "data=x", "endpoint=ftp://x"], "endpoint: got 'ftp://x'"),
        (["allow_code_execution=true", "data=x", "endpoint=http://x"], "endpoint: got http://x without a model"),
        (["allow_code_execution=true", "data=x", "endpoint=http://x", "model=m"], "data: got x without GSM_symbolic.jsonl"),
    ],
)
def test_reusable_code_refuses_in_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reusable_code, "require", lambda: None)
    assert reusable_code.main(words) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


# The protocol


TEXT = " ".join(f"{p.question} {p.answer}" for p in word_problems.problems("p2", 1, 0)[:5]) + gsm.prompt(problem(0, "p2", 0, 0), "tir")
SMALL = "steps=1 batch=2 rank=2 templates=2 answer_tokens=4 workers=1".split()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny("qwen2", tmp_path_factory.mktemp("model"), text=TEXT)


def test_it_runs_from_its_command_and_resumes(model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = [f"model={model}", f"data={folder}", *SMALL, "composition=base,uniform,arrow", "shots=0,1", f"out={tmp_path}"]
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
    """A model that knows: the base answers all, the first composition none, by a table of right answers in place of decoding."""
    known = {p.question: p for level in LEVELS for p in gsm.problems("own", level, 2, 0)}

    def answers(base: Any, compositions: list, questions: list[str], longest: int, rows: int) -> list[list[str]]:
        right = []
        for question in questions:
            found = next(p for text, p in known.items() if text in question)
            right.append(f"```python\n{found.code}\n```" if "programs" in question else found.answer)
        return [right if composition is None else ["7 is 1 + 1 = 3"] * len(right) for composition in compositions]

    monkeypatch.setattr(solving, "answers", answers)
    words = [f"model={model}", *SMALL, "composition=base,sum", "asked=symbolic,p2", "prompting=cot,tir", "library=2-combination,oracle,mixed"]
    words += ["solutions=reusable", "layers=mlp", "allow_code_execution=true", f"out={tmp_path}"]
    assert main(PROTOCOL, words) == 0
    for row in load_rows(tmp_path, "llm_gsm"):
        settings, counts = row["settings"], row["measured"]
        assert counts["total"] == {"symbolic": 10, "p2": 4}[settings["asked"]]
        assert counts["hits"] == (counts["total"] if settings["composition"] == "base" else 0)
        assert counts.get("kind_code", 0) == (counts["total"] if settings["composition"] == "base" and settings["prompting"] == "tir" else 0)
        assert counts.get("error_calculation", 0) == counts["total"] - counts["hits"]
        assert settings["composition"] == {"none": "base", "2-combination": "sum"}.get(settings["library"], "alone")
    shown = capsys.readouterr().out
    assert "16 rows in" in shown
    assert "100 % [" in shown


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
    own, bridge = make(folder).tokens(base)
    first = gsm.trained(str(folder), "symbolic", 2, 0)[0]
    assert (len(own), bridge) == (80, [])
    assert own[0] == example(base, gsm.prompt(first, "cot"), first.answer)
    train_one(point, make(folder), PROTOCOL.options(out=str(tmp_path)))
    card = json.loads((tmp_path / "experts" / make(folder).key(base) / "expert.json").read_text())
    assert card["source"] == {"data": str(folder), "levels": ["symbolic"], "solutions": "text", "templates": 2, "seed": 0}


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
def test_mistakes_are_one_line_and_nothing_is_written(words: str, said: str, folder: Path, tmp_path: Path, capsys: Any, monkeypatch: Any):
    monkeypatch.setattr("llm.sandbox.require", lambda: None)
    assert main(PROTOCOL, [*words.format(folder=folder).split(), f"out={tmp_path / 'out'}"]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def settings(**changed: Any) -> dict[str, Any]:
    usual = {"data": "x", "model": "Qwen/Qwen2.5-Math-7B-Instruct", "asked": "p2", "composition": "uniform", "library": "2-combination"}
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
    assert reported(settings(**changed)) == said


def test_the_command_knows_its_tables():
    assert command.count(Gsm(asked="p2")) == 200
    assert command.count(Gsm(asked="p2", data="files")) == 100
    assert command.count(Gsm(asked="symbolic")) == 500
