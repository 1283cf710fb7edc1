"""Grouped bars of shares in percent: narrow and filled, what is measured here, with its interval; wide and hollow, what the paper reports."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from figures import style

LIGHT, DARK, AMBER, RED = "#56B4E9", "#0072B2", "#E69F00", "#D55E00"
# Uniform is hatched and Arrow is not, so that they differ without colour.
LOOKS = {
    "hatched light": (LIGHT, "////"),
    "dark": (DARK, ""),
    "hatched amber": (AMBER, "////"),
    "red": (RED, ""),
    "black": ("0.5", ""),
    "grey": ("0.7", ""),
}


def grouped(axes: Axes, table: pandas.DataFrame, group: str, groups: Sequence[str], look: Mapping[str, str]) -> None:
    """A group of bars for each of `groups` (values of the column `group`), a bar for each `series` in `look`, which names its look."""
    width = 0.86 / len(look)
    for i, (series, name) in enumerate(look.items()):
        colour, hatch = LOOKS[name]
        part = table[table["series"] == series].set_index(group).reindex(index=list(groups))
        part["place"] = np.arange(len(groups)) + (i - (len(look) - 1) / 2) * width
        # Bars without a height are left out: they have no place that a layout could reckon with.
        printed, ours = part.dropna(subset="reported"), part.dropna(subset="percent")
        for bar in axes.bar(printed["place"], printed["reported"], 0.9 * width, color="none", edgecolor=colour, linewidth=0.7, hatch=hatch):
            bar.set_hatch_linewidth(0.4)
        if ours.empty:
            continue
        axes.bar(ours["place"], ours["percent"], 0.55 * width, color=colour, edgecolor="white" if hatch else colour, linewidth=0, hatch=hatch)
        interval = np.array([ours["percent"] - ours["low"], ours["high"] - ours["percent"]])
        axes.errorbar(ours["place"], ours["percent"], interval, linestyle="none", color="black", linewidth=0.7, capsize=1)
        if not (none := ours[ours["percent"] == 0]).empty:
            zero = {"linestyle": "none", "marker": style.MARKERS[i % len(style.MARKERS)], "color": colour, "markersize": 2.5}
            axes.plot(none["place"], none["percent"], clip_on=False, **zero)
    for place, name in enumerate(groups):
        part = table[table[group] == name]
        if part["percent"].isna().all():
            axes.annotate("not measured", (place, 102), ha="center", va="bottom", fontsize=6, color="0.45")
    axes.set_xticks(np.arange(len(groups)), [wrapped(name, 13) for name in groups], fontsize=6.5)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.set_ylim(0, 109)
    axes.set_yticks(range(0, 101, 25))
    axes.set_ylabel("right answers (%)")


def wrapped(name: str, width: int) -> str:
    """A model's name in lines of at most `width` characters where it has a hyphen or a slash to break at."""
    lines: list[str] = []
    for part in re.findall(r"[^-/]*[-/]?", name):
        if lines and len(lines[-1]) + len(part) <= width:
            lines[-1] += part
        else:
            lines.append(part)
    return "\n".join(lines)


def legend(look: Mapping[str, str]) -> list[Patch]:
    """Handles: the series, then what filled and hollow mean."""
    series = [
        Patch(facecolor=LOOKS[name][0], hatch=LOOKS[name][1], edgecolor="white" if LOOKS[name][1] else LOOKS[name][0], linewidth=0, label=label)
        for label, name in look.items()
    ]
    return [
        *series,
        Patch(facecolor="0.4", label="narrow: measured here"),
        Patch(facecolor="none", edgecolor="0.2", linewidth=0.7, label="wide, hollow: the paper"),
    ]


def seeds(table: pandas.DataFrame, each: str = "bar") -> str:
    """How many seeds a bar, or a point, pools, in words."""
    least, most = int(table["seeds"].min()), int(table["seeds"].max())
    return f"{least} seed{'s' if least > 1 else ''} a {each}" if least == most else f"{least} to {most} seeds a {each}"
