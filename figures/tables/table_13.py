"""Table 13: the base models on every level of word problems

No adapters: GSM8K, GSM-Symbolic, P1 and P2, zero-shot and step by step in words (A.4.2).
"""

import pandas
from lora_reuse.figures import _cells
from lora_reuse.figures.rows import Rows
from lora_reuse.figures.tables import _gsm

NEEDS = _gsm.NEEDS
LEVELS = {"gsm8k": "GSM8K", "symbolic": "GSM-Symbolic", "p1": "GSM-P1", "p2": "GSM-P2"}


def table(rows: Rows) -> pandas.DataFrame:
    """The cells, by level and model."""
    lines = {(said,): ({"asked": level}, {"dataset": said}) for level, said in LEVELS.items()}
    return _gsm.cells(rows, 13, ("level",), lines, "composition=base asked=gsm8k,symbolic,p1,p2")


def caption(table: pandas.DataFrame) -> str:
    """What a cell is."""
    return (
        "The bases are asked every level before any adapter is trained (Table 13, A.4.2). Each level has a clause more than the one before."
        f" {_gsm.READING}"
        f" {_cells.about(table)}"
    )
