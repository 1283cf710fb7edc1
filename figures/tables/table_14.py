"""Table 14: solved examples before the question

Table 3 again, and with eight solved examples in the prompt (A.4.2)."""

from lora_reuse.figures.tables import _gsm
from lora_reuse.figures.tables._side_by_side import captioned, choices

NEEDS = _gsm.NEEDS

table = _gsm.word_problems(
    14,
    columns={
        "examples": choices("shots", {"0": "0-shot", "8": "8-shot"}, "prompting"),
        "composition": _gsm.rules("Base Model Only"),
        "model": _gsm.PAPER,
    },
    asked=_gsm.USUAL,
    words="composition=base,uniform,arrow shots=0,8",
)
caption = captioned(
    "GSM-P2 is asked without and with eight solved examples before the question (Table 14, A.4.2). The paper's claim is"
    " that examples in the prompt help little or worsen the answers, those of composed experts too."
    f" {_gsm.READING}"
)
