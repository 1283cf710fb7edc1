"""Every rule for composing two experts, asked the question that needs both

Left: the multiples of the two edits that a rule leaves on `x r1 r2`. Right: the margin of the old answer over z. Only
the oracle, which is told the composed answer and leaves the span of the two edits, answers z."""

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lora_reuse.figures import style
from lora_reuse.figures._theory import bars, over_seeds, rows_of, seeds
from lora_reuse.figures.rows import Rows
from lora_reuse.theory.settings import COMPOSITIONS

NEEDS = {"theorem_3": "python -m theory.sweep experiment=theorem_3 width=2**8,2**11,2**14 seeds=16"}
COEFFICIENTS = {"c_first": "$c_1$, of $i_y-i_{r_1(x)}$", "c_second": "$c_2$, of $i_z-i_{r_2(y)}$"}
MARGIN = "margin_old_over_new"
OUTSIDE = 1e-6


def data(rows: Rows) -> pandas.DataFrame:
    """Coefficients, span residual and margin of every rule at every finite width, in the order of `COMPOSITIONS`."""
    table = rows_of(rows, "theorem_3", "width", "composition")
    table = table[np.isfinite(table["settings.width"])]
    if table.empty:
        raise rows.missing("theorem_3")
    means = over_seeds(table, ["composition", "width"], [*COEFFICIENTS, "span_residual", MARGIN])
    order = {name: place for place, name in enumerate(COMPOSITIONS)}
    return means.sort_values(
        ["quantity", "composition", "width"],
        key=lambda c: c.map(order) if c.name == "composition" else c,
        ignore_index=True,
    )


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """Coefficients at the largest width on the left, margins at every width on the right; one line a rule."""
    rules = [name for name in COMPOSITIONS if name in set(table["composition"])]
    places = {name: -place for place, name in enumerate(rules)}
    figure.set_figheight(1.4 + 0.2 * len(rules))
    left, right = figure.subplots(1, 2, sharey=True)
    widths = sorted(table["width"].unique())
    widest = table[table["width"] == widths[-1]].set_index(["quantity", "composition"])
    residual = widest.loc["span_residual"]
    outside = [rule for rule in rules if residual.loc[rule, "predicted"] > OUTSIDE]
    noisy = [rule for rule in rules if residual.loc[rule, "measured"] > OUTSIDE and rule not in outside]
    for i, name in enumerate(COEFFICIENTS):
        part = widest.loc[name].loc[[rule for rule in rules if rule not in outside]]
        y = np.array([places[rule] for rule in part.index]) + (0.17 if i == 0 else -0.17)
        left.vlines(part["predicted"], y - 0.22, y + 0.22, **style.THEORY)
        _marks(left, part.reset_index(), y, ("full", "hollow")[i])
    for rule, x, text in (
        *((rule, 0.02, "outside the span of the two edits") for rule in outside),
        *((rule, 0.63, "and noise") for rule in noisy),
    ):
        left.annotate(text, (x, places[rule]), va="center", fontsize=7)
    left.set_yticks(list(places.values()), rules)
    left.set_xlabel("coefficient on $x\\ r_1\\ r_2$")
    left.legend(handles=style.filled(*COEFFICIENTS.values()), loc="center right", bbox_to_anchor=(0.95, 0.5))
    style.title(left, "a", f"what is added ($m={style.power(widths[-1])}$)")
    margins = table[table["quantity"] == MARGIN]
    right.axvline(0, color="0.6", linewidth=0.6)
    for i, width in enumerate(widths):
        part = margins[margins["width"] == width]
        y = (
            np.array([places[rule] for rule in part["composition"]]) + 0.22 * (1 - i)
            if len(widths) > 1
            else np.zeros(len(part))
        )
        if i == len(widths) - 1:
            middle = np.array([places[rule] for rule in part["composition"]])
            right.vlines(part["predicted"], middle - 0.42, middle + 0.42, **style.THEORY)
        _marks(right, part, y, list(style.FILLS)[::-1][i % 3])
    right.set_xlim(-1.1, 1.1)
    right.set_xlabel("output at the old answer minus output at $z$")
    right.annotate(
        "← $z$ wins",
        (0, 1),
        (-3, -1),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=7,
    )
    sizes = style.filled(*(f"$m={style.power(width)}$" for width in widths[::-1])) if len(widths) in (2, 3) else []
    right.legend(handles=[*sizes, Line2D([], [], label="predicted", **style.THEORY)], loc="center left")
    style.title(right, "b", "what is answered")
    style.note(figure, seeds(table))


def _marks(axes: Axes, part: pandas.DataFrame, places: np.ndarray, fill: str) -> None:
    """A mark a rule, with its own look."""
    for rule, at, place, bar in zip(part["composition"], part["measured"], places, bars(part).T, strict=True):
        axes.errorbar(
            [at],
            [place],
            xerr=bar[:, None],
            **style.rule(rule, linestyle="none", linewidth=0.8, markersize=3.5, **style.FILLS[fill]),
        )


def caption(table: pandas.DataFrame) -> str:
    """The claim, the exceptions, the seeds."""
    widest = table[table["width"] == table["width"].max()]
    margins = widest[widest["quantity"] == MARGIN].set_index("composition")
    answered = [name for name, margin in margins["predicted"].items() if margin < 0]
    nearest = margins["predicted"].drop(answered).sort_values()
    control = " and ".join(map(str, answered))
    but = f"every rule but {control}, a control that is told the composed answers" if answered else "every rule"
    return f"""Theorem 3: {len(margins)} rules compose two experts of one fact each and are asked x r₁ r₂. (a) A rule
        adds c₁(i_y − i_r1(x)) + c₂(i_z − i_r2(y)), exactly but where the figure says otherwise. To compose, it would
        have to take the old answer away and put 1 at z. (b) The old answer stays on top under {but}. Nearest to a tie
        is {nearest.index[0]} (eq. 27 with weights of 1), at a margin of {nearest.iloc[0]:.3f}. Marks are means over
        {table["seeds"].min()} seeds, and bars are 95 % intervals. Dashed lines are the same quantity of the kernel, m =
        ∞."""
