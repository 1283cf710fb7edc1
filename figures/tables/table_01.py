"""Table 1: what the bridge has to hold, under Arrow

The Arrow lines of Table 10 (section 4.1.2)."""

from lora_reuse.figures import _cells, _groups
from lora_reuse.figures.tables import READING, table_10
from lora_reuse.figures.tables._side_by_side import captioned, side_by_side

NEEDS = table_10.NEEDS

table = side_by_side(
    1,
    "llm_bridge",
    table_10.AXES,
    {("setup", "expert 1", "expert 2"): table_10.SETUPS, "model": _cells.PAPER},
    asked={"composition": "arrow", "prompting": "steps"},
    printed={"composition": "Arrow"},
    fixed=_groups.PLAIN,
    predicted=_cells.chain,
)
caption = captioned(
    "The bridge is varied under Arrow, and R is asked step by step (Table 1, section 4.1.2)."
    f" {READING} {table_10.CHAIN}"
)
