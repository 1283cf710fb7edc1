"""The look that figures and the plots of commands share: the width and sizes of TMLR, no LaTeX, fonts embedded, told
apart by shape as well as colour.

TMLR's text is 6.5 inches wide, its figures take 9 points and 7 for small things. The font is STIX, which comes with
matplotlib and has the paper's symbols: matplotlib's Computer Modern (cmr10), TMLR's own, prints other characters for _,
±, < and { without a warning. These numbers are all that a library of journal styles (tueplots) would give, and its
bundle for TMLR needs LaTeX."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.typing import RcKeyType

WIDTH = 6.5
"""Inches of the text's width."""

RC: dict[RcKeyType, Any] = {
    # The second has the characters that the first lacks, as the subscript 1.
    "font.family": ["STIXGeneral", "DejaVu Serif"],
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

BLUE, ORANGE, SKY, VERMILLION = "#0072B2", "#E69F00", "#56B4E9", "#D55E00"
GREEN, PURPLE, BLACK, GREY = "#009E73", "#CC79A7", "#000000", "#808080"
"""Okabe and Ito's colours, which people without one of the three cones tell apart too, and grey for what composes
nothing."""
COLOURS = (BLUE, ORANGE, BLACK, VERMILLION, SKY, GREEN, PURPLE)
"""For quantities, in an order in which neighbours differ in lightness too."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def series(index: int, **others: Any) -> dict[str, Any]:
    """Colour and marker of the index-th quantity of a figure, for `plot` and `errorbar`; after seven the markers go on
    hollow. Compositions have a look of their own (`figures.style.rule`)."""
    look = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
    if index >= len(COLOURS):
        look |= {"markerfacecolor": "white"}
    return look | others


def title(axes: Axes, letter: str, text: str) -> None:
    """The panel's letter in bold, then what it shows."""
    axes.set_title(f"$\\bf{{({letter})}}$ {text}", linespacing=1.0)
