"""Table 8: where the adapters sit, libraries of one-hop experts

The libraries of Table 7 on F with adapters in the MLP, in attention, or in both (A.2.2)."""

from lora_reuse.figures import _cells
from lora_reuse.figures.tables import READING, table_07
from lora_reuse.figures.tables._side_by_side import captioned, choices, side_by_side

NEEDS = {"llm_two_hop": "python -m llm.two_hop dataset=F layers=mlp,attention,both", "bridge": table_07.NEEDS["bridge"]}
LAYERS = {"mlp": "MLP Layers", "attention": "Attention layers", "both": "MLP + Attention layers"}

table = side_by_side(
    8,
    "llm_two_hop",
    ("layers", "library", "composition", "prompting"),
    {
        "model": {"Qwen2.5-14B-Instruct": _cells.PAPER["Qwen2.5-14B-Instruct"]},
        "layers": choices("layers", LAYERS),
        "library": table_07.LIBRARIES,
    },
    asked={"prompting": "steps"},
    fixed={"dataset": "F", "adapter": "lora"},
    predicted=table_07.chain,
)
caption = captioned(
    "Libraries of one-hop experts on F are asked step by step, with adapters in the MLP, in attention, or in both"
    f" (Table 8 of A.2.2). The paper has one model. Its claim is that adapters in the MLP matter most. {READING} Theory"
    " is about MLPs only."
)
