"""The settings of protocols that put problems to a model and mark its solutions.

What a solution says is in `llm.scoring.solutions`, its marks by rule and by a judge model in
`llm.scoring.word_problems` and `judge`."""

from dataclasses import dataclass

from lora_reuse.llm.adapters.places import Layers
from lora_reuse.llm.protocols.dials import COMPOSITIONS, CONTROLS, RULES
from lora_reuse.llm.protocols.settings import Composing, Options
from lora_reuse.runs.settings import Choice, Flag, Whole, setting


@dataclass(frozen=True)
class ExamSettings(Composing):
    """The settings that every row of these protocols records: the model, how its experts are trained and composed, and
    how it answers."""

    layers: str = setting("mlp", Layers("none"), "where the adapters sit")
    composition: str = setting(
        "uniform",
        Choice(*COMPOSITIONS, *CONTROLS, *RULES),
        "how the library is composed",
        grid=("base", *COMPOSITIONS, "random"),
    )
    answer_tokens: int = setting(512, Whole(1, 10**5), "longest answer; model=pocket: 200")


@dataclass(frozen=True)
class ExamOptions(Options):
    """The options of a run, which rows do not record as settings."""

    allow_code_execution: bool = setting(False, Flag(), "run Python that the model wrote, confined as llm/sandbox says")
