"""Scaling the experts by w: where answers flip

Left: edited facts flip at w = 1/2 exactly, where the average of two experts is. Right: a composed fact that is the only
one flips at 1/c₂ = 1.745; with n facts the n new answers tie."""

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_reuse.figures import style
from lora_reuse.figures._theory import coefficients, over_seeds, rows_of, seeds
from lora_reuse.figures.rows import Rows

NEEDS = {
    "scale": "python -m theory.sweep experiment=scale width=2**12,inf seeds=8 "
    "scale=0,0.25,0.45,0.49,0.5,0.51,0.55,0.75,1,1.5,1.7,1.74,1.75,1.8,2,3,4,4.9,5,6,8"
}
HOPS = {"one_hop_accuracy": "edited facts, asked one by one", "two_hop_accuracy": "composed facts"}


def data(rows: Rows) -> pandas.DataFrame:
    """Both accuracies by w, n, number of experts and width."""
    return over_seeds(
        rows_of(rows, "scale", "width", "scale", "facts", "experts"), ["facts", "experts", "width", "scale"], list(HOPS)
    )


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """One hop on the left, two on the right; each n and number of experts apart by marker."""
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.3), sharey=True)
    for axes, name, letter in ((left, "one_hop_accuracy", "a"), (right, "two_hop_accuracy", "b")):
        part = table[table["quantity"] == name]
        for i, ((facts, experts), group) in enumerate(part.groupby(["facts", "experts"])):
            mean = group.groupby("scale")["measured"].mean()
            label = f"$n={facts}$, {'both experts' if experts == 2 else 'one alone'}"
            # The larger and hollow ones lie behind, where settings agree.
            look = style.series(
                i, linestyle="none", markersize=8 - 1.7 * i, markerfacecolor="none" if i < 2 else style.COLOURS[i]
            )
            axes.plot(mean.index, mean, label=label, zorder=3 + i, **look)
        style.title(axes, letter, HOPS[name])
        axes.set_xlabel("scale $w$")
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    left.set_ylabel("accuracy")
    left.set_ylim(-0.06, 1.12)
    _step(left, 0.5, 1.0, "$w=1/2$")
    left.set_xlim(-0.05, 1.55)
    right.set_xscale("symlog", linthresh=1.0, linscale=0.6, base=2)
    largest = table["scale"].max()
    right.set_xlim(-0.05, 1.15 * largest)
    ticks = [0, 0.5, *(2**k for k in range(0, 8) if 2**k <= largest)]
    right.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    _, kappa, rho = coefficients()
    for facts in sorted(table["facts"].unique()):
        flip = (1 + (facts - 1) * rho) / kappa
        if flip <= largest:
            _step(right, flip, 1 / facts, f"$w={flip:.3f}$", until=largest)
    right.legend(loc="upper left", bbox_to_anchor=(0.0, 0.9))
    style.note(figure, seeds(table))


def _step(axes: Axes, flip: float, height: float, text: str, until: float = 1.5) -> None:
    """The closed form: 0 below `flip`, `height` above."""
    axes.plot([0, flip, flip, until], [0, 0, height, height], **style.THEORY, zorder=2)
    axes.annotate(text, (flip, height), (0, 5), textcoords="offset points", ha="center", va="bottom", fontsize=7)


def caption(table: pandas.DataFrame) -> str:
    """The flips."""
    flips = table[(table["quantity"] == "two_hop_accuracy") & (table["facts"] == 1)].groupby("scale")["measured"].min()
    below, above = flips[flips < 0.5].index.max(), flips[flips > 0.5].index.min()
    spread = (
        table.groupby(["quantity", "facts", "experts", "scale"])["measured"]
        .agg(lambda values: values.max() - values.min())
        .max()
    )
    agree = (
        ", which agree in every cell" if spread == 0 else f", whose means are drawn and differ by {spread:.2g} at most"
    )
    widths = " and ".join("∞" if np.isinf(width) else f"{width:.0f}" for width in sorted(table["width"].unique()))
    return f"""Experts scaled by w (section 3.1). (a) An expert alone moves its own facts by exactly w, so they flip at
        w = 1/2 for any number n of facts, at any width, whatever the other expert adds: the average of two experts
        stands on that edge, eq. 27's average of factors (1/4 of each update) below it. (b) Composed facts: a single one
        flips at w = 1/c₂ = {1 / coefficients()[1]:.3f} (measured between {below:g} and {above:g}); with n facts the n
        new answers reach the old one together, at w = (1 + 0.609(n − 1))/0.573, and tie, so that the second expert
        alone has 1/n right. With both experts none is right then: the first one's y has passed both. Dashed: closed
        forms. Widths {widths}{agree}."""
