"""One look for all figures: that of `runs.look`, with compositions and theory drawn alike everywhere."""

import itertools
import math
import string
from collections.abc import Iterator
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lora_reuse.runs.look import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION
from lora_reuse.runs.look import COLOURS as COLOURS
from lora_reuse.runs.look import RC as RC
from lora_reuse.runs.look import WIDTH as WIDTH
from lora_reuse.runs.look import series as series
from lora_reuse.runs.look import title as title

HEIGHT, PAGE = 2.5, 9.0
"""Inches: the height a figure has unless it sets another, and that of the text, which no figure passes."""
SHADES = LinearSegmentedColormap.from_list("share", ["white", COLOURS[0]])
"""How a matrix of shares is shaded, from none to all."""
THEORY: dict[str, Any] = {"color": "0.25", "linestyle": (0, (4, 2)), "linewidth": 0.9}
"""How closed forms are drawn: grey dashes, over which the measured points lie."""
CHANCE: dict[str, Any] = {"color": "0.45", "linestyle": (0, (1, 1.2)), "linewidth": 1.0}
"""How the share that a guess among the edited answers gets is drawn: grey dots."""

Marker = str | tuple[int, int, float]
RULES: dict[str, tuple[str, Marker]] = {
    **{
        "sum": (BLUE, "o"),
        "average": (ORANGE, "s"),
        "uniform": (SKY, "^"),
        "arrow": (VERMILLION, "D"),
        "arrow_after": (GREEN, "v"),
    },
    **{
        "linear": (PURPLE, "P"),
        "cat": (BLACK, "X"),
        "cat_softmax": (GREEN, "8"),
        "ties": (BLUE, "<"),
        "dare": (ORANGE, ">"),
    },
    **{
        "knots": (PURPLE, "p"),
        "lego": (SKY, "h"),
        "lorahub": (BLACK, "d"),
        "lorahub_cat": (BLUE, (6, 1, 0)),
        "moe": (ORANGE, (3, 1, 0)),
    },
    **{
        "lori_concat": (PURPLE, (8, 1, 0)),
        "lori_linear": (SKY, (5, 1, 36)),
        "best": (BLACK, (4, 1, 45)),
        "joint": (GREEN, (5, 0, 36)),
    },
    **{
        "svd": (BLUE, (4, 0, 0)),
        "ties_svd": (BLUE, (7, 0, 0)),
        "magnitude_prune": (SKY, (9, 0, 0)),
        "magnitude_prune_svd": (SKY, (9, 1, 0)),
        "dare_linear": (ORANGE, (10, 0, 0)),
        "dare_ties": (ORANGE, (10, 1, 0)),
        "dare_linear_svd": (BLACK, (11, 0, 0)),
        "dare_ties_svd": (BLACK, (11, 1, 0)),
    },
    **{
        "tsv": (GREEN, (3, 0, 45)),
        "iso_c": (PURPLE, (4, 0, 20)),
        "wudi": (VERMILLION, (5, 0, 0)),
        "core_space": (BLUE, (6, 0, 45)),
        "slerp": (ORANGE, (12, 1, 0)),
        "genknowsub": (GREEN, (12, 0, 0)),
    },
    **{"arrow:swapped": (VERMILLION, (3, 0, 90)), "arrow:random": (VERMILLION, (3, 1, 180))},
    **{"arrow_after:swapped": (GREEN, (3, 1, 90)), "arrow_after:random": (GREEN, (3, 1, 270))},
    **{"oracle": (GREY, "*"), "alone": (GREY, "H"), "base": (GREY, (4, 1, 0)), "random": (GREY, (7, 1, 0))},
}
"""The colour and marker of a composition, the same in every figure of theory and of models, whatever else a figure
shows. A control of a rule has the rule's colour; what composes nothing is grey."""


def rule(name: str, **others: Any) -> dict[str, Any]:
    """Colour and marker of a composition, for `plot` and `errorbar`. A rule that is learned (`cat:two_hop`) looks like
    its family, and is hollow if it learned from the experts' own data (`cat:own`). Raises KeyError for a composition
    that RULES lacks."""
    family, _, source = name.partition(":")
    colour, marker = RULES[name if name in RULES else family]
    own = {"markerfacecolor": "white"} if source == "own" else {}
    return {"color": colour, "marker": marker} | own | others


def power(number: float) -> str:
    """2^k for a power of two from 2^8 on, ∞ for infinity, else the digits; to stand between dollars."""
    if math.isinf(number):
        return "\\infty"
    k = math.log2(number)
    return f"2^{{{k:.0f}}}" if k >= 8 and k.is_integer() else f"{number:g}"


def powers_of_two(axes: Axes, low: float, high: float, label: str, every: int = 2) -> None:
    """A logarithmic x axis for values from `low` to `high`, with ticks at 2^k, k a multiple of `every`."""
    axes.set_xscale("log", base=2)
    ticks = [k for k in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1) if k % every == 0]
    axes.set_xticks([2.0**k for k in ticks], [f"$2^{{{k}}}$" for k in ticks])
    axes.set_xlabel(label)


def legend(figure: Figure, ncols: int, *others: Artist) -> None:
    """Every label of the panels once, above them, then handles that carry labels of their own."""
    known = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    known |= {str(handle.get_label()): handle for handle in others}
    figure.legend(list(known.values()), list(known), loc="outside upper center", ncols=ncols)


FILLS: dict[str, dict[str, Any]] = {
    "full": {},
    "half": {"fillstyle": "left", "markerfacecoloralt": "white"},
    "hollow": {"markerfacecolor": "white"},
}
"""How the marks of one rule differ within a figure, where it has several."""


def filled(*labels: str) -> list[Line2D]:
    """Handles that say what full, half and hollow marks are, in this order; of two labels, full and hollow ones."""
    fills = list(FILLS.values()) if len(labels) == 3 else [FILLS["full"], FILLS["hollow"]]
    return [
        Line2D([], [], color="0.3", marker="o", linestyle="none", label=label, **fill)
        for label, fill in zip(labels, fills, strict=True)
    ]


def letters() -> Iterator[str]:
    """a to z, then aa, ab, ...: what panels are called, however many there are."""
    for length in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_lowercase, repeat=length))


def height(figure: Figure, inches: float) -> None:
    """Sets the figure's height, or the page's where that is less."""
    figure.set_figheight(min(inches, PAGE))


def note(figure: Figure, text: str) -> None:
    """A small line below the panels: what n is."""
    figure.supxlabel(text, x=0.995, ha="right", fontsize=7, color="0.3")
