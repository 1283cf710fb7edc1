"""Table 1: what the bridge has to hold, under Arrow

The Arrow lines of Table 10 (section 4.1.2).
"""

import pandas
from lora_reuse.figures import _cells
from lora_reuse.figures.rows import Rows
from lora_reuse.figures.tables import READING, table_10

NEEDS = table_10.NEEDS


def table(rows: Rows) -> pandas.DataFrame:
    """The cells, by setup, what both experts hold, and model."""
    found = table_10.cells(rows, 1, ("Arrow",))
    about = found.attrs["about"]
    found = found.droplevel("composition")
    found.attrs["about"] = about
    return found


def caption(table: pandas.DataFrame) -> str:
    """What a cell is."""
    return f"The bridge is varied under Arrow, and R is asked step by step (Table 1, section 4.1.2). {READING} {table_10.CHAIN} {_cells.about(table)}"
