"""Table 3: from easy word problems to the hardest

An expert on GSM-Symbolic and one on its P1, composed and asked P2, zero-shot and step by step in words (section 4.2).
"""

import pandas
from lora_reuse.figures import _cells
from lora_reuse.figures.rows import Rows
from lora_reuse.figures.tables import _gsm

NEEDS = _gsm.NEEDS
PRINTED = {"base": "Base model only", "uniform": "Uniform", "arrow": "Arrow"}


def table(rows: Rows) -> pandas.DataFrame:
    """The cells, by composition and model."""
    lines = {(said,): ({"composition": rule}, {"composition": said}) for rule, said in PRINTED.items()}
    return _gsm.cells(rows, 3, ("composition",), lines, "composition=base,uniform,arrow")


def caption(table: pandas.DataFrame) -> str:
    """What a cell is."""
    return (
        "An expert on GSM-Symbolic and one on P1, with adapters in attention, are composed and asked GSM-P2 (Table 3, section 4.2). The paper's"
        f" claim is modest improvements for the general model, and often worse answers of those of maths. {_gsm.READING} {_cells.about(table)}"
    )
