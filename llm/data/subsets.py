"""The subsets of the paper by its own names: F1, F2, F12, F12-CoT, F4, F14-CoT, F5, F52-CoT, and the same for H and R
(Table 5).

    digit 1  spouse_of       A -> B        12  spouse_of, then live_in   A -> C
          2  live_in         B -> C        14  spouse_of, then study_in  A -> S
          3  best_friend_of  A -> B        52  child_of, then live_in    D -> C
          4  study_in        B -> S        54  child_of, then study_in   D -> S
          5  child_of        D -> B        32, 34  the same of a best friend

Digits are the relations Rel1 to Rel5 of A.3, too: its graphs D and S (`llm.data.graphs`) have all five and all six
pairs; F, H and R have no best friends. Every subset has 50 templates: 46 train, 2 dev, 2 test, over the same triplets
in every split (A.2.1).

A name can go on: F12-CoT-reversed has the two steps in the other order; F12-CoT-shuffled ends each answer in the place
of another triplet, the same one in every template, whatever its second step says; F12-CoT:0.25 has a quarter of its
examples step by step, drawn once and for all, and answers the others at once, as F12 does; F12-CoT/10 has the first 10
templates of a split."""

import csv
import functools
import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from lora_reuse.llm.data.facts import DATASETS, Triplet
from lora_reuse.llm.data.names import FOLDER
from lora_reuse.runs.settings import SettingError, did_you_mean

ATOMIC = {
    "1": ("spouse_of", "a", "b"),
    "2": ("live_in", "b", "c"),
    "3": ("best_friend_of", "a", "b"),
    "4": ("study_in", "b", "s"),
    "5": ("child_of", "d", "b"),
}
"""A digit's relation, who is asked about and who or what the answer is (fields of a Triplet)."""
PAIRS = {first + second: f"{ATOMIC[first][0]}-{ATOMIC[second][0]}" for first in "135" for second in "24"}
GRAPHS = ("D", "S")
"""The disjoint and the shared graph of A.3."""
REVERSED = "12-CoT-reversed"
SHUFFLED = "12-CoT-shuffled"
SUBSETS = (
    *(f"{dataset}{kind}" for dataset in DATASETS for kind in ("1", "2", "4", "5", "12", "14", "52", "54")),
    *(f"{dataset}{kind}-CoT" for dataset in DATASETS for kind in ("12", "14", "52", "54")),
    *(f"{dataset}{kind}" for kind in (REVERSED, SHUFFLED) for dataset in DATASETS),
    *(f"{graph}{kind}" for graph in GRAPHS for kind in (*ATOMIC, *PAIRS, *(f"{pair}-CoT" for pair in PAIRS))),
)
ORDINALS = ("First", "Second", "Third", "Fourth")
"""How the steps of a step-by-step answer begin."""
SPLITS = {"train": slice(0, 46), "dev": slice(46, 48), "test": slice(48, 50)}


class Example(NamedTuple):
    """One question with its answer: the entity asked about, the one in between ("" in one hop), and the one that is
    right."""

    question: str
    answer: str
    subject: str
    bridge: str
    gold: str
    triplet: int
    template: int


@functools.cache
def templates(relation: str) -> tuple[tuple[str, str], ...]:
    """The (question, answer) templates of a relation or a pair of relations, in a fixed random order that decides the
    split."""
    with (FOLDER / "templates" / f"{relation}.csv").open() as file:
        rows = [(row["question"], row["answer"]) for row in csv.DictReader(file)]
    random.Random(f"split {relation}").shuffle(rows)
    return tuple(rows)


def examples(subset: str, triplets: Sequence[Triplet], split: str = "train", count: int = 50) -> list[Example]:
    """The examples of a subset ("R12-CoT"; its letter says which triplets to pass): each triplet under each template of
    the split.

    `count` keeps the first templates of the split only. Raises SettingError for an unknown subset.
    """
    _, kind = parts(subset)
    share, first = _suffixes(subset)
    numbers = range(50)[SPLITS[split]][: min(count, first)]
    cells = [(number, i) for number in numbers for i in range(len(triplets))]
    order = random.Random("steps").sample(cells, len(cells)) if share < 1 else cells
    in_steps = set(order[: round(share * len(cells))]) if "-CoT" in kind else set()
    made = [_made(kind, triplets[i], i, number, (number, i) in in_steps) for number, i in cells]
    return _ending_elsewhere(made, len(triplets)) if kind == SHUFFLED else made


def _made(kind: str, t: Triplet, i: int, number: int, in_steps: bool) -> Example:
    pair = kind.partition("-CoT")[0]
    if pair in ATOMIC:
        return _one_hop(pair, t, i, number)
    return _step_by_step(pair, t, i, number, backwards=kind == REVERSED) if in_steps else _two_hop(pair, t, i, number)


def _ending_elsewhere(made: list[Example], triplets: int) -> list[Example]:
    """The examples with the places of their last lines dealt anew among the triplets, in a circle through all of them,
    so that none keeps its own. What is right (`gold`) stays."""
    circle = random.Random("shuffled").sample(range(triplets), triplets)
    after = dict(zip(circle, circle[1:] + circle[:1], strict=True))
    golds = {e.triplet: e.gold for e in made}
    return [e._replace(answer=e.answer.replace(_therefore(e.gold), _therefore(golds[after[e.triplet]]))) for e in made]


def parts(subset: str) -> tuple[str, str]:
    """("R", "12-CoT") of "R12-CoT", and of "R12-CoT:0.5/10". Raises SettingError."""
    name = re.split("[:/]", subset, maxsplit=1)[0]
    if name not in SUBSETS:
        kinds = (", ".join(known[1:] for known in SUBSETS if known[0] == dataset) for dataset in ("F", "D"))
        raise SettingError(
            "subset",
            repr(subset),
            "F, H or R and one of {}; D or S and one of {}".format(*kinds),
            did_you_mean(name, SUBSETS),
        )
    return name[0], name[1:]


def _suffixes(subset: str) -> tuple[float, int]:
    """The share of step-by-step examples, and how many templates of a split are used."""
    match = re.fullmatch(r"[^:/]+(?::(0\.\d+))?(?:/([1-9]\d?))?", subset)
    if not match or (match[1] and "-CoT" not in subset):
        raise SettingError(
            "subset", repr(subset), "F12-CoT:0.25 for a share of step-by-step examples, F12-CoT/10 for 10 templates"
        )
    return float(match[1] or 1), int(match[2] or 50)


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


def _step_by_step(kind: str, t: Triplet, i: int, number: int, backwards: bool = False) -> Example:
    """Table 6: the two-hop question answered through the two one-hop questions, each in its template of the same split;
    `backwards` the second of them comes first."""
    whole, hops = _two_hop(kind, t, i, number), [_one_hop(digit, t, i, number) for digit in kind]
    steps = [(hop.question, hop.answer) for hop in (reversed(hops) if backwards else hops)]
    return whole._replace(question=step_by_step(whole.question), answer=in_steps(steps, whole.gold))


def in_steps(steps: Sequence[tuple[str, str]], place: str) -> str:
    """The step-by-step answer of Table 6 through two one-hop questions, each with its answer; or through up to four."""
    lines = [
        line
        for order, (question, answer) in zip(ORDINALS[: len(steps)], steps, strict=True)
        for line in (f"{order}, we need to answer the question:", question, answer)
    ]
    return "\n".join((*lines, _therefore(place)))


def _therefore(place: str) -> str:
    """The last line of a step-by-step answer (Table 6)."""
    return f"Therefore, the answer is {place}."


def step_by_step(question: str) -> str:
    """The question as the step-by-step prompt asks it (Table 6)."""
    return f"Answer the following question step-by-step:\n{question}"
