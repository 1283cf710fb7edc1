"""How many facts a width stores

A readout of m random features stores all facts exactly from m = the number of prompts on, short of a few features that
are lost; the largest output is right well before."""

import pandas
from matplotlib.figure import Figure

from lora_reuse.figures import style
from lora_reuse.figures._theory import bars, over_seeds, rows_of, seeds
from lora_reuse.figures.rows import Rows

NEEDS = {"capacity": "python -m theory.sweep experiment=capacity seeds=64"}
SHARES = {
    "stored_argmax": "largest output right",
    "stored_exactly": "stored exactly",
    "unstored": "unstored, $\\Vert W\\Phi-Y\\Vert^2/\\Vert Y\\Vert^2$",
}


def data(rows: Rows) -> pandas.DataFrame:
    """The three shares and the rank that is missing, by width; `prompts` is how many facts there are."""
    table = rows_of(rows, "capacity", "width")
    means = over_seeds(table, ["width"], [*SHARES, "missing_rank"])
    one = table.iloc[0]
    relations = one["settings.relations"]
    means.insert(2, "prompts", int(one["settings.entities"] * relations * (1 + relations)))  # x r and x r r'
    return means


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """All widths, and those around the threshold."""
    wide, near = figure.subplots(1, 2, width_ratios=(1.4, 1))
    prompts = table["prompts"].iloc[0]
    for i, (name, label) in enumerate(SHARES.items()):
        part = table[table["quantity"] == name]
        for axes in (wide, near):
            if name != "stored_argmax":
                axes.plot(
                    part["width"],
                    part["predicted"],
                    drawstyle="steps-post" if name == "stored_exactly" else "default",
                    **style.THEORY,
                )
            # The first is larger and hollow, so that it shows where all are at 1.
            look = {"markersize": 7, "markerfacecolor": "none"} if i == 0 else {}
            axes.errorbar(
                part["width"], part["measured"], bars(part), label=label, **style.series(i, linestyle="none", **look)
            )
    for axes in (wide, near):
        axes.axvline(prompts, color="0.6", linewidth=0.6)
        axes.set_ylim(-0.04, 1.06)
    wide.plot([], [], label="predicted", **style.THEORY)
    low, high = table["width"].min(), table["width"].max()
    wide.set_xscale("log", base=2)
    ticks = [width for width in (24, 48, 96, 192, 384) if low <= width <= high]
    wide.set_xticks(ticks, list(map(str, ticks)))
    wide.set_xlabel("width $m$")
    wide.set_ylabel(f"share of {prompts} facts")
    wide.legend(loc="center right")
    style.title(wide, "a", "all widths")
    near.set_xlim(prompts - 9, prompts + 9)
    around = [width for width in sorted(table["width"].unique()) if abs(width - prompts) < 9]
    near.set_xticks(around, [f"{width:.0f}" for width in around])
    near.set_xlabel("width $m$")
    missing = table[(table["quantity"] == "missing_rank") & (table["width"] == prompts)]
    if not missing.empty:
        text = f"rank short\nby {missing['measured'].iloc[0]:.1f} on\naverage"
        near.annotate(text, (prompts, 0.5), (-4, 0), textcoords="offset points", ha="right", va="center", fontsize=7)
    style.title(near, "b", "at the number of prompts")
    style.note(figure, seeds(table))


def caption(table: pandas.DataFrame) -> str:
    """The threshold and its softness."""
    prompts = table["prompts"].iloc[0]
    exact = table[table["quantity"] == "stored_exactly"].set_index("width")["measured"]
    steps = ", ".join(
        f"{100 * share:.0f} % at m = {width:.0f}"
        for width, share in exact.items()
        if 0 <= float(str(width)) - prompts <= 8
    )
    largest = table[table["quantity"] == "stored_argmax"].set_index("width")["measured"]
    early = [
        f"the largest output is right for {100 * share:.0f} % already at m = {width:.0f}"
        for width, share in largest.items()
        if share > 0.98
    ]
    return f"""The minimum-norm readout of m random ReLU features against {prompts} facts, all one-hop and two-hop
        prompts of a small world (section 3.1, A.1.2). Features in general position store none exactly below m =
        {prompts} and all from there on (dashed); a ReLU feature that is zero on every prompt is lost, so that of the
        facts {steps} are stored exactly. The unstored share has a closed form (dashed); {early[0] if early else ""}.
        Means over {table["seeds"].min()} seeds with 95 % intervals."""
