"""How figures and tables read rows: one table an experiment, filtered by settings, with what is missing said once and
alike."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas

from lora_reuse.runs import rows as on_disk
from lora_reuse.runs.settings import SettingError, short

Make = Callable[[pandas.DataFrame, str], pandas.DataFrame]


def sources(folder: Path) -> dict[str, on_disk.Source]:
    """Every row of a folder by its hash. Raises SettingError for a file that does not hold rows."""
    return {source.row["hash"]: source for source in on_disk.sources(folder)}


class MissingRows(SettingError):
    """Rows that a figure needs are not in the folder: says which, and the command that makes them."""


class Rows:
    """The rows of one folder, as `needs` asks for them: experiment -> the command that makes its rows (without
    out=)."""

    def __init__(self, folder: Path | str, needs: Mapping[str, str]):
        self.folder, self.needs = Path(folder), needs

    def all(self, experiment: str) -> pandas.DataFrame:
        """All rows of an experiment, a column a leaf (`settings.width`, `measured.c_first`, `hash`, ...); empty if
        there are none. Raises KeyError for an experiment that `needs` does not name, SettingError for a file that does
        not hold rows."""
        return _load(self.folder, experiment, self._stamps(experiment)).copy()

    def made_of(self, experiment: str, make: Make) -> pandas.DataFrame:
        """What `make(all rows, experiment)` returns, made once a process. Raises as `all` does."""
        return _made(self.folder, experiment, self._stamps(experiment), make).copy()

    def _stamps(self, experiment: str) -> tuple:
        if experiment not in self.needs:
            raise KeyError(f"{experiment} is not in NEEDS: {', '.join(self.needs)}")
        return tuple(
            (path.name, path.stat().st_mtime_ns, path.stat().st_size)
            for path in sorted((*self.folder.glob(f"{experiment}.*"), *self.folder.glob(on_disk.WITHDRAWN)))
        )

    def select(self, experiment: str, **settings: Any) -> pandas.DataFrame:
        """The rows with these settings; a list means any of its values. Raises MissingRows when there are none."""
        table = self.all(experiment)
        for name, value in settings.items():
            wanted = value if isinstance(value, (list, tuple)) else [value]
            column = f"settings.{name}"
            table = table[table[column].isin(wanted)] if column in table else table[:0]
        if table.empty:
            raise self.missing(experiment, **settings)
        return table

    def missing(self, experiment: str, **settings: Any) -> MissingRows:
        """The error that says that there are no such rows, and how to make them."""
        asked = " ".join(f"{name}={_words(value)}" for name, value in settings.items())
        got = f"no rows of {experiment} in {self.folder}" + (f" with {asked}" if asked else "")
        mend = f"{self.needs[experiment]} out={self.folder}"
        return MissingRows("rows", got, "a folder that holds them", f"make them with `{mend}`")

    def made_by(self, hashes: Iterable[str]) -> dict[tuple[str, str, str], int]:
        """(experiment, command, commit) of the rows that have these hashes, and how many of them each made, in order of
        appearance."""
        wanted, counts = set(hashes), {}
        for experiment in self.needs:
            table = self.all(experiment)
            chosen = table[table["hash"].isin(wanted)] if not table.empty else table
            for row in chosen.to_dict("records"):
                key = (experiment, row["provenance.command"], row["provenance.commit"] or "no commit")
                counts[key] = counts.get(key, 0) + 1
        return counts


def _words(value: Any) -> str:
    return ",".join(map(_words, value)) if isinstance(value, (list, tuple)) else short(value)


@cache
def _load(folder: Path, experiment: str, stamps: tuple) -> pandas.DataFrame:
    """Read once a process; `stamps` changes when the files do. Text is in columns of objects, which pandas cuts into
    groups together and not each for itself."""
    table = on_disk.as_table(on_disk.load_rows(folder, experiment))
    return table.astype(dict.fromkeys(table.select_dtypes("string"), object))


@cache
def _made(folder: Path, experiment: str, stamps: tuple, make: Make) -> pandas.DataFrame:
    return make(_load(folder, experiment, stamps).copy(), experiment)
