"""Table 16: programs asked for in Spanish

An expert on programming in English and one on translation, alone and composed, asked MBPP in Spanish (A.5).
"""

import math
from collections.abc import Sequence
from typing import Any

import pandas
from lora_reuse.figures import _cells
from lora_reuse.figures.rows import Rows
from lora_reuse.paper_checks.reported import load

NEEDS = {"llm_cross_lingual": "python -m llm.cross_lingual"}
PAPER = {
    **{"Phi-2": "microsoft/phi-2", "Phi-3-mini-4k-instruct": "microsoft/Phi-3-mini-4k-instruct"},
    **{name: f"Qwen/{name}" for name in ("Qwen2.5-7B-Instruct", "Qwen2.5-14B-Instruct")},
}
COLUMNS = {
    "Base Only": ("none", "base", "none"),
    "Coding (L_1)": ("coding", "alone", "mlp"),
    "Translation (L_2)": ("translation", "alone", "mlp"),
    "Merged (Uniform)": ("2-combination", "uniform", "mlp"),
    "Merged (Arrow)": ("2-combination", "arrow", "mlp"),
}
"""The paper's column -> library, composition and layers in the rows."""
WORDS = "asked=spanish composition=base,uniform,arrow allow_code_execution=true"
READING = (
    "Each cell: tasks whose assertions all pass at the first and greedy attempt, of all, and their share, with a 95 % interval over seeds where"
    " there are several; what the paper reports. A line of a model on our own tasks is a stand-in that shows that the command works: its numbers"
    " say nothing about MBPP, and the paper's do not stand beside them. FOLDER holds MBPP in both languages, FILE parallel sentences (`python -m"
    " llm.cross_lingual --help`). Theory has no prediction here: its experts store facts."
)


def table(rows: Rows) -> pandas.DataFrame:
    """The cells, by model and expert."""
    return cells(rows, 16, "spanish", WORDS)


def cells(rows: Rows, number: int, language: str, words: str) -> pandas.DataFrame:
    """Table 16, or Table 17, which asks in English and has fewer experts; `words` make `llm.cross_lingual` measure all
    of it."""
    found = _cells.measured(rows, ["llm_cross_lingual"], ("asked", "library", "composition", "layers"))
    made: dict[tuple[str, ...], dict[str, Any]] = {}
    columns: Sequence[str] = load(number)["column"].unique().tolist()
    for label, model in _cells.models(found, PAPER).items():
        for column in columns:
            value = "" if _cells.stands_in(model) else _cells.reported(number, base_model=label, column=column)
            fill = _cells.fill(rows, f"{NEEDS['llm_cross_lingual']} {words}", model, "data=FOLDER sentences=FILE")
            made[label, column] = _cells.cell(
                found, (model, language, *COLUMNS[column]), value, (math.nan, math.nan), fill
            )
    return _cells.frame(made, ("model", "expert"), found)


def caption(table: pandas.DataFrame) -> str:
    """What a cell is."""
    return (
        "An expert on programming in English (L_1), one on translating English to Spanish (L_2), and both composed are asked MBPP in Spanish (Table"
        " 16, A.5). The paper's claim is that the translation expert drives almost all improvement, and that merging gains marginally or nothing."
        f" {READING} {_cells.about(table)}"
    )
