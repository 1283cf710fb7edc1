"""One look for all figures: the width and sizes of TMLR, no LaTeX, fonts embedded, told apart by shape as well as colour.

TMLR's text is 6.5 inches wide, its figures take 9 points and 7 for small things. The font is STIX, which comes with matplotlib and has the
paper's symbols: matplotlib's Computer Modern (cmr10), TMLR's own, prints other characters for _, ±, < and { without a warning. These numbers
are all that a library of journal styles (tueplots) would give, and its bundle for TMLR needs LaTeX.
"""

import math
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

WIDTH = 6.5
HEIGHT = 2.5
"""Inches: the text's width, and the height a figure has unless it sets another."""

RC: "dict[RcKeyType, Any]" = {
    "font.family": ["STIXGeneral", "DejaVu Serif"],  # the second has the characters that the first lacks, as the subscript 1
    "mathtext.fontset": "stix",
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.visible": False,
    "lines.linewidth": 1.1,
    "lines.markersize": 4,
    "errorbar.capsize": 1.5,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.2,
    "legend.labelspacing": 0.35,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "none",
}

# Okabe and Ito's colours, in an order in which neighbours differ in lightness too.
COLOURS = ("#0072B2", "#E69F00", "#000000", "#D55E00", "#56B4E9", "#009E73", "#CC79A7")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
THEORY: dict[str, Any] = {"color": "0.25", "linestyle": (0, (4, 2)), "linewidth": 0.9}
"""How closed forms are drawn: grey dashes, over which the measured points lie."""


def series(index: int, **others: Any) -> dict[str, Any]:
    """Colour and marker of the index-th series, for `plot` and `errorbar`; after seven the markers go on hollow."""
    look = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
    if index >= len(COLOURS):
        look |= {"markerfacecolor": "white"}
    return look | others


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


def legend(figure: Figure, ncols: int) -> None:
    """Every label of the panels once, above them."""
    known = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(known.values()), list(known), loc="outside upper center", ncols=ncols)


def title(axes: Axes, letter: str, text: str) -> None:
    """The panel's letter in bold, then what it shows."""
    axes.set_title(f"$\\bf{{({letter})}}$ {text}")
