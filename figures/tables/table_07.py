"""Table 7: libraries of one-hop experts, with and without an oracle

Experts on A -> B, on B -> C, on A -> C (the oracle) and on both hops, on F, H and R (section 4.1.1, A.2.2). The paper
asked step by step only."""

from lora_reuse.figures import _cells, _groups
from lora_reuse.figures.rows import Rows
from lora_reuse.figures.tables import READING
from lora_reuse.figures.tables._side_by_side import STEPS_OR_DIRECT, Choice, Settings, captioned, choices, side_by_side

NEEDS = {"llm_two_hop": "python -m llm.two_hop", "bridge": "python -m theory.sweep experiment=bridge"}
LIBRARIES = {
    **{
        f"{size}-combination, {rule}": Choice(
            {"library": f"{size}-combination", "composition": rule},
            {"column": f"{size}-combination library", "composition": rule},
        )
        for size in "32"
        for rule in ("uniform", "arrow")
    },
    **{
        expert: Choice(
            {"library": expert, "composition": "alone"}, {"column": f"{printed} Expert", "composition": "uniform"}
        )
        for expert, printed in {"oracle": "Oracle", "mixed": "Mixed Two-hop"}.items()
    },
}


def chain(rows: Rows, asked: Settings) -> tuple[float, float]:
    """Theory knows two one-hop experts with adapters in the MLP."""
    known = asked["library"] == "2-combination" and asked.get("layers", "mlp") == "mlp"
    return _cells.chain(rows, {"setup": "0", **asked}) if known else _cells.NO_PREDICTION


table = side_by_side(
    7,
    "llm_two_hop",
    ("dataset", "library", "composition", "prompting"),
    {
        "dataset": choices("dataset", {name: name for name in "FHR"}),
        "model": _cells.PAPER,
        "prompting": STEPS_OR_DIRECT,
        "library": LIBRARIES,
    },
    fixed=_groups.PLAIN,
    predicted=chain,
)
caption = captioned(
    "Two-hop questions are asked on fake (F), half real (H) and real (R) names (Table 7 of A.2.2, section 4.1.1). The"
    " paper's claim is that no library answers without the oracle, and that Arrow does with it."
    f" {READING} Theory bounds direct answers of two one-hop experts by chance among the edited answers (Theorem 3)."
    " Step by step its range is over the share λ of attention that stays on the current step, for 8 facts an expert."
)
