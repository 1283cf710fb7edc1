"""One cell asked: its experts composed in every way on one base, every held-out question under each, scored and counted."""

import contextlib
import dataclasses
import functools
import json
import math
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from llm.adapters import load_expert
from llm.compositions import Composition, RoutedDelta, compose
from llm.compositions import Options as Knobs
from llm.data.facts import Triplet, triplets
from llm.data.names import cities, fake_people, fake_places, people
from llm.data.subsets import Example, examples
from llm.evaluation import answers, gates, log_probs
from llm.experts import Spec, expert
from llm.lowrank import Expert
from llm.models import Base
from llm.protocol import Cell, Protocol, library_of, settings_of
from llm.scoring import direct, named, step_by_step
from llm.settings import Options
from runs.rows import row_hash
from runs.settings import SettingError

HOPS = {"direct": "12", "steps": "12-CoT", "first": "1", "second": "2"}
"""The subset of the asked dataset that a prompting takes its questions from."""


class Asking(NamedTuple):
    """One composition to be asked one way."""

    cell: Cell
    composition: Composition | None
    key: str
    specs: tuple[Spec, ...]


def ask(base: Base, protocol: Protocol, cells: list[Cell], options: Options) -> list[tuple[Cell, dict[str, Any]]]:
    """`measured`, `predicted` and `stderr` of every point of a cell. Every answer goes to out/answers, a file a row."""
    made: dict[str, Composition | None] = {}
    askings = []
    for point, seed in cells:
        specs = tuple(library_of(protocol, point, seed))
        key = json.dumps([point.composition, getattr(point, "scale", None), [dataclasses.asdict(spec) for spec in specs]])
        if key not in made:
            made[key] = composition_of(base, point, specs, seed, Path(options.out) / "experts")
        askings.append(Asking((point, seed), made[key], key, specs))
    alike = {
        specs: collisions(base, library_on(base, specs, Path(options.out) / "experts")) for specs in dict.fromkeys(a.specs for a in askings) if specs
    }
    results = {}
    for prompting in dict.fromkeys(point.prompting for point, _ in cells):
        chosen = [asking for asking in askings if asking.cell[0].prompting == prompting]
        results |= dict(zip((asking.cell for asking in chosen), _ask(base, protocol, chosen, prompting, options), strict=True))
    for asking in askings:
        results[asking.cell]["measured"] |= alike.get(asking.specs, {})
    return [(cell, results[cell]) for cell in cells]


def composition_of(base: Base, point: Any, specs: Sequence[Spec], seed: int, folder: Path) -> Composition | None:
    """What the point puts on the base: a composition of its experts, an expert alone, or nothing."""
    if point.composition == "base":
        return None
    library = library_on(base, specs, folder)
    if point.composition == "alone":
        return library[0]
    name, _, prototypes = point.composition.partition(":")
    scale = getattr(point, "scale", None)
    weights = None if scale is None else (scale,) * len(library)
    scores = "cosine" if point.normalise else "raw"
    knobs = Knobs(
        weights=weights, temperature=point.temperature, top_k=min(point.top_k, len(library)), scores=scores, prototypes=prototypes or "own", seed=seed
    )
    return compose(name, library, knobs)


def library_on(base: Base, specs: Sequence[Spec], folder: Path) -> list[Expert]:
    """The experts, trained now unless they are there."""
    return [load_expert(expert(base, spec, folder), base.model) for spec in specs]


def collisions(base: Base, library: Sequence[Expert]) -> dict[str, float]:
    """How large the experts' updates are and how alike, averaged over modules: ‖ΔW‖/‖W‖ of the mean expert, and |cos| of the top singular
    vectors on the input side (Arrow's prototypes) of each two."""
    modules = dict(base.model.named_modules())
    ratios = [float(e[name].norm() / torch.linalg.norm(modules[name].get_parameter("weight").float())) for e in library for name in e]
    tops = [torch.stack([e[name].top_input_direction() for e in library]) for name in library[0]]
    upper = [(v @ v.T).abs()[*torch.triu_indices(len(v), len(v), 1)].mean() for v in tops]
    return {"update_ratio": sum(ratios) / len(ratios)} | ({"prototype_cos": float(torch.stack(upper).mean())} if len(library) > 1 else {})


def _ask(base: Base, protocol: Protocol, chosen: list[Asking], prompting: str, options: Options) -> list[dict[str, Any]]:
    point, seed = chosen[0].cell
    dataset = protocol.dataset(point)
    facts = triplets(dataset, seed)[: point.triplets]
    asked = examples(dataset + HOPS[prompting], facts, point.split)
    longest = point.step_tokens if prompting == "steps" else point.answer_tokens
    unique = list(dict.fromkeys(asking.key for asking in chosen))
    compositions = {asking.key: asking.composition for asking in chosen}
    listed = [compositions[key] for key in unique]
    said = dict(zip(unique, answers(base, listed, [e.question for e in asked], longest, options.batch_rows), strict=True))
    told: dict[str, list[dict[str, float]]] = {}
    if prompting == "direct" and options.log_probs:
        told = dict(zip(unique, candidate_log_probs(base, listed, asked, facts, dataset, point.split, options.batch_rows), strict=True))
    scored = {key: [score(e, answer, prompting) for e, answer in zip(asked, texts, strict=True)] for key, texts in said.items()}
    results = []
    for asking in chosen:
        records = [
            e._asdict() | {"right": e.answer, "answer": answer} | marks | extra
            for e, answer, marks, extra in zip(asked, said[asking.key], scored[asking.key], told.get(asking.key) or [{}] * len(asked), strict=True)
        ]
        if asking.composition and prompting in ("direct", "steps"):
            weights = gate_weights(base, asking.composition, asked, said[asking.key])
            records = [record | extra for record, extra in zip(records, weights, strict=True)]
        _keep(Path(options.out) / "answers", row_hash(protocol.experiment, settings_of(asking.cell)), records)
        results.append(_counted(records, asked, prompting, asking.cell[0]))
    return results


def score(e: Example, answer: str, prompting: str) -> dict[str, Any]:
    """Whether the answer is right, strictly and leniently, and hop by hop when it is step by step."""
    names, places = _everyone(), _everywhere()
    if prompting == "steps":
        return step_by_step(answer, subject=e.subject, bridge=e.bridge, gold=e.gold, people=names, places=places)._asdict()
    if prompting == "first":
        return direct(answer, e.gold, names - {e.subject})._asdict()
    return direct(answer, e.gold, places, names)._asdict()


@functools.cache
def _everyone() -> frozenset[str]:
    return frozenset(fake_people()) | {person.name for person in people()}


@functools.cache
def _everywhere() -> frozenset[str]:
    return frozenset(fake_places()) | frozenset(cities())


def candidate_log_probs(
    base: Base, compositions: Sequence[Composition | None], asked: Sequence[Example], facts: Sequence[Triplet], dataset: str, split: str, rows: int
) -> list[list[dict[str, float]]]:
    """Mean log-probabilities of the places and people that could stand where the answer does, for each composition and question.

    z is the right answer, `other` the mean over the other edited places, y the bridge; `old` is what the base would say of the edited
    pool's rest, `old_first` and `old_second` what it says to the one-hop questions of x and of y: the answers that the edits replaced.
    """
    edited = [t.c for t in facts]
    key = (base.digest, base.chat, dataset, split, tuple(facts))
    if key not in _old:
        _old.clear()
        _old[key] = old_answers(base, asked, facts, dataset, split, rows)
    old, first, second = _old[key]
    columns = [[old[i], first[i], second[i], e.bridge, e.gold, *(c for c in edited if c != e.gold)] for i, e in enumerate(asked)]
    found = log_probs(base, compositions, [e.question for e in asked], [_beginning(e) for e in asked], columns, rows)
    return [
        [
            {"logp_old": v[0], "logp_old_first": v[1], "logp_old_second": v[2], "logp_y": v[3], "logp_z": v[4], "logp_other": float(np.mean(v[5:]))}
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
    base: Base, asked: Sequence[Example], facts: Sequence[Triplet], dataset: str, split: str, rows: int
) -> tuple[list[str], list[str], list[str]]:
    """What the base alone would say, of a hundred that no edit names: to the two-hop questions, and to the one-hop questions of x and of y."""
    edited = [t.c for t in facts]
    pool = fake_places()[100:] if dataset == "F" else cities()
    rest = [place for place in pool if place not in edited] or list(pool)
    names = [person.name for person in people()] if dataset == "R" else list(fake_people())
    hops = {kind: examples(dataset + kind, facts, split) for kind in ("1", "2")}
    people_of = [[n for n in names if n not in (e.subject, e.gold)][:100] for e in hops["1"]]
    return (
        _likeliest(base, asked, [rest] * len(asked), rows),
        _likeliest(base, hops["1"], people_of, rows),
        _likeliest(base, hops["2"], [rest] * len(asked), rows),
    )


def _likeliest(base: Base, asked: Sequence[Example], candidates: Sequence[Sequence[str]], rows: int) -> list[str]:
    """What the base alone would put where the answer stands."""
    (found,) = log_probs(base, [None], [e.question for e in asked], [_beginning(e) for e in asked], candidates, rows)
    return [listed[int(np.argmax(values))] for listed, values in zip(candidates, found, strict=True)]


def gate_weights(base: Base, composition: Composition, asked: Sequence[Example], said: Sequence[str]) -> list[dict[str, float]]:
    """Of a routed composition, the mean weight of each expert over the answer's tokens; step by step, for each hop apart."""
    if not isinstance(next(iter(composition.values())), RoutedDelta):
        return [{} for _ in asked]
    found = []
    for e, answer, weights in zip(asked, said, gates(base, composition, [e.question for e in asked], said), strict=True):
        mean = {f"gate_{k + 1}": float(w) for k, w in enumerate(weights.mean(0))} if len(weights) else {}
        if "Second" in answer and e.bridge and len(weights):
            border = min(round(len(weights) * answer.index("Second") / len(answer)), len(weights) - 1)
            mean |= {"gate_1_at_first_hop": float(weights[: max(border, 1), 0].mean()), "gate_2_at_second_hop": float(weights[border:, 1].mean())}
        found.append(mean)
    return found


def _counted(records: list[dict[str, Any]], asked: Sequence[Example], prompting: str, point: Any) -> dict[str, Any]:
    """Counts of a row, and the chance controls: hits against permuted answers, and those of the best constant answer."""
    total = len(records)
    hits = np.array([record["strict"] for record in records])
    by_triplet = np.bincount([e.triplet for e in asked], weights=hits, minlength=point.triplets).astype(int)
    golds = [e.gold for e in asked]
    constant = max(golds.count(gold) for gold in set(golds))
    measured: dict[str, Any] = {"hits": int(hits.sum()), "total": total, "by_triplet": by_triplet.tolist()}
    measured |= {"lenient": int(sum(record["lenient"] for record in records)), "constant": constant, "permuted": _permuted(records, asked, prompting)}
    if prompting == "steps":
        measured["bridge_right"] = int(sum(record["bridge_right"] for record in records))
        measured["gold_right_given_bridge"] = int(sum(bool(record["gold_right_given_bridge"]) for record in records))
        measured["template"] = int(sum(record["template"] for record in records))
    for name in sorted({name for record in records for name in record if name.startswith(("logp_", "gate_", "rank_"))}):
        measured[name] = float(np.mean([record[name] for record in records if name in record]))
        if not math.isfinite(measured[name]):
            raise SettingError("dtype", f"{point.dtype}, and {name} is {measured[name]}", "a dtype in which the model's outputs are finite")
    share = measured["hits"] / total
    # Theorem 3: direct answers of two one-hop experts pick the asked z no more often than another edited z, once in n.
    one_hop_only = getattr(point, "library", "") == "2-combination" or getattr(point, "setup", "") == "0"
    composed = point.composition not in ("base", "random")
    predicted = {"at_most": total / point.triplets} if prompting == "direct" and one_hop_only and composed else {}
    return {"measured": measured, "predicted": predicted, "stderr": {"hits": float(np.sqrt(total * share * (1 - share)))}}


def _permuted(records: Sequence[dict[str, Any]], asked: Sequence[Example], prompting: str) -> float:
    """The mean number of hits if the right answers were dealt anew: what these answers would get by chance."""
    golds = sorted({e.gold for e in asked})
    right = {gold: sum(e.gold == gold for e in asked) for gold in golds}
    hits = 0.0
    anything = _everyone() | _everywhere()
    for e, record in zip(asked, records, strict=True):
        if record["strict"]:
            hits += right[e.gold] / len(asked)
        else:
            others = {gold for gold in named(record["answer"], anything) if gold in right and gold != e.gold}
            said = [gold for gold in others if score(e._replace(gold=gold), record["answer"], prompting)["strict"]]
            hits += sum(right[gold] for gold in said) / len(asked)
    return round(hits, 4)


def _keep(folder: Path, name: str, records: list[dict[str, Any]]) -> None:
    """Every prompt, answer and score of a row. Raises SettingError when the disk refuses."""
    scratch = folder / f"{name}.{secrets.token_hex(4)}.writing"  # a name of its own: another process may be at the same row
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch.write_text("".join(json.dumps(record) + "\n" for record in records))
        os.replace(scratch, folder / f"{name}.jsonl")
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise SettingError("out", f"{folder} ({error.strerror})", "a folder with room for answers, that can be written") from None
