"""lora-reuse reusable_code data=FOLDER endpoint=https://api.openai.com/v1 model=gpt-4o allow_code_execution=true

Has a chat model write reusable code for the published word problems (Figure 6). It writes for each template one
function that solves all of its levels, then for each problem that experts learn a program that calls it. A critic sends
a program back, up to six times in all; here it is no model: it runs the program, confined, and compares what it prints
with the answers. What passes goes to FOLDER/reusable_code.jsonl at once; the same command goes on from there. Our own
word problems (data=own) come with such code."""

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lora_reuse.llm.data import gsm
from lora_reuse.llm.data.word_problems import LEVELS, Problem
from lora_reuse.llm.sandbox import require, run
from lora_reuse.llm.scoring.endpoint import Endpoint, endpoint_of
from lora_reuse.llm.scoring.solutions import equal, program
from lora_reuse.runs.command import begin, settings_are_right, with_options
from lora_reuse.runs.files import write as write_file
from lora_reuse.runs.settings import Flag, SettingError, Text, Whole, setting

TURNS = 6
LEARNED = ("symbolic", "p1")
"""The levels whose problems get programs; the function is written for all three."""

_FUNCTION = """You turn solved word problems into reusable Python. The problems below are one problem in {count}
versions, each with more conditions than the one before. Write one function solve(...) that works for all of them: its
parameters are the quantities of the problem, those that only later versions have come last and have defaults that
change nothing. Then call it once for each version, in order, and print each result on a line of its own. Answer with
one ```python block and nothing else.

{problems}"""
_PROGRAM = """This function solves problems of one kind:

```python
{function}
```

Use it for the problem below: repeat the function unchanged, call it with the numbers of the problem, and print the
result, which is all that is printed. Answer with one ```python block and nothing else.

{problem}"""


@dataclass(frozen=True)
class Options:
    """Whose problems, and who writes."""

    data: str = setting(
        "", Text("a folder with the published files"), "where the problems are, and where the code goes"
    )
    endpoint: str = setting("", Text("http://... or https://..."), "an OpenAI-compatible address")
    model: str = setting("", Text("a name"), "the model of the endpoint that writes")
    key_variable: str = setting(
        "OPENAI_API_KEY", Text("a name", r"\w+"), "the environment variable that holds the endpoint's key"
    )
    allow_code_execution: bool = setting(
        False, Flag(), "run what the model writes, confined as llm/sandbox says; nothing can be checked without"
    )
    templates: int = setting(100, Whole(1, 100), "templates")
    parallel: int = setting(8, Whole(1, 256), "requests at a time")


def main(words: Sequence[str]) -> int:
    """Runs the command; returns its exit code: 0 done, 2 a mistake in the settings, 130 interrupted."""
    going_on = "finished programs are on disk, and the same command goes on from there"
    return with_options("llm.reusable_code", _main, Options, words, going_on, bare=False)


def _main(options: Options) -> int:
    if not options.allow_code_execution:
        raise SettingError("allow_code_execution", "false", "true", "code that is not run cannot be checked")
    if options.data in ("", gsm.OWN):
        raise SettingError(
            "data", repr(options.data), "a folder with the published files", "data=own has code of its own"
        )
    endpoint = endpoint_of(options.endpoint, options.model, options.key_variable)
    settings_are_right(options.data)
    require()
    begin(options.data)
    write(Path(options.data).expanduser(), endpoint, options.templates, options.parallel)
    return 0


def write(folder: Path, endpoint: Endpoint, templates: int, parallel: int) -> None:
    """Appends to the folder's reusable_templates.jsonl and reusable_code.jsonl what is missing there and passes."""
    levels = {level: gsm.trained(str(folder), level, templates, 0) for level in LEVELS}
    functions = {row["id"]: row["code"] for row in _rows(folder / "reusable_templates.jsonl")}
    examples = {p.id: _versions(p.id, levels) for p in levels["symbolic"]}
    todo = [name for name in examples if name not in functions]
    jobs = [functools.partial(_function, endpoint, examples[name]) for name in todo]
    for name, code in zip(todo, _each(jobs, parallel), strict=True):
        if code:
            _append(folder / "reusable_templates.jsonl", {"id": name, "code": code})
            functions[name] = code
    done = {(row["level"], str(row["id"]), str(row["instance"])) for row in _rows(folder / "reusable_code.jsonl")}
    wanted = [(level, p) for level in LEARNED for p in levels[level] if p.id in functions]
    todo_ = [(level, p) for level, p in wanted if (level, p.id, str(p.instance)) not in done]
    jobs = [functools.partial(_program, endpoint, functions[p.id], p) for _, p in todo_]
    failed = 0
    for (level, p), code in zip(todo_, _each(jobs, parallel), strict=True):
        if code:
            _append(folder / "reusable_code.jsonl", {"level": level, "id": p.id, "instance": p.instance, "code": code})
        failed += not code
    print(
        f"{len(functions)} of {len(examples)} templates have a function;"
        f" {len(wanted) - failed} of {len(wanted)} of their problems have a program"
    )


def _versions(name: str, levels: dict[str, list[Problem]]) -> list[Problem]:
    """A problem of each level that the template has; of P2 one that the first seed does not ask."""
    return [next(p for p in found if p.id == name) for found in levels.values() if any(p.id == name for p in found)]


def _function(endpoint: Endpoint, versions: Sequence[Problem]) -> str:
    told = "\n\n".join(f"Version {n}:\n{p.question}\nSolution:\n{p.answer}" for n, p in enumerate(versions, 1))
    return _until_right(
        endpoint, _FUNCTION.format(count=len(versions), problems=told), [gsm.final(p.answer) for p in versions]
    )


def _program(endpoint: Endpoint, function: str, problem: Problem) -> str:
    told = f"{problem.question}\nSolution:\n{problem.answer}"
    return _until_right(endpoint, _PROGRAM.format(function=function, problem=told), [gsm.final(problem.answer)])


def _until_right(endpoint: Endpoint, task: str, golds: Sequence[float]) -> str:
    """The program that prints the answers and has a function to reuse; "" where none came in TURNS turns."""
    messages = [("user", task)]
    for _ in range(TURNS):
        said = endpoint.say(messages)
        code = program(said)
        result = run(code) if code else None
        printed = result.output.split() if result else []
        right = len(printed) == len(golds) and all(
            equal(_number(text), gold) for text, gold in zip(printed, golds, strict=True)
        )
        if right and "def solve(" in code:
            return code.strip()
        wrong = (
            "There is no Python block."
            if result is None
            else f"Outcome: {result.outcome}. Printed: {result.output[:500]!r}. {result.errors[-500:]}"
        )
        wanted = f"It should define solve(...) and print {', '.join(f'{gold:g}' for gold in golds)}, one a line."
        messages += [("assistant", said), ("user", f"{wrong}\n{wanted} Answer with the corrected ```python block.")]
    return ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _each(jobs: Sequence[Callable[[], str]], parallel: int) -> Iterator[str]:
    """The results in order, as they come; a mistake or an interruption starts no more."""
    executor = ThreadPoolExecutor(parallel)
    try:
        yield from executor.map(lambda job: job(), jobs)
    finally:
        executor.shutdown(cancel_futures=True)


def _rows(path: Path) -> list[dict]:
    """The rows of a file of ours, whose last line is ended or, where a kill has torn it, cut off. Raises SettingError
    for another line that is none."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    rows = []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if not line.endswith("\n"):
                break
            raise SettingError(
                "data", f"{path}:{number}, {line[:40]!r}", "one JSON object a line", "remove that line"
            ) from None
    if text and not text.endswith("\n"):
        write_file(path, "".join(f"{json.dumps(row)}\n" for row in rows))
    return rows


def _append(path: Path, row: dict) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise SettingError("data", f"{path} ({error.strerror})", "a folder that can be written") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
