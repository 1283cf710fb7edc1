"""What the tables of word problems share (3, 4, 13, 14 and 15): rows of `llm.gsm` by the dials that these tables
turn."""

import functools

from lora_reuse.figures.tables._side_by_side import Choice, Measured, Settings, side_by_side

NEEDS = {"llm_gsm": "python -m llm.gsm"}
PAPER = {name: f"Qwen/{name}ruct" for name in ("Qwen2.5-1.5B-Inst", "Qwen2.5-Math-1.5B-Inst", "Qwen2.5-Math-7B-Inst")}
AXES = ("asked", "prompting", "shots", "composition", "layers", "library", "solutions")
USUAL = {
    **{"asked": "p2", "prompting": "cot", "shots": "0", "composition": "base"},
    **{"layers": "attention", "library": "2-combination", "solutions": "text"},
}
READING = (
    "A cell has how many of all answers are right, and their share with a 95 % interval over seeds where there are"
    " several; below it stands the paper's number, where there is one. On our own word problems a model has a line of"
    " its own, a stand-in that shows that the command works: its numbers say nothing about GSM-Symbolic, and the"
    " paper's do not stand beside them. FOLDER holds the published files (`python -m llm.gsm --help`). Theory has no"
    " prediction here: its experts store facts."
)


def rules(base: str, printed: str = "") -> dict[str, Choice]:
    """The base, which the paper may call otherwise, and the two compositions."""
    return {base: Choice({"composition": "base"}, {"composition": printed or base})} | {
        rule: Choice({"composition": rule.lower()}, {"composition": rule}) for rule in ("Uniform", "Arrow")
    }


def recorded(asked: Settings, _: Measured) -> Settings:
    """What rows of the base say, wherever its adapters would sit."""
    base = asked["composition"] == "base"
    return {**asked, "layers": "none", "library": "none", "solutions": "none"} if base else asked


word_problems = functools.partial(
    side_by_side, experiment="llm_gsm", axes=AXES, recorded=recorded, brought="data=FOLDER"
)
"""`side_by_side` of these rows."""
