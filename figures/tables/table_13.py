"""Table 13: the base models on every level of word problems

No adapters: GSM8K, GSM-Symbolic, P1 and P2, zero-shot and step by step in words (A.4.2). Our own problems have no level
like GSM8K."""

from lora_reuse.figures import _groups
from lora_reuse.figures.tables import _gsm
from lora_reuse.figures.tables._side_by_side import Measured, Settings, captioned, choices

NEEDS = _gsm.NEEDS
LEVELS = {"gsm8k": "GSM8K", "symbolic": "GSM-Symbolic", "p1": "GSM-P1", "p2": "GSM-P2"}


def recorded(asked: Settings, measured: Measured) -> Settings | None:
    """As `_gsm.recorded`, and None where there is no such level."""
    missing = asked["asked"] == "gsm8k" and _groups.stands_in(asked["model"])
    return None if missing else _gsm.recorded(asked, measured)


table = _gsm.word_problems(
    13,
    columns={"level": choices("asked", LEVELS, "dataset"), "model": _gsm.PAPER},
    asked=_gsm.USUAL,
    recorded=recorded,
    words=lambda asked: f"composition=base asked={'' if _groups.stands_in(asked['model']) else 'gsm8k,'}symbolic,p1,p2",
)
caption = captioned(
    "The bases are asked every level before any adapter is trained (Table 13, A.4.2). Each level has a clause more than"
    f" the one before. {_gsm.READING}"
)
