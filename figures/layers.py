"""Two layers: experts compose where the first sits below the second

Left: the share of composed questions whose own new answer is the largest of all new ones, by the blocks of the two
experts. Middle: beyond which weight of the second expert it is the largest of all answers. Right: how much of the
written answer the upper block has to recognise."""

import numpy as np
import pandas
from matplotlib.figure import Figure

from lora_reuse.figures import style
from lora_reuse.figures._theory import bars, over_seeds, rows_of, seeds
from lora_reuse.figures.rows import Rows

NEEDS = {"layers": "python -m theory.sweep experiment=layers width=2**12,inf seeds=8 scale=1,2.25"}
PLACES = {"both_lower": (0, 0), "second_below": (0, 1), "first_below": (1, 0), "both_upper": (1, 1)}
"""Column and row of each placement: the block of the second expert, then of the first, 0 the lower one."""
FACTS = 4
"""Facts an expert in the middle and on the right."""


def data(rows: Rows) -> pandas.DataFrame:
    """Both accuracies by placement, n, width, weight w and alignment."""
    axes = ["placement", "facts", "width", "scale", "alignment"]
    table = rows_of(rows, "layers", *axes)
    return over_seeds(table, axes, ["accuracy", "accuracy_among_new", "first_kept", "second_kept"])


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """The matrix, then accuracy against w, then accuracy among the new answers against the overlap."""
    figure.set_figheight(2.9)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.15, 1, 1))
    among = table[(table["quantity"] == "accuracy_among_new") & (table["scale"] == 1)]
    tied = among[among["alignment"] == 1]
    widest = tied[np.isfinite(tied["width"])]["width"].max()
    finite = tied[tied["width"] == widest]
    shares = np.zeros((2, 2))
    for placement, (column, row) in PLACES.items():
        cell = finite[(finite["placement"] == placement) & (finite["facts"] > 1)].sort_values("facts")
        shares[row, column] = cell[cell["facts"] == FACTS]["measured"].mean()
        lines = [f"$n={line.facts}$: {line.measured:.2f} ({line.predicted:.2f})" for line in cell.itertuples()]
        dark = shares[row, column] > 0.6
        look = {"ha": "center", "va": "center", "fontsize": 7, "color": "white" if dark else "black"}
        left.text(column, row, "\n".join(lines), **look)
    left.pcolormesh([-0.5, 0.5, 1.5], [-0.5, 0.5, 1.5], shares, cmap=style.SHADES, vmin=0, vmax=1, edgecolors="white")
    left.set_xticks([0, 1], ["lower", "upper"])
    left.set_yticks([0, 1], ["lower", "upper"], rotation=90, va="center")
    left.set_xlabel("block of the second expert")
    left.set_ylabel("block of the first expert")
    style.title(left, "a", "right among the new")

    wins = table[(table["quantity"] == "accuracy") & (table["placement"] == "first_below") & (table["alignment"] == 1)]
    wins = wins[(wins["facts"] == FACTS)].sort_values("scale")
    curves = [(width, part) for width, part in wins.groupby("width") if len(part) > 2]
    for i, (width, part) in enumerate(curves):
        label = f"$m={style.power(float(str(width)))}$"
        middle.plot(part["scale"], part["predicted"], **style.THEORY)
        fill = style.FILLS["hollow" if np.isinf(float(str(width))) else "full"]
        look = style.series(i, linestyle="none", **fill)
        middle.errorbar(part["scale"], part["measured"], bars(part), label=label, **look)
    middle.set_xlabel("weight $w$ of the second expert")
    middle.set_ylabel("accuracy on $x_i\\ r_1\\ r_2$")
    middle.legend(loc="lower right")
    style.title(middle, "b", f"first below, $n={FACTS}$")

    right.axhline(1 / FACTS, label="$1/n$", **style.CHANCE)
    near = among[(among["placement"] == "first_below") & (among["facts"] == FACTS) & np.isfinite(among["width"])]
    curves = [(width, part) for width, part in near.sort_values("alignment").groupby("width") if len(part) > 2]
    for i, (width, part) in enumerate(curves[::-1]):
        right.plot(part["alignment"], part["predicted"], **style.THEORY)
        label = f"$m={style.power(float(str(width)))}$"
        right.errorbar(
            part["alignment"], part["measured"], bars(part), label=label, **style.series(i, linestyle="none")
        )
    right.set_xlabel("alignment $\\gamma$ of $w_y$ and $e_y$")
    right.set_ylabel("right among the new")
    right.legend(loc="lower right")
    style.title(right, "c", f"first below, $n={FACTS}$")
    for axes in (middle, right):
        axes.set_ylim(-0.06, 1.1)
    style.note(figure, seeds(table))


def caption(table: pandas.DataFrame) -> str:
    """What the panels show, what is closed form, and whether the experts kept their own facts."""
    kept = table[table["quantity"].isin(["first_kept", "second_kept"]) & (table["placement"] == "first_below")]
    lost = kept[kept["measured"] < 1]
    control = (
        "Under the first expert below the second both experts keep all their own facts at every point"
        if lost.empty
        else f"Under the first expert below the second {len(lost)} of {len(kept)} points lose facts of their own"
    )
    return f"""Two experts of n facts each on a network of two blocks, asked the n composed questions, which neither has
        seen. (a) The share for which z_i is the largest of the n new answers, by the blocks of the two experts, at a
        finite width; in brackets the prediction. Only with the first expert below the second is it more than 1/n. (b)
        The share for which z_i is the largest of all answers: the weight of the second expert has to lift it over the
        old answer, which the base has memorised. (c) The upper block was trained on the embedding of y and finds the
        direction in which the lower block writes y. The share grows with the cosine of the two, and the wider the
        network, the less it takes. Dashed: the normal law about the kernel, joined between the points. Marks are means
        over {table["seeds"].min()} to {table["seeds"].max()} seeds, and bars are 95 % intervals. {control}."""
