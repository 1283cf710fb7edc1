"""Two edits seen by the question that needs both, as the random features become their kernel

Left: on the prompt `x r1 r2` the sum of both adapters adds c₁(i_y − i_{r1(x)}) + c₂(i_z − i_{r2(y)}), and c₁, c₂ march
onto their closed forms as the width grows. Right: what is left falls like m^(−1/2), with the predicted constant."""

import numpy as np
import pandas
from matplotlib.figure import Figure
from scipy import stats

from lora_reuse.figures import style
from lora_reuse.figures._theory import COVERAGE, bars, over_seeds, rows_of, seeds
from lora_reuse.figures.rows import Rows
from lora_reuse.runs.settings import short
from lora_reuse.theory.table import weighted_slope

NEEDS = {"kernel_limit": "python -m theory.sweep width=2**8,2**10,2**12,2**14,2**16,2**18,2**20,2**22,2**24 seeds=32"}
COEFFICIENTS = {"c_first": "$c_1$", "c_second": "$c_2$"}
KERNEL = "kernel_relative_rms"


def data(rows: Rows) -> pandas.DataFrame:
    """c₁ and c₂ (mean over seeds, interval, spread; prediction and its standard deviation) and the three errors, by
    width."""
    table = rows_of(rows, "kernel_limit", "width")
    table = table[np.isfinite(table["settings.width"])]
    if table.empty:
        raise rows.missing("kernel_limit")
    means = over_seeds(table, ["width"], [*COEFFICIENTS, KERNEL])
    off = [_error(table, name) for name in COEFFICIENTS]
    return pandas.concat([means, *off], ignore_index=True)


def _error(table: pandas.DataFrame, name: str) -> pandas.DataFrame:
    """The root mean square of measured − predicted over seeds, whose prediction is `stderr`; the interval is that of
    χ²."""
    squares = (table[f"measured.{name}"] - table[f"predicted.{name}"]) ** 2
    lines = []
    for width, group in table.groupby("settings.width"):
        n, total = len(group), squares[group.index].sum()
        low, high = (np.sqrt(total / stats.chi2.isf(tail, n)) for tail in ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2))
        line = {
            "quantity": f"{name}_error",
            "width": width,
            "seeds": n,
            "measured": np.sqrt(total / n),
            "low": low,
            "high": high,
        }
        lines.append(line | {"predicted": group[f"stderr.{name}"].mean(), "row": group["hash"].iloc[0]})
    return pandas.DataFrame(lines)


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """The march, and the errors."""
    march, errors = figure.subplots(1, 2, width_ratios=(1.25, 1))
    low, high = table["width"].min(), table["width"].max()
    for i, (name, symbol) in enumerate(COEFFICIENTS.items()):
        part = table[table["quantity"] == name]
        colour = style.COLOURS[i]
        fine = np.geomspace(low, high, 200)
        reach = (
            stats.norm.isf((1 - COVERAGE) / 2) * part["stderr"].iloc[0] * np.sqrt(low / fine)
        )  # at dim=inf it is a constant times m^(-1/2)
        limit = part["predicted"].iloc[-1]
        march.fill_between(fine, limit - reach, limit + reach, color=colour, alpha=0.15, linewidth=0)
        march.plot([low / 1.6, high * 1.6], [limit] * 2, **style.THEORY)
        single = stats.norm.isf((1 - COVERAGE) / 2) * part["spread"]
        march.errorbar(
            part["width"], part["measured"], single, linestyle="none", color=colour, linewidth=0.6, capsize=0
        )
        march.errorbar(
            part["width"], part["measured"], bars(part), **style.series(i, linestyle="none", linewidth=2.2, capsize=0)
        )
        march.annotate(
            f"{symbol} → {limit:.4f}",
            (high, limit),
            (0, 5 if i else -5),
            textcoords="offset points",
            ha="right",
            va="bottom" if i else "top",
            fontsize=9,
        )
    style.powers_of_two(march, low, high, "width $m$")
    march.set_ylabel("coefficient on $x\\ r_1\\ r_2$")
    style.title(march, "a", "the two coefficients")

    labels = {
        KERNEL: r"$\Vert G-k\Vert/\Vert k\Vert$",
        "c_second_error": "error of $c_2$",
        "c_first_error": "error of $c_1$",
    }
    for name, i in ((KERNEL, 2), ("c_first_error", 0), ("c_second_error", 1)):
        part = table[table["quantity"] == name]
        errors.plot(part["width"], part["predicted"], **style.THEORY)
        apart = 1.15 ** {"c_first_error": -1, "c_second_error": 1}.get(name, 0)  # so that neither hides the other
        errors.errorbar(
            part["width"] * apart, part["measured"], bars(part), label=labels[name], **style.series(i, linestyle="none")
        )
    errors.plot([], [], label=r"predicted, $\propto m^{-1/2}$", **style.THEORY)
    errors.set_yscale("log")
    style.powers_of_two(errors, low, high, "width $m$", every=4)
    errors.legend(loc="lower left", borderaxespad=0.2)
    style.title(errors, "b", "what is left")
    style.note(figure, seeds(table))


def caption(table: pandas.DataFrame) -> str:
    """The claim with the slope and the numbers measured."""
    widest = table[table["width"] == table["width"].max()].set_index("quantity")
    seeds = "{}" if table["seeds"].nunique() == 1 else "{} to {}"
    seeds = seeds.format(table["seeds"].min(), table["seeds"].max())
    slope = ""
    if table["width"].nunique() > 1:
        slope = "; ‖G − k‖/‖k‖ is measured to fall as m^({:.3f} ± {:.3f})".format(*slope_of_error(table))
    return f"""As the width m grows, random features act as their kernel (eq. 13-15), and what two edits add to the
        two-hop prompt, c₁(i_y − i_r1(x)) + c₂(i_z − i_r2(y)), tends to the closed form of eq. 19 (dashed): at m =
        {short(int(widest.loc["c_first", "width"]))} c₁ is {widest.loc["c_first", "measured"]:.5f} (predicted
        {widest.loc["c_first", "predicted"]:.5f}) and c₂ is {widest.loc["c_second", "measured"]:.5f}
        ({widest.loc["c_second", "predicted"]:.5f}). The composed fact would need 1. (a) Points are means over {seeds}
        seeds; thick bars: 95 % intervals of the means; thin bars: 1.96 standard deviations of single seeds, and shaded
        the same as predicted. (b) Root mean squares over seeds for c₁, c₂ with 95 % intervals (χ²), the mean for the
        Gram matrix of the four prompts (t), and the predicted constants times m^(−1/2), none of them fitted{slope}."""


def slope_of_error(table: pandas.DataFrame) -> tuple[float, float]:
    """The log-log slope of ‖G − k‖/‖k‖ against the width, weighted by the predicted errors of the means, and its 95 %
    half-width."""
    part = table[table["quantity"] == KERNEL]
    errors = part["stderr"] / np.sqrt(part["seeds"])
    return weighted_slope(*(column.to_numpy(dtype=float) for column in (part["width"], part["measured"], errors)))
