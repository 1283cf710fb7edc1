"""Every method of composition, without and with a bridge

Two one-hop experts of R (setup 0) and two with a bridge of fake names (setup 2), under every rule, learned ones among
them, asked directly and step by step."""

import math

import pandas
from lora_reuse.figures import _cells
from lora_reuse.figures.rows import Rows
from lora_reuse.figures.tables import READING

NEEDS = {"llm_methods": "python -m llm.methods"}
ADAPTERS = {"lora": "LoRA", "lori_d": "LoRI-D", "lori_s": "LoRI-S"}
ALONE = {"oracle": "one expert on the pair", "data_mix": "one expert on the union"}
COLUMNS = {
    f"setup {setup}, {words}": (setup, prompting)
    for setup in ("0", "2")
    for prompting, words in (("direct", "direct"), ("steps", "step by step"))
}


def table(rows: Rows) -> pandas.DataFrame:
    """The cells of every measured model and method, by model, adapter, method and setup; a method that was never asked
    has no line. Raises MissingRows where no model was."""
    found = _cells.measured(
        rows, ["llm_methods"], ("setup", "adapter", "library", "composition", "prompting"), layers="mlp"
    )
    if not found.cells:
        raise rows.missing("llm_methods")
    lines = {}
    for model, adapter, library, rule in dict.fromkeys((model, *rest) for model, _, *rest, _ in found.cells):
        for column, (setup, prompting) in COLUMNS.items():
            asked = (
                "0" if library in ("none", "oracle") else setup
            )  # the base and the oracle are the same in every setup, and asked once
            key = (model, asked, adapter, library, rule, prompting)
            method = ALONE.get(library, rule)
            fill = _cells.fill(rows, NEEDS["llm_methods"], model)
            lines[found.names[model], ADAPTERS[adapter], method, column] = _cells.cell(
                found, key, "", (math.nan, math.nan), fill
            )
    return _cells.frame(lines, ("model", "adapter", "method", "setup"), found)


def caption(table: pandas.DataFrame) -> str:
    """What a cell is."""
    return (
        "Every method composes two experts of R, without a bridge (setup 0) and with a full one (setup 2). The name of a method that learns says"
        " from what: two_hop is the two-hop questions in other templates, and own is a twentieth of the experts' own data. One expert on the pair,"
        f" or on the union of the data, is no composition: the others are held against it. {READING} Theory bounds direct answers of two one-hop"
        f" experts by chance among the edited answers (Theorem 3). {_cells.about(table)}"
    )
