"""Table 10: what the bridge has to hold, under Uniform and Arrow

Two experts on the two hops of R, each with one of Table 1's bridges of fake names, asked step by step (section 4.1.2,
A.2.2)."""

from lora_reuse.figures import _cells, _groups
from lora_reuse.figures.tables import READING
from lora_reuse.figures.tables._side_by_side import Choice, captioned, choices, side_by_side
from lora_reuse.paper_checks.reported import load

NEEDS = {"llm_bridge": "python -m llm.bridge", "bridge": "python -m theory.sweep experiment=bridge"}
AXES = ("setup", "composition", "prompting")
SETUPS = {
    (setup, one, two): Choice({"setup": setup}, {"setup": setup})
    for setup, one, two in load(10)[["setup", "lora_1", "lora_2"]].itertuples(index=False, name=None)
}
COMPOSITIONS = choices("composition", {"uniform": "Uniform", "arrow": "Arrow"})
CHAIN = (
    "Theory's range is over the share λ of attention that stays on the current step, from 0 to 1, for 8 facts an"
    " expert. Theory knows what the experts store and nothing of what training on a bridge teaches. It has no"
    " prediction for Uniform."
)

table = side_by_side(
    10,
    "llm_bridge",
    AXES,
    {("setup", "expert 1", "expert 2"): SETUPS, "composition": COMPOSITIONS, "model": _cells.PAPER},
    asked={"prompting": "steps"},
    fixed=_groups.PLAIN,
    predicted=_cells.chain,
)
caption = captioned(
    "The bridge is varied, and R is asked step by step (Table 10 of A.2.2, section 4.1.2). The paper's claim is that"
    " Arrow answers with a full bridge in both experts (setup 2), and that nothing does without one (setups 0 and 3)."
    f" {READING} {CHAIN}"
)
