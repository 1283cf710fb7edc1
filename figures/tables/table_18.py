"""Table 18: the shared adapters, each alone

What each adapter of Table 20 was trained on, and what it answers before it is composed (A.6).
"""

import math
from typing import Any

import pandas
from lora_reuse.figures import _cells
from lora_reuse.figures.rows import Rows
from lora_reuse.figures.tables import table_20
from lora_reuse.paper_checks.reported import load

NEEDS = table_20.NEEDS


def table(rows: Rows) -> pandas.DataFrame:
    """The cells, by adapter, what the paper says it was trained on, model and question; the paper's table has words
    only."""
    found = _cells.measured(rows, ["llm_continent"], table_20.AXES, composition="alone")
    tasks = load(18)[load(18)["column"] == "Task description"].set_index("library")["value"]
    made: dict[tuple[str, ...], dict[str, Any]] = {}
    for adapter in table_20.adapters():
        for label, model in _cells.models(found, table_20.PAPER).items():
            library = next(
                (key[1] for key in found.cells if key[0] == model and key[1].rstrip("/").endswith(adapter)), adapter
            )
            made_by = f"{NEEDS['llm_continent']} composition=uniform library=FOLDER/{adapter}"
            for prompting, question in table_20.QUESTIONS.items():
                fill = _cells.fill(rows, made_by, model, table_20.BROUGHT)
                made[adapter, tasks[adapter], label, question] = _cells.cell(
                    found, (model, library, prompting, "alone"), "", (math.nan, math.nan), fill
                )
    return _cells.frame(made, ("adapter", "trained on", "model", "question"), found)


def caption(table: pandas.DataFrame) -> str:
    """What a cell is."""
    return (
        "Each of the five adapters that Table 20 composes is asked alone (Table 18, A.6, which has no numbers). What the paper says each was"
        " trained on stands in a summary's words. `python -m llm.mttl` makes a folder of each. An answer is right that names the place, or that"
        f" continent and no other. {table_20.READING} {_cells.about(table)}"
    )
