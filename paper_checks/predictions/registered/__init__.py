"""Claims that are older than the rows that test them: one file each, and git says how old it is.

A claim is a TOML file in this folder: what is predicted (`statement`, with `bounds` or `tests`), from what (`reason`),
and of which `rows`. It is *registered* by the last commit that changed the file, so any change of its words or bounds
counts from the commit of that change on, and an uncommitted change voids it. A claim that once stood in another file
has a table `since`, with a commit and that file: every string and number of the claim has to stand there as a constant.

A row *tests* a claim if it was made by committed code (`dirty` is false) at a commit that descends from the claim's, or
is it. All others are exploration. So are later rows of the same people and the same seed as an earlier one: their
experts were looked at before."""

import ast
import functools
import hashlib
import json
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lora_reuse.llm.data.mixtures import SETUPS

FOLDER = Path(__file__).parent
Row = Mapping[str, Any]
Unit = tuple[str, int]
"""The people that are asked about, and the seed: what experts are trained on."""


@dataclass(frozen=True)
class Claim:
    """A registered prediction. `bounds` are its numbers and `tests` its comparisons, where these are declared in the
    file and not in a module."""

    path: Path
    content: Mapping[str, Any]

    @property
    def id(self) -> str:
        return self.path.stem

    @property
    def statement(self) -> str:
        return self.content["statement"]

    @property
    def reason(self) -> str:
        """What in the theory or in the paper says so."""
        return self.content["reason"]

    @property
    def seen(self) -> str:
        """What had been measured of it when it was written."""
        return self.content.get("seen", "")

    @property
    def command(self) -> str:
        """What makes the rows."""
        return self.content["command"]

    @property
    def models(self) -> Sequence[str]:
        """For which models it was registered by name; it is asked of every model that has rows."""
        return self.content.get("models", ())

    @property
    def bounds(self) -> Mapping[str, float]:
        return self.content.get("bounds", {})

    @property
    def tests(self) -> Sequence[Mapping[str, Any]]:
        return self.content.get("tests", ())

    @property
    def digest(self) -> str:
        """The hash of what is claimed: of everything but `since`."""
        claimed = {name: value for name, value in self.content.items() if name != "since"}
        return hashlib.sha256(json.dumps(claimed, sort_keys=True).encode()).hexdigest()[:16]

    def rows(self, rows: Iterable[Row]) -> list[Row]:
        """Those that it is about: rows of which one of `content["rows"]` is true."""
        return [row for row in rows if any(fits(row, settings) for settings in self.content["rows"])]


def fits(row: Row, settings: Mapping[str, Any]) -> bool:
    """Whether a row has these settings, of which `experiment` is one; several values are allowed in a tuple or list."""
    has = row["settings"] | {"experiment": row["experiment"]}
    return all(
        has.get(name) in (value if isinstance(value, tuple | list) else (value,)) for name, value in settings.items()
    )


def claims(folder: Path = FOLDER) -> dict[str, Claim]:
    """Every claim of a folder, by its id."""
    return {
        path.stem: Claim(path, tomllib.loads(path.read_text(encoding="utf-8")))
        for path in sorted(folder.glob("*.toml"))
    }


class Registration(NamedTuple):
    """The commit in which a claim was registered; None, and why, where it is not."""

    commit: str | None
    why: str = ""


def registration(claim: Claim) -> Registration:
    """Where the claim is registered, as the git history that holds its file says."""
    folder, name = claim.path.parent, claim.path.name
    if not _git(folder, "ls-files", "--", name):
        return Registration(None, "its file is in no commit of a git history here")
    if _git(folder, "status", "--porcelain", "--", name):
        return Registration(None, "its file was changed and not committed since")
    if "since" not in claim.content:
        return Registration(_git(folder, "log", "-1", "--format=%H", "--", name))
    commit, file = claim.content["since"]["commit"], claim.content["since"]["file"]
    source = _git(folder, "show", f"{commit}:{file}")
    if source is None:
        return Registration(None, f"{commit[:8]}:{file} is not in the git history here")
    said = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    new = [
        leaf
        for leaf in _leaves({name: value for name, value in claim.content.items() if name != "since"})
        if leaf not in said
    ]
    return Registration(None, f"{commit[:8]}:{file} does not say {new[0]!r}") if new else Registration(commit)


class Parted(NamedTuple):
    """The rows that test a claim, those that are exploration, and how many of these are that for which reason."""

    tests: list[Row]
    exploration: list[Row]
    reasons: dict[str, int]


def parted(claim: Claim, registered: Registration, rows: Iterable[Row]) -> Parted:
    """Parts the rows of a model that a claim is about by whether they test it."""
    mine = claim.rows(rows)
    found = [_too_early(row, registered, claim.path.parent) for row in mine]
    looked_at = {unit(row) for row, why in zip(mine, found, strict=True) if why}
    whys: list[str] = []
    for row, why in zip(mine, found, strict=True):
        if not why and row["provenance"].get("dirty") is not False:
            why = "made by code that is in no commit"
        if not why and unit(row) in looked_at:
            why = "made later, of people and a seed that had been looked at"
        whys.append(why)
    each = list(zip(mine, whys, strict=True))
    return Parted(
        [row for row, why in each if not why], [row for row, why in each if why], dict(Counter(filter(None, whys)))
    )


def _too_early(row: Row, registered: Registration, folder: Path) -> str:
    """Why a row is not known to be younger than the claim; nothing where it is."""
    if registered.commit is None:
        return f"the claim is not registered: {registered.why}"
    commit = row["provenance"].get("commit")
    if not commit:
        return "made outside a git history"
    said = {True: "", False: "before the claim", None: "which is not in the git history here"}[
        _descends(folder, registered.commit, commit)
    ]
    return said and f"made at {commit[:8]}, {said}"


def unit(row: Row) -> Unit:
    """Of whom a row asks, and its seed; where it asks a base of its own people, that of the pretraining."""
    settings = row["settings"]
    if "people" in settings:
        return "own people", row["provenance"]["pocket"]["seed"]
    people = settings.get("dataset") or settings.get("names")
    return people or SETUPS[settings.get("setup", "0")].asked, settings["seed"]


def units(rows: Iterable[Row]) -> str:
    """The people and seeds of rows, as a page says them: `R 1, 2, 3; F 0`."""
    seeds: dict[str, set[int]] = {}
    for people, seed in map(unit, rows):
        seeds.setdefault(people, set()).add(seed)
    return "; ".join(f"{people} {', '.join(map(str, sorted(each)))}" for people, each in sorted(seeds.items()))


@functools.cache
def _descends(folder: Path, ancestor: str, commit: str) -> bool | None:
    """Whether a commit is another or descends from it; None where the history does not have both."""
    done = subprocess.run(["git", "merge-base", "--is-ancestor", ancestor, commit], cwd=folder, capture_output=True)
    return {0: True, 1: False}.get(done.returncode)


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, encoding="utf-8", check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    else:
        yield value
