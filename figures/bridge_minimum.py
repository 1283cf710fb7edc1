"""How much bridge is enough: right step-by-step answers against its triplets, templates and steps

Beyond the paper: setup 2 of Table 1 with less of the bridge, one thing at a time, and what it is about and which expert has it.
"""

import itertools
import math

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import _bars, _cells, style
from figures.figure_1 import plotted
from figures.rows import Rows
from llm.settings import COMPOSITIONS

NEEDS = {"llm_bridge_minimum": "python -m llm.bridge_minimum"}
WHOLE = {"bridge_templates": 46, "steps_share": 1.0, "relations": "same", "bridge_in": "both"}
"""Setup 2's bridge, but for its triplets."""
PANELS = {
    "bridge_triplets": "triplets of the bridge",
    "bridge_templates": "templates of each relation",
    "steps_share": "share that is step by step",
    "relations": "relations of the bridge",
    "bridge_in": "experts that have it",
}
WORDS = ("relations", "bridge_in")
A_ROW = 3


def data(rows: Rows) -> pandas.DataFrame:
    """Measured shares in percent by model, panel, its value and composition; in each panel the rest of the bridge is whole, and has as many triplets
    as most of the panel's rows."""
    axes = (*PANELS, "composition", "prompting")
    found = _cells.measured(rows, ["llm_bridge_minimum"], axes, layers="mlp", adapter="lora")
    lines = []
    for key in found.cells:
        model, *values, composition, prompting = key
        if prompting == "steps":
            cell = plotted(_cells.cell(found, key, "", (math.nan, math.nan), ""))
            kinds = (int, int, float, str, str)
            bridge = {name: kind(value) for name, kind, value in zip(PANELS, kinds, values, strict=True)}
            lines.append({"model": model} | bridge | {"composition": composition} | cell)
    if not lines:
        raise rows.missing("llm_bridge_minimum", prompting="steps")
    points = pandas.DataFrame(lines).drop(columns="reported")
    panels = [_panel(points[points["model"] == model], name) for model, name in itertools.product(found.about, PANELS)]
    shown = [panel for panel in panels if not panel.empty]
    if not shown:
        raise rows.missing("llm_bridge_minimum", bridge_triplets=[0, 1, 2, 5, 10, 20])
    return pandas.concat(shown, ignore_index=True)


def _panel(points: pandas.DataFrame, name: str) -> pandas.DataFrame:
    """The points in which `name` alone is less than whole; none where it has one value only."""
    for other, whole in WHOLE.items():
        if other != name:
            points = points[points[other] == whole]
    if name in WHOLE:
        less = points[points[name] != WHOLE[name]]["bridge_triplets"]
        points = points[points["bridge_triplets"] == (less.mode().iloc[0] if len(less) else -1)]
    if points[name].nunique() < 2:
        return points[:0]
    ordered = points.sort_values(name, kind="stable", key=lambda column: column != WHOLE[name] if name in WORDS else column)
    return ordered.assign(panel=name, value=[f"{value:g}" if name not in WORDS else value for value in ordered[name]])


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """A panel an axis, each model on lines of its own, a line a composition; values stand at equal distances."""
    lines = []
    for model, part in table.groupby("model", sort=False):
        panels = [(model, name) for name in part["panel"].unique()]
        lines += [panels[i : i + A_ROW] for i in range(0, len(panels), A_ROW)]
    named = set(table["composition"])
    rules = [rule for rule in COMPOSITIONS if rule in named] + sorted(named - set(COMPOSITIONS))
    figure.set_figheight(0.5 + 2.1 * len(lines))
    grid = figure.subplots(len(lines), max(map(len, lines)), squeeze=False, sharey=True)
    letters, told = iter("abcdefghijklmnopqrstuvwxyz" * len(lines)), set()
    for places, panels in zip(grid, lines, strict=True):
        for axes in places[len(panels) :]:
            axes.remove()
        for axes, (model, name) in zip(places, panels, strict=False):
            part = table[(table["model"] == model) & (table["panel"] == name)]
            _lines(axes, part, rules, joined=name not in WORDS)
            axes.set_xlabel(PANELS[name])
            style.title(axes, next(letters), "" if model in told else _bars.wrapped(str(model), 28))
            told.add(model)
        places[0].set_ylabel("right, step by step (%)")
    style.legend(figure, ncols=6)


def _lines(axes: Axes, part: pandas.DataFrame, rules: list[str], joined: bool) -> None:
    """A line a rule over the values at equal distances, moved aside a little, so that intervals do not cover each other."""
    values, step = list(part["value"].unique()), min(0.12, 0.7 / len(rules))
    for i, rule in enumerate(rules):
        own = part[part["composition"] == rule]
        if own.empty:
            continue
        places = [values.index(value) + step * (i - (len(rules) - 1) / 2) for value in own["value"]]
        interval = np.array([own["percent"] - own["low"], own["high"] - own["percent"]])
        look = style.series(i, linestyle="-" if joined else "none", linewidth=0.8, label=rule, markersize=3.5, elinewidth=0.7)
        axes.errorbar(places, own["percent"], interval, **look)
    axes.set_xticks(range(len(values)), values)
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set_ylim(-4, 104)
    axes.set_yticks(range(0, 101, 25))


def caption(table: pandas.DataFrame) -> str:
    """What is varied, and what a point is."""
    models = ", ".join(table["model"].unique())
    triplets = sorted(table[table["panel"] != "bridge_triplets"]["bridge_triplets"].unique())
    rest = f" ({' or '.join(map(str, triplets))} triplets in the panels where others are varied)" if triplets else ""
    return f"""Beyond the paper's Table 1: two one-hop experts of real names with a bridge of fake ones, asked step by step, as the bridge gets
        smaller in one thing at a time, all else whole{rest}: its triplets, the training templates of each of its relations, the share of its
        two-hop examples that go step by step, whether its relations are those asked (same), two others (disjoint) or those asked with the second
        step first (reversed), and which expert has one. Measured on {models} ({_bars.seeds(table, "point")}) with 95 % intervals over
        seeds; values stand at equal distances."""
