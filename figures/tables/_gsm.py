"""What the tables of word problems share (3, 4, 13, 14 and 15): rows of `llm.gsm` by the dials that these tables
turn."""

import math
from collections.abc import Mapping
from typing import Any

import pandas
from lora_reuse.figures import _cells
from lora_reuse.figures.rows import Rows
from lora_reuse.paper_checks.reported import load

NEEDS = {"llm_gsm": "python -m llm.gsm"}
PAPER = {name: f"Qwen/{name}ruct" for name in ("Qwen2.5-1.5B-Inst", "Qwen2.5-Math-1.5B-Inst", "Qwen2.5-Math-7B-Inst")}
RULES = {"base": "Base", "uniform": "Uniform", "arrow": "Arrow"}
AXES = ("asked", "prompting", "shots", "composition", "layers", "library", "solutions")
USUAL = {
    "asked": "p2",
    "prompting": "cot",
    "shots": "0",
    "composition": "base",
    "layers": "attention",
    "library": "2-combination",
    "solutions": "text",
}
NOTHING_ADDED = {"layers": "none", "library": "none", "solutions": "none"}
"""What rows of the base say, wherever its adapters would sit."""
BROUGHT = "data=FOLDER"
READING = (
    "Each cell: right answers of all and their share, with a 95 % interval over seeds where there are several; what the paper reports. On our"
    " own word problems a model has a line of its own, a stand-in that shows that the command works: its numbers say nothing about GSM-Symbolic, and"
    " the paper's do not stand beside them. FOLDER holds the published files (`python -m llm.gsm --help`). Theory has no prediction here: its"
    " experts store facts."
)

Line = tuple[Mapping[str, str], Mapping[str, str]]
"""Of a line its settings, where they are not the usual ones, and its labels in the paper's table."""


def key(model: str, settings: Mapping[str, str]) -> tuple[str, ...]:
    """Of a model's cell with these settings, its place in what `_cells.measured` finds."""
    asked = {**USUAL, **settings}
    asked |= NOTHING_ADDED if asked["composition"] == "base" else {}
    return (model, *(asked[axis] for axis in AXES))


def cells(
    rows: Rows, number: int, names: tuple[str, ...], lines: Mapping[tuple[str, ...], Line], words: str
) -> pandas.DataFrame:
    """A table of the paper: its lines, a column a model; `words` make `llm.gsm` measure all of it."""
    found = _cells.measured(rows, ["llm_gsm"], AXES)
    paper = {label: PAPER[label] for label in load(number)["base_model"].unique()}
    made: dict[tuple[str, ...], dict[str, Any]] = {}
    for labels, (settings, printed) in lines.items():
        for label, model in _cells.models(found, paper).items():
            ours = _cells.stands_in(model)
            if ours and settings.get("asked") == "gsm8k":
                continue  # our own problems have no such level
            value = "" if ours else _cells.reported(number, base_model=label, **printed)
            asked = words.replace("gsm8k,", "") if ours else words
            fill = _cells.fill(rows, f"{NEEDS['llm_gsm']} {asked}", model, BROUGHT)
            made[*labels, label] = _cells.cell(found, key(model, settings), value, (math.nan, math.nan), fill)
    return _cells.frame(made, (*names, "model"), found)
