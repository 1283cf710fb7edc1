"""One cell of a protocol whose questions are problems: its experts composed in every way on one base, every problem put
to each, marked."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lora_reuse.llm.adapters.folders import load_expert
from lora_reuse.llm.adapters.lowrank import Expert
from lora_reuse.llm.adapters.training import expert
from lora_reuse.llm.compositions import Composition, compose
from lora_reuse.llm.compositions import Options as Knobs
from lora_reuse.llm.decoding.answers import answers
from lora_reuse.llm.decoding.models import Base
from lora_reuse.llm.protocols.ask import keep
from lora_reuse.llm.protocols.composed import collisions, make
from lora_reuse.llm.protocols.problems import LABELS, Exam, Question
from lora_reuse.llm.protocols.protocol import Cell, Protocol, settings_of
from lora_reuse.llm.protocols.settings import LEARNED, Options
from lora_reuse.runs.rows import row_hash


def solve(
    base: Base, protocol: Protocol, cells: list[Cell], options: Options, exam: Exam
) -> list[tuple[Cell, dict[str, Any]]]:
    """`measured`, `predicted`, `stderr` and what goes with the provenance, of every point of a cell. Every answer goes
    to out/answers, a file a row, without the questions, which may not be ours to copy."""
    libraries: dict[str, list[Expert]] = {}
    compositions: dict[str, Composition | None] = {}
    asked: dict[str, Sequence[Question]] = {}
    of_cell: dict[Cell, tuple[str, str, str]] = {}
    for point, seed in cells:
        experts = [] if point.composition == "base" else exam.library(point, seed)
        whose = json.dumps([e if isinstance(e, str) else dataclasses.asdict(e) for e in experts])
        if whose not in libraries:
            libraries[whose] = [
                load_expert(e if isinstance(e, str) else expert(base, e, Path(options.out) / "experts"), base.model)
                for e in experts
            ]
        how = json.dumps([point.composition, seed, whose])
        if how not in compositions:
            compositions[how] = _composed(base, point, experts, libraries[whose], seed, Path(options.out) / "experts")
        found = exam.questions(point, seed)
        what = json.dumps([question.prompt for question in found])
        asked[what] = found
        of_cell[point, seed] = (what, how, whose)
    said: dict[tuple[str, str], list[str]] = {}
    longest = max(point.answer_tokens for point, _ in cells)
    for what, questions in asked.items():
        hows = list(dict.fromkeys(h for w, h, _ in of_cell.values() if w == what))
        told = answers(
            base,
            [compositions[how] for how in hows],
            [question.prompt for question in questions],
            longest,
            options.batch_rows,
        )
        said |= {(what, how): texts for how, texts in zip(hows, told, strict=True)}
    results = []
    for cell, (what, how, whose) in of_cell.items():
        marks = exam.mark(cell[0], asked[what], said[what, how], options)
        kept = [q.about | {"answer": a} | m for q, a, m in zip(asked[what], said[what, how], marks, strict=True)]
        keep(Path(options.out) / "answers", row_hash(protocol.experiment, settings_of(cell)), kept)
        result = counted(asked[what], marks)
        result["measured"] |= collisions(base, libraries[whose]) if libraries[whose] else {}
        results.append((cell, result))
    return results


def _composed(
    base: Base, point: Any, experts: Sequence[Any], library: Sequence[Expert], seed: int, folder: Path
) -> Composition | None:
    """What the point puts on the base: its experts composed, one alone, or nothing."""
    if not library:
        return None
    if point.composition == "alone":
        return library[0]
    if point.composition in LEARNED:
        return make(base, point, experts, "", seed, folder).composition
    name, _, prototypes = point.composition.partition(":")
    scores = "cosine" if point.normalise else "raw"
    top_k = min(point.top_k, len(library))
    return compose(
        name,
        library,
        Knobs(temperature=point.temperature, top_k=top_k, scores=scores, prototypes=prototypes or "own", seed=seed),
    )


def counted(asked: Sequence[Question], marks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Hits of a total, by group, how many have each mark that is true and each label that marks give."""
    groups = list(dict.fromkeys(question.group for question in asked))
    place = [groups.index(question.group) for question in asked]
    right = np.array([bool(m["right"]) for m in marks])
    hits, total = int(right.sum()), len(marks)
    measured: dict[str, Any] = {"hits": hits, "total": total}
    measured["by_group"] = np.bincount(place, weights=right).astype(int).tolist()
    measured["group_sizes"] = np.bincount(place).tolist()
    flags = dict.fromkeys(
        name for m in marks for name, value in m.items() if isinstance(value, bool) and name != "right"
    )
    measured |= {name: sum(m.get(name) is True for m in marks) for name in flags}
    measured |= Counter(f"{name}_{m[name]}" for m in marks for name in LABELS if m.get(name))
    return {"measured": measured, "predicted": {}, "stderr": {"hits": float(np.sqrt(hits * (total - hits) / total))}}
