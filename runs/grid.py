"""A grid of cells, of which a command runs a shard: points, each with every seed."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lora_reuse.runs.rows import Rows, row_hash
from lora_reuse.runs.settings import Choice, Flag, Place, SettingError, Text, Whole, setting, short

Cell = tuple[Any, int]
"""A point of a grid, which is an instance of a dataclass of axes, and a seed."""
Part = TypeVar("Part")


@dataclass(frozen=True)
class Run:
    """Which part of a grid is run, where, and by whom."""

    seeds: int = setting(1, Whole(1, 10**6), "repetitions of every grid point, seeds first_seed, first_seed + 1, ...")
    first_seed: int = setting(0, Whole(0, 2**31 - 1), "the first seed")
    out: str = setting("results", Place("a folder"), "folder for the rows; what is there already is not run again")
    dry_run: bool = setting(False, Flag(), "print the grid and its cost, and run nothing")
    shard: str = setting(
        "1/1", Text("i/N with 1 <= i <= N", r"[1-9]\d{0,5}/[1-9]\d{0,5}"), "run the i-th of N parts of the grid"
    )
    launcher: str = setting(
        "none", Choice("none", "local", "slurm"), "run here, in local processes, or as a Slurm array (submitit)"
    )
    jobs: int = setting(2, Whole(1, 10_000), "shards that launcher= starts")
    slurm: str = setting(
        "",
        Text("name:value+name:value", r"(\w+:[^+]+(\+\w+:[^+]+)*)?"),
        "submitit parameters, as slurm_partition:gpu+timeout_min:60",
    )

    @property
    def every_seed(self) -> range:
        """The seeds. Raises SettingError for seeds that are not below 2³¹."""
        if self.first_seed + self.seeds > 2**31:
            raise SettingError("first_seed", f"{self.first_seed} with seeds={self.seeds}", "seeds below 2**31")
        return range(self.first_seed, self.first_seed + self.seeds)


def share(parts: Sequence[Part], shard: str) -> list[Part]:
    """The i-th of N shards of a grid: every N-th of its parts, so that shards are alike in cost and together are all of
    it. Raises SettingError for i > N."""
    number, of = map(int, shard.split("/"))
    if number > of:
        raise SettingError("shard", shard, "i/N with 1 <= i <= N")
    return list(parts[number - 1 :: of])


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


def hash_of(experiment: str, cell: Cell) -> str:
    """The hash of a cell's row, by which a command that is started again finds it."""
    return row_hash(experiment, settings_of(cell))


def rows_of(experiment: str, run: Run) -> Rows:
    """The rows of an experiment, with a file of its own for each shard. Raises SettingError as `runs.rows.Rows`."""
    number, of = run.shard.split("/")
    return Rows(Path(run.out), experiment, experiment if of == "1" else f"{experiment}.{number}-of-{of}")


def found(cells: Sequence[Cell], experiment: str, known: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those rows of the cells, in their order, that are known by their hashes."""
    return [known[key] for cell in cells if (key := hash_of(experiment, cell)) in known]


def axes_of(cells: Sequence[Cell]) -> str:
    """The values of each axis, a line an axis."""
    points = list(dict.fromkeys(point for point, _ in cells))
    lines = []
    for name in (f.name for f in dataclasses.fields(points[0])) if points else ():
        values = dict.fromkeys(getattr(point, name) for point in points)
        lines.append(f"  {name}={','.join(map(short, values))}")
    return "\n".join(lines)
