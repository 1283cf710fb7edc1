"""Table 15: what kind of solutions, and which errors

The answers of Table 3, sorted by kind of solution and of error: by rules that redo the arithmetic, and by a judge model
as in the paper (A.4.2)."""

from lora_reuse.figures.tables import _gsm
from lora_reuse.figures.tables._side_by_side import Choice, Line, Measured, Settings, captioned

NEEDS = _gsm.NEEDS
PAPER_MODEL = "Qwen2.5-Math-1.5B-Inst"
KINDS = {"text": "Natural Lang.", "code": "Code", "unidentified": "Unident."}
ERRORS = {
    **{"semantic": "Semantic", "calculation": "Calc. Error", "step_missing": "Step-Miss"},
    **{"unidentified": "Unident.", "none": "None (Correct)"},
}
SHARES = {
    **{f"kind_{kind}": f"Solution Types: {said}" for kind, said in KINDS.items()},
    **{f"error_{error}": f"Error Types: {said}" for error, said in ERRORS.items()},
}
JUDGED = {f"judged_{mark}": column for mark, column in SHARES.items()} | {"agreed": "Agreement"}
"""A mark of an answer -> the paper's column: by the rules, and by a judge, which may agree with them on what is
right."""


def sorted_by(measured: Measured, line: Line) -> dict[tuple[str, str], Choice]:
    """The shares by the rules, and those by a judge: of the paper's model, and where there is one."""
    judges = sorted({asked["judge"] for asked in measured}, key=lambda judge: (judge != "none", judge))
    judged = [judge for judge in judges if judge != "none"]
    found = {
        ("rules", column): Choice({"counted": mark, "judge": (*judges, "")[0]}, None) for mark, column in SHARES.items()
    }
    if judged or PAPER_MODEL in line.labels:
        found |= {
            ("a judge", column): Choice(
                {"counted": mark, "judge": (*judged, "")[0]}, {"column": column.replace(": ", " | ")}
            )
            for mark, column in JUDGED.items()
        }
    return found


def words(asked: Settings) -> str:
    """What makes `llm.gsm` sort the answers so."""
    judge = " judge=gpt-4o endpoint=https://api.openai.com/v1" if asked["counted"] in JUDGED else ""
    return f"composition=base,uniform,arrow{judge}"


table = _gsm.word_problems(
    15,
    axes=(*_gsm.AXES, "judge"),
    columns={
        "model": {PAPER_MODEL: _gsm.PAPER[PAPER_MODEL]},
        "composition": _gsm.rules("Base", "None"),
        ("sorted by", "share"): sorted_by,
    },
    asked=_gsm.USUAL,
    words=words,
)
caption = captioned(
    "The answers of Table 3 are sorted by kind of solution and of error (Table 15, A.4.2). The paper's judge is GPT-4o,"
    " and it has one model. Its claim is that experts on words suppress the base's programs, and that its calculation"
    " errors grow. A cell says how many of all answers have this mark and their share, with a 95 % interval over seeds"
    " where there are several, then what the paper reports. Rules redo the arithmetic that a solution states. A verdict"
    " of the judge that cannot be read counts as no kind and as no agreement. A line on our own word problems is a"
    " stand-in, which says nothing about GSM-Symbolic. FOLDER holds the published files (`python -m llm.gsm --help`)."
)
