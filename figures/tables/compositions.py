"""Every composition on every setup of the bridge

The numbers of Table 10 for the compositions the paper does not report, the controls among them, and how direct
questions fare."""

import math

import pandas
from lora_reuse.figures import _cells
from lora_reuse.figures.rows import Rows
from lora_reuse.figures.tables import READING
from lora_reuse.llm.data.mixtures import SETUPS
from lora_reuse.llm.protocols.settings import COMPOSITIONS, CONTROLS

NEEDS = {"llm_bridge": "python -m llm.bridge", "bridge": "python -m theory.sweep experiment=bridge"}
PROMPTINGS = {"steps": "step by step", "direct": "direct"}


def table(rows: Rows) -> pandas.DataFrame:
    """The cells of every measured model, by model, prompting, setup and composition. Raises MissingRows where there is
    none."""
    found = _cells.measured(rows, ["llm_bridge"], ("setup", "composition", "prompting"), layers="mlp", adapter="lora")
    if not found.cells:
        raise rows.missing("llm_bridge")
    lines = {}
    for model in found.about:
        for prompting, words in PROMPTINGS.items():
            for setup in SETUPS:
                for composition in (*COMPOSITIONS, *CONTROLS):
                    predicted = _cells.chain(rows, setup, composition) if prompting == "steps" else (math.nan, math.nan)
                    fill = _cells.fill(rows, NEEDS["llm_bridge"], model)
                    lines[found.names[model], words, setup, composition] = _cells.cell(
                        found, (model, setup, composition, prompting), "", predicted, fill
                    )
    return _cells.frame(lines, ("model", "prompting", "setup", "composition"), found)


def caption(table: pandas.DataFrame) -> str:
    """What a cell is."""
    return (
        "Every composition is asked every setup of the bridge, step by step and directly. Setup 1 asks F, and the others ask R. The columns"
        " :swapped are Arrow with the experts' prototypes exchanged, and :random are Arrow with random ones. The column random is the sum of"
        f" Gaussian experts of the same norms, and base is no expert. {READING} Step by step, theory's range is over the share λ of attention that"
        " stays on the current step, for 8 facts an expert. Theory bounds direct answers of two one-hop experts (setup 0) by chance among the"
        f" edited answers (Theorem 3). {_cells.about(table)}"
    )
