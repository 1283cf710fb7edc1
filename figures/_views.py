"""What the page of rows shows (`figures.explore`): of every protocol the settings that vary, and of every cell its
numbers, its controls, its rows and its sample of answers.

All numbers are made here, with the functions that the tables of a command use. The page only chooses among cells."""

import dataclasses
import json
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas

from lora_reuse.figures import _names
from lora_reuse.figures._groups import OWN
from lora_reuse.figures._html import DIGITS
from lora_reuse.llm.answers import read
from lora_reuse.llm.protocols.by_name import protocol_of
from lora_reuse.llm.protocols.controls import Control, point_of, verdicts
from lora_reuse.llm.protocols.dials import CONTROLS, settle
from lora_reuse.llm.protocols.protocol import Protocol
from lora_reuse.llm.protocols.table import pooled
from lora_reuse.runs.rows import Source
from lora_reuse.runs.settings import Choice, SettingError, short

SETUPS = {
    "0": "no bridge",
    "1": "full bridge in both, of real names; fake ones asked",
    "2": "full bridge in both",
    "3": "bridge of direct answers",
    "4": "full bridge in the first only",
    "5": "full bridge in the second only",
    "6": "steps only",
    "7": "steps and own hop",
    "8": "bridge of other relations",
}
WORDS = {
    "setup": SETUPS,
    "prompting": {
        "direct": "asked directly",
        "steps": "asked step by step",
        "first": "the first hop alone",
        "second": "the second hop alone",
    },
    "dataset": {"R": "real names and places", "F": "fake names and places", "H": "fake names, real places"},
    "split": {"test": "the test templates", "dev": "the templates that choices were made on"},
    "second": {"right": "the right places", "dealt": "each other's places"},
}
"""What stands behind a value in its list."""
RULE = "composition"
PLACES = string.digits + string.ascii_letters + "!#$%*+-.:;=?@^_~" + "".join(map(chr, range(0xC0, 0x180)))
"""A character for each place on an axis, which neither JSON nor HTML has to escape; the first 78 are of one byte."""
SHARED_FIELDS = ("hits", "total", "share", "each", "of", "theory", "paper", "void", "ends", "chance", "commands")
"""What is the same in many cells. A cell is a list: `at`, a character of PLACES for its place on each axis; the place
of its controls in the view's `control_lists`; its `rows`; the place of these fields in the view's `shared`; and its
sample, where it has one. `each` are the hits of its seeds where there are several, and `of` how many questions each was
asked, one number where all were asked as many."""


class Cell(NamedTuple):
    """Rows that differ in the seed alone, what their point is, and what their model is called."""

    point: Any
    weights: str
    model: str
    rows: list[Source]

    def at(self, name: str) -> str:
        """The value of a setting."""
        return self.model if name == "model" else short(getattr(self.point, name))


def views(sources: Sequence[Source], folder: Path) -> list[dict[str, Any]]:
    """Every protocol whose rows count answers, by its name; those of which no protocol in `llm` is are left out, as
    forecasts are. `folder` holds the rows, and the sample of answers."""
    found: dict[str, list[Source]] = {}
    for source in sources:
        if source.row["experiment"].startswith("llm_") and "hits" in source.row["measured"]:
            found.setdefault(source.row["experiment"], []).append(source)
    shown = []
    for experiment, own in sorted(found.items()):
        try:
            protocol = protocol_of(experiment)
        except SettingError:
            continue
        sample = {line["row"]: line for line in read(folder / "answers" / f"{experiment}.jsonl")}
        shown.append(_view(protocol, own, sample))
    return shown


def _view(protocol: Protocol, sources: Sequence[Source], sample: Mapping[str, Any]) -> dict[str, Any]:
    cells = _cells(protocol, sources)
    axes = list(_axes(protocol, cells))
    places = {(cell.point, cell.weights): i for i, cell in enumerate(cells)}
    judged = iter(verdicts(protocol, [source.row for cell in cells for source in cell.rows]))
    commands: dict[str, int] = {}
    names: dict[str, int] = {}
    shared: dict[str, int] = {}
    control_lists: dict[str, int] = {}
    asked: dict[tuple[str, str], int] = {}
    shown = []
    for cell in cells:
        verdict, *_ = [next(judged) for _ in cell.rows]  # that of a row is that of its cell
        controls = [
            [names.setdefault(control.name, len(names)), places[at], *_marked(cells[places[at]], control)]
            for control in protocol.controls(cell.point)
            if (at := (settle(dataclasses.replace(cell.point, **control.settings)), cell.weights)) in places
        ]
        at = "".join(PLACES[list(axis["values"]).index(cell.at(axis["name"]))] for axis in axes)
        listed = control_lists.setdefault(json.dumps(controls), len(control_lists))
        rows = ";".join(_rows(cell, sources[0].file))
        made = dict.fromkeys(source.row["provenance"]["command"] for source in cell.rows)
        told = _numbers(protocol, cell, verdict.void, verdict.unmeasured)
        told |= {"commands": [commands.setdefault(command, len(commands)) for command in made]}
        place = shared.setdefault(json.dumps([told[name] for name in SHARED_FIELDS]), len(shared))
        shown.append([at, listed, rows, place, *_sample(cell, sample, asked)])
    data = {getattr(cell.point, "data", "") for cell in cells}
    ours = [what for name, what in OWN.get(protocol.experiment, {}).items() if name in data]
    stand_in = f" The data are a stand-in of this project's: {'; '.join(ours)}." if ours else ""
    return {
        "name": protocol.name,
        "about": _first_sentence(protocol.doc) + stand_in,
        "file": sources[0].file,
        "axes": axes,
        "commands": list(commands),
        "controls": list(names),
        "shared": [json.loads(each) for each in shared],
        "control_lists": [json.loads(each) for each in control_lists],
        "asked": list(asked),
        "cells": shown,
    }


def cells_of(view: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The cells of a view by the names of their fields, with their places as numbers."""
    found = []
    for at, controls, rows, place, *_ in view["cells"]:
        told = {"at": [PLACES.index(each) for each in at], "controls": view["control_lists"][controls], "rows": rows}
        found.append(told | dict(zip(SHARED_FIELDS, view["shared"][place], strict=True)))
    return found


def _marked(cell: Cell, control: Control) -> list[int]:
    """How many answers of a control's cell are right to it, where those are not its hits."""
    if control.mark == "hits":
        return []
    return [pooled([source.row for source in cell.rows], control.mark).hits]


def _first_sentence(doc: str) -> str:
    """Of the first paragraph behind the command."""
    return re.split(r"(?<=[.?]) (?=[A-Z])", " ".join(doc.split("\n\n")[1].split()))[0]


def _cells(protocol: Protocol, sources: Sequence[Source]) -> list[Cell]:
    """Each measurement once; a setting that is younger than a row is at its default."""
    groups: dict[tuple[Any, str], dict[int, Source]] = {}
    for source in sources:
        key = point_of(protocol, source.row["settings"]), source.row["provenance"].get("base_digest") or ""
        groups.setdefault(key, {})[source.row["settings"]["seed"]] = source
    weights: dict[str, set[str]] = {}
    for point, digest in groups:
        weights.setdefault(point.model, set()).add(digest)
    models: dict[str, list[dict[str, Any]]] = {}
    name = lambda point, digest: point.model + (f" ({digest[:8]})" if len(weights[point.model]) > 1 else "")  # noqa: E731
    for (point, digest), seeds in groups.items():
        models.setdefault(name(point, digest), []).extend(
            {"provenance": source.row["provenance"]} for source in seeds.values()
        )
    called = _names.called({model: pandas.json_normalize(rows) for model, rows in models.items()})
    return [
        Cell(point, digest, called[name(point, digest)], [seeds[seed] for seed in sorted(seeds)])
        for (point, digest), seeds in groups.items()
    ]


def _axes(protocol: Protocol, cells: Sequence[Cell]) -> Iterator[dict[str, Any]]:
    """The model; the settings that vary, first those that the command's own grid turns, of these last how it is asked;
    and the rule."""
    fields = [f for f in dataclasses.fields(protocol.axes) if f.name not in ("model", RULE)]
    fields.sort(key=lambda f: (not f.metadata["grid"], f.name == "prompting"))
    docs = {f.name: f.metadata for f in dataclasses.fields(protocol.axes)}
    for name in ("model", *(f.name for f in fields), RULE):
        found = list(dict.fromkeys(cell.at(name) for cell in cells))
        if len(found) > 1 or name in ("model", RULE):
            kind = docs[name]["kind"]
            order = {word: i for i, word in enumerate(kind.words)} if isinstance(kind, Choice) else {}
            if name != "model":
                found.sort(key=lambda value: (order.get(value, len(order)), _number(value), value))
            words = dict.fromkeys(CONTROLS, "a control") if name == RULE else WORDS.get(name, {})
            told = {value: words.get(value, "") for value in found}
            yield {"name": name, "about": "the base" if name == "model" else docs[name]["doc"], "values": told}


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return 0.0


def _numbers(protocol: Protocol, cell: Cell, void: str, unmeasured: str) -> dict[str, Any]:
    """What the line of a cell says, and in percent where its interval is."""
    rows = [source.row for source in cell.rows]
    found = pooled(rows)
    hits, totals = ([row["measured"][name] for row in rows] for name in ("hits", "total"))
    bounds = [row["predicted"].get("at_most") for row in rows]
    share = f"void: {void}" if void else found.share + (" (one seed)" if len(rows) == 1 else "")
    return {
        "hits": found.hits,
        "total": found.total,
        "share": share + (f"; {unmeasured} not measured" if unmeasured else ""),
        "each": hits if len(rows) > 1 else [],
        "of": totals[0] if len(set(totals)) == 1 else totals,
        "theory": "" if None in bounds else f"≤ {100 * sum(bounds) / found.total:.0f} %",
        "paper": protocol.reported(cell.point),
        "void": int(bool(void)),
        "ends": [_percent(end) for end in found.limits or ()],
        "chance": _percent(1 / cell.point.triplets) if hasattr(cell.point, "triplets") else 0,
    }


def _percent(part: float) -> float:
    """As finely as a drawing shows it, and as few digits as that takes."""
    percent = round(100 * part, 1)
    return int(percent) if percent == int(percent) else percent


def _rows(cell: Cell, file: str) -> list[str]:
    """Of each row the first digits of its hash; its seed where that is not the one after the row before, from 0; and
    its file where that is not the protocol's own."""
    places, due = [], 0
    for it in cell.rows:
        seed = it.row["settings"]["seed"]
        place = it.row["hash"][:DIGITS]
        places.append(place if (seed, it.file) == (due, file) else f"{place} {seed} {it.file}".removesuffix(f" {file}"))
        due = seed + 1
    return places


def _sample(cell: Cell, sample: Mapping[str, Any], asked: dict[tuple[str, str], int]) -> list[Any]:
    """The sample of the first of its rows that has one: the seed, of how many questions it is, and of each question the
    place of it and its right answer among those that are `asked`, the answer and whether that is a hit. Empty where
    none has."""
    for source in cell.rows:
        if line := sample.get(source.row["hash"]):
            places = [asked.setdefault((a["question"], a["gold"]), len(asked)) for a in line["answers"]]
            said = [[place, a["answer"], int(a["hit"])] for place, a in zip(places, line["answers"], strict=True)]
            return [[source.row["settings"]["seed"], line["asked"], said]]
    return []
