"""Solutions of word problems marked: right or not, words or code, which error; by rule, and where a person names a
judge, by that, too."""

from collections.abc import Sequence
from typing import Any

from lora_reuse.llm.data.gsm import final
from lora_reuse.llm.data.word_problems import Problem
from lora_reuse.llm.sandbox import Result, run_all
from lora_reuse.llm.scoring import solutions
from lora_reuse.llm.scoring.endpoint import Endpoint
from lora_reuse.llm.scoring.judge import judge as judged


def mark(
    problems: Sequence[Problem], said: Sequence[str], execute: bool, judge: Endpoint | None = None
) -> list[dict[str, Any]]:
    """A record each: `right` by the last number, `marked` where that was also said after "####", in a box or after "the
    answer is"; the kind and the error; with `execute`, what came of the program, whose last printed number is then the
    answer; the judge's opinion, and whether it agrees on what is right (`agreed`) and, where the rules saw an error, on
    which (`same_error`)."""
    texts = [solutions.own(text) for text in said]
    results = run_written(texts) if execute else [None] * len(texts)
    return [_mark(problem, text, result, judge) for problem, text, result in zip(problems, texts, results, strict=True)]


def run_written(texts: Sequence[str]) -> list[Result | None]:
    """What came of the program that each text holds; None of a text that holds none."""
    programs = [solutions.program(text) for text in texts]
    results = iter(run_all([program for program in programs if program]))
    return [next(results) if program else None for program in programs]


def _mark(problem: Problem, text: str, result: Result | None, judge: Endpoint | None) -> dict[str, Any]:
    gold = final(problem.answer)
    printed = None if result is None else solutions.last_number(result.output)
    number = solutions.last_number(text) if result is None else printed  # a program that printed none answers nothing
    right = solutions.equal(number, gold)
    error = solutions.error(text, right, problem.answer, printed)
    marks: dict[str, Any] = {"right": right, "said": number, "marked": solutions.equal(solutions.marked(text), gold)}
    marks |= {"kind": solutions.kind(text), "error": error}
    if result is not None:
        marks["program"] = result.outcome
    if judge is not None:
        verdict = judged(judge, problem.question, problem.answer, text)
        marks["judge_unclear"] = verdict is None
        if verdict is not None:
            marks |= {"judged_kind": verdict.kind, "judged_error": verdict.error, "agreed": verdict.correct == right}
            if error not in ("none", "unidentified"):
                marks["same_error"] = verdict.error == error
    return marks
