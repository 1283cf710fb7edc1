"""Figure 1: libraries of experts against experts alone

Two-hop questions asked step by step: (a) on H, by model; (b) on fake, half real and real names, for the paper's model
and each that is measured."""

import math

import pandas
from matplotlib.figure import Figure

from lora_reuse.figures import _bars, _cells, _groups, _shares, style
from lora_reuse.figures._names import wrapped
from lora_reuse.figures.rows import Rows
from lora_reuse.figures.tables.table_07 import LIBRARIES

NEEDS = {"llm_two_hop": "python -m llm.two_hop prompting=steps"}
AXES = ("dataset", "library", "composition", "prompting")
DATASETS = ("F", "H", "R")
PAPER_MODEL = "Qwen2.5-14B-Instruct"
ALONE = {"oracle": "oracle", "mixed": "alone"}
LOOK = {
    series: (
        ALONE.get(asked["library"], asked["composition"]),
        {"2-combination": _bars.HATCH, "mixed": _bars.ALONE}.get(asked["library"], ""),
    )
    for series, (asked, _, _) in LIBRARIES.items()
}
"""A bar has the colour of its rule. Libraries without the oracle are hatched. Single experts are grey, the one on both
hops with lines across."""
MODELS_A_ROW, PANELS_A_ROW = 7, 3


def data(rows: Rows) -> pandas.DataFrame:
    """Measured and reported shares in percent, by panel, model, dataset and series (a library and its composition)."""
    groups, about = _groups.grouped(rows, ["llm_two_hop"], AXES, layers="mlp", adapter="lora")
    if not any(key[-1] == "steps" for key in groups):
        raise rows.missing("llm_two_hop", prompting="steps")
    found = _cells.of_groups(groups, about)
    measured, asked = set(about), {key[:2] for key in groups if key[-1] == "steps"}
    lines = []
    for label, model in _cells.models(found).items():
        for dataset in DATASETS:
            panels = ["b"] * (label == PAPER_MODEL or model in measured)
            if dataset == "H" and (model not in measured or (model, dataset) in asked):
                panels.insert(0, "a")
            for panel in panels:
                for series, (settings, labels, _) in LIBRARIES.items():
                    printed = _cells.reported(7, dataset=dataset, base_model=label, **(labels or {}))
                    key = (model, dataset, settings["library"], settings["composition"], "steps")
                    cell = _cells.cell(found, key, printed, (math.nan, math.nan), "")
                    said = {"panel": panel, "model": label, "dataset": dataset, "series": series}
                    lines.append(said | _shares.shown(cell, _shares.facts_of(groups.get(key))))
    return pandas.DataFrame(lines)


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """(a) on top, in as many lines as the models need; (b) below, a panel a model."""
    first, second = (table[table["panel"] == letter] for letter in "ab")
    models, panels = list(first["model"].unique()), list(second["model"].unique())
    lines = [models[i : i + MODELS_A_ROW] for i in range(0, len(models), MODELS_A_ROW)]
    rows = [panels[i : i + PANELS_A_ROW] for i in range(0, len(panels), PANELS_A_ROW)]
    heights = [2.0] * len(lines) + [1.8] * len(rows)
    style.height(figure, 0.8 + sum(heights))
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    for i, names in enumerate(lines):
        axes = figure.add_subplot(grid[i])
        _bars.grouped(axes, first, "model", names, LOOK)
        axes.set_xlim(-0.5, min(len(models), MODELS_A_ROW) - 0.5)
        if i == 0:
            style.title(axes, "a", "half real names (H), by model")
    for i, names in enumerate(rows):
        places = grid[len(lines) + i].subgridspec(1, min(len(panels), PANELS_A_ROW))
        for j, name in enumerate(names):
            axes = figure.add_subplot(places[j])
            _bars.grouped(axes, second[second["model"] == name], "dataset", DATASETS, LOOK)
            axes.set_ylabel("" if j else "right answers (%)")
            style.title(axes, "b", wrapped(name, 28)) if i == j == 0 else axes.set_title(
                wrapped(name, 32), linespacing=1.0
            )
    figure.legend(handles=[*_bars.legend(LOOK), *_shares.handles(table)], loc="outside upper center", ncols=4)
    style.note(figure, _shares.N)


def caption(table: pandas.DataFrame) -> str:
    """The claim, and what a bar is."""
    models = "; ".join(table[table["percent"].notna()]["model"].unique())
    return f"""Figure 1 of the paper (section 4.1.1) asks two-hop questions step by step. The libraries are two one-hop
        experts (2-combination), these and the oracle (3-combination), the oracle alone, and one expert trained on both
        hops (mixed). The paper's claim is that no library without the oracle answers, at any size of the model. (a) The
        names are half real (H: fake people, real places), and the groups are models. (b) The names are fake (F), half
        real (H) or real (R), and each panel is a model. {_bars.MEANING} The paper's numbers are those of its Table 7.
        The models measured here are {models}. {_shares.told_void(table)}"""
