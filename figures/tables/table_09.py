"""Table 9: where the adapters sit, with a bridge

Setup 1 (real bridge, fake names asked) and setup 2 (fake bridge, real names asked) with adapters in the MLP, in
attention, or in both (A.2.2)."""

import math

import pandas
from lora_reuse.figures import _cells
from lora_reuse.figures.rows import Rows
from lora_reuse.figures.tables import READING

NEEDS = {"llm_placement": "python -m llm.placement", "llm_bridge": "python -m llm.bridge"}
LAYERS = {"attention": "Attention layers", "mlp": "MLP layers", "both": "MLP+Attention layers"}


def table(rows: Rows) -> pandas.DataFrame:
    """The cells, by model, composition, setup and layers; the bridge's rows fill the MLP's."""
    found = _cells.measured(
        rows, ["llm_placement", "llm_bridge"], ("setup", "layers", "composition", "prompting"), adapter="lora"
    )
    lines = {}
    for label, model in _cells.models(found).items():
        for composition in ("uniform", "arrow"):
            for setup in ("1", "2"):
                for layers, words in LAYERS.items():
                    printed = _cells.reported(
                        9, base_model=label, composition=composition, setup=f"Setup {setup}", layers=words
                    )
                    fill = _cells.fill(rows, NEEDS["llm_placement"] + " setup=1,2", model)
                    key = (model, setup, layers, composition, "steps")
                    lines[label, composition, f"setup {setup}, {words}"] = _cells.cell(
                        found, key, printed, (math.nan, math.nan), fill
                    )
    return _cells.frame(lines, ("model", "composition", "setup"), found)


def caption(table: pandas.DataFrame) -> str:
    """What a cell is."""
    return (
        "Experts with a bridge have their adapters in the MLP, in attention, or in both, and are asked step by step: setup 1 on F, setup 2 on R"
        f" (Table 9 of A.2.2). The paper's claim is that adapters in the MLP matter most. {READING} Theory has no prediction here: its experts are"
        f" edits of one MLP, and learn no procedure from a bridge. {_cells.about(table)}"
    )
