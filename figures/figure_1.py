"""Figure 1: libraries of experts against experts alone

Two-hop questions, step by step: (a) on H, by model; (b) on fake, half real and real names, for the paper's model and each that is measured.
"""

import math

import pandas
from matplotlib.figure import Figure

from figures import _bars, _cells, style
from figures.rows import Rows
from figures.tables.table_07 import LIBRARIES

NEEDS = {"llm_two_hop": "python -m llm.two_hop"}
DATASETS = ("F", "H", "R")
PAPER_MODEL = "Qwen2.5-14B-Instruct"
LOOK = dict(zip(LIBRARIES, ("hatched light", "dark", "hatched amber", "red", "black", "grey"), strict=True))
MODELS_A_ROW, PANELS_A_ROW = 7, 3


def data(rows: Rows) -> pandas.DataFrame:
    """Measured and reported shares in percent, by panel, model, dataset and series (a library and its composition)."""
    found = _cells.measured(rows, ["llm_two_hop"], ("dataset", "library", "composition", "prompting"), layers="mlp", adapter="lora")
    if not any(key[-1] == "steps" for key in found.cells):
        raise rows.missing("llm_two_hop", prompting="steps")
    measured = set(found.about)
    lines = []
    for label, model in _cells.models(found).items():
        for dataset in DATASETS:
            panels = ["a"] * (dataset == "H") + ["b"] * (label == PAPER_MODEL or model in measured)
            for panel in panels:
                for series, (library, composition, column) in LIBRARIES.items():
                    rule = "uniform" if composition == "alone" else composition
                    printed = _cells.reported(7, dataset=dataset, base_model=label, composition=rule, column=column)
                    cell = _cells.cell(found, (model, dataset, library, composition, "steps"), printed, (math.nan, math.nan), "")
                    lines.append({"panel": panel, "model": label, "dataset": dataset, "series": series} | plotted(cell))
    return pandas.DataFrame(lines)


def plotted(cell: dict) -> dict:
    """Of a cell, what a bar shows."""
    return {name: cell[name] for name in ("hits", "total", "percent", "low", "high", "seeds")} | {
        "reported": float(cell["reported"] or "nan"),
        "row": cell["row"] or None,
    }


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """(a) on top, in as many lines as the models need, and (b) below, a panel a model."""
    first, second = table[table["panel"] == "a"], table[table["panel"] == "b"]
    models, panels = list(first["model"].unique()), list(second["model"].unique())
    lines = [models[i : i + MODELS_A_ROW] for i in range(0, len(models), MODELS_A_ROW)]
    below = -(-len(panels) // PANELS_A_ROW)
    heights = [2.0] * len(lines) + [1.8] * below
    figure.set_figheight(0.4 + sum(heights))
    grid = figure.add_gridspec(len(heights), min(len(panels), PANELS_A_ROW), height_ratios=heights)
    for i, names in enumerate(lines):
        axes = figure.add_subplot(grid[i, :])
        _bars.grouped(axes, first, "model", names, LOOK)
        axes.set_xlim(-0.5, min(len(models), MODELS_A_ROW) - 0.5)
        if i == 0:
            style.title(axes, "a", "half real names (H), by model")
    for i, name in enumerate(panels):
        axes = figure.add_subplot(grid[len(lines) + i // PANELS_A_ROW, i % PANELS_A_ROW])
        _bars.grouped(axes, second[second["model"] == name], "dataset", DATASETS, LOOK)
        axes.set_ylabel("" if i % PANELS_A_ROW else "right answers (%)")
        style.title(axes, "b", _bars.wrapped(name, 24)) if i == 0 else axes.set_title(_bars.wrapped(name, 28))
    figure.legend(handles=_bars.legend(LOOK), loc="outside upper center", ncols=4)


def caption(table: pandas.DataFrame) -> str:
    """The claim, and what a bar is."""
    measured = table[table["percent"].notna()]
    models = ", ".join(measured["model"].unique())
    return f"""Figure 1 of the paper (section 4.1.1): two-hop questions asked step by step of libraries of two one-hop experts (2-combination), of
        these and the oracle (3-combination), of the oracle alone and of one expert trained on both hops (mixed). The paper's claim: without the
        oracle no library answers at any size. (a) On H, by model; (b) on F (fake names and places), H (fake names, real places) and R (real ones).
        Narrow filled bars: measured here ({models}; {_bars.seeds(measured)}) with 95 % intervals bootstrapped by triplet; a small marker is a
        measured 0. Wide hollow bars: the paper's Table 7."""
