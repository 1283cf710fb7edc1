"""Marks by rule: arithmetic, equations, the number that counts, words or code, which error, and what a program
prints."""

import re

import pytest
import torch

from lora_reuse.llm.data.arithmetic import evaluate
from lora_reuse.llm.data.gsm import final
from lora_reuse.llm.data.word_problems import problem
from lora_reuse.llm.scoring import solutions, word_problems
from tests.llm.test_sandbox import confined

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("expression", "value"),
    [("12 * (100 - 25) / 100", 9), ("-3 + 4", 1), ("0.1 + 0.2", 0.3), ("7 // 2", 3), ("a * 2", 10), ("1 / 3 * 3", 1)],
)
def test_arithmetic_is_exact(expression: str, value: float):
    assert float(evaluate(expression, {"a": 5})) == value


@pytest.mark.parametrize(
    "expression", ["", "1 +", "2 ** 9", "b", "1 / 0", "f(1)", "'a'", "(" * 300, "1e999", "True", "[1]", "1 if 1 else 2"]
)
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
        (
            "```python\na = 1\n```\nand\n```python\nprint(a)\n```\n```output\n9\n```\n```python\nno\n```",
            "code",
            "a = 1\n\nprint(a)\n",
        ),
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
    """Each solution spoiled in each way; the rules name the way (planted mistakes, of which none may pass as
    another)."""
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
    chosen = [problem(n, "p2", 0, 0) for n in range(6)]
    said = [
        f"So:\n```python\n{chosen[0].reusable}\n```\nIt is 1.",
        "```python\nwhile True: print('x' * 1000)\n```",
        "```python\nimport os\nos.fork()\n```",
        chosen[3].answer,
        f"```python\n{chosen[4].code}\n```\n```output\n0\n```",
        f"```python\nx = unknown + {final(chosen[5].answer):g}\n```",  # the right number stands in a program that fails
    ]
    marks = word_problems.mark(chosen, said, execute=True)
    assert [m["right"] for m in marks] == [True, False, False, True, True, False]
    assert [m.get("program") for m in marks] == ["done", "output", "denied", None, "done", "error"]
    assert [m["kind"] for m in marks] == ["code", "code", "code", "text", "code", "code"]
    unrun = word_problems.mark(chosen, said, execute=False)
    assert [m["right"] for m in unrun] == [False, False, False, True, False, True]
    assert not any("program" in m for m in unrun)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("Sure:\n```python\ndef f(x):\n    return x\n```\nDone.", "def f(x):\n    return x\n"),
        ("def f(x):\n    return x", "def f(x):\n    return x"),
        (
            "Aquí está:\nimport math\ndef f(x):\n    return math.pi\nEsta función es correcta.",
            "import math\ndef f(x):\n    return math.pi",
        ),
        (
            "from math import pi\n@staticmethod\ndef f(): return pi\n\n# Tests\nassert (",
            "from math import pi\n@staticmethod\ndef f(): return pi\n\n# Tests",
        ),
        ("No sé.", ""),
        ("def f(x", ""),
        ("import math\nnada de nada", ""),
        ("", ""),
    ],
)
def test_the_program_of_an_answer(answer: str, code: str):
    assert solutions.definitions(answer) == code
