"""Questions about facts that are new, as CounterFact asks them: what `capacity` and `edit` have in common. torch is not
needed to read it.

A fact is asked in the prompt it was learned or written in (own), in others (paraphrases), and beside it (neighbours:
other subjects, whose answer is to stay). Where the file says which answer was replaced, each of the three has the two
measures of Meng et al. 2022 (as their `experiments/summarize.py` takes them), for prompts p with the right answer g and
the other o; of neighbours the old answer is right, else the new:

    score      the share of prompts with P(g | p) > P(o | p): efficacy ES, paraphrase PS, neighbourhood NS
    magnitude  the mean of P(g | p) - P(o | p):               EM, PM, NM

P(a | p) is the exponential of the mean log-probability of the tokens of a. Both are means over the prompts of a fact,
then over facts. S is the harmonic mean of ES, PS and NS."""

import json
import math
from collections.abc import Mapping, Sequence
from statistics import fmean, harmonic_mean
from typing import Any, NamedTuple

from lora_reuse.llm.data.fact_files import Fact, facts
from lora_reuse.llm.protocols.protocol import Asked, Marks, Question, Row, counted
from lora_reuse.llm.scoring.two_hop import direct
from lora_reuse.runs.settings import SettingError
from lora_reuse.runs.table import aligned, value, varying

ASKED = ("own", "paraphrases", "neighbours")


class Wanted(NamedTuple):
    """What an answer is marked against: the right answer, the other of the fact's two ("" where none is known), and the
    fact."""

    gold: str
    other: str
    fact: Fact


def asked(fact: Fact, way: str, group: str, about: Marks) -> list[Question]:
    """The prompts of a fact, or of its neighbours. Those of one fact are right or wrong together."""
    prompts = {"own": (fact.prompt,), "paraphrases": fact.paraphrases}.get(way, ())
    wanted = [(text, Wanted(fact.new, fact.old, fact)) for text in prompts]
    if way == "neighbours":
        wanted = [(text, Wanted(old, fact.new, fact)) for text, old in fact.neighbours]
    return [
        Question(text, group, {**about, "subject": fact.subject, "gold": it.gold, "instead_of": it.other}, it)
        for text, it in wanted
    ]


def enough(point: Any, axis: str, needed: int, found: Sequence[Question], seed: int) -> None:
    """Raises SettingError for a file that cannot be read, that has too few facts, or none of what `axis` asks."""
    there = len(facts(point.data, seed))
    if there < needed:
        most = there * point.facts // needed
        mend = f"facts={most}" if most else "name a longer file"
        raise SettingError("data", f"{point.data}, with {there} facts", f"{needed} facts or more", mend)
    if not found:
        way = getattr(point, axis)
        raise SettingError(axis, way, "own", f"data={point.data} has no {way}")


def score(question: Question, answer: str) -> Marks:
    """Whether the answer names the right one and not the other; and the other, and not the right one."""
    gold, other, fact = question.reference
    names = {gold, other} - {""}
    right = direct(answer, gold, names, {fact.subject} - names).strict
    return {"right": right, "other": bool(other) and direct(answer, other, names, {fact.subject} - names).strict}


def preferences(asked: Asked) -> list[list[Marks]]:
    """`llm.protocols.observers.preferences`, which needs torch."""
    from lora_reuse.llm.protocols import observers

    return observers.preferences(asked)


def counts(point: Any, questions: Sequence[Question], records: Sequence[Marks]) -> dict[str, Any]:
    """Hits of a total by fact, and where two answers were compared, score and magnitude: of the model asked, and
    `_before`, of the base. Raises SettingError for a magnitude that is not finite."""
    measured = counted(point, questions, records)
    for when in ("_before", ""):
        by_fact: dict[str, list[float]] = {}
        for question, record in zip(questions, records, strict=True):
            if f"p_gold{when}" in record:
                ahead = record[f"p_gold{when}"] - record[f"p_other{when}"]
                by_fact.setdefault(question.group, []).append(ahead)
        if by_fact:
            magnitude = fmean(map(fmean, by_fact.values()))
            if not math.isfinite(magnitude):
                got = f"{point.dtype}, and magnitude{when} is {magnitude}"
                raise SettingError("dtype", got, "a dtype in which the model's outputs are finite")
            measured[f"score{when}"] = fmean(fmean(it > 0 for it in ahead) for ahead in by_fact.values())
            measured[f"magnitude{when}"] = magnitude
    return measured


def below(rows: Sequence[Row]) -> str:
    """The measures of CounterFact, a line for each setting that was asked all three, before and after: means over
    seeds, scores in percent."""
    settings: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if "score" in row["measured"]:
            rest = {name: it for name, it in row["settings"].items() if name not in ("asked", "prompting", "seed")}
            settings.setdefault(json.dumps(rest), {}).setdefault(_way(row["settings"]), []).append(row)
    whole = [found for found in settings.values() if found.keys() >= set(ASKED)]
    if not whole:
        return ""
    names = [name for name in varying([found["own"] for found in whole]) if name not in ("asked", "prompting")]
    lines = [[*names, "", "ES", "EM", "PS", "PM", "NS", "NM", "S"]]
    for found in whole:
        for when, said in (("_before", "before"), ("", "after")):
            score, magnitude = (
                [fmean(row["measured"][f"{name}{when}"] for row in found[way]) for way in ASKED]
                for name in ("score", "magnitude")
            )
            each = [text for s, m in zip(score, magnitude, strict=True) for text in (f"{100 * s:.1f}", f"{m:+.3f}")]
            cells = [value(found["own"][0]["settings"], name) for name in names]
            lines.append([*cells, said, *each, f"{100 * harmonic_mean(score):.1f}"])
    return (
        "CounterFact's efficacy, paraphrase and neighbourhood, score and magnitude; S is the scores' harmonic mean.\n"
        + aligned(lines)
    )


def _way(settings: Mapping[str, Any]) -> str:
    return settings["asked"] if "asked" in settings else settings["prompting"]
