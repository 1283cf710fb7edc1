"""The rows of the bench that are not there yet, made by the protocols that they belong to."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from lora_reuse.llm.bench.libraries import LIBRARIES, Cell, cells, libraries
from lora_reuse.llm.bench.score import Known
from lora_reuse.llm.decoding.names import digest, place_of
from lora_reuse.llm.protocols.protocol import Protocol, grouped
from lora_reuse.runs import grid
from lora_reuse.runs.rows import load_rows
from lora_reuse.runs.settings import SettingError

Todo = list[tuple[Protocol, list[list[grid.Cell]]]]
"""Of each protocol the groups of cells that have no row."""


class Bench(NamedTuple):
    """On which base, with which seeds, where experts and rows go, where other rows are, and in how many processes."""

    model: str
    seeds: range
    out: str
    rows: str
    workers: int


def every_cell(rules: Iterable[str], model: str) -> list[Cell]:
    """What is asked of rules, each once. Raises SettingError for a rule that a protocol does not ask."""
    found: dict[tuple[str, Any], Cell] = {}
    for rule in rules:
        for library in libraries(model):
            these = cells(library, rule, model)
            if these is None:
                name = library.asked.protocol
                raise SettingError("rule", rule, f"a rule that llm.{name} composes plain LoRA experts with")
            found |= {(one.protocol.name, one.point): one for one in these.every}
    return list(found.values())


def known_rows(bench: Bench) -> Known:
    """The rows of both folders, by hash, of the weights that the model has here."""
    place = place_of(bench.model)
    here = digest(place) if place.is_file() or (place / "config.json").is_file() else None
    asked = {f"llm_{one.protocol}" for library in LIBRARIES for one in (library.asked, library.ceiling)}
    rows = [row for folder in (bench.rows, bench.out) for experiment in asked for row in load_rows(folder, experiment)]
    return {row["hash"]: row for row in rows if here in (None, row["provenance"].get("base_digest", here))}


def missing(rules: Sequence[str], bench: Bench) -> Todo:
    """What has to be asked. Raises SettingError as the protocols do, before anything is trained."""
    known, todo = known_rows(bench), []
    by_protocol: dict[str, list[Cell]] = {}
    for one in every_cell(rules, bench.model):
        by_protocol.setdefault(one.protocol.name, []).append(one)
    for found in by_protocol.values():
        protocol, points = found[0].protocol, [one.point for one in found]
        said = _options(protocol, bench)
        groups = [
            [cell for cell in group if grid.hash_of(protocol.experiment, cell) not in known]
            for group in grouped(points, said)
        ]
        groups = [group for group in groups if group]
        if groups:
            protocol.ready(list(dict.fromkeys(point for group in groups for point, _ in group)), said)
            todo.append((protocol, groups))
    return todo


def run(todo: Todo, bench: Bench) -> Known:
    """Trains and asks what is missing; returns all rows."""
    if todo:
        from lora_reuse.llm.protocols.measure import measure

        for protocol, groups in todo:
            measure(protocol, groups, _options(protocol, bench))
    return known_rows(bench)


def _options(protocol: Protocol, bench: Bench) -> Any:
    return protocol.options(
        out=bench.out, seeds=len(bench.seeds), first_seed=bench.seeds[0], workers=bench.workers, log_probs=False
    )
