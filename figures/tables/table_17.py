"""Table 17: programs asked for in English

Whether the programming expert of Table 16 has learned its own task (A.5)."""

from lora_reuse.figures.tables import table_16
from lora_reuse.figures.tables._side_by_side import captioned

NEEDS = table_16.NEEDS

table = table_16.programs(
    17,
    columns={
        "model": table_16.PAPER,
        "expert": {column: table_16.EXPERTS[column] for column in ("Base Only", "Coding (L_1)")},
    },
    asked={"asked": "english"},
    words="asked=english library=coding composition=base,uniform allow_code_execution=true",
)
caption = captioned(
    "The base, and the expert on programming in English alone, are asked MBPP in English (Table 17, A.5)."
    f" {table_16.READING}"
)
