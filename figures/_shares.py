"""How shares of right answers are drawn: the share of all seeds, its interval over seeds, a dot a seed, and void where
they say nothing.

A share comes as the columns of `figures._cells`. Its interval (`llm.scoring.intervals.over_seeds`) is missing where
there is one seed; `void` says why a cell's positive control failed, and such a cell is hatched, with no share in it.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from lora_reuse.figures import style

SHOWN = ("hits", "total", "percent", "low", "high", "seeds", "by_seed", "void", "unmeasured")
DOT: dict[str, Any] = {
    "marker": "o",
    "linestyle": "none",
    "markersize": 1.9,
    "markerfacecolor": "white",
    "markeredgewidth": 0.4,
    "zorder": 4,
}
VOID: dict[str, Any] = {"facecolor": "0.93", "edgecolor": "0.7", "hatch": "xxxxx", "linewidth": 0, "zorder": 0.5}
VOID_LABEL = "void: its positive control failed"
MEANING = (
    "A large mark is the share over all seeds; its bar is a 95 % interval over seeds and, within a seed, triplets; a"
    " small dot is one seed. A share of one seed has no interval."
)
"""For captions."""


def shown(cell: Mapping[str, Any], facts: float) -> dict[str, Any]:
    """Of a cell, what a mark shows: the share, the paper's, chance (one of so many edited answers, in percent), and the
    first row."""
    found = {name: cell.get(name, "") for name in SHOWN}
    return found | {"reported": float(cell["reported"] or "nan"), "chance": 100 / facts, "row": cell["row"] or None}


def facts_of(group: pandas.DataFrame | None) -> float:
    """How many edited answers an expert's rows are of; not a number without rows."""
    return float("nan") if group is None else float(group["settings.triplets"].iloc[0])


def void(part: pandas.DataFrame) -> np.ndarray:
    """Which cells are void."""
    return part["void"].fillna("").astype(str).to_numpy() != ""


def points(
    axes: Axes,
    part: pandas.DataFrame,
    places: Sequence[float],
    width: float,
    look: Mapping[str, Any],
    across: bool = False,
) -> None:
    """The shares of `part` at `places` of the x axis, void ones as strips of this width; `across`, along the x axis at
    places of the y axis."""
    at, gone = np.asarray(places, dtype=float), void(part)
    strips(axes, at[gone], width, across)
    kept, where = part[~gone], at[~gone]
    intervals(axes, kept, where, look["color"], across)
    x, y = (kept["percent"], where) if across else (where, kept["percent"])
    axes.plot(x, y, **{"markersize": 3.8, "linewidth": 0.8, **look})
    dots(axes, kept, where, width, look["color"], across)


def intervals(
    axes: Axes,
    part: pandas.DataFrame,
    places: Sequence[float] | np.ndarray,
    colour: str,
    across: bool = False,
    of: str = "percent",
) -> None:
    """The intervals of those numbers in the column `of` that have one."""
    has = part["low"].notna().to_numpy()
    part, at = part[has], np.asarray(places)[has]
    ends = np.array([part[of] - part["low"], part["high"] - part[of]])
    line: dict[str, Any] = {"linestyle": "none", "color": colour, "elinewidth": 0.7, "capsize": 1.2}
    if len(part) and across:
        axes.errorbar(part[of], at, xerr=ends, **line)
    elif len(part):
        axes.errorbar(at, part[of], yerr=ends, **line)


def dots(
    axes: Axes,
    part: pandas.DataFrame,
    places: Sequence[float] | np.ndarray,
    width: float,
    colour: str,
    across: bool = False,
) -> None:
    """A dot a seed, side by side beside the place, where there are several seeds."""
    for place, seeds in zip(places, part["by_seed"], strict=True):
        shares = [float(share) for share in str(seeds).split()]
        if len(shares) > 1:
            beside = place + width * np.linspace(-0.36, 0.36, len(shares))
            x, y = (shares, beside) if across else (beside, shares)
            axes.plot(x, y, color=colour, clip_on=False, **DOT)


def strips(axes: Axes, places: np.ndarray, width: float, across: bool = False) -> None:
    """A hatched strip from 0 to 100 % at each place."""
    for place in places:
        bar = axes.barh if across else axes.bar
        (strip,) = bar([place], [100], width, **VOID)
        strip.set_hatch_linewidth(0.3)


def chance(axes: Axes, part: pandas.DataFrame, across: bool = False) -> None:
    """The share of a guess among the edited answers, where all have as many."""
    levels = part["chance"].dropna().unique()
    if len(levels) == 1:
        (axes.axvline if across else axes.axhline)(levels[0], zorder=0.8, **style.CHANCE)


def handles(table: pandas.DataFrame) -> list[Any]:
    """What dots, dotted lines and hatching mean, where the table has them."""
    found: list[Any] = seed_handle(table)
    if levels := sorted(table["chance"].dropna().unique()):
        found.append(Line2D([], [], label=chance_label(levels), **style.CHANCE))
    return found + ([void_handle()] if void(table).any() else [])


def seed_handle(table: pandas.DataFrame) -> list[Line2D]:
    """The legend's word for a small dot, where there are any."""
    several = table["by_seed"].fillna("").str.contains(" ").any()
    return [Line2D([], [], color="0.3", label="one seed", **DOT)] if several else []


def chance_label(levels: Sequence[float]) -> str:
    """`chance, a guess among the edited answers: 5 %`."""
    said = f"{levels[0]:.3g} %" if len(levels) == 1 else f"{levels[0]:.3g} to {levels[-1]:.3g} %"
    return f"chance, a guess among the edited answers: {said}"


def void_handle() -> Patch:
    """The legend's word for a hatched strip."""
    return Patch(label=VOID_LABEL, **{name: value for name, value in VOID.items() if name != "zorder"})


N = "$N$ = seeds × questions of a share"
"""A figure's note, which says what `n` prints."""


def n(part: pandas.DataFrame) -> str:
    """`$N$ = 5 × 40`, seeds and questions of each, for shares of `part`; nothing where nothing was asked."""
    asked = part[part["total"].notna()]
    return f"$N$ = {span(asked['seeds'])} × {span(asked['total'] / asked['seeds'])}" if len(asked) else ""


def span(numbers: pandas.Series) -> str:
    """`5`, or `2–5`."""
    least, most = round(numbers.min()), round(numbers.max())
    return f"{least}–{most}" if most > least else f"{most}"


def told_void(table: pandas.DataFrame) -> str:
    """Sentences for the caption, where cells are void and where no row measures the control of others."""
    gone = table[void(table)]
    open_ = int((table["unmeasured"].fillna("") != "").sum()) if "unmeasured" in table else 0
    unmeasured = (
        f"No rows measure the positive control of {open_} of {int(table['percent'].notna().sum())} shares."
        if open_
        else ""
    )
    if gone.empty:
        return unmeasured
    controls = Counter(re.split(r" (?:kept|got) \d", reason)[0] for reason in gone["void"])
    failed = ", ".join(f"{control}: {count} cell{'s' * (count > 1)}" for control, count in controls.items())
    return (
        f"Hatched cells are void, since their positive control failed ({failed}). Their shares say nothing about"
        f" composing. {unmeasured}"
    )
