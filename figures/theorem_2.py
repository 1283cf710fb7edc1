"""The sum of two experts, asked the question that needs both

Left: the outputs on `x r1 r2` of the answers in play. The old answer stays on top, where z should be. Right: by how
much, when two of the six entities coincide: outputs at entities that are one add up."""

import itertools
import re

import numpy as np
import pandas
from matplotlib.figure import Figure

from lora_reuse.figures import style
from lora_reuse.figures._theory import bars, over_seeds, rows_of, seeds
from lora_reuse.figures.rows import Rows
from lora_reuse.runs.settings import short

ROLES = {"x": "$x$", "y": "$y$", "z": "$z$", "r1x": "$r_1(x)$", "r2y": "$r_2(y)$", "r2r1x": "$r_2(r_1(x))$"}
PAIRS = ",".join(f"{a}={b}" for a, b in itertools.combinations(ROLES, 2))
NEEDS = {"theorem_2": f"python -m theory.sweep experiment=theorem_2 width=2**12 seeds=16 coincide=none,{PAIRS}"}
# Output on x r1 r2 at each answer: the base's, and the multiples of c₁ and c₂ (the rows' span_residual is what is left
# over: rounding).
OUTPUTS = {
    "old, $r_2(r_1(x))$": ("old", 1, 0, 0),
    "$y$": ("y", 0, 1, 0),
    "$z$": ("z", 0, 0, 1),
    "$r_1(x)$": ("r1x", 0, -1, 0),
    "$r_2(y)$": ("r2y", 0, 0, -1),
}


def data(rows: Rows) -> pandas.DataFrame:
    """The five outputs without coincidences (`output_*`), and the margin of the old answer over z for every
    coincidence."""
    table = rows_of(rows, "theorem_2", "width", "coincide")
    finite = table[np.isfinite(table["settings.width"])]
    table = finite[finite["settings.width"] == finite["settings.width"].max()].copy()
    if table[table["settings.coincide"] == "none"].empty:
        raise rows.missing("theorem_2", coincide="none")
    for name, base, first, second in OUTPUTS.values():
        for kind in ("measured", "predicted"):
            table[f"{kind}.output_{name}"] = (
                base + first * table[f"{kind}.c_first"] + second * table[f"{kind}.c_second"]
            )
        table[f"stderr.output_{name}"] = (
            abs(first) * table["stderr.c_first"] + abs(second) * table["stderr.c_second"]
        )  # one of them is 0
    plain = table[table["settings.coincide"] == "none"]
    outputs = over_seeds(plain, ["coincide", "width"], [f"output_{name}" for name, *_ in OUTPUTS.values()])
    margins = over_seeds(table, ["coincide", "width"], ["margin_old_over_new"]).sort_values("predicted", kind="stable")
    return pandas.concat([outputs, margins], ignore_index=True)


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """Outputs on the left, margins on the right."""
    margins = table[table["quantity"] == "margin_old_over_new"]
    figure.set_figheight(max(style.HEIGHT, 0.9 + 0.15 * len(margins)))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1))
    outputs = table[table["quantity"] != "margin_old_over_new"].reset_index(drop=True)
    wanted = [1.0 if name == "output_z" else 0.0 for name in outputs["quantity"]]
    left.axhline(0, color="0.6", linewidth=0.6)
    left.plot(
        outputs.index,
        wanted,
        linestyle="none",
        marker="D",
        color="0.5",
        markerfacecolor="white",
        label="the composed answer",
    )
    left.hlines(outputs["predicted"], outputs.index - 0.3, outputs.index + 0.3, label="predicted", **style.THEORY)
    left.errorbar(
        outputs.index, outputs["measured"], bars(outputs), label="measured", **style.series(0, linestyle="none")
    )
    for i, value in enumerate(outputs["measured"]):
        text, up = f"{value:.3f}".replace("-", "−"), value > 0
        look = {"ha": "center", "va": "bottom" if up else "top", "fontsize": 7}
        left.annotate(text, (i, value), (0, 5 if up else -5), textcoords="offset points", **look)
    left.set_xticks(outputs.index, list(OUTPUTS))
    left.set_ylim(-0.85, 1.5)
    left.set_ylabel("output on $x\\ r_1\\ r_2$")
    left.legend(loc="upper right", ncols=1)
    style.title(left, "a", "all entities distinct")

    places = np.arange(len(margins))[::-1]
    right.axvline(0, color="0.6", linewidth=0.6)
    right.vlines(margins["predicted"], places - 0.35, places + 0.35, **style.THEORY)
    right.errorbar(margins["measured"], places, xerr=bars(margins), **style.series(0, linestyle="none"))
    right.set_yticks(places, [_words(coincide) for coincide in margins["coincide"]])
    right.set_ylim(-0.6, len(margins) + 0.4)
    low, high = right.get_xlim()
    right.set_xlim(min(low, -0.3), high)
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
    style.title(right, "b", "entities that coincide")
    style.note(figure, seeds(table))


def _words(coincide: str) -> str:
    """`r2y=r2r1x` as the paper writes it."""
    return "".join({**ROLES, "+": ", "}.get(word, word) for word in re.split(r"([+=])", coincide))


def caption(table: pandas.DataFrame) -> str:
    """The claim and its boundary."""
    margins = table[table["quantity"] == "margin_old_over_new"]
    width, seeds = short(int(table["width"].iloc[0])), table["seeds"].min()
    plain = {"r2r1x": "r₂(r₁(x))", "r1x": "r₁(x)", "r2y": "r₂(y)", "+": " and ", "=": " = "}
    written = [
        "".join(plain.get(word, word) for word in re.split(r"([+=])", str(coincide)))
        for coincide in margins["coincide"]
    ]
    predicted = margins["predicted"]

    def where(these: pandas.Series) -> str:
        return " or ".join(words for words, kept in zip(written, these, strict=True) if kept)

    wins, ties = where(predicted < -1e-9), where(predicted.abs() <= 1e-9)
    close = where((predicted > 1e-9) & (predicted < margins["stderr"]))
    won = f"z wins where {wins}" if wins else "z never wins"
    tied = f", and is the old answer itself where {ties}" if ties else ""
    near = f" The old answer leads by less than one seed varies where {close}." if close else ""
    return f"""Theorem 2: two experts of one fact each, r₁(x) → y and r₂(y) → z, added together and asked x r₁ r₂. (a)
        Measured at m = {width} against the closed form (dashed), and what composing the two facts would give
        (diamonds). The outputs are 1 at the old answer plus c₁(i_y − i_r1(x)) + c₂(i_z − i_r2(y)), exactly. (b) How
        far the old answer is above z, alone and where two entities coincide, at which outputs add up:
        {won}{tied}.{near} Means over {seeds} seeds with 95 % intervals, most of them smaller than the marker."""
