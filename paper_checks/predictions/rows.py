"""Rows of one model: which of them belong together, what they say of each triplet, and whether a hop is kept."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from lora_reuse.llm.protocols.controls import ENOUGH
from lora_reuse.paper_checks.predictions.registered import fits

Row = Mapping[str, Any]
Shares = Float64[np.ndarray, " triplets"]
Values = dict[tuple, Shares]
"""A value for each triplet, by seed and people: (seed, dataset)."""


def key(row: Row) -> tuple:
    """The seed and the people of a row."""
    return row["settings"]["seed"], row["settings"].get("dataset", "")


def shares(rows: Sequence[Row], name: str = "by_triplet", total: str = "total") -> Values:
    """The share of its prompts that is right, for each triplet of each seed and people; several rows of these are
    averaged."""
    found: dict[tuple, list[Shares]] = {}
    for row in rows:
        counts = np.array(row["measured"][name], dtype=float)
        found.setdefault(key(row), []).append(counts * len(counts) / row["measured"][total])
    return {place: np.mean(each, axis=0) for place, each in found.items()}


def paired(first: Values, second: Values) -> Values:
    """first − second, where both have values."""
    return {place: first[place] - second[place] for place in first if place in second}


def unkept(cell: Sequence[Row], first: Sequence[Row], second: Sequence[Row]) -> str:
    """Why a cell is void: a hop of its own is kept by less than ENOUGH under the same composition, or was not asked.
    Nothing where both are kept, nor where the cell itself is right in so many answers (`llm.protocols.controls`)."""
    if _right(cell):
        return ""
    for hop, rows in (("first", first), ("second", second)):
        hits, total = _counts(rows)
        if not total:
            return f"the {hop} hop was not asked"
        if not _right(rows):
            return f"the {hop} hop is kept in {100 * hits / total:.0f} %"
    return ""


def _right(rows: Sequence[Row]) -> bool:
    hits, total = _counts(rows)
    return hits >= ENOUGH * total


def _counts(rows: Sequence[Row]) -> tuple[int, int]:
    return sum(row["measured"]["hits"] for row in rows), sum(row["measured"]["total"] for row in rows)


def own_hops(rows: Sequence[Row], cell: Sequence[Row], *vary: str) -> str:
    """`unkept` of a cell from the rows that ask for its hops: those that differ from it in the prompting alone, and in
    what varies."""
    wanted, seeds = {fixed(row, "prompting", *vary) for row in cell}, {row["settings"]["seed"] for row in cell}
    same = [row for row in rows if row["settings"]["seed"] in seeds and fixed(row, "prompting", *vary) in wanted]
    return unkept(
        cell, *([row for row in same if row["settings"].get("prompting") == hop] for hop in ("first", "second"))
    )


def answered(row: Row, right: Callable[[int], bool]) -> Row:
    """A planted mistake: the row with every prompt of the triplets i with right(i) answered, and no other; a row
    without answers as it is."""
    m = row["measured"]
    if "by_triplet" not in m:
        return row
    each = m["total"] // len(m["by_triplet"])
    by_triplet = [each * right(i) for i in range(len(m["by_triplet"]))]
    return {**row, "measured": {**m, "by_triplet": by_triplet, "hits": sum(by_triplet)}}


def chosen(rows: Sequence[Row], experiment: str, **settings: Any) -> list[Row]:
    """The rows of an experiment with these settings, of held-out test templates, in order of their seeds."""
    wanted = {"experiment": experiment, "split": ("test", None)} | settings
    return sorted((row for row in rows if fits(row, wanted)), key=lambda row: row["settings"]["seed"])


def alike(rows: Sequence[Row], *vary: str) -> list[Row]:
    """The rows that differ in nothing but these settings and the seed, of most of them: other dials ask the same
    triplets again."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(fixed(row, *vary), []).append(row)
    return max(groups.values(), key=len, default=[])


def fixed(row: Row, *vary: str) -> str:
    """The settings of a row but for the seed and those that vary."""
    return json.dumps(
        {name: value for name, value in row["settings"].items() if name not in ("seed", *vary)}, sort_keys=True
    )
