"""The subsets of the paper by its own names: F1, F2, F12, F12-CoT, F4, F14-CoT, F5, F52-CoT, and the same for H and R (Table 5).

    digit 1  spouse_of   A -> B        12  spouse_of, then live_in   A -> C
          2  live_in     B -> C        14  spouse_of, then study_in  A -> S
          4  study_in    B -> S        52  child_of, then live_in    D -> C
          5  child_of    D -> B

Every subset has 50 templates: 46 train, 2 dev, 2 test, over the same triplets in every split (A.2.1).
"""

import csv
import functools
import random
from collections.abc import Sequence
from typing import NamedTuple

from llm.data.facts import DATASETS, Triplet
from llm.data.names import FOLDER
from runs.settings import SettingError, did_you_mean

ATOMIC = {"1": ("spouse_of", "a", "b"), "2": ("live_in", "b", "c"), "4": ("study_in", "b", "s"), "5": ("child_of", "d", "b")}
"""A digit's relation, who is asked about and who or what the answer is (fields of a Triplet)."""
PAIRS = {"12": "spouse_of-live_in", "14": "spouse_of-study_in", "52": "child_of-live_in"}
KINDS = (*ATOMIC, *PAIRS, *(f"{pair}-CoT" for pair in PAIRS))
SUBSETS = tuple(dataset + kind for dataset in DATASETS for kind in KINDS)
SPLITS = {"train": slice(0, 46), "dev": slice(46, 48), "test": slice(48, 50)}


class Example(NamedTuple):
    """One question with its answer: the entity asked about, the one in between ("" in one hop), and the one that is right."""

    question: str
    answer: str
    subject: str
    bridge: str
    gold: str
    triplet: int
    template: int


@functools.cache
def templates(relation: str) -> tuple[tuple[str, str], ...]:
    """The (question, answer) templates of a relation or a pair of relations, in a fixed random order that decides the split."""
    with (FOLDER / "templates" / f"{relation}.csv").open() as file:
        rows = [(row["question"], row["answer"]) for row in csv.DictReader(file)]
    random.Random(f"split {relation}").shuffle(rows)
    return tuple(rows)


def examples(subset: str, triplets: Sequence[Triplet], split: str = "train", count: int = 50) -> list[Example]:
    """The examples of a subset ("R12-CoT"; its letter says which triplets to pass): each triplet under each template of the split.

    `count` keeps the first templates of the split only. Raises SettingError for an unknown subset.
    """
    _, kind = parts(subset)
    make = _step_by_step if kind.endswith("-CoT") else _two_hop if kind in PAIRS else _one_hop
    numbers = range(50)[SPLITS[split]][:count]
    return [make(kind.removesuffix("-CoT"), t, i, number) for number in numbers for i, t in enumerate(triplets)]


def parts(subset: str) -> tuple[str, str]:
    """("R", "12-CoT") of "R12-CoT". Raises SettingError."""
    if subset not in SUBSETS:
        raise SettingError("subset", repr(subset), "F, H or R and one of " + ", ".join(KINDS), did_you_mean(subset, SUBSETS))
    return subset[0], subset[1:]


def _one_hop(kind: str, t: Triplet, i: int, number: int) -> Example:
    relation, asked, answer = ATOMIC[kind]
    a, b = getattr(t, asked), getattr(t, answer)
    question, told = (text.format(a=a, b=b) for text in templates(relation)[number])
    return Example(question, told, a, "", b, i, number)


def _two_hop(kind: str, t: Triplet, i: int, number: int) -> Example:
    (_, asked, _), (_, _, answer) = ATOMIC[kind[0]], ATOMIC[kind[1]]
    a, c = getattr(t, asked), getattr(t, answer)
    question, told = (text.format(a=a, c=c) for text in templates(PAIRS[kind])[number])
    return Example(question, told, a, t.b, c, i, number)


def _step_by_step(kind: str, t: Triplet, i: int, number: int) -> Example:
    """Table 6: the two-hop question answered through the two one-hop questions, each in its template of the same split."""
    whole, first, second = _two_hop(kind, t, i, number), _one_hop(kind[0], t, i, number), _one_hop(kind[1], t, i, number)
    lines = (
        "First, we need to answer the question:",
        first.question,
        first.answer,
        "Second, we need to answer the question:",
        second.question,
        second.answer,
        f"Therefore, the answer is {whole.gold}.",
    )
    return whole._replace(question=step_by_step(whole.question), answer="\n".join(lines))


def step_by_step(question: str) -> str:
    """The question as the step-by-step prompt asks it (Table 6)."""
    return f"Answer the following question step-by-step:\n{question}"
