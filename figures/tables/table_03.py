"""Table 3: from easy word problems to the hardest

An expert on GSM-Symbolic and one on its P1, composed and asked P2, zero-shot and step by step in words (section 4.2).
"""

from lora_reuse.figures.tables import _gsm
from lora_reuse.figures.tables._side_by_side import captioned

NEEDS = _gsm.NEEDS

table = _gsm.word_problems(
    3,
    columns={"composition": _gsm.rules("Base model only"), "model": _gsm.PAPER},
    asked=_gsm.USUAL,
    words="composition=base,uniform,arrow",
)
caption = captioned(
    "An expert on GSM-Symbolic and one on P1, with adapters in attention, are composed and asked GSM-P2 (Table 3,"
    " section 4.2). The paper's claim is modest improvements for the general model, and often worse answers of those of"
    f" maths. {_gsm.READING}"
)
