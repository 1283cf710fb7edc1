"""Table 4: reusable code as the bridge between word problems

The experts of Table 3 trained on code that both levels can use, asked P2 with programs that are run (section 4.2,
A.4.2)."""

import pandas
from lora_reuse.figures import _cells
from lora_reuse.figures.rows import Rows
from lora_reuse.figures.tables import _gsm

NEEDS = _gsm.NEEDS
LAYERS = {"attention": "attention", "mlp": "MLP"}
WORDS = "composition=base,uniform,arrow prompting=tir solutions=reusable layers=attention,mlp allow_code_execution=true"


def table(rows: Rows) -> pandas.DataFrame:
    """The cells, by layers, composition and model; the base has no layers."""
    code = {"prompting": "tir", "solutions": "reusable"}
    lines: dict[tuple[str, ...], _gsm.Line] = {
        ("none", "Base"): (code, {"layers": "none", "composition": "Base Model Only"})
    }
    for layers, said in LAYERS.items():
        for rule in ("uniform", "arrow"):
            wanted = {"layers": said, "composition": _gsm.RULES[rule]}
            lines[said, _gsm.RULES[rule]] = (code | {"layers": layers, "composition": rule}, wanted)
    return _gsm.cells(rows, 4, ("layers", "composition"), lines, WORDS)


def caption(table: pandas.DataFrame) -> str:
    """What a cell is."""
    return (
        "Experts that learned reusable code are asked GSM-P2 for words and programs (Table 4, section 4.2). Programs are run, confined. The paper's"
        f" claim is modest improvements, clearer in the smaller model with adapters in the MLP. {_gsm.READING} {_cells.about(table)}"
    )
