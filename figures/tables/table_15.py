"""Table 15: what kind of solutions, and which errors

The answers of Table 3, sorted by kind of solution and of error: by rules that redo the arithmetic, and by a judge model
as in the paper (A.4.2)."""

import math
from typing import Any

import pandas
from lora_reuse.figures import _cells
from lora_reuse.figures.rows import Rows
from lora_reuse.figures.tables import _gsm

NEEDS = _gsm.NEEDS
PAPER_MODEL = "Qwen2.5-Math-1.5B-Inst"
KINDS = {"text": "Natural Lang.", "code": "Code", "unidentified": "Unident."}
ERRORS = {
    "semantic": "Semantic",
    "calculation": "Calc. Error",
    "step_missing": "Step-Miss",
    "unidentified": "Unident.",
    "none": "None (Correct)",
}
SHARES = {
    **{f"kind_{kind}": f"Solution Types: {said}" for kind, said in KINDS.items()},
    **{f"error_{error}": f"Error Types: {said}" for error, said in ERRORS.items()},
}
JUDGED = {f"judged_{mark}": column for mark, column in SHARES.items()} | {"agreed": "Agreement"}
"""A mark of an answer -> the paper's column: by the rules, and by a judge, which may agree with them on what is
right."""
WORDS = "composition=base,uniform,arrow"
JUDGE = "judge=gpt-4o endpoint=https://api.openai.com/v1"


def table(rows: Rows) -> pandas.DataFrame:
    """The cells, by model, composition, who sorted the answers, and share; a judge's, of the paper's model and where
    there is one."""
    made: dict[tuple[str, ...], dict[str, Any]] = {}
    groups, about = _cells.grouped(rows, ["llm_gsm"], (*_gsm.AXES, "judge"))
    found = {mark: _cells.of_groups(groups, about, mark) for mark in (*SHARES, *JUDGED)}
    any_mark = found["agreed"]
    for label, model in _cells.models(any_mark, {PAPER_MODEL: _gsm.PAPER[PAPER_MODEL]}).items():
        judges = sorted(
            {key[-1] for key in any_mark.cells if key[0] == model}, key=lambda judge: (judge != "none", judge)
        )
        judged = [judge for judge in judges if judge != "none"]
        by = {"rules": (SHARES, judges[:1] or [""], WORDS)}
        by |= {"a judge": (JUDGED, judged[:1] or [""], f"{WORDS} {JUDGE}")} if judged or label == PAPER_MODEL else {}
        for rule, said in _gsm.RULES.items():
            for who, (columns, (judge,), words) in by.items():
                fill = _cells.fill(rows, f"{NEEDS['llm_gsm']} {words}", model, _gsm.BROUGHT)
                for mark, column in columns.items():
                    value = _reported(label, rule, column) if who == "a judge" else ""
                    key = (*_gsm.key(model, {"composition": rule}), judge)
                    made[label, said, who, column] = _cells.cell(found[mark], key, value, (math.nan, math.nan), fill)
    return _cells.frame(made, ("model", "composition", "sorted by", "share"), any_mark)


def _reported(label: str, rule: str, column: str) -> str:
    composition = {"base": "None"}.get(rule, _gsm.RULES[rule])
    return _cells.reported(15, base_model=label, composition=composition, column=column.replace(": ", " | "))


def caption(table: pandas.DataFrame) -> str:
    """What a cell is."""
    return (
        "The answers of Table 3 are sorted by kind of solution and of error (Table 15, A.4.2). The paper's judge is GPT-4o, and it has one model."
        " Its claim is that experts on words suppress the base's programs, and that its calculation errors grow. A cell says how many of all"
        " answers have this mark and their share, with a 95 % interval over seeds where there are several, then what the paper reports. Rules redo"
        " the arithmetic that a solution states. A verdict of the judge that cannot be read counts as no kind and as no agreement. A line on our"
        " own word problems is a stand-in, which says nothing about GSM-Symbolic. FOLDER holds the published files (`python -m llm.gsm --help`)."
        f" {_cells.about(table)}"
    )
