"""One cell asked: its experts composed in every way on one base, every held-out question under each, scored and
counted."""

import dataclasses
import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lora_reuse.llm.adapters.training import Spec
from lora_reuse.llm.compositions import Composition, RoutedDelta
from lora_reuse.llm.data.facts import Triplet
from lora_reuse.llm.data.graphs import facts_of
from lora_reuse.llm.data.names import cities, fake_people, fake_places, people
from lora_reuse.llm.data.subsets import Example, examples
from lora_reuse.llm.decoding.answers import answers, gates, log_probs
from lora_reuse.llm.decoding.models import Base
from lora_reuse.llm.protocols.composed import Made, collisions, library_on, make
from lora_reuse.llm.protocols.protocol import Cell, Protocol, library_of, settings_of
from lora_reuse.llm.protocols.settings import Options
from lora_reuse.llm.scoring.gates import hop_gates, hops_by_gate
from lora_reuse.llm.scoring.names import direct, named, step_by_step
from lora_reuse.runs.files import write
from lora_reuse.runs.rows import row_hash
from lora_reuse.runs.settings import SettingError


class Asking(NamedTuple):
    """One composition to be asked one way."""

    cell: Cell
    made: Made
    key: str
    specs: tuple[Spec, ...]


def ask(base: Base, protocol: Protocol, cells: list[Cell], options: Options) -> list[tuple[Cell, dict[str, Any]]]:
    """`measured`, `predicted`, `stderr` and what goes with the provenance, of every point of a cell. Every answer goes
    to out/answers, a file a row."""
    askings = composed(base, protocol, cells, options)
    results = {}
    for prompting in dict.fromkeys(point.prompting for point, _ in cells):
        chosen = [asking for asking in askings if asking.cell[0].prompting == prompting]
        results |= dict(
            zip(
                (asking.cell for asking in chosen),
                ask_together(base, protocol, chosen, prompting, options),
                strict=True,
            )
        )
    return with_costs(base, askings, results, options)


def composed(base: Base, protocol: Protocol, cells: list[Cell], options: Options) -> list[Asking]:
    """What each point of a cell puts on the base; points that put the same share it."""
    made: dict[str, Made] = {}
    askings = []
    for point, seed in cells:
        specs = tuple(library_of(protocol, point, seed))
        key = json.dumps(
            [point.composition, getattr(point, "scale", None), [dataclasses.asdict(spec) for spec in specs]]
        )
        if key not in made:
            made[key] = make(
                base, point, specs, protocol.dataset(point) + protocol.pair(point), seed, Path(options.out) / "experts"
            )
        askings.append(Asking((point, seed), made[key], key, specs))
    return askings


def with_costs(
    base: Base, askings: Sequence[Asking], results: dict[Cell, dict[str, Any]], options: Options
) -> list[tuple[Cell, dict[str, Any]]]:
    """The results of a cell's points, with how large and how alike their experts' updates are, and what composing them
    cost."""
    alike = {
        specs: collisions(base, library_on(base, specs, Path(options.out) / "experts"))
        for specs in dict.fromkeys(a.specs for a in askings)
        if specs
    }
    for asking in askings:
        results[asking.cell]["measured"] |= alike.get(asking.specs, {}) | asking.made.cost
        results[asking.cell]["provenance"] = {"compose_seconds": round(asking.made.seconds, 3)}
    return [(asking.cell, results[asking.cell]) for asking in askings]


def ask_together(
    base: Base, protocol: Protocol, chosen: list[Asking], prompting: str, options: Options
) -> list[dict[str, Any]]:
    """The results of compositions that are asked the same questions in the same way: answered in one batch, scored,
    counted and kept."""
    asked, found = answered(base, protocol, chosen, prompting, options)
    for asking, records in zip(chosen, found, strict=True):
        keep(Path(options.out) / "answers", row_hash(protocol.experiment, settings_of(asking.cell)), records)
    return [
        counted(records, asked, prompting, asking.cell[0], protocol.bound(asking.cell[0]))
        for asking, records in zip(chosen, found, strict=True)
    ]


def answered(
    base: Base, protocol: Protocol, chosen: Sequence[Asking], prompting: str, options: Options
) -> tuple[list[Example], list[list[dict[str, Any]]]]:
    """The questions, and of each composition a record a question: the question, the answer, its scores,
    log-probabilities and gates."""
    point, seed = chosen[0].cell
    dataset, pair = protocol.dataset(point), protocol.pair(point)
    facts = facts_of(dataset + pair, point.triplets, seed)
    kinds = {"direct": pair, "steps": f"{pair}-CoT", "first": pair[0], "second": pair[1]}
    asked = protocol.asked(point, seed, examples(dataset + kinds[prompting], facts, point.split))
    longest = point.step_tokens if prompting == "steps" else point.answer_tokens
    unique = list(dict.fromkeys(asking.key for asking in chosen))
    compositions = {asking.key: asking.made.composition for asking in chosen}
    listed = [compositions[key] for key in unique]
    said = dict(
        zip(unique, answers(base, listed, [e.question for e in asked], longest, options.batch_rows), strict=True)
    )
    told: dict[str, list[dict[str, float]]] = {}
    if prompting == "direct" and options.log_probs:
        told = dict(
            zip(
                unique,
                candidate_log_probs(base, listed, asked, facts, dataset + pair, point.split, options.batch_rows),
                strict=True,
            )
        )
    scored = {
        key: [score(e, answer, prompting) for e, answer in zip(asked, texts, strict=True)]
        for key, texts in said.items()
    }
    found = []
    for asking in chosen:
        records = [
            e._asdict() | {"right": e.answer, "answer": answer} | marks | extra
            for e, answer, marks, extra in zip(
                asked, said[asking.key], scored[asking.key], told.get(asking.key) or [{}] * len(asked), strict=True
            )
        ]
        if asking.made.composition and prompting in ("direct", "steps"):
            weights = gate_weights(base, asking.made.composition, asked, said[asking.key], options.batch_rows)
            records = [record | extra for record, extra in zip(records, weights, strict=True)]
        found.append(records)
    return asked, found


def score(e: Example, answer: str, prompting: str) -> dict[str, Any]:
    """Whether the answer is right, strictly and leniently, and hop by hop when it is step by step."""
    names, places = everyone(), everywhere()
    if prompting == "steps":
        return step_by_step(
            answer, subject=e.subject, bridge=e.bridge, gold=e.gold, people=names, places=places
        )._asdict()
    if prompting == "first":
        return direct(answer, e.gold, names - {e.subject})._asdict()
    return direct(answer, e.gold, places, names)._asdict()


@functools.cache
def everyone() -> frozenset[str]:
    """All people, fake and real."""
    return frozenset(fake_people()) | {person.name for person in people()}


@functools.cache
def everywhere() -> frozenset[str]:
    """All places, fake and real."""
    return frozenset(fake_places()) | frozenset(cities())


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
    found = log_probs(base, compositions, [e.question for e in asked], [_beginning(e) for e in asked], columns, rows)
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
    """What the base alone would say, of a hundred that no edit names: to the two-hop questions, and to the one-hop
    questions of x and of y."""
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
    (found,) = log_probs(base, [None], [e.question for e in asked], [_beginning(e) for e in asked], candidates, rows)
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
        asked, said, gates(base, composition, [e.question for e in asked], said, rows), strict=True
    ):
        mean = {f"gate_{k + 1}": float(w) for k, w in enumerate(weights.mean(0))} if len(weights) else {}
        found.append(mean | hop_gates(base, e, answer, weights, everyone(), everywhere()))
    return found


def counted(
    records: list[dict[str, Any]], asked: Sequence[Example], prompting: str, point: Any, bound: float | None
) -> dict[str, Any]:
    """Counts of a row, and the chance controls: hits against permuted answers, and those of the best constant answer.
    Predicted is how many hits there are at most, for a bound of their share."""
    total = len(records)
    hits = np.array([record["strict"] for record in records])
    by_triplet = np.bincount([e.triplet for e in asked], weights=hits, minlength=point.triplets).astype(int)
    golds = [e.gold for e in asked]
    constant = max(golds.count(gold) for gold in set(golds))
    measured: dict[str, Any] = {"hits": int(hits.sum()), "total": total, "by_triplet": by_triplet.tolist()}
    measured |= {"lenient": int(sum(record["lenient"] for record in records)), "constant": constant}
    measured["permuted"] = round(sum(chances(records, asked, prompting)), 4)
    if prompting == "steps":
        measured["bridge_right"] = int(sum(record["bridge_right"] for record in records))
        measured["gold_right_given_bridge"] = int(sum(bool(record["gold_right_given_bridge"]) for record in records))
        measured["template"] = int(sum(record["template"] for record in records))
        measured |= hops_by_gate(records)
    for name in sorted({name for record in records for name in record if name.startswith(("logp_", "gate_", "rank_"))}):
        measured[name] = float(np.mean([record[name] for record in records if name in record]))
        if not math.isfinite(measured[name]):
            raise SettingError(
                "dtype",
                f"{point.dtype}, and {name} is {measured[name]}",
                "a dtype in which the model's outputs are finite",
            )
        if name.startswith(
            "logp_"
        ):  # so that differences between candidates, and between rows, get errors of their own
            by_triplet = [
                np.mean([record[name] for record in records if record["triplet"] == i]) for i in range(point.triplets)
            ]
            measured[f"{name}_by_triplet"] = [round(float(value), 6) for value in by_triplet]
    share = measured["hits"] / total
    predicted = {} if bound is None else {"at_most": total * bound}
    return {
        "measured": measured,
        "predicted": predicted,
        "stderr": {"hits": float(np.sqrt(total * share * (1 - share)))},
    }


def chances(records: Sequence[dict[str, Any]], asked: Sequence[Example], prompting: str) -> list[float]:
    """Of each answer, the probability of a hit if the right answers were dealt anew among the questions: their sum is
    what these answers would hit by chance."""
    golds = sorted({e.gold for e in asked})
    right = {gold: sum(e.gold == gold for e in asked) for gold in golds}
    found = []
    anything = everyone() | everywhere()
    for e, record in zip(asked, records, strict=True):
        if record["strict"]:
            found.append(right[e.gold] / len(asked))
        else:
            others = {gold for gold in named(record["answer"], anything) if gold in right and gold != e.gold}
            said = [gold for gold in others if score(e._replace(gold=gold), record["answer"], prompting)["strict"]]
            found.append(sum(right[gold] for gold in said) / len(asked))
    return found


def keep(folder: Path, name: str, records: list[dict[str, Any]]) -> None:
    """Every prompt, answer and score of a row. Raises SettingError when the disk refuses."""
    try:
        write(folder / f"{name}.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    except OSError as error:
        raise SettingError(
            "out", f"{folder} ({error.strerror})", "a folder with room for answers, that can be written"
        ) from None
