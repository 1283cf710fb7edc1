"""Table 17: programs asked for in English

Whether the programming expert of Table 16 has learned its own task (A.5).
"""

import pandas
from lora_reuse.figures import _cells
from lora_reuse.figures.rows import Rows
from lora_reuse.figures.tables import table_16

NEEDS = table_16.NEEDS
WORDS = "asked=english library=coding composition=base,uniform allow_code_execution=true"


def table(rows: Rows) -> pandas.DataFrame:
    """The cells, by model and expert."""
    return table_16.cells(rows, 17, "english", WORDS)


def caption(table: pandas.DataFrame) -> str:
    """What a cell is."""
    return (
        "The base, and the expert on programming in English alone, are asked MBPP in English (Table 17, A.5)."
        f" {table_16.READING} {_cells.about(table)}"
    )
