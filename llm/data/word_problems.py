"""python -m llm.data.word_problems show=p2

Word problems of our own, easy, harder and hardest, in the structure of GSM-Symbolic and with none of its text: a
template is a story and two clauses; `symbolic` tells the story, `p1` adds the first clause, `p2` the second. Each
instance draws names and numbers anew. A template's computation graph at one level is the beginning of its graph at the
next (Figure 5 of the paper), so that there are solutions in words, as a program of the level's own graph, and as one
function of the whole graph that is called for every level (`reusable`)."""

import functools
import itertools
import json
import random
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from lora_reuse.llm.data.arithmetic import evaluate, plain
from lora_reuse.runs import files
from lora_reuse.runs.command import with_options
from lora_reuse.runs.settings import Choice, Place, SettingError, Text, Whole, setting

LEVELS = ("symbolic", "p1", "p2")
FILES = {"symbolic": "GSM_symbolic.jsonl", "p1": "GSM_p1.jsonl", "p2": "GSM_p2.jsonl"}
"""The official names; what `write=` writes has the official format."""
INSTANCES = 50


class Problem(NamedTuple):
    """An instance of a template: the answer in words ends in "#### x"; the code, where there is any, prints x."""

    id: str
    instance: int
    question: str
    answer: str
    code: str = ""
    reusable: str = ""


class Step(NamedTuple):
    """A node of the computation graph, from numbers and earlier nodes, and the sentence that says it."""

    name: str
    expression: str
    sentence: str


class Template(NamedTuple):
    """A story and its clauses, in the order in which they are told."""

    story: dict[str, Any]
    clauses: tuple[dict[str, Any], ...]


@functools.cache
def _source() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "word_problems.toml").read_text(encoding="utf-8"))


@functools.cache
def templates() -> tuple[Template, ...]:
    """Every story with every two clauses of its kind, in either order, in an order that is random and always the
    same."""
    source = _source()
    pairs = lambda story: itertools.permutations([c for c in source["clause"] if c["kind"] == story["kind"]], 2)  # noqa: E731
    found = [Template(story, clauses) for story in source["story"] for clauses in pairs(story)]
    random.Random("word problems").shuffle(found)
    return tuple(found)


def graph(template: Template, level: str) -> list[Step]:
    """The steps from the numbers of the question to its answer, which is the last one."""
    steps = [Step(*step) for step in template.story["steps"]]
    for number, clause in enumerate(template.clauses[: LEVELS.index(level)], 1):
        before, total = steps[-1].name, f"total_{number}"
        expression, sentence = clause["step"]
        said = sentence.replace("{total}", f"{{{total}}}").replace("{before}", f"{{{before}}}")
        steps.append(Step(total, expression.replace("before", before), said))
    return steps


def problem(template: int, level: str, instance: int, seed: int, again: int = 0) -> Problem:
    """An instance of a template at a level, or the draw after it; its numbers make every node of the graph a whole
    number above 0."""
    which = templates()[template]
    clauses = which.clauses[: LEVELS.index(level)]
    rng = random.Random(f"{seed} {template} {level} {instance} {again}")
    words = {name: rng.choice(listed) for name, listed in _source()["words"].items()}
    ranges = which.story["numbers"] | {clause["name"]: clause["number"] for clause in clauses}
    steps = graph(which, level)
    numbers, values = _draw(ranges, steps, rng)
    told = words | {name: plain(Fraction(value)) for name, value in values.items()}
    told["things"] = which.story.get("things", "").format(**words)
    ask = _source()["questions"][which.story["kind"]]
    question = " ".join(
        text.format(**told) for text in (which.story["text"], *(clause["text"] for clause in clauses), ask)
    )
    lines = [step.sentence.format(**told) for step in steps]
    answer = "\n".join([*lines, f"#### {told[steps[-1].name]}"])
    return Problem(str(template), instance, question, answer, _program(numbers, steps), _call(which, numbers))


def _draw(
    ranges: dict[str, Sequence[int]], steps: Sequence[Step], rng: random.Random
) -> tuple[dict[str, int], dict[str, Fraction | int]]:
    while True:
        numbers = {name: rng.randint(*ends) for name, ends in ranges.items()}
        values: dict[str, Fraction | int] = dict(numbers)
        for step in steps:
            values[step.name] = evaluate(step.expression, values)
            if values[step.name] <= 0 or Fraction(values[step.name]).denominator > 1:
                break
        else:
            return numbers, values


def _program(numbers: dict[str, int], steps: Sequence[Step]) -> str:
    lines = [f"{name} = {value}" for name, value in numbers.items()] + [
        f"{step.name} = {step.expression}" for step in steps
    ]
    return "\n".join([*lines, f"print({steps[-1].name})"])


def _call(template: Template, numbers: dict[str, int]) -> str:
    """The function of the template's whole graph, called with the numbers that this level has."""
    optional = [f"{clause['name']}={clause['neutral']}" for clause in template.clauses]
    lines = [f"def solve({', '.join([*template.story['numbers'], *optional])}):"]
    steps = graph(template, LEVELS[-1])
    lines += [f"    {step.name} = {step.expression}" for step in steps] + [f"    return {steps[-1].name}", ""]
    return "\n".join([*lines, f"print(solve({', '.join(f'{name}={value}' for name, value in numbers.items())}))"])


def problems(level: str, count: int, seed: int, first: int = 0) -> list[Problem]:
    """Every instance of `count` templates from `first` on, no question twice: what is held out was not trained on.

    Raises SettingError for a level or a number of templates there is not.
    """
    if level not in LEVELS:
        raise SettingError("level", repr(level), " | ".join(LEVELS))
    if first + count > len(templates()):
        raise SettingError("templates", count, f"a whole number from 1 to {len(templates()) - first}")
    found: dict[str, Problem] = {}
    for template, instance in itertools.product(range(first, first + count), range(INSTANCES)):
        draws = (problem(template, level, instance, seed, again) for again in itertools.count())
        made = next(made for made in draws if made.question not in found)
        found[made.question] = made
    return list(found.values())


@dataclass(frozen=True)
class Options:
    """What to show or write."""

    show: str = setting(
        "", Text(" | ".join(LEVELS), "|".join(LEVELS)), "print problems of a level with their solutions"
    )
    write: str = setting(
        "",
        Place("a folder"),
        "write the levels as JSONL in the format of GSM-Symbolic, and the code as reusable_code.jsonl",
    )
    count: int = setting(3, Whole(1, 1000), "problems to show, one a template")
    solutions: str = setting("text", Choice("text", "code", "reusable"), "the solution to show")
    templates: int = setting(100, Whole(1, 200), "templates to write")
    seed: int = setting(0, Whole(0), "names and numbers")


def main(words: Sequence[str]) -> int:
    """Runs the command; returns its exit code: 0 done, 2 a mistake in the settings."""
    return with_options("llm.data.word_problems", _main, Options, words, bare=False)


def _main(options: Options) -> int:
    if not (options.show or options.write):
        raise SettingError("show", "nothing", "show=..., write=... or both", "--help says more")
    for template in range(min(options.count, len(templates())) if options.show else 0):
        shown = problem(template, options.show, 0, options.seed)
        print(f"{shown.question}\n\n{getattr(shown, {'text': 'answer'}.get(options.solutions, options.solutions))}\n\n")
    if options.write:
        write(Path(options.write), options.templates, options.seed)
    return 0


def write(folder: Path, count: int, seed: int) -> None:
    """The three levels in the official format, and the reusable code. Raises SettingError when the disk refuses."""
    code = []
    originals = [problem(template, "symbolic", -1, seed) for template in range(count)]
    for level in LEVELS:
        lines = []
        for made in problems(level, count, seed):
            first = originals[int(made.id)]
            original = {
                "original_id": int(made.id),
                "original_question": first.question,
                "original_answer": first.answer,
            }
            lines.append(
                {"id": int(made.id), "instance": made.instance, "question": made.question, "answer": made.answer}
                | original
            )
            code.append({"level": level, "id": int(made.id), "instance": made.instance, "code": made.reusable})
        _write(folder / FILES[level], lines)
    _write(folder / "reusable_code.jsonl", code)
    print(f"{', '.join(FILES.values())} and reusable_code.jsonl in {folder}: lora-reuse gsm data={folder}")


def _write(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    try:
        files.write(path, "".join(json.dumps(line) + "\n" for line in lines))
    except OSError as error:
        raise SettingError("write", f"{path.parent} ({error.strerror})", "a folder that can be written") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
