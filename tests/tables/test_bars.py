"""Figures 1 and 2 and their like show the numbers of the tables."""

import importlib
import itertools
import math
from typing import Any

import pandas
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from lora_reuse.figures import _bars, _cells, registry, style
from lora_reuse.figures.rows import MissingRows, Rows
from tests.rows_of_models import row, write
from tests.tables.planted import table_of


def test_an_interval_that_is_not_there_is_not_drawn():
    table = pandas.DataFrame(
        {"series": ["a", "a"], "model": ["one", "two"], "reported": [math.nan] * 2, "percent": [50.0, 60.0]}
    )
    table = table.assign(low=[math.nan, 40.0], high=[math.nan, 80.0])
    axes = Figure().subplots()
    table = table.assign(hits=1, total=2, seeds=[1, 2], by_seed=["50", "55 65"], void="", chance=math.nan)
    _bars.grouped(axes, table, "model", ["one", "two"], {"a": ("sum", "")})
    drawn = [
        segment
        for lines in axes.collections
        if isinstance(lines, LineCollection)
        for segment in lines.get_segments()
        if len(segment)
    ]
    assert [segment[:, 1].tolist() for segment in drawn] == [[40.0, 80.0]]


@pytest.mark.parametrize(("name", "lines"), [("figure_1", 42 + 2 * 18), ("figure_2", 28), ("direct_answers", 1)])
def test_figures_show_the_numbers_of_the_tables(name, lines, shared):
    figure = importlib.import_module(f"lora_reuse.figures.{name}")
    shown = figure.data(Rows(shared, figure.NEEDS))
    assert len(shown) == lines
    source = table_of({"figure_1": "table_07", "figure_2": "table_09", "direct_answers": "table_07"}[name], shared)
    for line in shown.to_dict("records"):
        if name == "direct_answers":
            cell = source.loc[(line["dataset"], line["model"], "direct", f"{line['library']}, {line['composition']}")]
            assert line["at_most"] == cell["predicted_high"]
        elif name == "figure_1":
            cell = source.loc[(line["dataset"], line["model"], "step by step", line["series"])]
        else:
            setup, _, rule = line["series"].partition(", ")
            cell = source.loc[(line["model"], rule, f"{setup}, MLP layers")]
        assert (line["row"] if isinstance(line["row"], str) else "") == cell["row"]
        assert line.get("reported", math.nan) == pytest.approx(float(cell["reported"] or "nan"), nan_ok=True)
        assert line["percent"] == pytest.approx(cell["percent"], nan_ok=True)
        assert line["by_seed"] == cell["by_seed"]


@pytest.mark.parametrize("models", [1, 9])
@pytest.mark.parametrize("name", ["figure_1", "figure_2", "direct_answers"])
def test_figures_of_many_models_and_missing_cells_keep_apart(name, models, few):
    figure = importlib.import_module(f"lora_reuse.figures.{name}")
    for i in range(models - 1):
        other: dict[str, Any] = {
            "model": f"someone/a-model-with-a-rather-long-name-{i}-7B",
            "prompting": "steps",
            "composition": "arrow",
        }
        write(few, row("llm_two_hop", [1, 0, 2, 0], dataset="H", library="3-combination", **other))
        write(
            few,
            row("llm_two_hop", [2, 2, 2, 2], dataset="R", library="3-combination", **{**other, "prompting": "direct"}),
        )
        write(few, row("llm_bridge", [1, 1, 0, 0], setup="2", **other))
    table = figure.data(Rows(few, figure.NEEDS))
    with registry.picture(figure, table) as drawn:
        drawn.draw_without_rendering()
        whole = drawn.bbox.padded(1)
        texts = [
            text
            for axes in drawn.axes
            for text in (*(child for child in axes.get_children() if isinstance(child, Text)), axes.yaxis.label)
        ]
        texts += [text for legend in drawn.legends for text in legend.get_texts()]
        for text in (text for text in texts if text.get_text()):
            assert whole.contains(*text.get_window_extent().min), text
            assert whole.contains(*text.get_window_extent().max), text
        assert drawn.get_figheight() <= style.PAGE
        for axes in drawn.axes:
            assert axes.patches or axes.lines
            boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
            assert not [pair for pair in itertools.combinations(boxes, 2) if Bbox.intersection(*pair)]
    assert "nan" not in figure.caption(table)


def test_a_model_of_one_s_own_stands_among_the_models_on_h_only_if_asked_there(few):
    point: dict[str, Any] = {"library": "3-combination", "composition": "arrow", "prompting": "steps"}
    write(
        few,
        row("llm_two_hop", [1, 0, 0, 0], dataset="R", model="mine", **point),
        row("llm_two_hop", [1, 0, 0, 0], dataset="H", model="yours", **point),
    )
    figure = importlib.import_module("lora_reuse.figures.figure_1")
    shown = figure.data(Rows(few, figure.NEEDS)).groupby("panel")["model"].unique()
    assert {"yours", *_cells.PAPER} <= set(shown["a"])
    assert {"mine", "yours"} <= set(shown["b"])
    assert "mine" not in set(shown["a"])


@pytest.mark.parametrize("name", ["figure_1", "figure_2", "direct_answers"])
def test_figures_without_rows_say_which_command_makes_them(name, tmp_path):
    figure = importlib.import_module(f"lora_reuse.figures.{name}")
    with pytest.raises(MissingRows, match=r"make them with `python -m llm\."):
        figure.data(Rows(tmp_path, figure.NEEDS))
