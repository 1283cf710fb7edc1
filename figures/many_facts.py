"""Experts of many facts: no weights on the two find more than one answer in n

Left: accuracy on the n composed prompts, by rule, against the ceiling 1/n. Right: why. The second expert adds the same
multiple of all its n answers to every composed prompt."""

from typing import Any

import numpy as np
import pandas
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lora_reuse.figures import style
from lora_reuse.figures._theory import bars, coefficients, over_seeds, rows_of, seeds
from lora_reuse.figures.rows import Rows
from lora_reuse.theory.settings import COMPOSITIONS

NEEDS = {
    "many_facts": (
        "python -m theory.sweep experiment=many_facts width=2**12,inf seeds=8"
        " composition=sum,average,uniform,cat,arrow,oracle,best"
    )
}
LINEAR = {"weight_first": 1.0, "weight_second": 4.0}
SPECIAL = ("best", "oracle", "linear")


def data(rows: Rows) -> pandas.DataFrame:
    """Accuracy of every rule, and the sum's coefficient, by n and width; `gauge` and weights tell the two cases of eq.
    27 apart. `ceiling` and `closed_form` are 1/n and κ/(1 + (n − 1)ρ)."""
    axes = ["composition", "gauge", "width", "facts"]
    parts = [over_seeds(rows_of(rows, "many_facts", "width", "facts", "composition"), axes, ["accuracy"])]
    parts[0] = parts[0][
        parts[0]["composition"] != "linear"
    ]  # its default weights change nothing that the weights (1, 4) do not show
    merged = rows.all("many_facts")
    if (merged["settings.composition"] == "linear").any():
        parts.append(
            over_seeds(
                rows_of(rows, "many_facts", "width", "facts", "gauge", composition="linear", **LINEAR),
                axes,
                ["accuracy"],
            )
        )
    summed = rows_of(rows, "many_facts", "width", "facts", composition="sum")
    parts.append(over_seeds(summed, axes, ["coefficient_second"]))
    table = pandas.concat(parts, ignore_index=True)
    _, kappa, rho = coefficients()
    table.insert(
        4,
        "closed_form",
        np.where(table["quantity"] == "accuracy", 1 / table["facts"], kappa / (1 + (table["facts"] - 1) * rho)),
    )
    return table


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """Accuracies on the left, coefficients on the right."""
    figure.set_figheight(3.1)
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    counts = sorted(table["facts"].unique())
    fine = np.geomspace(counts[0], counts[-1], 100)
    accuracy = table[table["quantity"] == "accuracy"]
    left.plot(fine, 1 / fine, label="$1/n$", **style.THEORY)
    for i, (label, look, part) in enumerate(_curves(accuracy)):
        left.errorbar(
            part["facts"] * (1 + 0.05 * (i % 3 - 1)),
            part["measured"],
            bars(part),
            label=label,
            linestyle="none",
            **look,
        )
    least = 1 / counts[-1]
    left.set_yscale("symlog", base=2, linthresh=least, linscale=0.6)
    ticks = [count for count in counts if count in (1, 2, 4, 8, 16, 32, 64)]
    left.set_yticks(
        [0, *(1 / count for count in ticks)], ["0", *(f"1/{count}" if count > 1 else "1" for count in ticks)]
    )
    left.yaxis.set_minor_locator(NullLocator())
    left.set_ylim(-0.35 * least, 14)
    left.set_ylabel("accuracy on $x_i\\ r_1\\ r_2$")
    left.legend(loc="upper center", ncols=2)
    style.title(left, "a", "accuracy")
    _, kappa, rho = coefficients()
    part = table[table["quantity"] == "coefficient_second"]
    right.plot(fine, kappa / (1 + (fine - 1) * rho), label=f"${kappa:.3f}/(1+{rho:.3f}(n-1))$", **style.THEORY)
    for i, (width, group) in enumerate(part.groupby("width")):
        label = f"$m={style.power(float(str(width)))}$"
        look = style.rule("sum", linestyle="none", **style.FILLS["hollow" if i else "full"])
        right.errorbar(group["facts"] * (1 + 0.05 * (2 * i - 1)), group["measured"], bars(group), label=label, **look)
    right.set_yscale("log", base=2)
    right.set_ylabel("coefficient of every $z_j$ under the sum")
    right.legend(loc="lower left")
    style.title(right, "b", "all $n$ answers get the same")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, list(map(str, ticks)))
        axes.set_xlabel("facts an expert, $n$")
    style.note(figure, seeds(table))


def _curves(accuracy: pandas.DataFrame) -> list[tuple[str, dict[str, Any], pandas.DataFrame]]:
    """What the left panel shows: the searched weights at each width, eq. 27 by gauge, the oracle, and all other rules
    as one."""
    curves = []
    for i, (width, part) in enumerate(accuracy[accuracy["composition"] == "best"].groupby("width")):
        look = style.rule("best", markersize=6, **style.FILLS["hollow" if i else "full"])
        curves.append((f"best weights, $m={style.power(float(str(width)))}$", look, part))
    for gauge, label, fill in (
        ("random", "linear (1, 4), factors rotated", "full"),
        ("plus", "linear (1, 4), in the facts' order", "hollow"),
    ):
        part = accuracy[(accuracy["composition"] == "linear") & (accuracy["gauge"] == gauge)]
        curves += [(label, style.rule("linear", **style.FILLS[fill]), part)] if len(part) else []
    others = accuracy[~accuracy["composition"].isin(SPECIAL)]
    largest = others.sort_values("measured").groupby("facts").tail(1).sort_values("facts")
    curves.append(
        (f"the best of {others['composition'].nunique()} other rules", {"color": "0.4", "marker": "_"}, largest)
    )
    oracle = accuracy[accuracy["composition"] == "oracle"].sort_values("width").groupby("facts").tail(1)
    return curves + ([("oracle", style.rule("oracle", markersize=5), oracle)] if len(oracle) else [])


def caption(table: pandas.DataFrame) -> str:
    """The ceiling, the exception, what chance does at finite width."""
    others = [name for name in COMPOSITIONS if name in set(table["composition"]) and name not in SPECIAL]
    return f"""Two experts of n facts each (A.1.1, eq. 23-25) are asked the n composed questions. (a) With the two
        experts weighted in any way the n new answers tie, so that at most 1/n are right: this is chance, and the dashed
        line. The best weights of a search reach it at m = ∞. At a finite width the search picks the luckiest weights
        for the prompts it is scored on, and may pass it by chance. Under {", ".join(others)} nothing is right. Eq. 27
        with weights (1, 4) is at chance in random rotations of the experts' factors, which Proposition 1 leaves free.
        It is right on all where both experts' factors happen to be in the facts' order. The oracle is told the answers.
        (b) The coefficient of every new answer under the sum lies on its closed form (dashed). Marks are means over
        {table["seeds"].min()} to {table["seeds"].max()} seeds (column seeds of the CSV; m = ∞ without random factors
        needs one), and bars are 95 % intervals. Marks at the same n are set apart sideways."""
