"""Step by step, with attention on the current segment: when does a restated question look like a one-hop prompt?

The first two panels are a phase diagram over the share λ of attention on the current segment and the number n of facts
an expert: the colour is the coefficient of the fact's own edit, a dot an answer that flipped, and the bar λ*, above
which it should. The third is the whole chain."""

import numpy as np
import pandas
from matplotlib.figure import Figure

from lora_reuse.figures import style
from lora_reuse.figures._theory import bars, over_seeds, rows_of, seeds
from lora_reuse.figures.rows import Rows
from lora_reuse.theory.restated import threshold

LOCALITIES = ",".join(f"{i / 20:g}" for i in range(21))
NEEDS = {
    "bridge": (
        "python -m theory.sweep experiment=bridge width=inf seeds=1 composition=sum facts=1,2,3,4,8,16,32"
        f" locality={LOCALITIES}"
    )
}
CHAIN = (
    ("sum", "kernel", "two_hop_step_by_step", "sum", {}),
    ("arrow", "kernel", "two_hop_step_by_step", "arrow", {"linestyle": "--", "markersize": 6}),
    (
        "arrow",
        "raw",
        "two_hop_step_by_step",
        "arrow, scores as in software",
        {"linestyle": ":", **style.FILLS["hollow"]},
    ),
    ("average", "kernel", "two_hop_step_by_step", "average", {"linestyle": "-.", "markersize": 3.5}),
    ("sum", "kernel", "two_hop_direct", "sum, asked directly", {"markersize": 2.5, **style.FILLS["hollow"]}),
)
"""Composition, scores, quantity, label and how it differs from others of its rule. Where several are at 0 the later
ones are smaller."""
MOST_FACTS = 8


def data(rows: Rows) -> pandas.DataFrame:
    """`c_hop_*` and `hop_*` under the sum by λ and n, with `threshold`, λ* in closed form; accuracies of the chain by
    rule at the n of the third panel. All at d = m = ∞ and without bridge data."""
    axes = ["composition", "scores", "facts", "locality"]
    plane = over_seeds(
        rows_of(rows, "bridge", "facts", "locality", width=np.inf), axes, ["c_hop_1", "hop_1", "c_hop_2", "hop_2"]
    )
    stars = {(hop, n): threshold(0, hop, n) for hop in (1, 2) for n in map(int, plane["facts"].unique())}
    plane["threshold"] = [
        stars[int(name[-1]), int(n)] for name, n in zip(plane["quantity"], plane["facts"], strict=True)
    ]
    chain = rows_of(rows, "bridge", "facts", "locality", "composition", "scores", width=np.inf)
    asked = [n for n in chain["settings.facts"].unique() if n <= MOST_FACTS]
    chain = chain[chain["settings.facts"] == max(asked, default=chain["settings.facts"].min())]
    return pandas.concat(
        [plane, over_seeds(chain, axes, ["two_hop_step_by_step", "two_hop_direct"])], ignore_index=True
    )


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """Two phase diagrams and the chain."""
    figure.set_figheight(2.9)
    first, second, chain = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    mesh = None
    for hop, axes, letter in ((1, first, "a"), (2, second, "b")):
        colours = _plane(table, f"c_hop_{hop}")
        flipped = _plane(table, f"hop_{hop}")
        x, y = np.arange(len(colours.columns)), colours.index.to_numpy(dtype=float)
        mesh = axes.pcolormesh(
            _edges(x),
            _edges(y),
            np.ma.masked_invalid(colours.to_numpy()),
            cmap="cividis",
            vmin=0,
            vmax=1,
            rasterized=True,
        )
        for i, facts in enumerate(colours.columns):
            right = y[flipped[facts].to_numpy() > 0.5]
            axes.plot(np.full(len(right), i), right, linestyle="none", marker="o", markersize=2, color="black")
            star = table[(table["quantity"] == f"hop_{hop}") & (table["facts"] == facts)]["threshold"].iloc[0]
            if 0 < star <= 1:
                axes.hlines(star, i - 0.5, i + 0.5, color="white", linewidth=1.6, linestyle=(0, (3, 1)))
        axes.set_xticks(x, [str(facts) for facts in colours.columns])
        axes.set_xlabel("facts an expert, $n$")
        style.title(axes, letter, f"hop {hop}, sum")
    first.set_ylabel("share $\\lambda$ on the current segment")
    second.set_yticklabels([])
    bar = figure.colorbar(mesh, ax=[first, second], location="top", aspect=40, pad=0.05)
    bar.set_label("coefficient of the fact's own edit", fontsize=7)
    bar.ax.axvline(0.5, color="white", linewidth=1.6)
    steps = table[table["quantity"].isin(["two_hop_step_by_step", "two_hop_direct"])]
    for rule, scores, quantity, label, others in CHAIN:
        part = steps[(steps["composition"] == rule) & (steps["scores"] == scores) & (steps["quantity"] == quantity)]
        if len(part):
            chain.errorbar(
                part["locality"], part["measured"], bars(part), label=label, **style.rule(rule, linewidth=0.8, **others)
            )
    chain.set_ylim(-0.06, 1.95)
    chain.set_yticks([0, 0.25, 0.5, 0.75, 1])
    chain.set_xlabel("share $\\lambda$ on the current segment")
    chain.set_ylabel("composed facts right")
    chain.legend(loc="upper left", borderaxespad=0.1)
    style.title(chain, "c", f"the chain, $n={steps['facts'].iloc[0]}$")
    style.note(figure, seeds(table))


def _plane(table: pandas.DataFrame, quantity: str) -> pandas.DataFrame:
    """λ down, n across; a point that was not measured is NaN and stays white."""
    part = table[table["quantity"] == quantity]
    return part.pivot(index="locality", columns="facts", values="measured")


def _edges(centres: np.ndarray) -> np.ndarray:
    """The edges of cells around these centres."""
    if len(centres) == 1:
        return centres[0] + np.array([-0.5, 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.array([2 * centres[0] - middle[0], *middle, 2 * centres[-1] - middle[-1]])


def caption(table: pandas.DataFrame) -> str:
    """What the diagram says, with the closed form checked on every cell."""
    cells = table[table["quantity"].isin(["hop_1", "hop_2"])]
    clear = cells[(cells["locality"] - cells["threshold"]).abs() > 1e-9]
    agree = ((clear["measured"] > 0.5) == (clear["locality"] > clear["threshold"])).sum()
    star = cells[cells["quantity"] == "hop_2"].groupby("facts")["threshold"].first()
    largest = table[table["quantity"] == "two_hop_direct"]["measured"].max()
    direct = "nothing is right at any λ" if largest == 0 else f"{largest:.2g} are right at best"
    return f"""Beyond the paper (its Table 1): step by step, the second prompt restates what the first one answered. λ
        is the share of attention on the current segment, and 1 − λ spreads over everything before. (a, b) Under the sum
        the restated question's answer flips where its own edit's coefficient passes 1/2. That is at λ* in closed form
        (white; {star.iloc[-1]:.3f} for hop 2 at n = {star.index[-1]} facts an expert). Black dots are answers that
        flipped, and {agree} of {len(clear)} cells are as λ* says. A single fact flips at every λ. White cells are not
        measured. (c) The whole chain is shown by rule. Asked directly, {direct}. The average halves the coefficient,
        which is 1 at λ = 1 only, where old and new answer tie. All is at d = m = ∞ and without bridge data, one row a
        point: nothing is random but Arrow's prototypes, whose singular values coincide from n = 3 on."""
