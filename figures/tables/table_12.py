"""Table 12: ten experts asked a pair that none was trained on

Five experts on relations and five on pairs of them, asked Rel1 then Rel2, in disjoint and in shared graphs (A.3).
"""

import math

import pandas
from lora_reuse.figures import _cells
from lora_reuse.figures.rows import Rows
from lora_reuse.figures.tables import READING

NEEDS = {
    "llm_large_library": "python -m llm.large_library",
    "large_library": "python -m theory.sweep experiment=large_library",
}
GRAPHS = {"disjoint": "Disjoint Graphs", "shared": "Shared Graphs"}
PROMPTINGS = {"direct": "direct", "steps": "step by step"}


def table(rows: Rows) -> pandas.DataFrame:
    """The cells, by model, prompting, composition and graph; the paper does not say how it asked, its numbers stand by
    the direct answers."""
    fixed = {"layers": "mlp", "adapter": "lora", "library": "10-combination", "held_out": "12", "pairs": "direct"}
    found = _cells.measured(rows, ["llm_large_library"], ("graph", "composition", "prompting"), **fixed)
    measured = set(found.about)
    lines = {}
    for label, model in _cells.models(found).items():
        for prompting, words in PROMPTINGS.items():
            if prompting == "steps" and model not in measured:
                continue
            for rule in ("uniform", "arrow"):
                for graph, column in GRAPHS.items():
                    direct = prompting == "direct"
                    printed = _cells.reported(12, base_model=label, composition=rule, graphs=column) if direct else ""
                    predicted = one_layer(rows, graph, rule) if direct else (math.nan, math.nan)
                    fill = _cells.fill(rows, NEEDS["llm_large_library"], model)
                    lines[label, words, rule, column] = _cells.cell(
                        found, (model, graph, rule, prompting), printed, predicted, fill
                    )
    return _cells.frame(lines, ("model", "prompting", "composition", "graphs"), found)


def one_layer(rows: Rows, graph: str, composition: str) -> tuple[float, float]:
    """The share that one layer answers (`theory.experiments.large_library`, 8 facts an expert, d = m = ∞), in percent;
    not a number where theory has no prediction, as for Arrow."""
    table = rows.all("large_library")
    if table.empty:
        return math.nan, math.nan
    wanted = (
        (table["settings.graph"] == graph)
        & (table["settings.composition"] == composition)
        & (table["settings.width"] == math.inf)
    )
    right = 100 * float(table[wanted]["predicted.accuracy"].mean())
    return right, right


def caption(table: pandas.DataFrame) -> str:
    """What a cell is."""
    return (
        "Ten experts, five on relations and five on pairs of them, are asked the sixth pair (Table 12 of A.3). The paper does not say how it asked:"
        f" its numbers stand by the direct answers. Its claim is that a larger library does not compose either. {READING} Theory is that of direct"
        f" answers with 8 facts an expert, where the old answer wins. It has none for Arrow. {_cells.about(table)}"
    )
