"""Every composition on every setup of the bridge

The numbers of Table 10 for the compositions the paper does not report, the controls among them, and how direct
questions fare. Every measured model has lines."""

from lora_reuse.figures import _cells, _groups
from lora_reuse.figures.tables import READING, table_10
from lora_reuse.figures.tables._side_by_side import STEPS_OR_DIRECT, captioned, choices, side_by_side
from lora_reuse.llm.data.mixtures import SETUPS
from lora_reuse.llm.protocols.settings import COMPOSITIONS, CONTROLS

NEEDS = table_10.NEEDS

table = side_by_side(
    None,
    "llm_bridge",
    table_10.AXES,
    {
        "model": {},
        "prompting": STEPS_OR_DIRECT,
        "setup": choices("setup", {setup: setup for setup in SETUPS}),
        "composition": choices("composition", {rule: rule for rule in (*COMPOSITIONS, *CONTROLS)}),
    },
    fixed=_groups.PLAIN,
    predicted=_cells.chain,
)
caption = captioned(
    "Every composition is asked every setup of the bridge, step by step and directly. Setup 1 asks F, and the others"
    " ask R. The columns :swapped are Arrow with the experts' prototypes exchanged, and :random are Arrow with random"
    f" ones. The column random is the sum of Gaussian experts of the same norms, and base is no expert. {READING} Step"
    " by step, theory's range is over the share λ of attention that stays on the current step, for 8 facts an expert."
    " Theory bounds direct answers of two one-hop experts (setup 0) by chance among the edited answers (Theorem 3)."
)
