"""lora-reuse gsm model=Qwen/Qwen2.5-Math-1.5B-Instruct data=FOLDER composition=base,uniform,arrow

Composes an expert on easy word problems and one on harder ones, and asks the hardest (4.2, A.4). The easy ones are
GSM-Symbolic's, the harder P1's, with a clause more, the hardest P2's, with two. FOLDER holds the published files
(llm/data/gsm.py says which); data=own, the default, takes word problems of our own in the same structure. Without a
model, the pocket model answers, which knows no arithmetic.

    Tables 3, 15  composition=base,uniform,arrow
    Table 4       composition=base,uniform,arrow prompting=tir solutions=reusable layers=attention,mlp
    allow_code_execution=true
    Table 13      composition=base asked=gsm8k,symbolic,p1,p2
    Table 14      composition=base,uniform,arrow shots=0,8
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lora_reuse.llm.adapters.places import Layers
from lora_reuse.llm.adapters.specs import Spec, lessons
from lora_reuse.llm.data import gsm
from lora_reuse.llm.data.gsm import ASKED, OWN
from lora_reuse.llm.protocols.libraries import in_one_way
from lora_reuse.llm.protocols.problems import ExamOptions, ExamSettings
from lora_reuse.llm.protocols.protocol import Protocol, Question, main, share_of, together
from lora_reuse.llm.scoring.solutions import ERRORS, KINDS
from lora_reuse.runs.settings import Choice, SettingError, Text, Whole, setting

LIBRARIES: dict[str, tuple[tuple[str, ...], ...]] = {
    "2-combination": (("symbolic",), ("p1",)),
    "symbolic": (("symbolic",),),
    "p1": (("p1",),),
    "mixed": (("symbolic", "p1"),),
    "oracle": (("p2",),),
}
"""The levels that each expert of a library learns. The paper composes the first; the others are what it can be compared
with."""
_ROLES = {
    levels: role
    for role, levels in enumerate(dict.fromkeys(levels for library in LIBRARIES.values() for levels in library), 1)
}


@dataclass(frozen=True)
class Gsm(ExamSettings):
    """A.4: Tables 3, 4, 13, 14 and 15."""

    POCKET: ClassVar = {"templates": 8, "epochs": 3, "batch": 8, "answer_tokens": 200}
    """For the pocket model, which has a letter a token."""

    data: str = setting(
        OWN, Text("own, or a folder with the published files"), "our own word problems, or GSM-Symbolic's"
    )
    asked: str = setting("p2", Choice(*ASKED), "the level that is asked", grid=("p2",))
    library: str = setting(
        "2-combination",
        Choice("none", *LIBRARIES),
        "the experts composed, by the levels they learn",
        grid=("2-combination",),
    )
    solutions: str = setting(
        "text",
        Choice("none", "text", "code", "reusable"),
        "what experts learn: words, the problem's code, code for every level",
    )
    prompting: str = setting("cot", Choice(*gsm.PROMPTS), "step by step in words, or with programs (Figure 7)")
    shots: int = setting(0, Whole(0, gsm.SHOTS), "solved examples before the question")
    layers: str = setting("attention", Layers("none"), "where the adapters sit")
    templates: int = setting(100, Whole(1, 100), "templates of each level; model=pocket: 8")
    split: str = setting("test", Choice("dev", "test"), "the held-out instances that are asked: make choices on dev")
    judge: str = setting(
        "none",
        Text("none, or the name of a model that endpoint= serves"),
        "a model that judges solutions and errors, too",
    )


@dataclass(frozen=True)
class GsmOptions(ExamOptions):
    """The options of a run, which rows do not record as settings."""

    endpoint: str = setting(
        "",
        Text("http://... or https://..."),
        "an OpenAI-compatible address for judge=, as in https://api.openai.com/v1",
    )
    key_variable: str = setting(
        "OPENAI_API_KEY", Text("a name", r"\w+"), "the environment variable that holds the endpoint's key"
    )


@dataclass(frozen=True)
class Taught:
    """The data of an expert: the training instances of some levels, solved in words or in code."""

    data: str
    levels: tuple[str, ...]
    solutions: str
    templates: int
    seed: int

    @property
    def name(self) -> str:
        return f"{'+'.join(self.levels)}:{self.solutions}"

    def pairs(self) -> list[tuple[str, str]]:
        """Prompts and answers. Raises SettingError for data that are not there, and for code that nobody wrote."""
        if self.solutions == "code" and self.data != OWN:
            raise SettingError(
                "solutions",
                f"code with data={self.data}",
                "text | reusable",
                "a level's own code is known for data=own alone",
            )
        chosen = [
            p
            for level in self.levels
            for p in gsm.trained(self.data, level, self.templates, self.seed, self.solutions == "reusable")
        ]
        return [gsm.lesson(p, self.solutions) for p in chosen]


def sources(point: Gsm, seed: int) -> list[Taught]:
    """The sources of word problems that the experts of the point's library are trained on, one an expert."""
    return [
        Taught(point.data, levels, point.solutions, point.templates, seed)
        for levels in LIBRARIES.get(point.library, ())
    ]


def experts(point: Gsm, seed: int) -> list[Spec]:
    """The experts of the point's library. An expert has the same role in every library, so that it is trained once."""
    return [lessons(source, point, seed, _ROLES[source.levels]) for source in sources(point, seed)]


def sensible(point: Gsm) -> Gsm | None:
    """The point as a row has it: the base has no library, solutions or layers, and a library of one expert is asked
    `alone`. None for a composition that lacks one of them."""
    return in_one_way(point, len(LIBRARIES.get(point.library, ())) == 1, solutions="none", layers="none")


def questions(point: Gsm, seed: int) -> list[Question]:
    """The held-out word problems that the point asks, each after its worked examples (`shots`)."""
    found = gsm.asked(point.data, point.asked, point.templates, seed, point.split)
    before = gsm.shots(point.data, seed)[: point.shots] if point.shots else []
    about = lambda p: {"id": p.id, "instance": p.instance, "gold": gsm.final(p.answer)}  # noqa: E731
    return [Question(gsm.prompt(p, point.prompting, before), p.id, about(p), p) for p in found]


def mark(point: Gsm, asked: Sequence[Question], said: Sequence[str], options: GsmOptions) -> list[dict[str, Any]]:
    """The marks of each answer: whether it is right, of what kind it is, and what is wrong with it."""
    from lora_reuse.llm.scoring.endpoint import endpoint_of
    from lora_reuse.llm.scoring.word_problems import mark as marks

    judge = None if point.judge == "none" else endpoint_of(options.endpoint, point.judge, options.key_variable)
    return marks([q.reference for q in asked], said, point.prompting == "tir", judge)


def ready(points: Sequence[Gsm], options: GsmOptions) -> None:
    """Raises SettingError for code that may not be run, and for data or an endpoint that is not there."""
    from lora_reuse.llm.sandbox import require
    from lora_reuse.llm.scoring.endpoint import endpoint_of

    if any(point.prompting == "tir" for point in points) and not options.dry_run:
        if not options.allow_code_execution:
            raise SettingError(
                "allow_code_execution",
                "false with prompting=tir",
                "true",
                "what the model writes is then run, confined",
            )
        require()
    for point in points:
        if point.judge != "none":
            endpoint_of(options.endpoint, point.judge, options.key_variable)
        if point.shots and point.prompting == "tir" and point.data != OWN:
            raise SettingError(
                "shots",
                f"{point.shots} with prompting=tir and data={point.data}",
                "0",
                "GSM8K's examples are solved in words",
            )
    for level, data, number in dict.fromkeys((p.asked, p.data, p.templates) for p in points):
        gsm.asked(data, level, number, options.first_seed, "test")
    for data in dict.fromkeys(p.data for p in points if p.shots):
        gsm.shots(data, options.first_seed)
    for source in dict.fromkeys(
        source for point in points if point.composition != "base" for source in sources(point, options.first_seed)
    ):
        source.pairs()


def reported(point: Gsm) -> str:
    """The paper's number for the same cell and model, on the same data; or nothing."""
    from lora_reuse.paper_checks.reported import load

    asked, layers, shots = point.asked, point.layers, point.shots
    rule = {"base": "Base", "uniform": "Uniform", "arrow": "Arrow"}.get(point.composition, "")
    if point.data == OWN or not rule or point.library not in ("none", "2-combination"):
        return ""
    if point.prompting == "tir":
        usual = asked == "p2" and shots == 0 and point.solutions in ("none", "reusable")
        wanted = {"layers": {"mlp": "MLP"}.get(layers, layers)} if usual else None
        cells = load(4)
    else:
        usual = point.solutions in ("none", "text") and layers in ("none", "attention")
        wanted = {"prompting": f"{shots}-shot"} if asked == "p2" and shots in (0, 8) and usual else None
        cells = load(14)
        if rule == "Base" and shots == 0 and asked != "p2":
            cells, wanted = load(13), {"dataset": {"gsm8k": "GSM8K", "symbolic": "GSM-Symbolic", "p1": "GSM-P1"}[asked]}
    name = point.model.rstrip("/").split("/")[-1].replace("-Instruct", "-Inst")
    for cell in cells.to_dict("records") if wanted else []:
        same = cell.get("composition", "Base").startswith(rule) and all(
            cell[key] == value for key, value in (wanted or {}).items()
        )
        if same and cell["base_model"] == name:
            return f"{cell['value']} %"
    return ""


COLUMNS = ("marked", *(f"kind_{kind}" for kind in KINDS[1:]), *(f"error_{error}" for error in ERRORS[:-1]))
"""Kinds of solutions and of errors, as in Table 15."""

PROTOCOL = Protocol(
    __name__,
    Gsm,
    experts,
    questions,
    observers=(together(mark),),
    sensible=sensible,
    reported=reported,
    columns={name: share_of(name) for name in COLUMNS},
    options=GsmOptions,
    ready=ready,
)

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
