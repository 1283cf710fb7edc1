"""Table 8: where the adapters sit, libraries of one-hop experts

The libraries of Table 7 on F with adapters in the MLP, in attention, or in both (A.2.2).
"""

import math

import pandas
from lora_reuse.figures import _cells
from lora_reuse.figures.rows import Rows
from lora_reuse.figures.tables import READING, table_07

NEEDS = {"llm_two_hop": "python -m llm.two_hop dataset=F layers=mlp,attention,both", "bridge": table_07.NEEDS["bridge"]}
LAYERS = {"mlp": "MLP Layers", "attention": "Attention layers", "both": "MLP + Attention layers"}
PAPER_MODEL = "Qwen2.5-14B-Instruct"


def table(rows: Rows) -> pandas.DataFrame:
    """The cells, by model, layers and library; step by step."""
    found = _cells.measured(
        rows, ["llm_two_hop"], ("layers", "library", "composition", "prompting"), dataset="F", adapter="lora"
    )
    lines = {}
    for label, model in _cells.models(found).items():
        if label != PAPER_MODEL and model not in found.about:
            continue
        for layers, words in LAYERS.items():
            for column, (library, composition, printed) in table_07.LIBRARIES.items():
                rule = "uniform" if composition == "alone" else composition
                value = _cells.reported(8, base_model=label, layers=words, composition=rule, column=printed)
                one_hop = library == "2-combination" and layers == "mlp"
                predicted = _cells.chain(rows, "0", composition) if one_hop else (math.nan, math.nan)
                fill = _cells.fill(rows, NEEDS["llm_two_hop"], model)
                lines[label, words, column] = _cells.cell(
                    found, (model, layers, library, composition, "steps"), value, predicted, fill
                )
    return _cells.frame(lines, ("model", "layers", "library"), found)


def caption(table: pandas.DataFrame) -> str:
    """What a cell is."""
    return (
        "Libraries of one-hop experts on F are asked step by step, with adapters in the MLP, in attention, or in both (Table 8 of A.2.2). The paper"
        f" has one model. Its claim is that adapters in the MLP matter most. {READING} Theory is about MLPs only. {_cells.about(table)}"
    )
