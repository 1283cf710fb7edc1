"""The cells of a grid: its points, each with every seed."""

import dataclasses
from typing import Any

Cell = tuple[Any, int]
"""A point of a grid, which is an instance of a dataclass of axes, and a seed."""


def settings_of(cell: Cell) -> dict[str, Any]:
    """The settings of a cell's row: every axis of its point, and the seed.

    An axis that was made with `setting(..., omitted=True)` is left out where it has its default. So a new axis changes
    no hash of the rows that were made before it."""
    point, seed = cell
    kept = [
        f.name
        for f in dataclasses.fields(point)
        if not f.metadata.get("omitted") or getattr(point, f.name) != f.default
    ]
    return {name: value for name, value in dataclasses.asdict(point).items() if name in kept} | {"seed": seed}
