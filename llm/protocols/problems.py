"""The settings of protocols that put problems to a model and mark its solutions.

What a solution says is in `llm.scoring.solutions`, its marks by rule and by a judge model in
`llm.scoring.word_problems` and `judge`."""

from dataclasses import dataclass

from lora_reuse.llm.protocols.dials import COMPOSITIONS, CONTROLS, RULES, PointDials
from lora_reuse.llm.protocols.settings import PATH, Options, Training
from lora_reuse.runs.settings import Choice, Flag, Number, Whole, setting


@dataclass(frozen=True)
class ExamSettings(PointDials, Training):
    """The settings that every row of these protocols records: the model, how its experts are trained and composed, and
    how it answers."""

    layers: str = setting("mlp", Choice("none", "mlp", "attention", "both"), "where the adapters sit")
    model: str = setting("pocket", PATH, "pocket, smollm2, a folder, a GGUF file, or a name on the Hugging Face hub")
    composition: str = setting(
        "uniform",
        Choice(*COMPOSITIONS, *CONTROLS, *RULES),
        "how the library is composed",
        grid=("base", *COMPOSITIONS, "random"),
    )
    chat: str = setting(
        "auto", Choice("auto", "on", "off"), "the tokenizer's chat template; the paper's software used none"
    )
    dtype: str = setting(
        "auto",
        Choice("auto", "float32", "bfloat16", "float16"),
        "of the base; auto: float32 on a CPU, else the checkpoint's",
    )
    temperature: float = setting(1.0, Number(1e-6, 1e6), "Arrow: logits are divided by it")
    top_k: int = setting(0, Whole(0, 1000), "Arrow: experts a token goes to; 0: all")
    normalise: bool = setting(False, Flag(), "Arrow: logits from normalised activations; mttl's are not")
    answer_tokens: int = setting(512, Whole(1, 10**5), "longest answer; model=pocket: 200")


@dataclass(frozen=True)
class ExamOptions(Options):
    """The options of a run, which rows do not record as settings."""

    allow_code_execution: bool = setting(False, Flag(), "run Python that the model wrote, confined as llm/sandbox says")
