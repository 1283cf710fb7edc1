"""Grouped bars of shares in percent: narrow and filled, what is measured here; wide and hollow, what the paper
reports."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from lora_reuse.figures import _shares, style
from lora_reuse.figures._names import wrapped

HATCH, ALONE = "////", "---"
Look = tuple[str, str]
"""A composition, whose colour and marker the bars have, and a hatch or none."""
MEANING = (
    "A narrow filled bar is the share measured here over all seeds, with a 95 % interval over seeds where there are"
    " several; a small dot is one seed, and a mark on the axis is a measured 0. A wide hollow bar is the paper's"
    " number."
)
"""For captions."""


def grouped(axes: Axes, table: pandas.DataFrame, group: str, groups: Sequence[str], look: Mapping[str, Look]) -> None:
    """A group of bars for each of `groups` (values of the column `group`), a bar for each `series` in `look`; under its
    name what N is."""
    width = 0.86 / len(look)
    for i, (series, (composition, hatch)) in enumerate(look.items()):
        colour = style.rule(composition)["color"]
        part = table[table["series"] == series].set_index(group).reindex(index=list(groups))
        part["place"] = np.arange(len(groups)) + (i - (len(look) - 1) / 2) * width
        # Bars without a height are left out: they have no place that a layout could reckon with.
        printed, asked = part.dropna(subset="reported"), part.dropna(subset="percent")
        for bar in axes.bar(
            printed["place"],
            printed["reported"],
            0.9 * width,
            color="none",
            edgecolor=colour,
            linewidth=0.7,
            hatch=hatch,
        ):
            bar.set_hatch_linewidth(0.4)
        void = _shares.void(asked)
        _shares.strips(axes, asked["place"].to_numpy()[void], 0.9 * width)
        if (ours := asked[~void]).empty:
            continue
        axes.bar(
            ours["place"],
            ours["percent"],
            0.55 * width,
            color=colour,
            edgecolor="white" if hatch else colour,
            linewidth=0,
            hatch=hatch,
        )
        _shares.intervals(axes, ours, ours["place"].to_numpy(), "black")
        _shares.dots(axes, ours, ours["place"].to_numpy(), 0.7 * width, "black")
        if not (none := ours[ours["percent"] == 0]).empty:
            axes.plot(
                none["place"],
                none["percent"],
                **style.rule(composition, linestyle="none", markersize=2.5, clip_on=False),
            )
    names = []
    for name in groups:
        part = table[table[group] == name]
        names.append(f"{wrapped(name, 15)}\n{_shares.n(part) or 'not measured' + chr(10) + 'here'}")
    _shares.chance(axes, table[table[group].isin(groups)])
    axes.set_xticks(np.arange(len(groups)), names, fontsize=6.5, linespacing=1.0)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.set_ylim(0, 109)
    axes.set_yticks(range(0, 101, 25))
    axes.set_ylabel("right answers (%)")


def legend(look: Mapping[str, Look]) -> list[Patch]:
    """Handles: the series, then what filled and hollow mean."""
    series = []
    for label, (composition, hatch) in look.items():
        colour = style.rule(composition)["color"]
        series.append(
            Patch(facecolor=colour, hatch=hatch, edgecolor="white" if hatch else colour, linewidth=0, label=label)
        )
    return [
        *series,
        Patch(facecolor="0.4", label="narrow: measured here"),
        Patch(facecolor="none", edgecolor="0.2", linewidth=0.7, label="wide, hollow: the paper"),
    ]
