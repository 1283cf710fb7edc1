"""Tables in text: columns that are as wide as their cells, and the settings in which groups of rows differ."""

from collections.abc import Mapping, Sequence
from typing import Any

from lora_reuse.runs.settings import short

Row = Mapping[str, Any]


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """The lines in columns, of which the first holds the heads. A column that has nothing but its head is left out."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    kept = [i for i in range(len(widths)) if any(line[i] for line in lines[1:])]
    return "\n".join("  ".join(line[i].ljust(widths[i]) for i in kept).rstrip() for line in lines)


def varying(groups: Sequence[Sequence[Row]]) -> list[str]:
    """The names of the settings, but the seed, in which groups of rows (`runs.rows.by_setting`) differ."""
    settings = [group[0]["settings"] for group in groups]
    names = dict.fromkeys(name for each in settings for name in each if name != "seed")
    return [name for name in names if len({value(each, name) for each in settings}) > 1]


def value(settings: Mapping[str, Any], name: str) -> str:
    """A setting of a row as a person would type it; `default` where the row leaves it out."""
    return short(settings[name]) if name in settings else "default"
