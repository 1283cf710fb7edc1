"""Table 14: solved examples before the question

Table 3 again, and with eight solved examples in the prompt (A.4.2).
"""

import pandas
from lora_reuse.figures import _cells
from lora_reuse.figures.rows import Rows
from lora_reuse.figures.tables import _gsm

NEEDS = _gsm.NEEDS
PRINTED = {"base": "Base Model Only", "uniform": "Uniform", "arrow": "Arrow"}


def table(rows: Rows) -> pandas.DataFrame:
    """The cells, by number of examples, composition and model."""
    lines = {
        (f"{shots}-shot", said): (
            {"shots": shots, "composition": rule},
            {"prompting": f"{shots}-shot", "composition": said},
        )
        for shots in ("0", "8")
        for rule, said in PRINTED.items()
    }
    return _gsm.cells(rows, 14, ("examples", "composition"), lines, "composition=base,uniform,arrow shots=0,8")


def caption(table: pandas.DataFrame) -> str:
    """What a cell is."""
    return (
        "GSM-P2 is asked without and with eight solved examples before the question (Table 14, A.4.2). The paper's claim is that examples in the"
        f" prompt help little or worsen the answers, those of composed experts too. {_gsm.READING} {_cells.about(table)}"
    )
