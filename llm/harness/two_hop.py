"""What the exported tasks of lm-evaluation-harness call: the questions, and the scores of an answer.

The export puts the source of `llm.scoring.two_hop` in the place of the import below, so that the folder needs nothing
but lm-eval."""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_reuse.llm.scoring.two_hop import direct, step_by_step


def dataset(file: str, **_: Any) -> dict[str, Any]:
    """The questions of one subset, the file of that name beside this one."""
    from datasets import Dataset  # pyright: ignore[reportMissingImports]

    lines = (Path(__file__).parent / file).read_text(encoding="utf-8").splitlines()
    return {"test": Dataset.from_list([json.loads(line) for line in lines])}


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """strict: of all places (people) the right one and no other is named; lenient: it is named among others. Step by
    step, also whether the first hop is right, the second given the first (-1 where the first is not), and whether the
    template was followed."""
    people, places = _names()
    answer = results[0]
    if doc["steps"]:
        score = step_by_step(
            answer, subject=doc["subject"], bridge=doc["bridge"], gold=doc["gold"], people=people, places=places
        )
        given = -1.0 if score.gold_right_given_bridge is None else float(score.gold_right_given_bridge)
        hops = {
            "bridge_right": float(score.bridge_right),
            "gold_right_given_bridge": given,
            "template": float(score.template),
        }
        return {"strict": float(score.strict), "lenient": float(score.lenient)} | hops
    asked_for_people = doc["gold"] in people
    found = (
        direct(answer, doc["gold"], people - {doc["subject"]})
        if asked_for_people
        else direct(answer, doc["gold"], places, people)
    )
    return {"strict": float(found.strict), "lenient": float(found.lenient)}


def share_given(items: Sequence[float]) -> float:
    """The mean of those that are not -1; 0 where all are."""
    counted = [item for item in items if item >= 0]
    return sum(counted) / len(counted) if counted else 0.0


@functools.cache
def _names() -> tuple[frozenset[str], frozenset[str]]:
    """Everybody and everywhere."""
    names = json.loads((Path(__file__).parent / "names.json").read_text(encoding="utf-8"))
    return frozenset(names["people"]), frozenset(names["places"])
