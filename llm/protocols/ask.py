"""One group of cells asked: its experts composed in every way on one base, every question under each, scored and
counted."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lora_reuse.llm.adapters.folders import digest
from lora_reuse.llm.decoding.greedy import answers
from lora_reuse.llm.decoding.models import Base
from lora_reuse.llm.protocols import own_rules
from lora_reuse.llm.protocols.composed import Made, collisions, make, pool_on
from lora_reuse.llm.protocols.hops import subset_of
from lora_reuse.llm.protocols.protocol import Asked, Marks, Protocol, Question, library_of
from lora_reuse.llm.protocols.settings import Options
from lora_reuse.runs.files import write
from lora_reuse.runs.grid import Cell, hash_of
from lora_reuse.runs.settings import SettingError


class Asking(NamedTuple):
    """A composition to be asked: the cell, what it puts on the base, what it asks, and what its experts are. Askings of
    one `key` have the same composition."""

    cell: Cell
    made: Made
    key: str
    questions: Sequence[Question]
    experts: tuple[Any, ...]


def ask(base: Base, protocol: Protocol, cells: list[Cell], options: Options) -> list[tuple[Cell, dict[str, Any]]]:
    """`measured`, `predicted`, `stderr` and what goes with the provenance, of every cell of a group. Every answer goes
    to out/answers, a file a row."""
    askings = composed(base, protocol, cells, options)
    return with_costs(base, askings, asked(base, protocol, askings, options), options)


def composed(base: Base, protocol: Protocol, cells: list[Cell], options: Options) -> list[Asking]:
    """What each cell puts on the base; cells that put the same share it."""
    made: dict[str, Made] = {}
    askings = []
    for point, seed in cells:
        experts, questions = tuple(library_of(protocol, point, seed)), protocol.questions(point, seed)
        said = [e if isinstance(e, str) else dataclasses.asdict(e) for e in experts]
        key = json.dumps([point.composition, getattr(point, "scale", None), said])
        if key not in made:
            made[key] = make(base, point, experts, subset_of(questions), seed, Path(options.out) / "experts")
        askings.append(Asking((point, seed), made[key], key, questions, experts))
    return askings


def asked(base: Base, protocol: Protocol, askings: Sequence[Asking], options: Options) -> dict[Cell, dict[str, Any]]:
    """The results of each cell. Compositions that are asked the same questions answer them in one batch."""
    batches: dict[tuple[Any, ...], list[Asking]] = {}
    for asking in askings:
        batches.setdefault((*(q.prompt for q in asking.questions), _longest(asking)), []).append(asking)
    results = {}
    for batch in batches.values():
        unique = list({asking.key: asking for asking in batch}.values())
        records = dict(zip((asking.key for asking in unique), _records(base, protocol, unique, options), strict=True))
        for asking in batch:
            (point, _), found = asking.cell, records[asking.key]
            keep(Path(options.out) / "answers", hash_of(protocol.experiment, asking.cell), found)
            measured = protocol.counts(point, asking.questions, found)
            hits, total, bound = measured["hits"], measured["total"], protocol.bound(point)
            results[asking.cell] = {
                "measured": measured,
                "predicted": {} if bound is None else {"at_most": total * bound},
                "stderr": {"hits": (hits * (total - hits) / total) ** 0.5},
            }
    return results


def _longest(asking: Asking) -> int:
    point = asking.cell[0]
    return point.step_tokens if getattr(point, "prompting", "") == "steps" else point.answer_tokens


def _records(base: Base, protocol: Protocol, batch: list[Asking], options: Options) -> list[list[dict[str, Any]]]:
    """Of each composition a record a question: what it is about, the answer and its marks."""
    questions, listed = batch[0].questions, [asking.made.composition for asking in batch]
    said = answers(base, listed, [q.prompt for q in questions], _longest(batch[0]), options.batch_rows)
    records = [
        [{**q.about, "answer": text, **protocol.score(q, text)} for q, text in zip(questions, texts, strict=True)]
        for texts in said
    ]
    points, seed = [asking.cell[0] for asking in batch], batch[0].cell[1]
    for observe in protocol.observers:
        found = observe(Asked(base, seed, points, listed, questions, said, records, options))
        records = [
            [{**record, **marks} for record, marks in zip(*both, strict=True)]
            for both in zip(records, found, strict=True)
        ]
    return records


def with_costs(
    base: Base, askings: Sequence[Asking], results: dict[Cell, dict[str, Any]], options: Options
) -> list[tuple[Cell, dict[str, Any]]]:
    """The results of cells, with how large and how alike their experts' updates are, and what composing them cost. The
    provenance says what the weights of named adapters were."""
    folder = Path(options.out) / "experts"
    cells = {asking.experts: asking.cell for asking in askings if asking.experts}
    alike = {
        experts: collisions(base, pool_on(base, point, experts, seed, folder))
        for experts, (point, seed) in cells.items()
    }
    for asking in askings:
        results[asking.cell]["measured"] |= alike.get(asking.experts, {}) | asking.made.cost
        named = {name: digest(name) for name in asking.experts if isinstance(name, str)}
        made = {"compose_seconds": round(asking.made.seconds, 3), "dials": asking.made.dials}
        made |= {"rule": own} if (own := own_rules.about(asking.cell[0].composition)) else {}
        results[asking.cell]["provenance"] = made | ({"adapters": named} if named else {})
    return [(asking.cell, results[asking.cell]) for asking in askings]


def keep(folder: Path, name: str, records: Sequence[Marks]) -> None:
    """Every prompt, answer and score of a row. Raises SettingError when the disk refuses."""
    try:
        write(folder / f"{name}.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    except OSError as error:
        raise SettingError(
            "out", f"{folder} ({error.strerror})", "a folder with room for answers, that can be written"
        ) from None
