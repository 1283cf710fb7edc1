"""Table 16: programs asked for in Spanish

An expert on programming in English and one on translation, alone and composed, asked MBPP in Spanish (A.5)."""

import functools

from lora_reuse.figures.tables._side_by_side import Choice, captioned, side_by_side

NEEDS = {"llm_cross_lingual": "python -m llm.cross_lingual"}
PAPER = {
    **{"Phi-2": "microsoft/phi-2", "Phi-3-mini-4k-instruct": "microsoft/Phi-3-mini-4k-instruct"},
    **{name: f"Qwen/{name}" for name in ("Qwen2.5-7B-Instruct", "Qwen2.5-14B-Instruct")},
}
EXPERTS = {
    column: Choice({"library": library, "composition": composition, "layers": layers}, {"column": column})
    for column, (library, composition, layers) in {
        "Base Only": ("none", "base", "none"),
        "Coding (L_1)": ("coding", "alone", "mlp"),
        "Translation (L_2)": ("translation", "alone", "mlp"),
        "Merged (Uniform)": ("2-combination", "uniform", "mlp"),
        "Merged (Arrow)": ("2-combination", "arrow", "mlp"),
    }.items()
}
READING = (
    "A cell has in how many of all tasks all assertions pass at the first and greedy attempt, and their share with a"
    " 95 % interval over seeds where there are several; below it stands the paper's number, where there is one. A line"
    " of a model on our own tasks is a stand-in that shows that the command works: its numbers say nothing about MBPP,"
    " and the paper's do not stand beside them. FOLDER holds MBPP in both languages, FILE parallel sentences (`python"
    " -m llm.cross_lingual --help`). Theory has no prediction here: its experts store facts."
)
programs = functools.partial(
    side_by_side,
    experiment="llm_cross_lingual",
    axes=("asked", "library", "composition", "layers"),
    brought="data=FOLDER sentences=FILE",
)
"""`side_by_side` of these rows."""

table = programs(
    16,
    columns={"model": PAPER, "expert": EXPERTS},
    asked={"asked": "spanish"},
    words="asked=spanish composition=base,uniform,arrow allow_code_execution=true",
)
caption = captioned(
    "An expert on programming in English (L_1), one on translating English to Spanish (L_2), and both composed are"
    " asked MBPP in Spanish (Table 16, A.5). The paper's claim is that the translation expert drives almost all"
    f" improvement, and that merging gains marginally or nothing. {READING}"
)
