"""Figure 1: libraries of experts against experts alone

Two-hop questions, step by step: (a) on H, by model; (b) on fake, half real and real names, for the paper's model and each that is measured; and
(c) the same libraries asked directly, which the paper did not do, under every rule.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from figures import _bars, _cells, style
from figures.rows import Rows
from figures.tables.table_07 import LIBRARIES
from llm.settings import COMPOSITIONS

NEEDS = {"llm_two_hop": "python -m llm.two_hop"}
DATASETS = ("F", "H", "R")
PAPER_MODEL = "Qwen2.5-14B-Instruct"
LOOK = dict(zip(LIBRARIES, ("hatched light", "dark", "hatched amber", "red", "black", "grey"), strict=True))
MODELS_A_ROW, PANELS_A_ROW = 7, 3
ROUTED = ("arrow:swapped", "arrow_after:swapped")
DIRECT = {"3-combination": ("o", _bars.DARK), "2-combination": ("s", _bars.RED), "oracle": ("D", "0.5"), "mixed": ("v", "0.6")}
"""The libraries of (c), the last two of which are one expert."""


def data(rows: Rows) -> pandas.DataFrame:
    """Measured and reported shares in percent, by panel, model, dataset and series (a library and its composition)."""
    found = _cells.measured(rows, ["llm_two_hop"], ("dataset", "library", "composition", "prompting"), layers="mlp", adapter="lora")
    if not any(key[-1] == "steps" for key in found.cells):
        raise rows.missing("llm_two_hop", prompting="steps")
    measured, asked = set(found.about), {key[:2] for key in found.cells}
    lines = []
    for label, model in _cells.models(found).items():
        for dataset in DATASETS:
            panels = ["b"] * (label == PAPER_MODEL or model in measured)
            if dataset == "H" and (model not in measured or (model, dataset) in asked):
                panels.insert(0, "a")
            for panel in panels:
                for series, (library, composition, column) in LIBRARIES.items():
                    rule = "uniform" if composition == "alone" else composition
                    printed = _cells.reported(7, dataset=dataset, base_model=label, composition=rule, column=column)
                    cell = _cells.cell(found, (model, dataset, library, composition, "steps"), printed, (math.nan, math.nan), "")
                    lines.append({"panel": panel, "model": label, "dataset": dataset, "series": series} | plotted(cell))
    return pandas.DataFrame([*lines, *direct(found)])


def direct(found: _cells.Found) -> Iterator[dict]:
    """The lines of (c): what was asked directly, by library and composition, with the most that theory allows two one-hop experts."""
    for label, model in _cells.models(found).items():
        for dataset, library in itertools.product(DATASETS, DIRECT):
            for rule in (*COMPOSITIONS, *ROUTED, "alone"):
                key = (model, dataset, library, rule, "direct")
                if key in found.cells:
                    cell = _cells.cell(found, key, "", (math.nan, math.nan), "")
                    said = {"panel": "c", "model": label, "dataset": dataset, "series": library, "composition": rule}
                    yield said | plotted(cell) | {"at_most": cell["predicted_high"]}


def plotted(cell: dict) -> dict:
    """Of a cell, what a bar shows."""
    return {name: cell[name] for name in ("hits", "total", "percent", "low", "high", "seeds")} | {
        "reported": float(cell["reported"] or "nan"),
        "row": cell["row"] or None,
    }


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """(a) on top, in as many lines as the models need, (b) below, a panel a model, and (c), a panel a model and its names."""
    first, second, third = (table[table["panel"] == letter] for letter in "abc")
    models, panels = list(first["model"].unique()), list(second["model"].unique())
    lines = [models[i : i + MODELS_A_ROW] for i in range(0, len(models), MODELS_A_ROW)]
    below = -(-len(panels) // PANELS_A_ROW)
    asked = list(dict.fromkeys(zip(third["model"], third["dataset"], strict=True)))
    heights = [2.0] * len(lines) + [1.8] * below + [2.4] * -(-len(asked) // PANELS_A_ROW)
    figure.set_figheight(0.6 + sum(heights))
    parts = list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    for i, names in enumerate(lines):
        axes = parts.pop(0).subplots()
        _bars.grouped(axes, first, "model", names, LOOK)
        axes.set_xlim(-0.5, min(len(models), MODELS_A_ROW) - 0.5)
        if i == 0:
            style.title(axes, "a", "half real names (H), by model")
    for i, (name, axes) in enumerate(zip(panels, _axes(parts, len(panels)), strict=True)):
        _bars.grouped(axes, second[second["model"] == name], "dataset", DATASETS, LOOK)
        axes.set_ylabel("" if i % PANELS_A_ROW else "right answers (%)")
        style.title(axes, "b", _bars.wrapped(name, 24)) if i == 0 else axes.set_title(_bars.wrapped(name, 28))
    named = set(zip(third["series"], third["composition"], strict=True))
    ways = [rule for rule in (*COMPOSITIONS, *ROUTED) if any(name == rule for _, name in named)]
    ways += [library for library in DIRECT if (library, "alone") in named]
    for i, ((name, dataset), axes) in enumerate(zip(asked, _axes(parts, len(asked)), strict=True)):
        _directly(axes, third[(third["model"] == name) & (third["dataset"] == dataset)], ways, labelled=i % PANELS_A_ROW == 0)
        text = f"{_bars.wrapped(name, 24)}, {dataset}"
        style.title(axes, "c", f"directly:{chr(10) if len(text) > 16 else ' '}{text}") if i == 0 else axes.set_title(text)
    handles = [*_bars.legend(LOOK), *(_legend() if asked else ())]
    figure.legend(handles=handles, loc="outside upper center", ncols=4)


def _axes(parts: list[SubFigure], count: int) -> list[Axes]:
    """`count` panels in lines of at most PANELS_A_ROW, each line the next of `parts`."""
    columns, found = min(count, PANELS_A_ROW), []
    for start in range(0, count, PANELS_A_ROW):
        line = list(parts.pop(0).subplots(1, columns, squeeze=False)[0])
        for axes in line[count - start :]:
            axes.remove()
        found += line[: count - start]
    return found


def _directly(axes: Axes, table: pandas.DataFrame, ways: list[str], labelled: bool) -> None:
    """A line a rule, then one an expert alone; dashed, the most that theory allows two one-hop experts."""
    for i, (library, (marker, colour)) in enumerate(DIRECT.items()):
        part = table[table["series"] == library]
        places = [ways.index(library) if rule == "alone" else ways.index(rule) + 0.3 * i - 0.15 for rule in part["composition"]]
        interval = np.array([part["percent"] - part["low"], part["high"] - part["percent"]])
        axes.errorbar(part["percent"], places, xerr=interval, marker=marker, color=colour, linestyle="none", markersize=3.5)
    if table["at_most"].notna().any():
        axes.axvline(table["at_most"].max(), zorder=1, **style.THEORY)
    said = [f"{way} alone" if way in DIRECT else way.replace(":", ", ") for way in ways]
    axes.set_yticks(range(len(ways)), said if labelled else [""] * len(ways))
    axes.set_ylim(len(ways) - 0.5, -0.5)
    axes.set_xlim(-3, 103)
    axes.set_xticks(range(0, 101, 25))
    axes.set_xlabel("right answers (%)")


def _legend() -> list[Line2D]:
    """What the points of (c) are; an expert alone is named at its line."""
    points = [
        Line2D([], [], marker=marker, color=colour, linestyle="none", label=f"(c) {library}")
        for library, (marker, colour) in list(DIRECT.items())[:2]
    ]
    return [Line2D([], [], label="(c) at most, two one-hop experts", **style.THEORY), *points]


def caption(table: pandas.DataFrame) -> str:
    """The claim, and what a bar is."""
    measured = table[table["percent"].notna() & (table["panel"] != "c")]
    models = ", ".join(measured["model"].unique())
    return f"""Figure 1 of the paper (section 4.1.1): two-hop questions asked step by step of libraries of two one-hop experts (2-combination), of
        these and the oracle (3-combination), of the oracle alone and of one expert trained on both hops (mixed). The paper's claim: without the
        oracle no library answers at any size. (a) On H, by model; (b) on F (fake names and places), H (fake names, real places) and R (real ones).
        Narrow filled bars: measured here ({models}; {_bars.seeds(measured)}) with 95 % intervals over seeds; a small marker is a
        measured 0. Wide hollow bars: the paper's Table 7. (c) The same libraries asked directly, measured here alone; swapped: Arrow with the
        prototypes exchanged among experts. Dashed: chance among the edited answers (Theorem 3)."""
