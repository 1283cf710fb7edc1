"""lora-reuse skill_sets asked=homes+code,homes+code+style composition=sum,average

How many skills compose in one answer: from two experts to five. One expert is on facts (new homes of people), four are
on forms of an answer: code, a tool call, a Spanish frame, a style; json and upper (case) are two more forms, which no
set has unless `asked` names them (llm/data/skill_sets.py). Each expert was trained on its own skill alone. Asked is
what needs all the skills of `asked` at once: an answer is right if its value is right and it has every form. A row also
counts the parts: `value`, and each form by its name.

`library` is the experts on the skills that are asked, or one of them alone, or one expert on the data of the first
five skills mixed, of all seven where json or upper is asked. With library=overlapping each expert learned the next of
the asked skills beside its own, so that two share each skill. The oracle is one expert on answers in all the forms that
are asked, of facts that are not. Forms are learned on what the base knows, which `data` says. Below the table, of each
composition: what it gains over the base, against the sum of what its experts gain alone. Without a model, the pocket
model answers."""

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lora_reuse.llm import own_answers
from lora_reuse.llm.adapters.specs import Lessons, lessons
from lora_reuse.llm.data.skill_sets import FORMS, HOMES, MORE, SKILLS, Taught, asked, marks
from lora_reuse.llm.data.skills import CAPITALS, OWN, some_of
from lora_reuse.llm.forecast import HOPED, letters
from lora_reuse.llm.protocols.controls import Control
from lora_reuse.llm.protocols.dials import LearningOwn
from lora_reuse.llm.protocols.protocol import Marks, Protocol, Question, Row, main, share_of
from lora_reuse.llm.protocols.settings import Composing
from lora_reuse.runs.settings import Choice, SettingError, Text, Whole, setting

SETS = tuple("+".join(each) for count in range(1, 6) for each in itertools.combinations(SKILLS, count))
"""Every set of the five skills."""
EVERY = (*SKILLS, *MORE)
ROLES = (*SKILLS, "mixed", "oracle", *MORE)
"""By which experts are told apart; a new one goes to the end."""


@dataclass(frozen=True)
class SkillSets(LearningOwn, Composing):
    """The skills that are asked, the experts, and how they are composed."""

    SMOLLM2: ClassVar = {"data": CAPITALS}

    asked: str = setting(
        "homes+code", Text("skills with a + between them, as homes+code"), "the skills that a question needs", grid=SETS
    )
    library: str = setting(
        "asked",
        Choice("none", "asked", "overlapping", "mixed", "oracle", *EVERY),
        "the experts on the skills that are asked, the same with two skills each, one of them, one expert on all,"
        " or one on such answers",
        grid=("asked", "mixed"),
    )
    composition: str = setting(
        "sum",
        Choice(*own_answers.GIVEN, "base", *own_answers.OWN),
        "how the library is composed",
        grid=("base", *own_answers.GIVEN),
    )
    data: str = setting(
        OWN,
        Choice(OWN, CAPITALS),
        "what forms are learned on: facts of the pocket model's world, or (model=smollm2) capitals of countries",
        omitted=True,
    )
    split: str = setting("test", Choice("dev", "test"), "the held-out wordings and people: make choices on dev")
    answer_tokens: int = setting(64, Whole(1, 10**5), "longest answer; model=pocket: 32")

    def __post_init__(self) -> None:
        """Raises SettingError for what is no set of skills."""
        if not self.skills or self.skills != tuple(name for name in EVERY if name in self.skills):
            raise SettingError(
                "asked", repr(self.asked[:60]), f"some of {'+'.join(EVERY)}, each once and in this order"
            )

    @property
    def skills(self) -> tuple[str, ...]:
        """The skills that are asked."""
        return tuple(self.asked.split("+"))


def role(name: str) -> int:
    """Of an expert, from which its seed is drawn."""
    return ROLES.index(name) + 1


def experts(point: SkillSets, seed: int) -> list[Lessons]:
    """The experts of the point's library; one has the same role in every library, so that it is trained once."""
    if point.library == "mixed":
        taught = SKILLS if {*point.skills} <= {*SKILLS} else EVERY
        return [lessons(Taught(taught, seed, data=point.data), point, seed, role("mixed"))]
    if point.library == "oracle":
        return [lessons(Taught(point.skills, seed, in_one=True, data=point.data), point, seed, role("oracle"))]
    if point.library == "overlapping":
        after = point.skills[1:] + point.skills[:1]
        pairs = zip(point.skills, after, strict=True)
        return [lessons(Taught(pair, seed, data=point.data), point, seed, role(pair[0])) for pair in pairs]
    chosen = point.skills if point.library == "asked" else (point.library,)
    return [lessons(Taught((skill,), seed, data=point.data), point, seed, role(skill)) for skill in chosen]


def sensible(point: SkillSets) -> SkillSets | None:
    """The base has no library, one expert is not composed, and an expert alone is asked for sets that it is in. Skills
    overlap from three on: of two, each expert would know both."""
    if point.composition == "base":
        return dataclasses.replace(point, library="none")
    if point.library == "none" or (point.library in EVERY and point.library not in point.skills):
        return None
    if point.library == "asked" and len(point.skills) == 1:
        return dataclasses.replace(point, library=point.asked, composition="alone")
    if point.library == "overlapping":
        return point if len(point.skills) > 2 and point.composition != "alone" else None
    return point if point.library == "asked" else dataclasses.replace(point, composition="alone")


def questions(point: SkillSets, seed: int) -> list[Question]:
    """The questions that need all skills of the point."""
    found = asked(point.skills, point.split, seed, point.data)
    return [Question(q.prompt, q.subject, {"subject": q.subject, "gold": q.value}, (point.skills, q)) for q in found]


def score(question: Question, answer: str) -> Marks:
    """Right is the right value in every form that is asked; the parts are marked beside it."""
    skills, about = question.reference
    parts = marks(about, skills, answer)
    return {"right": all(parts.values()), **parts}


def controls(point: SkillSets) -> tuple[Control, ...]:
    """Each expert alone, asked for its own skill alone; of overlapping ones, those of one skill each. Beside the fact,
    one on a form has to have its form: the value comes from elsewhere. Without it, it has to say a value that the base
    knows, too; so has the one on upper case always, which spells the value anew."""
    if point.library not in ("asked", "overlapping"):
        return ()
    return tuple(
        Control(
            f"{skill} alone",
            "got",
            {"asked": skill, "library": skill, "composition": "alone"},
            skill if HOMES in point.skills and skill in FORMS and skill != "upper" else "hits",
        )
        for skill in point.skills
    )


def hoped(point: SkillSets, seed: int, count: int) -> dict[str, list[str]] | None:
    """Prompts that each expert was trained on, and questions that need all in the wordings or about the people that
    were not scored."""
    if point.library != "asked" or len(point.skills) < 2:
        return None
    other = {"test": "dev", "dev": "test"}[point.split]
    own = [[prompt for prompt, _ in Taught((skill,), seed, data=point.data).pairs()] for skill in point.skills]
    every = [question.prompt for question in asked(point.skills, other, seed, point.data)]
    return some_of(dict(zip(letters(len(own)), own, strict=True)) | {HOPED: every}, seed, count)


def below(rows: Sequence[Row]) -> str:
    """What the experts gain together against what they gain alone, a line a composition."""
    from lora_reuse.llm.scoring.gains import gains, told

    return told(gains(rows, "asked", lambda settings: settings["asked"].split("+")), lambda settings: settings["asked"])


PROTOCOL = Protocol(
    __name__,
    SkillSets,
    experts,
    questions,
    score,
    sensible=sensible,
    controls=controls,
    columns={name: share_of(name) for name in ("value", *FORMS)},
    below=below,
    hoped=hoped,
)

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
