"""Trained depth: which placement of two experts composes, from lazy to rich

Transformers that were trained on facts. Top: the share of composed questions whose own new answer is the largest of all
new ones, by the blocks of the two experts. Bottom: whether the base composes what it was not trained on, and the two
links of the chain."""

from typing import Any

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_reuse.figures import style
from lora_reuse.figures._theory import bars, over_seeds, rows_of, seeds
from lora_reuse.figures.rows import Rows

NEEDS = {"trained": "python -m theory.sweep experiment=trained depth=2 alpha=0.1,1,100 seeds=4"}
PLACES = {
    "all": "both in all blocks",
    "both_lower": "both lower",
    "both_upper": "both upper",
    "first_below": "first below second",
    "second_below": "second below first",
}
LINKS = {
    ("held_out", "all"): ("base, held-out two-hop facts", {"color": "0.4", "marker": "*"}),
    ("passed_on", "first_below"): ("first expert lower: passed on", style.series(5)),
    ("found", "first_below"): ("second expert upper: found", style.series(6)),
    ("found", "second_below"): ("second expert lower: found", style.series(6, marker="<", linestyle="--")),
}
COMPOSES = 0.5
"""The share of held-out facts from which on a base is taken to compose."""


def data(rows: Rows) -> pandas.DataFrame:
    """Accuracies, links and multiples by depth, α and placement."""
    axes = ["depth", "alpha", "placement", "facts"]
    names = ["accuracy_among_new", "accuracy", "held_out", "passed_on", "found", "own_first", "own_second"]
    names += ["c_first", "c_second", "c_second_elsewhere", "linear_error", "first_kept", "second_kept"]
    return over_seeds(rows_of(rows, "trained", *axes), axes, names)


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """A column a depth."""
    figure.set_figheight(4.6)
    depths = sorted(map(int, table["depth"].unique()))
    panels = figure.subplots(2, len(depths), sharex=True, sharey=True, squeeze=False)
    for column, depth in enumerate(depths):
        part = table[table["depth"] == depth]
        top, bottom = panels[:, column]
        base = part[(part["quantity"] == "held_out") & (part["placement"] == "all")].set_index("alpha")["measured"]
        for i, (placement, label) in enumerate(PLACES.items()):
            one = part[(part["quantity"] == "accuracy_among_new") & (part["placement"] == placement)]
            _series(top, one, i - 2, label, style.series(i), base)
        for facts in part["facts"].unique():
            top.axhline(1 / facts, label="$1/n$", **style.CHANCE)
        for i, ((name, placement), (label, look)) in enumerate(LINKS.items()):
            one = part[(part["quantity"] == name) & (part["placement"] == placement)]
            _series(bottom, one, i - 1.5, label, look, base)
        bottom.set_xscale("log")
        bottom.set_xlabel("output scale $\\alpha$ (rich to lazy)")
    letters = style.letters()
    for line, told in zip(panels, ("", ", links"), strict=True):
        for axes, depth in zip(line, depths, strict=True):
            style.title(axes, next(letters), f"$L={depth}${told}")
    panels[0, 0].set_ylabel("right among the new")
    panels[1, 0].set_ylabel("share")
    panels[0, 0].set_ylim(-0.06, 1.1)
    style.legend(figure, 3)
    style.note(figure, seeds(table))


def _series(
    axes: Axes, one: pandas.DataFrame, place: float, label: str, look: dict[str, Any], base: pandas.Series
) -> None:
    """Points of several series beside each other; hollow where the base does not compose."""
    one = one.sort_values("alpha")
    at = one["alpha"] * 1.12**place
    axes.errorbar(at, one["measured"], bars(one), label=label, **look)
    void = ~(one["alpha"].map(base) >= COMPOSES).to_numpy()
    hollow: dict[str, Any] = look | {"linestyle": "none", "zorder": 4} | style.FILLS["hollow"]
    axes.plot(at[void], one["measured"][void], **hollow)


def caption(table: pandas.DataFrame) -> str:
    """What the panels show, and which points say nothing of composing."""
    facts = "/".join(f"{int(n)}" for n in sorted(table["facts"].unique()))
    return f"""Transformers of L blocks were trained on one-hop facts of many relations and on two-hop facts, with an
        output scale α: the larger it is, the less the weights move. Two experts of n = {facts} new one-hop facts each,
        in the blocks that the legend says, are summed and asked the n composed questions, on which neither they nor the
        base were trained. Top: the share for which z_i is the largest of the n new answers; the kernel regime has 1/n
        in every placement. Bottom: the base's accuracy on two-hop facts that it was not trained on; the share of
        composed questions on which the first expert alone turns the answer into the old r_2(y); and the share of
        prompts that lead to y in the base on which the second expert alone answers z. Marks are hollow where the base
        answers less than half of what was held out, which is the positive control: there placements say nothing of
        composing. Marks are means, with {seeds(table)}, and bars are 95 % intervals."""
