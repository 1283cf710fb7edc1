"""Ten experts, asked a composition that none was trained on

Left: how often the held-out composition is right, among all answers and among those of the right kind, against the
chance of a model that does not use the first hop. Right: what the right answer gets, compared with the other answers of
its relation."""

import numpy as np
import pandas
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lora_reuse.figures import style
from lora_reuse.figures._theory import bars, over_seeds, rows_of, seeds
from lora_reuse.figures.rows import Rows

NEEDS = {"large_library": "python -m theory.sweep experiment=large_library width=inf seeds=64"}
ACCURACIES = {
    "accuracy": "among all answers",
    "accuracy_within_u3": "among answers in $U_3$",
    "accuracy_within_rel2": "among Rel2's answers",
}
CHANCES = {"accuracy_within_u3": "chance", "accuracy_within_rel2": "chance_within_rel2"}
ABOVE = {f"{name}_above_chance": (name, chance) for name, chance in CHANCES.items()}
"""Differences within a seed, whose outputs give both."""
COEFFICIENTS = {
    "coefficient_right": "the right answer",
    "coefficient_rel2": "any answer of Rel2",
    "coefficient_wrong": "other answers in $U_3$",
}
GRAPHS = ("disjoint", "shared")
TIE = 1e-9


def data(rows: Rows) -> pandas.DataFrame:
    """Accuracies, chances, their differences and coefficients by graph and rule, means over seeds, at infinite
    width."""
    table = rows_of(rows, "large_library", "graph", "composition", width=np.inf)
    apart = {f"measured.{name}": table[f"measured.{a}"] - table[f"measured.{b}"] for name, (a, b) in ABOVE.items()}
    names = [*ACCURACIES, *CHANCES.values(), *ABOVE, *COEFFICIENTS]
    return over_seeds(table.assign(**apart), ["graph", "composition"], names)


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """One line a graph and rule; accuracies on the left, coefficients on the right."""
    rules = table["composition"].drop_duplicates().tolist()
    rules = [rule for rule in ("sum", "average", "uniform", "arrow", "arrow_after") if rule in rules]
    lines = [
        (graph, rule)
        for graph in GRAPHS
        for rule in rules
        if ((table["graph"] == graph) & (table["composition"] == rule)).any()
    ]
    places = {line: -place - 0.6 * (line[0] != lines[0][0]) for place, line in enumerate(lines)}
    figure.set_figheight(1.75 + 0.27 * len(lines))
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, labels in ((left, ACCURACIES), (right, COEFFICIENTS)):
        for i, name in enumerate(labels):
            part = _of(table, name).reindex(lines)
            y = np.array(list(places.values())) + 0.25 * (1 - i)
            if name in CHANCES:
                chance = _of(table, CHANCES[name]).reindex(lines)["measured"]
                axes.vlines(chance, y - 0.2, y + 0.2, **style.CHANCE | {"linestyle": "-"})
            for (_, rule), at, place, bar in zip(lines, part["measured"], y, bars(part).T, strict=True):
                look = style.rule(rule, linestyle="none", **list(style.FILLS.values())[i])
                axes.errorbar([at], [place], xerr=bar[:, None], **look)
        axes.set_ylim(min(places.values()) - 0.6, 0.6)
    left.set_yticks(list(places.values()), [f"{rule}, {graph}" for graph, rule in lines])
    left.set_xlim(-0.02, 0.62)
    left.set_xlabel("share of held-out compositions right")
    right.set_xscale("log")
    right.set_xlabel("mean change of the output")
    chance = Line2D([], [], label="chance, first hop unused", color=style.CHANCE["color"])
    for axes, letter, title, labels, others in (
        (left, "a", "accuracy", ACCURACIES, [chance]),
        (right, "b", "what the answers get", COEFFICIENTS, []),
    ):
        axes.legend(
            handles=[*style.filled(*labels.values()), *others],
            loc="lower left",
            bbox_to_anchor=(0, 1.1),
            ncols=2,
            borderaxespad=0,
        )
        style.title(axes, letter, title)
    style.note(figure, seeds(table))


def _of(table: pandas.DataFrame, quantity: str) -> pandas.DataFrame:
    """One quantity by graph and rule."""
    return table[table["quantity"] == quantity].set_index(["graph", "composition"])


def caption(table: pandas.DataFrame) -> str:
    """The claim, counted over the lines of the figure."""
    best = table[table["quantity"] == "accuracy"].sort_values("measured").iloc[-1]
    apart = table[table["quantity"].isin(list(ABOVE))]
    above = int((apart["low"] > TIE).sum())
    right, any_of = _of(table, "coefficient_right"), _of(table, "coefficient_rel2")["measured"]
    alike = int(((right["low"] - TIE <= any_of) & (any_of <= right["high"] + TIE)).sum())
    return f"""A.3 in one layer: experts on five relations and on five of their compositions, eight facts each, are
        asked u Rel1 Rel2, which none was trained on. In disjoint graphs every expert has entities of its own but for
        the chain that is asked; in shared graphs all share them. (a) The right answer is the largest output in
        {100 * best["measured"]:.0f} % of cases at best ({best["composition"]}, {best["graph"]}). Grey lines are the
        chance of a model that does not use the first hop: the same outputs scored against the other answers of Rel2. Of
        the {len(apart)} intervals of an accuracy less its chance, both of the same seeds, {above or "none"}
        {"is" if above < 2 else "are"} above zero. (b) The right answer gets what any answer of Rel2 gets, within its
        interval, in {alike} of {len(right)} cases. Marks are means over {table["seeds"].min()} seeds, each with a graph
        of its own; bars are 95 % intervals; d = m = ∞."""
