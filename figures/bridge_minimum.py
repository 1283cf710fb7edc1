"""How much bridge is enough: right step-by-step answers against its triplets, templates and steps

Beyond the paper: setup 2 of Table 1 with less of the bridge, one thing at a time, and what it is about and which expert
has it."""

import itertools
import math

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_reuse.figures import _cells, _groups, _shares, style
from lora_reuse.figures._names import wrapped
from lora_reuse.figures.rows import Rows
from lora_reuse.llm.protocols.settings import COMPOSITIONS

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
    """Measured shares in percent by model, panel, its value and composition; in each panel the rest of the bridge is
    whole, and has as many triplets as most of the panel's rows."""
    axes = (*PANELS, "composition", "prompting")
    groups, about = _groups.grouped(rows, ["llm_bridge_minimum"], axes, layers="mlp", adapter="lora")
    found = _cells.of_groups(groups, about)
    lines = []
    for key, group in groups.items():
        model, *values, composition, prompting = key
        if prompting == "steps":
            cell = _shares.shown(_cells.cell(found, key, "", (math.nan, math.nan), ""), _shares.facts_of(group))
            kinds = (int, int, float, str, str)
            bridge = {name: kind(value) for name, kind, value in zip(PANELS, kinds, values, strict=True)}
            lines.append({"model": found.names[model]} | bridge | {"composition": composition} | cell)
    if not lines:
        raise rows.missing("llm_bridge_minimum", prompting="steps")
    points = pandas.DataFrame(lines).drop(columns="reported")
    panels = [
        _panel(points[points["model"] == model], name)
        for model, name in itertools.product(points["model"].unique(), PANELS)
    ]
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
    ordered = points.sort_values(
        name, kind="stable", key=lambda column: column != WHOLE[name] if name in WORDS else column
    )
    return ordered.assign(panel=name, value=[f"{value:g}" if name not in WORDS else value for value in ordered[name]])


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """A panel an axis, each model on lines of its own, a line a composition; values stand at equal distances."""
    lines = []
    for model, part in table.groupby("model", sort=False):
        panels = [(model, name) for name in part["panel"].unique()]
        lines += [panels[i : i + A_ROW] for i in range(0, len(panels), A_ROW)]
    named = set(table["composition"])
    rules = [rule for rule in COMPOSITIONS if rule in named] + sorted(named - set(COMPOSITIONS))
    style.height(figure, 0.8 + 2.1 * len(lines))
    grid = figure.subplots(len(lines), max(map(len, lines)), squeeze=False, sharey=True)
    letters, told = style.letters(), set()
    for places, panels in zip(grid, lines, strict=True):
        for axes in places[len(panels) :]:
            axes.remove()
        for axes, (model, name) in zip(places, panels, strict=False):
            part = table[(table["model"] == model) & (table["panel"] == name)]
            _lines(axes, part, rules, joined=name not in WORDS)
            axes.set_xlabel(PANELS[name])
            style.title(
                axes, next(letters), f"{'' if model in told else wrapped(str(model), 28) + ', '}{_shares.n(part)}"
            )
            told.add(model)
        places[0].set_ylabel("right, step by step (%)")
    style.legend(figure, 5, *_shares.handles(table))
    style.note(figure, _shares.N)


def _lines(axes: Axes, part: pandas.DataFrame, rules: list[str], joined: bool) -> None:
    """A line a rule over the values at equal distances, moved aside a little, so that intervals do not cover each
    other."""
    values, step = list(part["value"].unique()), min(0.15, 0.75 / len(rules))
    for i, rule in enumerate(rules):
        own = part[part["composition"] == rule]
        if own.empty:
            continue
        places = [values.index(value) + step * (i - (len(rules) - 1) / 2) for value in own["value"]]
        _shares.points(axes, own, places, step, style.rule(rule, linestyle="-" if joined else "none", label=rule))
    _shares.chance(axes, part)
    axes.set_xticks(range(len(values)), values)
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set_ylim(-4, 104)
    axes.set_yticks(range(0, 101, 25))


def caption(table: pandas.DataFrame) -> str:
    """What is varied, and what a point is."""
    models = "; ".join(table["model"].unique())
    triplets = sorted(table[table["panel"] != "bridge_triplets"]["bridge_triplets"].unique())
    rest = f" ({' or '.join(map(str, triplets))} triplets in the panels where others are varied)" if triplets else ""
    return f"""Beyond the paper's Table 1, the bridge gets smaller in one thing at a time, and all else of it is
        whole{rest}. Two one-hop experts of real names have a bridge of fake ones and are asked step by step. The panels
        vary the triplets of the bridge, the training templates of each of its relations, the share of its two-hop
        examples that go step by step, its relations, and which expert has a bridge. Its relations are those asked
        (same), two others (disjoint), or those asked with the second step first (reversed). Values stand at equal
        distances. {_shares.MEANING} The models are {models}. {_shares.told_void(table)}"""
