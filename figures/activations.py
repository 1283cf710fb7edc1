"""The two multiples under other activations

Left: c₁ and c₂ of every activation at one width, against the closed form. Right: for the two that are not homogeneous,
against the variance of their preactivations; both are linear where it is small, and GELU is the ReLU where it is
large."""

import numpy as np
import pandas
from matplotlib.figure import Figure

from lora_reuse.figures import style
from lora_reuse.figures._theory import bars, coefficients, over_seeds, rows_of, seeds
from lora_reuse.figures.rows import Rows
from lora_reuse.runs.settings import short

NEEDS = {
    "kernel_limit": "python -m theory.sweep width=2**14 seeds=32 activation=relu,gelu,erf,linear,quadratic"
    " && python -m theory.sweep width=2**14 seeds=32 activation=gelu,erf input_variance=0.015625,0.125,8,64"
}
WIDTH = 2**14
COEFFICIENTS = {"c_first": "$c_1$", "c_second": "$c_2$"}
WORDS = {"relu": "ReLU", "gelu": "GELU", "erf": "erf", "linear": "linear", "quadratic": "$x^2$"}


def data(rows: Rows) -> pandas.DataFrame:
    """c₁ and c₂ by activation and input variance at width 2^14; `limit` is the closed form at d = m = ∞."""
    table = rows_of(rows, "kernel_limit", "activation", "input_variance", width=WIDTH).copy()
    if table["settings.activation"].nunique() < 2:
        raise rows.missing("kernel_limit", activation="erf")
    said = table.get("settings.input_variance")
    table["settings.input_variance"] = 1.0 if said is None else said.fillna(1.0).astype(float)
    means = over_seeds(table, ["activation", "input_variance"], [*COEFFICIENTS])
    which = [*COEFFICIENTS].index
    points = zip(means["quantity"], means["activation"], means["input_variance"], strict=True)
    return means.assign(limit=[coefficients(phi, variance)[which(name)] for name, phi, variance in points])


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """Activations beside each other on the left, input variances on the right."""
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1), sharey=True)
    order = ordered(table)
    for i, (name, symbol) in enumerate(COEFFICIENTS.items()):
        part = table[(table["quantity"] == name) & (table["input_variance"] == 1)].set_index("activation").loc[order]
        places = np.arange(len(order))
        left.hlines(part["limit"], places - 0.3, places + 0.3, label="closed form" if i else None, **style.THEORY)
        left.errorbar(
            places, part["measured"], bars(part), label=f"{symbol}, $m=2^{{14}}$", **style.series(i, linestyle="none")
        )
    left.axhline(0.5, **style.CHANCE)
    left.set_xticks(np.arange(len(order)), [WORDS.get(phi, phi) for phi in order])
    left.set_ylim(0, 0.85)
    left.set_ylabel("coefficient on $x\\ r_1\\ r_2$")
    left.legend(loc="upper right", ncols=3, columnspacing=1.0)
    style.title(left, "a", "activations")
    varied = [phi for phi in order if table[table["activation"] == phi]["input_variance"].nunique() > 1]
    for j, phi in enumerate(varied):
        for i, name in enumerate(COEFFICIENTS):
            part = table[(table["quantity"] == name) & (table["activation"] == phi)]
            fine = np.geomspace(part["input_variance"].min(), part["input_variance"].max(), 100)
            right.plot(fine, [coefficients(phi, float(variance))[i] for variance in fine], **style.THEORY)
            look = style.series(i, linestyle="none") | ({"markerfacecolor": "white"} if j else {})
            label = f"{COEFFICIENTS[name]}, {WORDS.get(phi, phi)}"
            right.errorbar(part["input_variance"], part["measured"], bars(part), label=label, **look)
    right.axhline(0.5, **style.CHANCE)
    right.set_xscale("log", base=2)
    right.set_xlabel("variance of preactivations over $\\Vert h\\Vert^2$")
    right.legend(loc="upper left", ncols=2, columnspacing=1.0)
    style.title(right, "b", "where the activation is used")
    style.note(figure, seeds(table))


def ordered(table: pandas.DataFrame) -> list[str]:
    """The activations, those that the figure has words for first."""
    there = set(table["activation"])
    return [phi for phi in WORDS if phi in there] + sorted(there - WORDS.keys())


def caption(table: pandas.DataFrame) -> str:
    """The claim, and under which activations z wins where r₂(y) = r₂(r₁(x))."""
    second = table[(table["quantity"] == "c_second") & (table["input_variance"] == 1)].set_index("activation")["limit"]
    above = {phi: float(np.sign(round(second[phi] - 0.5, 9))) for phi in ordered(table)}

    def words(sign: int) -> str:
        return (
            ", ".join(WORDS.get(phi, phi).replace("$x^2$", "x²") for phi, it in above.items() if it == sign) or "none"
        )

    largest = float(table["limit"].max())
    return f"""Theorem 2 under other activations (beyond the paper, whose activation is the ReLU): at d = ∞ the sum of
        two experts adds c₁ and c₂ times the two differences of answers to the two-hop prompt, at most {largest:.2f},
        and the old answer keeps its one, whatever the activation. (a) Measured at m = {short(WIDTH)} against the closed
        form (dashed). Where r₂(y) = r₂(r₁(x)), z wins if c₂ is above one half (dotted): it wins for {words(1)},
        ties with the old answer for {words(0)}, and loses to it for {words(-1)}. (b) erf and GELU depend on the
        variance of their preactivations, and tend to linear features where it is small. Means over seeds with 95 %
        intervals, most of them smaller than the marker."""
