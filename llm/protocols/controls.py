"""Positive controls, from rows alone: whether few right answers to a question say anything of composing.

Two experts that are composed can answer a two-hop question only from what the composition keeps of either. Where it
keeps less than `ENOUGH` of the experts' own hops, or where an expert trained on the very answers is not right either, a
zero is *void*: it would be there whatever composing does. Each protocol says beside its bound which rows are the
controls of a point. A cell that is right in `ENOUGH` of its answers needs none. A control that no row measures leaves
its cell open, and tables say so.

What is left of an expert's own hop is a finding of its own: a hop has no control but an expert alone, where a protocol
asks one."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lora_reuse.llm.protocols.dials import settle

if TYPE_CHECKING:
    from lora_reuse.llm.protocols.protocol import Protocol

Row = Mapping[str, Any]

ENOUGH = 0.5
"""The least share of right answers, over all seeds, of a control that holds."""


class Control(NamedTuple):
    """Rows that have to be right for a cell to say something: what they are called, what they did, the settings that
    are not the cell's, and the mark of their right answers. Dials that their composition does not read need not be
    among the settings."""

    name: str
    did: str
    settings: Mapping[str, Any]
    mark: str = "hits"

    def at(self, **settings: Any) -> "Control":
        """The same control with these settings, too."""
        return self._replace(settings={**self.settings, **settings})


OWN_HOPS = (
    Control("first hop", "kept", {"prompting": "first"}),
    Control("second hop", "kept", {"prompting": "second"}),
)
"""The one-hop questions of both experts, under the same composition."""
ORACLES = {
    "direct": Control("oracle", "got", {"library": "oracle", "composition": "alone"}),
    "steps": Control("oracle of steps", "got", {"library": "oracle_steps", "composition": "alone"}),
}
"""By prompting, an expert trained on such answers, asked the same questions in the same way: one that was trained on
the answers alone need not give them step by step."""


class Verdict(NamedTuple):
    """Of a cell: the first control that failed, for which it is void, or those that no row measures; both empty where
    the controls held, or none is needed."""

    void: str
    unmeasured: str


def own_hops(point: Any) -> tuple[Control, ...]:
    """The controls of a two-hop question to a composition of experts. A one-hop question has none here, and neither has
    a point without experts."""
    pool = getattr(point, "pool", "trained")  # edits have none
    experts = point.composition != "base" and "random" not in (point.composition, pool)
    return OWN_HOPS if experts and point.prompting in ("direct", "steps") else ()


def verdicts(protocol: "Protocol", rows: Sequence[Row]) -> list[Verdict]:
    """Of each row the verdict on its cell, all rows here that differ from it in nothing but the seed. Rows of other
    weights are other cells."""
    points = [point_of(protocol, row["settings"]) for row in rows]
    keys = [_key(point, row) for point, row in zip(points, rows, strict=True)]
    cells: dict[str, list[Row]] = {}
    for key, row in zip(keys, rows, strict=True):
        cells.setdefault(key, []).append(row)
    found: dict[str, Verdict] = {}
    for key, point, row in zip(keys, points, rows, strict=True):
        if key not in found:
            hits, total = _count(cells[key], "hits")
            controls = protocol.controls(point) if hits < ENOUGH * total else ()
            there = [cells.get(_key(settle(dataclasses.replace(point, **one.settings)), row)) for one in controls]
            counts = [None if of is None else _count(of, one.mark) for one, of in zip(controls, there, strict=True)]
            found[key] = _verdict(list(zip(controls, counts, strict=True)))
    return [found[key] for key in keys]


def _count(cell: Sequence[Row], mark: str) -> tuple[int, int]:
    """How many answers of a cell have a mark, of how many."""
    marked, total = (sum(int(row["measured"].get(name, 0)) for row in cell) for name in (mark, "total"))
    return marked, total


def point_of(protocol: "Protocol", settings: Mapping[str, Any]) -> Any:
    """The point of a row's settings; a setting that is younger than the row is at its default."""
    return protocol.axes(**{f.name: settings[f.name] for f in dataclasses.fields(protocol.axes) if f.name in settings})


def _key(point: Any, row: Row) -> str:
    return json.dumps([vars(point), row.get("provenance", {}).get("base_digest")], sort_keys=True)


def _verdict(controls: Sequence[tuple[Any, tuple[int, int] | None]]) -> Verdict:
    failed = [
        f"{control.name} {control.did} {of[0]} of {of[1]}" for control, of in controls if of and of[0] < ENOUGH * of[1]
    ]
    unmeasured = [control.name for control, of in controls if of is None]
    return Verdict(failed[0] if failed else "", "" if failed else ", ".join(unmeasured))
