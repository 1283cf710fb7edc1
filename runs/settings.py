"""Settings from bare `key=value` words, typed by a frozen dataclass.

A setting is a dataclass field made with `setting(default, kind, doc)`. A comma list is a grid axis:
`width=256,1e6,2**20,inf`. The standard library and a page of code, because the libraries that read `key=value` (chz,
OmegaConf) refuse `1e6` as a whole number, take the last of a repeated key in silence, read `width=` as an empty grid,
and answer in several lines; `tests/test_settings.py` holds each of these."""

import dataclasses
import difflib
import inspect
import itertools
import math
import os
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

Given = TypeVar("Given")


class SettingError(ValueError):
    """A mistake of the user's: one line that names the argument, what came, what is allowed and, where it helps, the
    mend."""

    def __init__(self, name: str, got: object, allowed: str, mend: str = ""):
        said = f"{name}: got {shortened(str(got))}; allowed: {allowed}{'; ' + mend if mend else ''}"
        super().__init__(" ".join(said.split()))

    def at(self, *places: str) -> "SettingError":
        """The same mistake, with the places where it stands said first."""
        return _restored(": ".join([*places, str(self)]))

    def __reduce__(self) -> Any:
        """Whole across processes: a worker's mistake reads as one made here."""
        return _restored, (str(self),)


def _restored(text: str) -> SettingError:
    error = SettingError.__new__(SettingError)
    error.args = (text,)
    return error


@runtime_checkable
class Kind(Protocol):
    """What a setting may be: `allowed` in words, and `parse` from the text of one value (ValueError if it is not
    one)."""

    @property
    def allowed(self) -> str: ...
    def parse(self, text: str) -> Any: ...


@dataclass(frozen=True)
class Whole:
    """A whole number: `4096`, `1e6`, `2**20`, and `inf` where `infinite`."""

    minimum: int = 1
    maximum: int = 2**31 - 1
    infinite: bool = False

    @property
    def allowed(self) -> str:
        return f"a whole number from {short(self.minimum)} to {short(self.maximum)}" + (
            " or inf" if self.infinite else ""
        )

    def parse(self, text: str) -> int | float:
        if self.infinite and text == "inf":
            return math.inf
        if match := re.fullmatch(r"([0-9]{1,9})\*\*([0-9]{1,4})", text):
            value = int(match[1]) ** int(match[2])
        elif match := re.fullmatch(r"([0-9]+)(?:\.([0-9]*))?[eE]\+?([0-9]{1,3})", text):
            decimals = match[2] or ""
            value, remainder = divmod(int(match[1] + decimals) * 10 ** int(match[3]), 10 ** len(decimals))
            if remainder:
                raise ValueError
        elif re.fullmatch(r"[0-9]+", text):
            value = int(text)
        else:
            raise ValueError
        if not self.minimum <= value <= self.maximum:
            raise ValueError
        return value


@dataclass(frozen=True)
class Number:
    """A real number in a closed interval."""

    minimum: int | float
    maximum: int | float

    @property
    def allowed(self) -> str:
        return f"a number from {self.minimum:g} to {self.maximum:g}"

    def parse(self, text: str) -> float:
        value = _real(text)
        if not self.minimum <= value <= self.maximum:
            raise ValueError
        return value


def _real(text: str) -> float:
    """A number written in ASCII: Python reads digits of every script."""
    if not text.isascii():
        raise ValueError
    return float(text)


class Choice:
    """One of a few words."""

    def __init__(self, *words: str):
        self.words = words

    @property
    def allowed(self) -> str:
        return " | ".join(self.words)

    def parse(self, text: str) -> str:
        if text not in self.words:
            raise ValueError
        return text


class Numbers:
    """Numbers joined by colons, or by commas where no comma separates values of an axis."""

    allowed = "numbers joined by : (where there is no grid, by , too)"

    def parse(self, text: str) -> tuple[float, ...]:
        values = tuple(_real(word) for word in text.replace(":", ",").split(","))
        if not all(map(math.isfinite, values)):
            raise ValueError
        return values


class Flag:
    """`true` or `false`."""

    allowed = "true | false"

    def parse(self, text: str) -> bool:
        return {"true": True, "false": False}[text]


@dataclass(frozen=True)
class Text:
    """Any text that matches `pattern`; `allowed` says the pattern in words."""

    allowed: str = "text"
    pattern: str = r".+"

    def parse(self, text: str) -> str:
        if not re.fullmatch(self.pattern, text):
            raise ValueError
        return text


@dataclass(frozen=True)
class Place(Text):
    """A file or folder of this machine. `~` is the home: a shell leaves it as it is after `=`, and reads no recipe."""

    def parse(self, text: str) -> str:
        return os.path.expanduser(super().parse(text))


def setting(
    default: Any, kind: Kind, doc: str, grid: tuple | None = None, omitted: bool = False, rules: Sequence[str] = ()
) -> Any:
    """A dataclass field that can be set by `name=value`; `grid` is the axis a command takes when the person names none.
    A row does not name a setting that is `omitted` where it has its default. A dial is read by its `rules` alone."""
    doc = f"{', '.join(rules)}: {doc}" if rules else doc
    notes = {"kind": kind, "doc": doc, "grid": grid, "omitted": omitted, "rules": rules}
    return dataclasses.field(default=default, metadata=notes)


def parse(words: Iterable[str], axes: type, options: type) -> tuple[dict[str, tuple], dict[str, Any]]:
    """Reads `key=value` words against two dataclasses: `axes`, where a value may be a comma list, and `options`, where
    not.

    Returns the given axes (a tuple of values each) and the given options. Raises SettingError.
    """
    fields = {f.name: (f.metadata["kind"], cls) for cls in (axes, options) for f in dataclasses.fields(cls)}
    given: dict[str, tuple] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise SettingError(word, "no value", "key=value", f"write {word}=..., or --help for a list")
        if name not in fields:
            now = next((cls.RENAMED[name] for cls in (axes, options) if name in getattr(cls, "RENAMED", ())), "")
            mend = f"it is {now}= now" if now else did_you_mean(name, fields)
            raise SettingError(name, "an unknown setting", ", ".join(fields), mend)
        if name in given:
            raise SettingError(
                name, f"{word} after an earlier {name}=", "each setting once", "a list is written with commas"
            )
        kind, cls = fields[name]
        texts = [part.strip() for part in text.split(",")] if cls is axes else [text]
        given[name] = tuple(of_kind(name, kind, part) for part in texts)
        if len(set(given[name])) < len(given[name]):
            raise SettingError(name, text, "each value once")
    is_axis = lambda name: fields[name][1] is axes  # noqa: E731
    return {k: v for k, v in given.items() if is_axis(k)}, {k: v[0] for k, v in given.items() if not is_axis(k)}


@dataclass(frozen=True)
class NoAxes:
    """The axes of a command that has none."""


def parse_options(words: Iterable[str], options: type[Given]) -> Given:
    """The options of a command without axes, from `key=value` words. Raises SettingError."""
    return options(**parse(words, NoAxes, options)[1])


def of_kind(name: str, kind: Kind, value: Any) -> Any:
    """What a kind makes of a text, and of a value that came from Python: what it makes of its text. Raises SettingError
    for one that it does not take."""
    whole = isinstance(kind, Whole) and isinstance(value, float) and value.is_integer()
    text = ":".join(map(str, value)) if isinstance(value, (tuple, list)) else str(int(value) if whole else value)
    try:
        return kind.parse(text.lower() if isinstance(value, bool) else text)
    except (ValueError, KeyError):
        raise SettingError(name, repr(value), kind.allowed, did_you_mean(text, getattr(kind, "words", ()))) from None


def checked(point: Any) -> None:
    """Gives each setting of a frozen dataclass what its kind makes of it, but those at their defaults. Raises
    SettingError for a value that is not allowed."""
    for f in dataclasses.fields(point):
        if (value := getattr(point, f.name)) is not f.default:
            object.__setattr__(point, f.name, of_kind(f.name, f.metadata["kind"], value))


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """`did you mean 'width'?`, or nothing when no known word is near what was given, as for what is no word."""
    near = difflib.get_close_matches(str(word), list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else ""


def grid(cls: type, axes: Mapping[str, tuple]) -> Iterator[Any]:
    """Every point of the grid as an instance of `cls`; axes not given take the field's `grid`, else its default."""
    fields = dataclasses.fields(cls)
    values = [axes.get(f.name) or f.metadata["grid"] or (f.default,) for f in fields]
    for point in itertools.product(*values):
        yield cls(**dict(zip((f.name for f in fields), point, strict=True)))


def shortened(text: str) -> str:
    """The text, or its beginning where it is longer than a few lines."""
    return text if len(text) <= 400 else f"{text[:200]} ... ({len(text)} characters)"


def short(value: Any) -> str:
    """A value as a person would type it: 2**20, inf, true."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value >= 1024 and value & (value - 1) == 0:
        return f"2**{value.bit_length() - 1}"
    if isinstance(value, int) and value >= 2**31 - 1 and (value + 1) & value == 0:
        return f"2**{value.bit_length()}-1"
    return str(value)


_WIDEST = 38
"""Characters of a column of the help; a longer list gets lines of its own."""


def help_table(*classes: type) -> str:
    """A typed table of every setting: name, default (a comma list is a grid axis), what is allowed, what it means."""
    lines = []
    for cls in classes:
        lines += ["", inspect.cleandoc(cls.__doc__ or ""), ""]
        rows: Sequence[tuple[str, str, str, str]] = [
            (
                f.name,
                ",".join(short(v) for v in f.metadata["grid"] or (f.default,)),
                f.metadata["kind"].allowed,
                f.metadata["doc"],
            )
            for f in dataclasses.fields(cls)
        ]
        tables = [[row[0], *(cell if len(cell) <= _WIDEST else "below" for cell in row[1:3])] for row in rows]
        widths = [max(map(len, column)) for column in zip(*tables, strict=True)]
        for row, cells in zip(rows, tables, strict=True):
            start = "  ".join(["", *(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), ""])
            lines += textwrap.wrap(start + row[3], max(200, len(start) + 60), subsequent_indent=" " * len(start))
            long = [(what, cell) for what, cell in (("default", row[1]), ("allowed", row[2])) if len(cell) > _WIDEST]
            indent = " " * (widths[0] + 4)
            for what, cell in long:
                hanging = {"subsequent_indent": f"{indent}  ", "break_long_words": False, "break_on_hyphens": False}
                lines += textwrap.wrap(f"{indent}{what}: {cell}", 150, **hanging)
    return "\n".join(lines[1:])
