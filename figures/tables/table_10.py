"""Table 10: what the bridge has to hold, under Uniform and Arrow

Two experts on the two hops of R, each with one of Table 1's bridges of fake names, asked step by step (section 4.1.2,
A.2.2)."""

import pandas
from lora_reuse.figures import _cells
from lora_reuse.figures.rows import Rows
from lora_reuse.figures.tables import READING
from lora_reuse.paper_checks.reported import load

NEEDS = {"llm_bridge": "python -m llm.bridge", "bridge": "python -m theory.sweep experiment=bridge"}
COMPOSITIONS = ("Uniform", "Arrow")


def table(rows: Rows) -> pandas.DataFrame:
    """The cells, by setup, what both experts hold, composition and model."""
    return cells(rows, 10, COMPOSITIONS)


def cells(rows: Rows, number: int, compositions: tuple[str, ...]) -> pandas.DataFrame:
    """Table 10, or Table 1, which is its Arrow lines."""
    found = _cells.measured(rows, ["llm_bridge"], ("setup", "composition", "prompting"), layers="mlp", adapter="lora")
    lines = {}
    for setup, one, two in dict.fromkeys(
        load(number)[["setup", "lora_1", "lora_2"]].itertuples(index=False, name=None)
    ):
        for composition in compositions:
            rule = composition.lower()
            for label, model in _cells.models(found).items():
                printed = _cells.reported(number, setup=setup, composition=composition, base_model=label)
                fill = _cells.fill(rows, NEEDS["llm_bridge"], model)
                key = (setup, one, two, composition, label)
                lines[key] = _cells.cell(
                    found, (model, setup, rule, "steps"), printed, _cells.chain(rows, setup, rule), fill
                )
    return _cells.frame(lines, ("setup", "expert 1", "expert 2", "composition", "model"), found)


def caption(table: pandas.DataFrame) -> str:
    """What a cell is."""
    return (
        "The bridge is varied, and R is asked step by step (Table 10 of A.2.2, section 4.1.2). The paper's claim is that Arrow answers with a full"
        f" bridge in both experts (setup 2), and that nothing does without one (setups 0 and 3). {READING} {CHAIN} {_cells.about(table)}"
    )


CHAIN = (
    "Theory's range is over the share λ of attention that stays on the current step, from 0 to 1, for 8 facts an expert. Theory knows what the"
    " experts store and nothing of what training on a bridge teaches. It has no prediction for Uniform."
)
