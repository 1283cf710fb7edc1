"""What each rule leaves of each expert's own answers, from two experts to five

Every expert is on a relation of its own. Asked are the facts that the experts learned, of every expert as many."""

import math
from statistics import fmean

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_reuse.figures import _cells, _groups, _shares, style
from lora_reuse.figures._names import wrapped
from lora_reuse.figures.rows import Rows
from lora_reuse.llm.data.subsets import ATOMIC

NEEDS = {"llm_own_answers": "python -m llm.own_answers"}
AXES = ("graph", "library", "composition")
LIBRARIES = tuple("".join(ATOMIC)[:count] for count in range(1, len(ATOMIC) + 1))
"""The first relation alone, then the first two, and so on."""


def data(rows: Rows) -> pandas.DataFrame:
    """Shares of right answers in percent by model, graph, library and rule, with those of each expert (`each`), the
    least and the most of them."""
    groups, about = _groups.grouped(rows, ["llm_own_answers"], AXES)
    found = _cells.of_groups(groups, about)
    lines = []
    for label, model in _cells.models(found, {}).items():
        for key, group in groups.items():
            graph, library, rule = key[1:]
            if key[0] != model or library not in LIBRARIES:
                continue
            cell = _cells.cell(found, key, "", (math.nan, math.nan), "")
            each = [
                100 * fmean(right / asked for right, asked in zip(*expert, strict=True))
                for expert in zip(
                    zip(*group["measured.by_expert"], strict=True),
                    zip(*group["measured.asked_of_each"], strict=True),
                    strict=True,
                )
            ]
            said = {"model": label, "graph": graph, "library": library, "composition": rule}
            shown = _shares.shown(cell, _shares.facts_of(group))
            shown |= {"each": " ".join(f"{share:.4g}" for share in each), "least": min(each), "most": max(each)}
            lines.append(said | shown)
    if not lines:
        raise rows.missing("llm_own_answers")
    return pandas.DataFrame(lines).drop(columns=["reported", "chance"])


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """A panel a model and graph, a line a rule, a column a library; each cell says the share of all experts and, from
    the least to the most, of each."""
    panels = list(dict.fromkeys(zip(table["model"], table["graph"], strict=True)))
    composed = table[(table["library"].str.len() > 1)]
    widest = composed[composed["library"].str.len() == composed["library"].str.len().max()]
    rules = list(widest.groupby("composition")["percent"].mean().sort_values(ascending=False).index)
    rules += [rule for rule in composed["composition"].unique() if rule not in rules]
    style.height(figure, 1.0 + 0.17 * len(rules))
    grid, letters = figure.subplots(1, len(panels), squeeze=False, sharey=True), style.letters()
    for axes, (model, graph) in zip(grid.flat, panels, strict=True):
        part = composed[(composed["model"] == model) & (composed["graph"] == graph)]
        _panel(axes, part, rules)
        style.title(axes, next(letters), f"{wrapped(model, 26)}\n{graph} graph, {_shares.n(part)}")
    style.note(figure, _shares.N)


def _panel(axes: Axes, part: pandas.DataFrame, rules: list[str]) -> None:
    counts = sorted(part["library"].str.len().unique())
    shares = np.full((len(rules), len(counts)), np.nan)
    for cell in part.to_dict("records"):
        row, column = rules.index(cell["composition"]), counts.index(len(cell["library"]))
        shares[row, column] = cell["percent"]
        said = f"{cell['percent']:.0f} ({cell['least']:.0f}–{cell['most']:.0f})"
        colour = "white" if cell["percent"] > 60 else "black"
        axes.text(column, row, said, ha="center", va="center", fontsize=6, color=colour)
    edges = [np.arange(len(names) + 1) - 0.5 for names in (counts, rules)]
    axes.pcolormesh(*edges, shares, cmap=style.SHADES, vmin=0, vmax=100, edgecolors="white")
    axes.set_ylim(len(rules) - 0.5, -0.5)
    axes.set_xticks(range(len(counts)), [str(count) for count in counts])
    axes.set_yticks(range(len(rules)), rules)
    axes.set_xlabel("experts composed")
    axes.tick_params(length=0)


def caption(table: pandas.DataFrame) -> str:
    """What a cell says, what the experts alone answer, and which rule keeps most of most experts."""
    alone = table[table["composition"] == "alone"]
    most = int(table["library"].str.len().max())
    last = table[(table["library"].str.len() == most) & (table["composition"] != "alone")]
    best = last.sort_values("percent").groupby(["model", "graph"]).tail(1)
    said = "; ".join(
        f"{line.composition} with {line.percent:.0f} % ({line.least:.0f} to {line.most:.0f} % of an expert;"
        f" {line.model}, {line.graph})"
        for line in best.itertuples()
    )
    ends = dict.fromkeys(f"{alone['percent'].agg(end):.0f}" for end in ("min", "max"))
    known = f"{' to '.join(ends)} %" if len(alone) else "not measured"
    return f"""Experts on one relation each are composed by every rule and asked the facts that they learned, in other
        templates. A cell says the right answers of all experts in percent, and in brackets those of the expert that
        keeps least and of the one that keeps most. In the shared graph all relations are on the same people and places;
        in the disjoint graph each chain of two relations has its own. The name of a rule that learns ends in own: it
        learned from a twentieth of the experts' own data. Rules are in the order of what they keep of {most} experts.
        An expert alone answers {known} of its own. Of {most} experts most is kept by {said}. The CSV has each expert's
        share, the interval over seeds and each seed."""
