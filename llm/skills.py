"""lora-reuse skills model=meta-llama/Llama-2-7b-hf data=FOLDER

Composes an expert on each of two skills in many ways, and asks what needs both (LoRA Soups). Among the compositions is
CAT, whose weights, one a module, are learned on a twentieth of the skills' own data (cat:own, cat_softmax:own), and
beside them stands one expert on both skills' data mixed. Below the table, of each composition: what it gains over the
base, against the sum of what the two experts gain alone (super-linear where it is more). `formats` asks in the formats
the second skill was trained on, or in held-out ones.

data=capitals, the default, are new homes of people and answers in code, which are trained on capitals of countries;
data=own trains them on what the pocket model knows, and is the pocket model's default. A folder holds one's own
(llm/data/skills.py says which files), as those of LoRA Soups for math (MetaMathQA), code (Code Alpaca) and both
(GSM-Hard), with allow_code_execution=true."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lora_reuse.llm.adapters.specs import Spec, lessons
from lora_reuse.llm.data.skills import CAPITALS, MADE, OWN, SKILLS, Taught
from lora_reuse.llm.protocols.dials import COMPOSITIONS, CONTROLS, LEARNED, RULES, LearningOwn
from lora_reuse.llm.protocols.libraries import in_one_way
from lora_reuse.llm.protocols.problems import ExamOptions, ExamSettings
from lora_reuse.llm.protocols.protocol import Protocol, Question, Row, main, share_of, together
from lora_reuse.runs.settings import Choice, SettingError, Text, Whole, setting

LIBRARIES = {"both": (("first",), ("second",)), "first": (("first",),), "second": (("second",),), "mixed": (SKILLS,)}
"""The skills that each expert of a library learns; mixed is one expert on the data of both."""
ROLES = {("first",): 1, ("second",): 2, SKILLS: 3}
SOUPS = tuple(name for name in LEARNED if name.endswith(":own"))


@dataclass(frozen=True)
class Skills(LearningOwn, ExamSettings):
    """LoRA Soups; how experts are trained, composed and asked."""

    POCKET: ClassVar = {"epochs": 10, "answer_tokens": 16, "data": OWN}

    data: str = setting(
        CAPITALS,
        Text("capitals, own, or a folder of prompts and answers"),
        "homes and code, learned from capitals or (model=pocket: own) from what the pocket model knows, or one's own",
    )
    library: str = setting(
        "both", Choice("none", *LIBRARIES), "the experts, by the skills they learn", grid=tuple(LIBRARIES)
    )
    composition: str = setting(
        "cat:own",
        Choice(*COMPOSITIONS, *CONTROLS, *RULES, *SOUPS),
        "how the library is composed",
        grid=("base", *COMPOSITIONS, "linear", "ties", "dare", "knots", "random", *SOUPS),
    )
    asked: str = setting(
        "both", Choice("both", *SKILLS), "questions that need both skills, or one alone", grid=("both",)
    )
    formats: str = setting(
        "known",
        Choice("known", "new"),
        "the formats the second skill was trained on, or held-out ones",
        grid=("known", "new"),
    )
    split: str = setting("test", Choice("dev", "test"), "the held-out wordings and formats: make choices on dev")
    answer_tokens: int = setting(256, Whole(1, 10**5), "longest answer; model=pocket: 16")


def experts(point: Skills, seed: int) -> list[Spec]:
    """The experts of the point's library; one has the same role in every library, so that it is trained once."""
    return [
        lessons(Taught(point.data, skills, seed), point, seed, ROLES[skills])
        for skills in LIBRARIES.get(point.library, ())
    ]


def sensible(point: Skills) -> Skills | None:
    """The base learns nothing; one expert is not composed; formats are the second skill's, and of data of our own."""
    if point.formats == "new" and (point.data not in MADE or point.asked == "first"):
        return None
    return in_one_way(point, len(LIBRARIES.get(point.library, ())) == 1)


def questions(point: Skills, seed: int) -> list[Question]:
    """The questions that the point asks. All formats of one question are right or wrong together."""
    from lora_reuse.llm.data.skills import asked

    found = asked(point.data, point.asked, point.formats, point.split, seed)
    about = lambda q: {"id": q.id, "format": q.format, "gold": q.answer}  # noqa: E731
    return [Question(q.prompt, q.id, about(q), q) for q in found]


def hoped(point: Skills, seed: int, count: int) -> dict[str, list[str]] | None:
    """Prompts of both skills' training, and of what needs both in the wordings or formats that were not scored. A
    folder has no others."""
    from lora_reuse.llm.data.skills import asked, some_of

    if point.data not in MADE or point.asked != "both":
        return None
    other = {"test": "dev", "dev": "test"}[point.split]
    a, b = ([prompt for prompt, _ in Taught(point.data, (skill,), seed).pairs()] for skill in SKILLS)
    both = [question.prompt for question in asked(point.data, "both", point.formats, other, seed)]
    return some_of({"a": a, "b": b, "hoped": both}, seed, count)


def mark(point: Skills, asked: Sequence[Question], said: Sequence[str], options: ExamOptions) -> list[dict[str, Any]]:
    """Own data: right is the right value in the right form; `value`, that it is named, and `form`, that it is code,
    show which skill is lacking. Data of a folder: the last number is right, that which the program of the answer prints
    where programs may be run."""
    if point.data not in MADE:
        return _by_number(asked, said, options.allow_code_execution)
    from lora_reuse.llm.data.skills import code
    from lora_reuse.llm.scoring.two_hop import named

    marks = []
    for question, text in zip(asked, said, strict=True):
        gold, assigned = question.reference.answer, code(text)
        value = bool(named(text, {gold}))
        right = value if point.asked == "first" else assigned == gold
        marks.append({"right": right, "value": value, "form": assigned is not None})
    return marks


def _by_number(asked: Sequence[Question], said: Sequence[str], execute: bool) -> list[dict[str, Any]]:
    from lora_reuse.llm.scoring import solutions
    from lora_reuse.llm.scoring.word_problems import run_written

    results = run_written(said) if execute else [None] * len(said)
    marks = []
    for question, text, result in zip(asked, said, results, strict=True):
        gold = solutions.last_number(question.reference.answer)
        number = solutions.last_number(text if result is None else result.output)
        marks.append(
            {"right": gold is not None and solutions.equal(number, gold), "form": bool(solutions.program(text))}
        )
    return marks


def ready(points: Sequence[Skills], options: ExamOptions) -> None:
    """Raises SettingError for data that are not there, for answers without a number, and where programs cannot be
    confined."""
    from lora_reuse.llm.data.skills import asked
    from lora_reuse.llm.sandbox import require
    from lora_reuse.llm.scoring.solutions import last_number

    if options.allow_code_execution:
        require()
    for p in points:
        found = asked(p.data, p.asked, p.formats, p.split, options.first_seed)
        if p.data not in MADE and (wrong := next((q for q in found if last_number(q.answer) is None), None)):
            raise SettingError(
                "data",
                f"{p.data}, where the answer {wrong.answer[:40]!r} has no number",
                "answers that end in a number",
            )
        for skills in LIBRARIES.get(p.library, ()):
            Taught(p.data, skills, options.first_seed).pairs()


def below(rows: Sequence[Row]) -> str:
    """What both experts gain together against what they gain alone, a line a composition."""
    from lora_reuse.llm.scoring.gains import gains, told

    asked = lambda settings: f"{settings['asked']}, {settings['formats']} formats"  # noqa: E731
    return told(gains(rows, "both", lambda settings: SKILLS), asked)


PROTOCOL = Protocol(
    __name__,
    Skills,
    experts,
    questions,
    observers=(together(mark),),
    sensible=sensible,
    columns={name: share_of(name) for name in ("value", "form")},
    below=below,
    options=ExamOptions,
    ready=ready,
    hoped=hoped,
)

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
