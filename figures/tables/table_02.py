"""Table 2: rules of composition, on adapters of three kinds

Two one-hop experts of R (setup 0) under the rules of section 4.1.2: LoRA by Uniform, Arrow, TIES and CAT, LoRI by
concatenation and linearly."""

import math

import pandas
from lora_reuse.figures import _cells
from lora_reuse.figures.rows import Rows
from lora_reuse.figures.tables import READING
from lora_reuse.paper_checks.reported import load

NEEDS = {"llm_methods": "python -m llm.methods"}
RULES = {
    **{("LoRA", name): ("lora", name.lower()) for name in ("Uniform", "Arrow", "TIES")},
    ("LoRA", "CAT"): ("lora", "cat:two_hop"),
    **{(kind, "Concat"): (adapter, "lori_concat") for kind, adapter in (("LoRI-D", "lori_d"), ("LoRI-S", "lori_s"))},
    **{(kind, "Linear"): (adapter, "lori_linear") for kind, adapter in (("LoRI-D", "lori_d"), ("LoRI-S", "lori_s"))},
}
"""The paper's adaptation and rule -> adapter and composition in the rows; CAT learns its weights from two-hop questions
in other templates."""
PROMPTINGS = {"steps": "step by step", "direct": "direct"}
PAPER_MODEL = "Qwen2.5-7B-Instruct"


def table(rows: Rows) -> pandas.DataFrame:
    """The cells, by adaptation, rule, prompting and model; the paper has one model and does not say how it asked, its
    numbers stand by the step-by-step answers."""
    found = _cells.measured(
        rows, ["llm_methods"], ("adapter", "composition", "prompting"), layers="mlp", library="pair", setup="0"
    )
    measured = set(found.about)
    lines = {}
    for adaptation, printed_rule in load(2)[["adaptation", "composition"]].itertuples(index=False, name=None):
        adapter, rule = RULES[adaptation, printed_rule]
        for prompting, words in PROMPTINGS.items():
            for label, model in _cells.models(found).items():
                if model not in measured and (label, prompting) != (PAPER_MODEL, "steps"):
                    continue
                said = prompting == "steps" and label == PAPER_MODEL
                printed = _cells.reported(2, adaptation=adaptation, composition=printed_rule) if said else ""
                fill = _cells.fill(rows, NEEDS["llm_methods"], model)
                key = (adaptation, printed_rule, words, label)
                lines[key] = _cells.cell(found, (model, adapter, rule, prompting), printed, (math.nan, math.nan), fill)
    return _cells.frame(lines, ("adaptation", "composition", "prompting", "model"), found)


def caption(table: pandas.DataFrame) -> str:
    """What a cell is."""
    return (
        "Two one-hop experts on R without a bridge are composed by several rules (Table 2, section 4.1.2). The paper does not say how it asked: its"
        f" numbers stand by the step-by-step answers of the model it calls Qwen2.5-7B. Its claim is that no rule composes. {READING} Theory bounds"
        f" direct answers by chance among the edited answers (Theorem 3). {_cells.about(table)}"
    )
