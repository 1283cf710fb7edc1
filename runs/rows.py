"""Rows on disk: one JSON object a line, appended and never rewritten.

A row is complete or absent. Each append is one write under a file lock, so processes that share a folder lose nothing,
and a kill leaves at most one torn last line, which the next opening cuts off. Anything else that is not a row is
reported and left alone.

What a row says can turn out to be wrong. It is then withdrawn, not rewritten: `withdrawn.csv` beside the rows has a
line of hash, commit, field and reason for each. `field` is `row` for all of it, or `predicted.at_most`, say, for one
number; what is left of the row stands. The commit is the one that made the row, so that the same measurement made anew
is not withdrawn. Readers get what is not withdrawn."""

import contextlib
import csv
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lora_reuse.runs.settings import SettingError, did_you_mean

if TYPE_CHECKING:
    import pandas

SCHEMA = 1
_FIELDS = ("schema", "experiment", "settings", "measured", "predicted", "stderr", "provenance")
_START = b'{"schema": '
WITHDRAWN = "withdrawn.csv"
_COLUMNS = ("hash", "commit", "field", "reason")


def plain(value: Any) -> Any:
    """`value` as strict JSON holds it: infinities as the strings "inf" and "-inf", NaN refused."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, float) and math.isinf(value):
        return str(value)
    return value


def row_hash(experiment: str, settings: Mapping[str, Any]) -> str:
    """What makes two rows the same measurement: the experiment, its settings (seed included) and the schema."""
    text = json.dumps([SCHEMA, experiment, plain(settings)], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Rows:
    """The rows of one experiment in one folder: those on disk by hash, and `append`.

    Every process appends to the file of its own `name` (`kernel_limit`, or `kernel_limit.2-of-8` for a shard) and knows
    the rows of all of them. Raises SettingError if the folder cannot be written or holds something that is not a row.
    """

    def __init__(self, folder: Path, experiment: str, name: str | None = None):
        self.path = folder / f"{name or experiment}.jsonl"
        try:
            self.known = {row["hash"]: row for row in load_rows(folder, experiment)}
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(self.path) as file:
                _repair(file)
        except OSError as error:
            raise SettingError("out", f"{folder} ({error.strerror})", "a folder that can be written") from None

    def append(self, row: Mapping[str, Any]) -> None:
        """Writes one row; it is on disk when this returns. Raises SettingError when the disk refuses."""
        full = {
            "schema": SCHEMA,
            "experiment": row["experiment"],
            "hash": row_hash(row["experiment"], row["settings"]),
            **plain({key: row[key] for key in _FIELDS[2:]}),
        }
        line = json.dumps(full, allow_nan=False) + "\n"
        try:
            with _locked(self.path) as file:
                _repair(file)
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SettingError("out", f"{self.path} ({error.strerror})", "a file that can be appended to") from None
        self.known[full["hash"]] = json.loads(line)  # as it will be read: a list where a tuple was


class Source(NamedTuple):
    """Where a row lies, and how it was made."""

    file: str
    line: int
    row: dict[str, Any]


def sources(folder: Path | str, experiment: str | None = None) -> list[Source]:
    """What `load_rows` returns, each row with where it lies. Raises SettingError with file and line."""
    paths = sorted(Path(folder).glob("*.jsonl"))
    if experiment is not None:
        paths = [path for path in paths if path.name.split(".")[0] == experiment]
    withdrawn = _withdrawn(Path(folder) / WITHDRAWN)
    lines = [Source(path.name, number, row) for path in paths for number, row in enumerate(_read(path), start=1)]
    standing = [source for source in reversed(lines) if _without(source.row, withdrawn)]
    return list({source.row["hash"]: source for source in standing}.values())[::-1]


def load_rows(folder: Path | str, experiment: str | None = None) -> list[dict[str, Any]]:
    """The rows in `folder` (of one experiment, or of all) without what is withdrawn, each measurement once. Raises
    SettingError with file and line."""
    return [source.row for source in sources(folder, experiment)]


def rows(folder: Path | str, experiment: str | None = None, *, provenance: bool = False) -> "pandas.DataFrame":
    """The rows of a folder as one table, without what is withdrawn, each measurement once.

    Args:
        folder: where a command wrote rows (`out=`), as `results/paper`.
        experiment: one experiment, as `theorem_2`, or all.
        provenance: also how each row was made: command, commit, versions, device.

    Returns:
        A line a row: `experiment`, `hash`, and a column a leaf, as `settings.width`, `measured.c_first`,
        `predicted.c_first`, `stderr.c_first`. What a row does not have is missing; a setting that it does not name has
        its default.

    Raises:
        SettingError: for a folder without rows of the experiment, and for a line that is not a row.

    Examples:
        >>> table = lr.rows("results/paper", "theorem_2")
        >>> table.groupby("settings.width")[["measured.c_first"]].mean().round(3).reset_index()
           settings.width  measured.c_first
        0          4096.0             0.416
        1             inf             0.412
    """
    from pandas.api.types import infer_dtype

    if not (found := load_rows(folder, experiment)):
        there = {path.name.split(".")[0] for path in Path(folder).glob("*.jsonl")}
        if experiment is None or not there:
            raise SettingError("folder", str(folder), "a folder that holds rows (*.jsonl)")
        raise SettingError("experiment", repr(experiment), ", ".join(sorted(there)), did_you_mean(experiment, there))
    table = as_table(found).drop(columns="schema")
    if not provenance:
        table = table.drop(columns=[name for name in table if str(name).startswith("provenance.")])
    flags = [name for name in table if infer_dtype(table[name], skipna=True) == "boolean"]
    return table.astype(dict.fromkeys(flags, "boolean"))


def as_table(rows: Iterable[dict[str, Any]]) -> "pandas.DataFrame":
    """Rows as one table, a column a leaf: `settings.width`, `measured.c_first`, `stderr.c_first`, ..."""
    import pandas

    table = pandas.json_normalize(list(rows))
    return table.replace({"inf": math.inf, "-inf": -math.inf}).infer_objects()


@contextlib.contextmanager
def _locked(path: Path):
    with open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _repair(file: Any) -> None:
    """Ends the last line: a torn row is cut off, anything else that only lacks its newline gets it."""
    size = file.seek(0, os.SEEK_END)
    tail = b""
    while size > 0 and b"\n" not in tail:
        step = min(size, 65536)
        size -= step
        file.seek(size)
        tail = file.read(step) + tail
    start = size + tail.rfind(b"\n") + 1
    last = tail[tail.rfind(b"\n") + 1 :]
    if _torn(last):
        file.truncate(start)
    elif last:
        file.write(b"\n")


def _torn(line: bytes) -> bool:
    """Whether a line is the beginning of a row, and no more."""
    if not line or line[: len(_START)] != _START[: len(line)]:
        return False
    try:
        json.loads(line)
    except ValueError:
        return True
    return False


def _read(path: Path) -> list[dict[str, Any]]:
    lines = path.read_bytes().split(b"\n")
    rows = [_row(path, number, line) for number, line in enumerate(lines[:-1], start=1)]
    return rows + ([_row(path, len(lines), lines[-1])] if lines[-1] and not _torn(lines[-1]) else [])


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    where, mend = f"{path}:{number}", "move the file away or mend that line; nothing was changed"
    constants: list[str] = []
    try:
        row = json.loads(line, parse_constant=constants.append)
    except ValueError:
        raise SettingError(where, repr(line[:40].decode(errors="replace")), "one JSON object a line", mend) from None
    if not isinstance(row, dict) or "schema" not in row:
        raise SettingError(where, "a line that is not a row", "rows written by this program", mend)
    if row["schema"] != SCHEMA:
        raise SettingError(where, f"schema {row['schema']}", f"schema {SCHEMA}", "choose another folder with out=")
    if missing := [field for field in (*_FIELDS, "hash") if field not in row]:
        raise SettingError(where, f"a row without {missing[0]!r}", ", ".join(_FIELDS), mend)
    for field in (*_FIELDS[1:], "hash"):
        kind, allowed = (str, "a text") if field in ("experiment", "hash") else (dict, "an object")
        if not isinstance(row[field], kind) or (field == "measured" and not row[field]):
            got = f"{field} {json.dumps(row[field])[:40]}"
            raise SettingError(where, got, f"{allowed}{' with a number' * (field == 'measured')}", mend)
    if constants:
        raise SettingError(where, constants[0], "numbers, as strict JSON has them", mend)
    return row


def _withdrawn(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    """By hash and commit of a row: the fields that are withdrawn, each with where that is said. Raises SettingError
    with file and line."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    if not path.exists():
        return found
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingError(str(path), f"a file that is no table ({error})", f"lines of {', '.join(_COLUMNS)}") from None
    for number, line in enumerate(lines or [[]], start=1):
        where = f"{path}:{number}"
        if number == 1:
            if tuple(line) != _COLUMNS:
                raise SettingError(where, repr(",".join(line)), f"the head {','.join(_COLUMNS)}")
        elif len(line) != len(_COLUMNS) or not all((line[0], line[2], line[3])):
            raise SettingError(
                where,
                repr(",".join(line)),
                f"{', '.join(_COLUMNS)}; the commit alone may be empty, of a row without one",
            )
        elif line[2] != "row" and line[2].split(".")[0] not in ("measured", "predicted", "stderr"):
            raise SettingError(
                where, repr(line[2]), "row, or a field of measured, predicted or stderr, as predicted.at_most"
            )
        else:
            found.setdefault((line[0], line[1]), {})[line[2]] = where
    return found


def _without(row: dict[str, Any], withdrawn: Mapping[tuple[str, str], Mapping[str, str]]) -> bool:
    """Whether something of the row stands; the fields that are withdrawn are taken from it. Raises SettingError for one
    that it does not have."""
    fields = withdrawn.get((row["hash"], row["provenance"].get("commit") or ""), {})
    for field, where in fields.items():
        part, _, name = field.partition(".")
        if part != "row" and row[part].pop(name, None) is None:
            raise SettingError(where, f"{field} of row {row['hash']}, which has none", "a field of the row")
    return "row" not in fields


def by_setting(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Groups rows that differ in nothing but the seed, in order of first appearance."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        key = json.dumps({k: v for k, v in row["settings"].items() if k != "seed"}, sort_keys=True)
        groups.setdefault(key, []).append(row)
    return groups
