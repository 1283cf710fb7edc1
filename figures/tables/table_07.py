"""Table 7: libraries of one-hop experts, with and without an oracle

Experts on A -> B, on B -> C, on A -> C (the oracle) and on both hops, on F, H and R (section 4.1.1, A.2.2).
"""

import math

import pandas
from lora_reuse.figures import _cells
from lora_reuse.figures.rows import Rows
from lora_reuse.figures.tables import READING

NEEDS = {"llm_two_hop": "python -m llm.two_hop", "bridge": "python -m theory.sweep experiment=bridge"}
PROMPTINGS = {"steps": "step by step", "direct": "direct"}
LIBRARIES = {
    **{f"3-combination, {rule}": ("3-combination", rule, "3-combination library") for rule in ("uniform", "arrow")},
    **{f"2-combination, {rule}": ("2-combination", rule, "2-combination library") for rule in ("uniform", "arrow")},
    **{"oracle": ("oracle", "alone", "Oracle Expert"), "mixed": ("mixed", "alone", "Mixed Two-hop Expert")},
}
"""A column -> the library and composition in the rows, and the paper's column."""


def table(rows: Rows) -> pandas.DataFrame:
    """The cells, by dataset, model, prompting and library; the paper asked step by step only."""
    found = _cells.measured(
        rows, ["llm_two_hop"], ("dataset", "library", "composition", "prompting"), layers="mlp", adapter="lora"
    )
    measured = set(found.about)
    lines = {}
    for dataset in "FHR":
        for label, model in _cells.models(found).items():
            for prompting, words in PROMPTINGS.items():
                if prompting == "direct" and model not in measured:
                    continue
                for column, (library, composition, printed) in LIBRARIES.items():
                    key = (dataset, label, words, column)
                    lines[key] = cell(rows, found, (model, dataset, library, composition, prompting), label, printed)
    return _cells.frame(lines, ("dataset", "model", "prompting", "library"), found)


def cell(rows: Rows, found: _cells.Found, key: tuple[str, str, str, str, str], label: str, column: str) -> dict:
    """One cell: its numbers, from the rows of (model, dataset, library, composition, prompting) and the paper's
    column."""
    model, dataset, library, composition, prompting = key
    steps = prompting == "steps"
    rule = "uniform" if composition == "alone" else composition
    printed = _cells.reported(7, dataset=dataset, base_model=label, composition=rule, column=column) if steps else ""
    predicted = _cells.chain(rows, "0", composition) if steps and library == "2-combination" else (math.nan, math.nan)
    return _cells.cell(found, key, printed, predicted, _cells.fill(rows, NEEDS["llm_two_hop"], model))


def caption(table: pandas.DataFrame) -> str:
    """What a cell is."""
    return (
        "Two-hop questions are asked on fake (F), half real (H) and real (R) names (Table 7 of A.2.2, section 4.1.1). The paper's claim is that no"
        f" library answers without the oracle, and that Arrow does with it. {READING} Theory bounds direct answers of two one-hop experts by chance"
        " among the edited answers (Theorem 3). Step by step its range is over the share λ of attention that stays on the current step, for 8 facts"
        f" an expert. {_cells.about(table)}"
    )
