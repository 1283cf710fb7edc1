"""GSM8K, GSM-Symbolic, P1 and P2 from the files they are published as, or our own word problems in their place; splits;
prompts.

A folder holds GSM_symbolic.jsonl, GSM_p1.jsonl and GSM_p2.jsonl (apple/ml-gsm-symbolic, generated_data; CC BY-NC-ND
4.0), and where they are asked for, GSM8K's test set as gsm8k_test.jsonl, its training set as gsm8k_train.jsonl for the
eight examples (openai/grade-school-math, test.jsonl and train.jsonl; MIT), and reusable_code.jsonl, which `lora-reuse
reusable_code` makes."""

import functools
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lora_reuse.llm.data import word_problems
from lora_reuse.llm.data.word_problems import FILES, LEVELS, Problem
from lora_reuse.runs.settings import SettingError

ASKED = ("gsm8k", *LEVELS)
OWN = "own"
PARTS = {"train": (0, 40), "dev": (40, 45), "test": (45, 50)}
"""Of every fifty instances of a template, by their number (A.4.1)."""
SAMPLED = 2
"""P2's instances a template that are asked (A.4.1)."""
SHOTS = 8

_COT = ("### Instruction:\n{question}\n\n### Response: Let's think step by step.", "{answer}")
_TIR = (
    "### Instruction:\nPlease integrate natural language reasoning with programs to solve the problem:\n{question}\n\n"
    "### Response: Let's reason step by step using natural language with programs to solve the problem.",
    "```python\n{code}\n```",
)
PROMPTS = {"cot": _COT, "tir": _TIR}
"""The prompts of Figure 7, and the answer that each is trained on."""


def problems(data: str, level: str, count: int, seed: int) -> list[Problem]:
    """The problems of a level, of `count` templates (0: all, or the hundred of the paper for our own).

    The seed draws our own problems; files are what they are. Raises SettingError for a folder or a file that is not in
    the format."""
    if data == OWN:
        if level not in LEVELS:
            raise SettingError("asked", level, " | ".join(LEVELS), f"data=own has no {level}; data=FOLDER may")
        return list(_own(level, count or 100, seed))
    folder = Path(data).expanduser()
    found = _read(folder, level)
    if level not in LEVELS:
        return found
    kept = set(list(dict.fromkeys(p.id for p in found))[: count or None])
    return [p for p in found if p.id in kept]


@functools.lru_cache(16)
def _own(level: str, count: int, seed: int) -> tuple[Problem, ...]:
    return tuple(word_problems.problems(level, count, seed))


def part(problems: Sequence[Problem], name: str) -> list[Problem]:
    """The instances of train, dev or test: 40, 5 and 5 of a template's 50, by instance. Raises SettingError for fewer
    than ten a template."""
    low, high = PARTS[name]
    kept = []
    for group in _by_template(problems):
        if len(group) < 10:
            raise SettingError(
                "data", f"{len(group)} instances of template {group[0].id}", "ten or more, of which a tenth is asked"
            )
        ordered = sorted(group, key=lambda p: p.instance)
        kept += ordered[len(ordered) * low // 50 : len(ordered) * high // 50]
    return kept


def sample(problems: Sequence[Problem], seed: int, each: int = SAMPLED) -> list[Problem]:
    """`each` instances of every template at random, as P2 is asked; the same ones for a seed whatever the order of the
    file."""
    kept = []
    for group in _by_template(problems):
        ordered = sorted(group, key=lambda p: p.instance)
        kept += random.Random(f"{seed} {group[0].id}").sample(ordered, min(each, len(ordered)))
    return kept


def asked(data: str, level: str, count: int, seed: int, split: str) -> list[Problem]:
    """What a level is tested on: all of GSM8K, the held-out instances of a level that experts are trained on, two a
    template of P2.

    `split=dev` takes other instances: of P2 those that the test does not take.
    """
    found = problems(data, level, count, seed)
    if level == "gsm8k":
        return found
    if level != "p2":
        return part(found, split)
    tested = sample(found, seed)
    return tested if split == "test" else sample([p for p in found if p not in tested], seed)


def trained(data: str, level: str, count: int, seed: int, code: bool = False) -> list[Problem]:
    """What an expert on a level learns: the first forty instances of a template; of P2, those that neither test nor dev
    asks. With `code`, those of them that reusable_code.jsonl solves."""
    found = problems(data, level, count, seed)
    if level == "p2":
        held_out = {(p.id, p.instance) for split in ("test", "dev") for p in asked(data, level, count, seed, split)}
        found = [p for p in found if (p.id, p.instance) not in held_out]
    else:
        found = part(found, "train")
    return _with_code(Path(data).expanduser(), level, found) if code and data != OWN else found


def shots(data: str, seed: int) -> list[Problem]:
    """Eight solved problems for the prompt: the first of GSM8K's training set, or easy ones of templates that are not
    asked."""
    if data == OWN:
        last = len(word_problems.templates()) - SHOTS
        return [word_problems.problem(last + n, "symbolic", 0, seed) for n in range(SHOTS)]
    return _read(Path(data).expanduser(), "gsm8k_train")[:SHOTS]


def prompt(problem: Problem, prompting: str, examples: Sequence[Problem] = ()) -> str:
    """The question as `cot` or `tir` asks it, after the solved examples."""
    question, answer = PROMPTS[prompting]
    before = [
        f"{question.format(question=e.question)}\n{answer.format(answer=e.answer, code=e.reusable)}" for e in examples
    ]
    return "\n\n".join([*before, question.format(question=problem.question)])


def lesson(problem: Problem, solutions: str) -> tuple[str, str]:
    """The prompt and the answer that an expert learns: in words (`text`), or as code, the level's own or the reusable
    one."""
    prompting = "cot" if solutions == "text" else "tir"
    code = problem.reusable if solutions == "reusable" else problem.code
    return prompt(problem, prompting), PROMPTS[prompting][1].format(answer=problem.answer, code=code)


def final(answer: str) -> float:
    """x of an answer that ends in "#### x". Raises ValueError."""
    return float(answer.rsplit("####", 1)[1].replace(",", "").strip().removeprefix("$"))


def _by_template(problems: Sequence[Problem]) -> list[list[Problem]]:
    groups: dict[str, list[Problem]] = {}
    for p in problems:
        groups.setdefault(p.id, []).append(p)
    return list(groups.values())


@functools.lru_cache(16)
def _read_cached(path: Path, _changed: int) -> tuple[Problem, ...]:
    found = []
    for number, row in _lines(path):
        where = f"{path}:{number}"
        question, answer = (_field(where, row, name) for name in ("question", "answer"))
        answer = re.sub(r"<<[^>]*>>", "", answer)  # GSM8K's notes for its calculator
        try:
            final(answer)
        except (ValueError, IndexError):
            raise SettingError(
                "data",
                f"{where} with an answer that ends {answer[-20:]!r}",
                'an answer that ends in "#### x", x a number',
            ) from None
        symbolic = path.name in FILES.values()
        name, instance = (_field(where, row, key) for key in ("id", "instance")) if symbolic else (str(number), "0")
        if not instance.isdecimal():
            raise SettingError("data", f"{where} with instance {instance!r}", "a whole number")
        found.append(Problem(name, int(instance), question, answer))
    if not found:
        raise SettingError("data", f"{path}, which is empty", "one JSON object a line")
    return tuple(found)


def _read(folder: Path, level: str) -> list[Problem]:
    path = folder / FILES.get(level, f"{level}.jsonl" if level == "gsm8k_train" else "gsm8k_test.jsonl")
    if not path.is_file():
        where = "apple/ml-gsm-symbolic, generated_data" if level in FILES else "openai/grade-school-math"
        raise SettingError(
            "data", f"{folder} without {path.name}", f"own, or a folder with {path.name}", f"it comes from {where}"
        )
    return list(_read_cached(path, path.stat().st_mtime_ns))


def _with_code(folder: Path, level: str, found: Sequence[Problem]) -> list[Problem]:
    """The problems that reusable_code.jsonl solves."""
    path = folder / "reusable_code.jsonl"
    if not path.is_file():
        raise SettingError(
            "data",
            f"{folder} without {path.name}",
            "a folder with it",
            f"lora-reuse reusable_code data={folder} makes it",
        )
    code = {
        tuple(_field(f"{path}:{n}", row, key) for key in ("level", "id", "instance")): _field(
            f"{path}:{n}", row, "code"
        )
        for n, row in _lines(path)
    }
    kept = [p._replace(reusable=code[key]) for p in found if (key := (level, p.id, str(p.instance))) in code]
    if not kept:
        raise SettingError(
            "data", f"{path} without a solution of {level}", "solutions of every level that is trained on"
        )
    return kept


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError("data", f"{path} ({error})", "a file of UTF-8 text that can be read") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise SettingError("data", f"{path}:{number}, {line[:40]!r}", "one JSON object a line")
            yield number, row


def _field(where: str, row: dict[str, Any], name: str) -> str:
    if not isinstance(row.get(name), str | int) or row[name] == "":
        raise SettingError(
            "data", f"{where} without {name!r}", "the fields of the published format", f"this line has {', '.join(row)}"
        )
    return str(row[name])
