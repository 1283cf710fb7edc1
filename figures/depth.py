"""The two multiples in transformers of several blocks

Top: with the readout of the last block adapted. Bottom: with every W adapted, to first order. Left without
normalisation, right with RMSNorm. Points are networks drawn in full."""

import numpy as np
import pandas
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lora_reuse.figures import style
from lora_reuse.figures._theory import bars, over_seeds, rows_of, seeds
from lora_reuse.figures.rows import Rows

NEEDS = {"depth": "python -m theory.sweep experiment=depth width=256,1024,inf depth=1,2,4,8 seeds=16"}
COEFFICIENTS = {"c_first": "$c_1$", "c_second": "$c_2$"}
PANELS = {
    ("readout", "none"): "readout adapted, no norm",
    ("readout", "rms"): "readout adapted, RMSNorm",
    ("all", "none"): "every $W$ adapted, no norm",
    ("all", "rms"): "every $W$ adapted, RMSNorm",
}


def data(rows: Rows) -> pandas.DataFrame:
    """c₁ and c₂ by what is adapted, norm, depth and width; at infinite width the recursion. `rate` is the root mean
    square over seeds and settings of what networks of a width are off the limit, over its predicted standard deviation
    at n = 1."""
    axes = ["adapted", "norm", "depth", "width"]
    table = rows_of(rows, "depth", *axes)
    limits = table[np.isinf(table["settings.width"])]
    for adapted, norm in PANELS:
        one = limits[(limits["settings.adapted"] == adapted) & (limits["settings.norm"] == norm)]
        if one.empty:
            raise rows.missing("depth", adapted=adapted, norm=norm, width=np.inf)
    means = over_seeds(table, axes, [*COEFFICIENTS])
    return pandas.concat([means, *_rates(table, means)], ignore_index=True)


def _rates(table: pandas.DataFrame, means: pandas.DataFrame) -> list[pandas.DataFrame]:
    axes = ["adapted", "norm", "depth"]
    limits = means[np.isinf(means["width"])].set_index(["quantity", *axes])["measured"]
    lines = []
    finite = table[np.isfinite(table["settings.width"])]
    for width in sorted(map(float, finite["settings.width"].unique())):
        group = finite[finite["settings.width"] == width]
        squares = []
        for name in COEFFICIENTS:
            keys = list(zip(*(group[f"settings.{axis}"] for axis in axes), strict=True))
            known = [(name, *key) in limits.index for key in keys]
            limit = np.array([limits.get((name, *key), np.nan) for key in keys])
            scale = group[f"stderr.{name}"] * width**0.5
            squares.append((((group[f"measured.{name}"] - limit) / scale) ** 2)[known])
        everything = pandas.concat(squares)
        line = {"quantity": "rate", "width": width, "seeds": len(everything), "measured": everything.mean() ** 0.5}
        lines.append(line | {"predicted": width**-0.5, "row": group["hash"].iloc[0]})
    return [pandas.DataFrame(lines)] if lines else []


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """Lines of the theory and points of networks, against depth."""
    figure.set_figheight(4.4)
    panels = figure.subplots(2, 2, sharex=True)
    widths = sorted(width for width in table["width"].unique() if np.isfinite(width))
    for letter, axes, ((adapted, norm), words) in zip("abcd", panels.flat, PANELS.items(), strict=True):
        part = table[(table["adapted"] == adapted) & (table["norm"] == norm)]
        for i, (name, symbol) in enumerate(COEFFICIENTS.items()):
            one = part[part["quantity"] == name]
            line = one[np.isinf(one["width"])]
            axes.plot(line["depth"], line["measured"], color=style.COLOURS[i], label=f"{symbol}, $n=\\infty$")
            for j, width in enumerate(widths):
                points = one[one["width"] == width]
                apart = 1.05 ** (2 * i - 1 + (j - (len(widths) - 1) / 2))
                look = style.series(i, linestyle="none") | ({"markerfacecolor": "white"} if j == 0 else {})
                label = f"{symbol}, $n={int(width)}$"
                axes.errorbar(points["depth"] * apart, points["measured"], bars(points), label=label, **look)
        axes.axhline(1, **style.CHANCE)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
        axes.set_ylim(0, 1.25 if (adapted, norm) != ("readout", "none") else 2.3)
        style.title(axes, letter, words)
    for axes in panels[1]:
        axes.set_xlabel("blocks $L$")
    for axes in panels[:, 0]:
        axes.set_ylabel("coefficient on $x\\ r_1\\ r_2$")
    panels[0, 0].legend(loc="upper left", fontsize=7)
    finite = table[np.isfinite(table["width"]) & (table["quantity"] != "rate")]
    style.note(figure, seeds(finite if len(finite) else table[table["quantity"] != "rate"]))


def slope_of_rate(table: pandas.DataFrame) -> float:
    """The log-log slope, against the width, of what networks are off the limit."""
    rate = table[table["quantity"] == "rate"]
    return float(np.polyfit(np.log(rate["width"]), np.log(rate["measured"]), 1)[0])


def caption(table: pandas.DataFrame) -> str:
    """The claim, with the multiples at one depth and the rate."""
    limit = table[np.isinf(table["width"])].set_index(["quantity", "adapted", "norm", "depth"])["measured"]
    deep = int(max(depth for *_, depth in limit.index))
    first, second = (limit["c_first", "readout", "none", deep], limit["c_second", "readout", "none", deep])
    lazy = [limit[name, "all", "none", deep] for name in COEFFICIENTS]
    normed = [limit[name, "readout", "rms", deep] for name in COEFFICIENTS]
    rate = ""
    if (table["quantity"] == "rate").sum() > 1:
        rate = f" What networks are off the limit falls like n^({slope_of_rate(table):.2f}) (predicted −1/2)."
    return f"""Theorem 2 in transformers of L blocks of random weights, in the kernel regime (beyond the paper, whose
        model is L = 1): the sum of two experts adds c₁ and c₂ times the two differences of answers to the two-hop
        prompt, and the old answer keeps its one (dotted). Lines are the recursions at d = m = ∞, points means over
        networks of d = m = n with 95 % intervals. With the readout adapted and no norm both multiples grow without
        bound, to {first:.2f} and {second:.2f} at L = {deep}, and above one y, the answer of the first hop, is on top.
        With RMSNorm they are {normed[0]:.2f} and {normed[1]:.2f} there, and with every W adapted {lazy[0]:.2f} and
        {lazy[1]:.2f}.{rate}"""
