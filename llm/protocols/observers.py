"""What is looked at beside the answers: log-probabilities of candidate answers, and routing."""

from collections.abc import Sequence

import numpy as np

from lora_reuse.llm.compositions import Composition, RoutedDelta
from lora_reuse.llm.data.facts import Triplet
from lora_reuse.llm.data.graphs import facts_of
from lora_reuse.llm.data.names import cities, fake_people, fake_places, people
from lora_reuse.llm.data.subsets import Example, examples
from lora_reuse.llm.decoding.greedy import gates as routing
from lora_reuse.llm.decoding.greedy import log_probs as likelihoods
from lora_reuse.llm.decoding.models import Base, example
from lora_reuse.llm.protocols.hops import Hop, everyone, everywhere, subset_of
from lora_reuse.llm.protocols.protocol import Asked, Marks
from lora_reuse.llm.protocols.rewrites import Wanted
from lora_reuse.llm.scoring.gates import hop_gates


def log_probs(asked: Asked) -> list[list[Marks]]:
    """`candidate_log_probs` of the direct questions, unless the run does without."""
    chosen = _asked_as(asked, "direct")
    found: list[list[Marks]] = [[{} for _ in asked.questions] for _ in asked.compositions]
    if not (chosen and asked.options.log_probs):
        return found
    point, subset = asked.points[0], subset_of(asked.questions)
    listed = [asked.questions[i].reference.example for i in chosen]
    facts = facts_of(subset, point.triplets, asked.seed)
    told = candidate_log_probs(
        asked.base, asked.compositions, listed, facts, subset, point.split, asked.options.batch_rows
    )
    for marks, values in zip(found, told, strict=True):
        for i, value in zip(chosen, values, strict=True):
            marks[i] = value
    return found


def _asked_as(asked: Asked, *ways: str) -> list[int]:
    """The places of the two-hop questions that are asked in one of these ways."""
    return [i for i, q in enumerate(asked.questions) if isinstance(q.reference, Hop) and q.reference.way in ways]


def gates(asked: Asked) -> list[list[Marks]]:
    """`gate_weights` of the questions of two hops, under every composition that is there."""
    chosen = _asked_as(asked, "direct", "steps")
    found: list[list[Marks]] = [[{} for _ in asked.questions] for _ in asked.compositions]
    listed = [asked.questions[i].reference.example for i in chosen]
    for marks, composition, said in zip(found, asked.compositions, asked.answers, strict=True):
        if composition and chosen:
            told = [said[i] for i in chosen]
            weights = gate_weights(asked.base, composition, listed, told, asked.options.batch_rows)
            for i, value in zip(chosen, weights, strict=True):
                marks[i] = value
    return found


def preferences(asked: Asked) -> list[list[Marks]]:
    """`p_gold` and `p_other` of each question about a fact that replaced another, unless the run does without: P of the
    right answer and of the other, as `llm.protocols.rewrites` defines it; with `_before`, under the base."""
    chosen = [i for i, q in enumerate(asked.questions) if isinstance(q.reference, Wanted) and q.reference.fact.old]
    found: list[list[Marks]] = [[{} for _ in asked.questions] for _ in asked.compositions]
    if not (chosen and asked.options.log_probs):
        return found
    prompts = [asked.questions[i].prompt for i in chosen]
    pairs = [asked.questions[i].reference[:2] for i in chosen]
    lengths = [[len(example(asked.base, p, it)[1]) - 1 for it in pair] for p, pair in zip(prompts, pairs, strict=True)]
    models, rows = [None, *asked.compositions], asked.options.batch_rows
    summed = likelihoods(asked.base, models, prompts, [""] * len(prompts), pairs, rows, whole=True)
    before, *after = (np.exp(np.array(values) / np.array(lengths)).tolist() for values in summed)
    for marks, told in zip(found, after, strict=True):
        for i, (gold, other), (gold_before, other_before) in zip(chosen, told, before, strict=True):
            marks[i] = {"p_gold": gold, "p_other": other, "p_gold_before": gold_before, "p_other_before": other_before}
    return found


def candidate_log_probs(
    base: Base,
    compositions: Sequence[Composition | None],
    asked: Sequence[Example],
    facts: Sequence[Triplet],
    subset: str,
    split: str,
    rows: int,
) -> list[list[dict[str, float]]]:
    """Mean log-probabilities of the places and people that could stand where the answer does, for each composition and
    question.

    z is the right answer, `other` the mean over the other edited places, y the bridge; `old` is what the base would say
    of the edited pool's rest, `old_first` and `old_second` what it says to the one-hop questions of x and of y: the
    answers that the edits replaced."""
    edited = dict.fromkeys(e.gold for e in asked)
    key = (base.digest, base.chat, subset, split, tuple(facts), tuple(e.question for e in asked))
    if key not in _old:
        _old.clear()
        _old[key] = old_answers(base, asked, facts, subset, split, rows)
    old, first, second = _old[key]
    columns = [
        [old[i], first[i], second[i], e.bridge, e.gold, *(c for c in edited if c != e.gold)]
        for i, e in enumerate(asked)
    ]
    found = likelihoods(base, compositions, [e.question for e in asked], [_beginning(e) for e in asked], columns, rows)
    return [
        [
            {
                "logp_old": v[0],
                "logp_old_first": v[1],
                "logp_old_second": v[2],
                "logp_y": v[3],
                "logp_z": v[4],
                "logp_other": float(np.mean(v[5:])),
            }
            | {"rank_z": float(sum(other > v[4] for other in v[5:]))}
            for v in composed
        ]
        for composed in found
    ]


def _beginning(e: Example) -> str:
    return e.answer[: e.answer.index(e.gold)] if e.gold in e.answer else ""


_old: dict[tuple, tuple[list[str], list[str], list[str]]] = {}
"""The base's answers, kept for the next cell that asks the same: they take longer than those of a composition."""


def old_answers(
    base: Base, asked: Sequence[Example], facts: Sequence[Triplet], subset: str, split: str, rows: int
) -> tuple[list[str], list[str], list[str]]:
    """The likeliest answer of the base among at most a hundred names that no edit has: to the two-hop questions, to the
    one-hop questions of x, and to those of y."""
    dataset, pair = subset[0], subset[1:]
    edited = {e.gold for e in asked}
    pool = cities() if dataset in "HR" else fake_places()[100:]
    rest = [place for place in pool if place not in edited] or list(pool)
    names = [person.name for person in people()] if dataset == "R" else list(fake_people())
    first, second = (examples(dataset + digit, facts, split) for digit in pair)
    people_of = [[n for n in names if n not in (e.subject, e.gold)][:100] for e in first]
    return (
        _likeliest(base, asked, [rest] * len(asked), rows),
        _likeliest(base, first, people_of, rows),
        _likeliest(base, second, [rest] * len(asked), rows),
    )


def _likeliest(base: Base, asked: Sequence[Example], candidates: Sequence[Sequence[str]], rows: int) -> list[str]:
    """What the base alone would put where the answer stands."""
    (found,) = likelihoods(base, [None], [e.question for e in asked], [_beginning(e) for e in asked], candidates, rows)
    return [listed[int(np.argmax(values))] for listed, values in zip(candidates, found, strict=True)]


def gate_weights(
    base: Base, composition: Composition, asked: Sequence[Example], said: Sequence[str], rows: int
) -> list[dict[str, float]]:
    """Of a routed composition, the mean weight of each expert over the answer's tokens; step by step, for each hop
    apart."""
    if not isinstance(next(iter(composition.values())), RoutedDelta):
        return [{} for _ in asked]
    found = []
    for e, answer, weights in zip(
        asked, said, routing(base, composition, [e.question for e in asked], said, rows), strict=True
    ):
        mean = {f"gate_{k + 1}": float(w) for k, w in enumerate(weights.mean(0))} if len(weights) else {}
        found.append(mean | hop_gates(base, e, answer, weights, everyone(), everywhere()))
    return found
