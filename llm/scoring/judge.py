"""A judge model's opinion of a solution: in words or code, right or wrong, and which error (A.4.2); asked of an
endpoint, in our own words."""

import json
import re
from typing import NamedTuple

from lora_reuse.llm.scoring.endpoint import Endpoint
from lora_reuse.llm.scoring.solutions import ERRORS, KINDS

_TASK = """You check solutions of word problems. Answer with one JSON object and nothing else:
{"kind": ..., "correct": ..., "error": ...}
kind: "text" if the solution reasons in natural language, "code" if it is a program, "unidentified" if it is neither.
correct: true or false, whether its final answer is that of the reference.
error: "none" if it is correct; "semantic" if the problem was misunderstood; "calculation" if the steps are right and a
result is not; "step_missing" if a step that is needed was left out; "unidentified" if it is none of these."""


class Verdict(NamedTuple):
    """One of KINDS, whether the answer is right, one of ERRORS."""

    kind: str
    correct: bool
    error: str


def judge(endpoint: Endpoint, question: str, reference: str, solution: str) -> Verdict | None:
    """What the judge says; None for an answer that is not what was asked for. Raises SettingError for an endpoint that
    gives no answer."""
    said = endpoint.say(
        [("system", _TASK), ("user", f"Problem:\n{question}\n\nReference:\n{reference}\n\nSolution:\n{solution}")]
    )
    found = re.search(r"\{.*\}", said, re.DOTALL)
    try:
        given = json.loads(found[0]) if found else {}
        verdict = Verdict(given["kind"], given["correct"], given["error"])
    except (ValueError, KeyError, TypeError):
        return None
    return verdict if verdict.kind in KINDS and isinstance(verdict.correct, bool) and verdict.error in ERRORS else None
