"""Table 9: where the adapters sit, with a bridge

Setup 1 (real bridge, fake names asked) and setup 2 (fake bridge, real names asked) with adapters in the MLP, in
attention, or in both (A.2.2). The bridge's rows fill the MLP's."""

from lora_reuse.figures import _cells
from lora_reuse.figures.tables import READING
from lora_reuse.figures.tables._side_by_side import Choice, captioned, choices, side_by_side

NEEDS = {"llm_placement": "python -m llm.placement", "llm_bridge": "python -m llm.bridge"}
LAYERS = {"attention": "Attention layers", "mlp": "MLP layers", "both": "MLP+Attention layers"}

table = side_by_side(
    9,
    ["llm_placement", "llm_bridge"],
    ("setup", "layers", "composition", "prompting"),
    {
        "model": _cells.PAPER,
        "composition": choices("composition", {rule: rule for rule in ("uniform", "arrow")}),
        "setup": {
            f"setup {setup}, {printed}": Choice(
                {"setup": setup, "layers": layers}, {"setup": f"Setup {setup}", "layers": printed}
            )
            for setup in "12"
            for layers, printed in LAYERS.items()
        },
    },
    asked={"prompting": "steps"},
    fixed={"adapter": "lora"},
    words="setup=1,2",
)
caption = captioned(
    "Experts with a bridge have their adapters in the MLP, in attention, or in both, and are asked step by step: setup"
    f" 1 on F, setup 2 on R (Table 9 of A.2.2). The paper's claim is that adapters in the MLP matter most. {READING}"
    " Theory has no prediction here: its experts are edits of one MLP, and learn no procedure from a bridge."
)
