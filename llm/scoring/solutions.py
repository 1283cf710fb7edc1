"""What a solution of a word problem says, and what is wrong with it where rules can decide: the final number, words or
code, the error.

The three errors are those of A.4.2. Rules execute the arithmetic that the solution states and compare its results with
those of the reference: an equation that does not hold is a calculation error; results that are all the reference's, but
not all of them, are steps missing; a result that the reference does not have is a misunderstanding. What shows none of
this is unidentified."""

import ast
import itertools
import math
import re
import warnings
from collections import Counter
from fractions import Fraction
from typing import NamedTuple

from lora_reuse.llm.data.arithmetic import evaluate

KINDS = ("text", "code", "unidentified")
ERRORS = ("semantic", "calculation", "step_missing", "unidentified", "none")

_NUMBER = r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+"
_NEW_TURN = re.compile(
    r"\n\s*(?:#+ *(?:Instruction|Question|Problem)|(?:Question|Problem|Q|User|Human) *\d*:)|<\|im_|</s>", re.IGNORECASE
)
_FENCE = re.compile(r"```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
_MARKED = re.compile(
    rf"####\s*\$?\s*({_NUMBER})|\\boxed\{{\s*(?:\\\$|\$)?\s*({_NUMBER})|answer is[:\s*]*\$?\s*({_NUMBER})",
    re.IGNORECASE,
)
_LATEX = (
    (r"\\(?:times|cdot)", "*"),
    (r"\\div", "/"),
    (r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}", r"((\1)/(\2))"),
    (r"\\[()\[\],!;]|\\left|\\right", ""),
)
_SIDE = r"[\d \t.+\-*/()]*"


class Equation(NamedTuple):
    """left = right, as a solution states it; `decimals` is how many of them the right side shows."""

    left: Fraction
    right: Fraction
    decimals: int

    @property
    def holds(self) -> bool:
        """Whether left rounds to right, or is cut to it, where right shows decimals; whether they are equal where it
        does not."""
        return self.left == self.right or (
            self.decimals > 0 and abs(self.left - self.right) < Fraction(1, 10**self.decimals)
        )


def own(text: str) -> str:
    """The solution, up to where the model goes on with a problem of its own."""
    return _NEW_TURN.split("\n" + text, maxsplit=1)[0].strip()


def last_number(text: str) -> float | None:
    """The official extraction of GSM-Symbolic: commas are dropped, and the last number counts."""
    found = re.findall(r"-?\d+\.?\d*", text.replace(",", ""))
    return float(found[-1]) if found else None


def marked(text: str) -> float | None:
    """The last number after "####", in a box, or after "the answer is"."""
    found = list(_MARKED.finditer(text))
    return float(next(filter(None, found[-1].groups())).replace(",", "")) if found else None


def equal(said: float | None, gold: float) -> bool:
    """Whether two numbers are the same as floats, but for rounding."""
    return said is not None and math.isclose(said, gold, rel_tol=1e-9, abs_tol=1e-6)


def program(text: str) -> str:
    """The Python in a solution: its fenced blocks up to the first output that the model imagines, or all of it; "" for
    none."""
    text = re.split(r"```[ \t]*output", text, maxsplit=1)[0]
    blocks = [
        code
        for language, code in _FENCE.findall(text)
        if language.lower() in ("", "python", "py", "python3") and _parses(code)
    ]
    if blocks:
        return "\n".join(blocks)
    statements = (ast.Assign, ast.FunctionDef, ast.Import, ast.ImportFrom, ast.For, ast.While)
    tree = _parses(text)
    return text if tree and any(isinstance(node, statements) for node in tree.body) else ""


def definitions(text: str) -> str:
    """The program of an answer that should define a function: its fenced blocks, or the longest run of lines from the
    first line of code on that is Python and defines something; "" for none."""
    if found := program(text):
        return found
    lines = text.split("\n")
    start = next((i for i, line in enumerate(lines) if re.match(r"(?:def|class|import|from|@)\b|@", line)), len(lines))
    for end in range(len(lines), start, -1):
        code = "\n".join(lines[start:end])
        tree = _parses(code)
        if tree and any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree.body):
            return code
    return ""


def kind(text: str) -> str:
    """One of KINDS: code where there is a program, words where at least three come with a number."""
    if program(text):
        return "code"
    return "text" if len(re.findall(r"[^\W\d_]{2,}", text)) >= 3 and re.search(r"\d", text) else "unidentified"


def equations(text: str) -> list[Equation]:
    """Every "left = right" in the text whose sides are arithmetic and whose left side has an operation, chains taken
    apart."""
    for pattern, plain in _LATEX:
        text = re.sub(pattern, plain, text)
    text = (
        re.sub(r"(?<=\d),(?=\d{3}\b)", "", text).replace("$", "").replace("×", "*").replace("÷", "/").replace("−", "-")
    )
    text = re.sub(r"(\d+(?:\.\d+)?)\s*%", r"(\1/100)", text)
    text = re.sub(r"(?<=[\d)])\s*[xX]\s*(?=[\d(])", " * ", text)
    found = []
    for before, after in itertools.pairwise(text.split("=")):
        left = re.search(rf"({_SIDE})$", before)
        right = re.match(rf"({_SIDE})", after)
        if left and right and re.search(r"[\d)]\s*[+\-*/]", left[1]):
            try:
                said = re.sub(r"[\s.+\-*/(]+$", "", right[1])
                found.append(
                    Equation(
                        evaluate(_balanced(left[1])),
                        evaluate(said),
                        len(said.partition(".")[2]) if said.count(".") == 1 else 0,
                    )
                )
            except ValueError:
                continue
    return found


def error(text: str, right: bool, reference: str, printed: float | None = None) -> str:
    """One of ERRORS for a solution, by rule; `printed` is what its program printed, whose arithmetic needs no check."""
    if right:
        return "none"
    wanted = Counter(equation.right for equation in equations(reference))
    if program(text):
        if printed is None:
            return "unidentified"
        return "step_missing" if any(equal(printed, float(value)) for value in wanted) else "semantic"
    stated = equations(text)
    if any(not equation.holds for equation in stated):
        return "calculation"
    results = Counter(equation.right for equation in stated)
    if results.keys() - wanted.keys():
        return "semantic"
    return (
        "step_missing" if results and any(results[value] < count for value, count in wanted.items()) else "unidentified"
    )


def _parses(code: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings(action="ignore"):  # of a model's backslashes
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _balanced(expression: str) -> str:
    """The expression without the brackets before it that it does not close, and without a list's bullet or number."""
    expression = re.sub(r"^\s*(?:[-*+.)]+\s+|\d+[.)]\s+)+", "", expression)
    while expression.count("(") != expression.count(")") and re.match(r"[\s(]*\(", expression):
        expression = expression.replace("(", "", 1)
    return expression
