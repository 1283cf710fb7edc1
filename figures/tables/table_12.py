"""Table 12: ten experts asked a pair that none was trained on

Five experts on relations and five on pairs of them, asked Rel1 then Rel2, in disjoint and in shared graphs (A.3). The
paper does not say how it asked: its numbers stand by the direct answers."""

import math

from lora_reuse.figures import _cells, _groups, _theory
from lora_reuse.figures.rows import MissingRows, Rows
from lora_reuse.figures.tables import READING
from lora_reuse.figures.tables._side_by_side import Choice, Settings, captioned, choices, side_by_side

NEEDS = {
    "llm_large_library": "python -m llm.large_library",
    "large_library": "python -m theory.sweep experiment=large_library",
}


def one_layer(rows: Rows, asked: Settings) -> tuple[float, float]:
    """The share that one layer answers (`theory.experiments.large_library`, 8 facts an expert, d = m = ∞), in percent;
    not a number where theory has no prediction, as for Arrow and for answers step by step."""
    if asked["prompting"] != "direct":
        return _cells.NO_PREDICTION
    try:
        table = _theory.rows_of(
            rows, "large_library", graph=asked["graph"], composition=asked["composition"], facts=8, width=math.inf
        )
    except MissingRows:
        return _cells.NO_PREDICTION
    right = 100 * float(table["predicted.accuracy"].mean())
    return right, right


table = side_by_side(
    12,
    "llm_large_library",
    ("graph", "composition", "prompting"),
    {
        "model": _cells.PAPER,
        "prompting": {
            "direct": Choice({"prompting": "direct"}),
            "step by step": Choice({"prompting": "steps"}, None, extra=True),
        },
        "composition": choices("composition", {rule: rule for rule in ("uniform", "arrow")}),
        "graphs": choices("graph", {"disjoint": "Disjoint Graphs", "shared": "Shared Graphs"}, "graphs"),
    },
    fixed=_groups.PLAIN | {"library": "10-combination", "held_out": "12", "pairs": "direct"},
    predicted=one_layer,
)
caption = captioned(
    "Ten experts, five on relations and five on pairs of them, are asked the sixth pair (Table 12 of A.3). The paper"
    " does not say how it asked: its numbers stand by the direct answers. Its claim is that a larger library does not"
    f" compose either. {READING} Theory is that of direct answers with 8 facts an expert, where the old answer wins. It"
    " has none for Arrow."
)
