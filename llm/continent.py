"""lora-reuse continent model=microsoft/phi-2 data=hotpot_dev_distractor_v1.json
library=experts/a,experts/a+experts/b

Shared adapters composed, asked for a place and for its continent (A.6, Tables 18 to 20). The questions are HotpotQA's
whose answer is a city or a country, in their own words and asked for the continent. `library` names adapters joined by
+: PEFT folders or hub names (`lora-reuse mttl` makes a folder of an expert of mttl's). Without data= and library=
the pocket model answers about its own people, with an expert on homes and one on places of study: a stand-in that runs
anywhere; it knows no continent."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lora_reuse.llm.data.hotpot import OWN, PROMPTS
from lora_reuse.llm.protocols.problems import Exam, ExamSettings, Question
from lora_reuse.llm.protocols.protocol import Cell, Protocol, main
from lora_reuse.llm.protocols.settings import COMPOSITIONS, CONTROLS, RULES, Options, Training
from lora_reuse.runs.settings import Choice, SettingError, Text, Whole, setting

if TYPE_CHECKING:
    from lora_reuse.llm.decoding.models import Base

ROLES = {"R2": 2, "R4": 4}
"""The experts of the stand-in, by what they learn."""


@dataclass(frozen=True)
class Continent(ExamSettings):
    """A.6: Tables 18, 19 and 20. How experts are trained matters to library=own alone."""

    POCKET: ClassVar = {"triplets": 20}

    data: str = setting(OWN, Text("own, or a file of HotpotQA or KILT"), "the questions")
    count: int = setting(
        97, Whole(0, 10**6), "questions for a place that are asked, drawn by the seed; 0: all; the paper asked 97"
    )
    library: str = setting(
        OWN, Text("own, or PEFT folders and hub names joined by +"), "the adapters that are composed"
    )
    composition: str = setting(
        "uniform",
        Choice(*COMPOSITIONS, *CONTROLS, *RULES),
        "how the library is composed",
        grid=("base", "uniform", "arrow"),
    )
    prompting: str = setting(
        "original", Choice(*PROMPTS), "the question in its own words, or asked for the continent", grid=tuple(PROMPTS)
    )
    triplets: int = setting(100, Whole(1, 100), "library=own, data=own: people; model=pocket: 20")
    answer_tokens: int = setting(32, Whole(1, 10**5), "longest answer")


def library(point: Continent) -> list[tuple[tuple[str, ...], tuple[str, ...], int]]:
    """The experts that are trained: those of the stand-in."""
    return [((subset,), (), role) for subset, role in ROLES.items()] if point.library == OWN else []


def specs(point: Continent, seed: int) -> list[Any]:
    """The experts of the point, as training or as names of adapters."""
    from lora_reuse.llm.adapters.training import Spec

    training = Training(**{f.name: getattr(point, f.name) for f in dataclasses.fields(Training)})
    return [Spec(own, bridge, point.triplets, 0, training, seed, role) for own, bridge, role in library(point)]


def experts(point: Continent, seed: int) -> list[Any]:
    """The library: what makes an expert, or the name of one that is there."""
    return specs(point, seed) or point.library.split("+")


def sensible(point: Continent) -> Continent:
    """The base has no library; one adapter is not composed: uniform and Arrow of one are that one."""
    if point.composition == "base":
        return dataclasses.replace(point, library="none")
    alone = point.library != OWN and "+" not in point.library
    return dataclasses.replace(point, composition="alone") if alone else point


def questions(point: Continent, seed: int) -> list[Question]:
    """The questions that the point asks."""
    from lora_reuse.llm.data import hotpot

    found = hotpot.questions(point.data, point.count, seed, point.triplets)
    template = PROMPTS[point.prompting]
    about = lambda q: {"id": q.id, "place": q.place.kind, "continent": q.place.continent}  # noqa: E731
    return [Question(template.format(question=q.question), q.id, about(q), q) for q in found]


def mark(point: Continent, asked: Sequence[Question], said: Sequence[str], options: Options) -> list[dict[str, Any]]:
    """Right: the answer names the place in any of its spellings, or, asked for the continent, that one and no other;
    `lenient`: that one among others; `exact`: it says nothing else."""
    from lora_reuse.llm.data.continents import CONTINENTS
    from lora_reuse.llm.data.hotpot import exact
    from lora_reuse.llm.scoring.names import direct

    marks = []
    for question, answer in zip(asked, said, strict=True):
        q = question.reference
        if point.prompting == "original":
            score = next((s for s in (direct(answer, text, q.answers) for text in q.answers) if s.lenient), None)
            right = lenient = score is not None
        else:
            right, lenient = direct(answer, q.place.continent, frozenset(CONTINENTS.values()))
        marks.append({"right": right, "lenient": lenient, "exact": exact(answer, q, point.prompting)})
    return marks


def ready(points: Sequence[Continent], options: Options) -> None:
    """Raises SettingError for questions that are not there, a library named twice over and experts that only the
    stand-in has."""
    from lora_reuse.llm.data import hotpot

    for data, count, triplets in dict.fromkeys((p.data, p.count, p.triplets) for p in points):
        hotpot.questions(data, count, options.first_seed, triplets)
    for names in dict.fromkeys(p.library for p in points if p.library not in (OWN, "none")):
        listed = names.split("+")
        if "" in listed or len(set(listed)) < len(listed) or OWN in listed:
            raise SettingError("library", names, "each adapter once, joined by +")


def ask(base: "Base", protocol: Protocol, cells: list[Cell], options: Options) -> list[tuple[Cell, dict[str, Any]]]:
    """Measures a cell; the provenance says what the adapters' weights were."""
    from lora_reuse.llm.adapters.folders import digest
    from lora_reuse.llm.protocols.solving import solve

    results = solve(base, protocol, cells, options, Exam(experts, questions, mark))
    for (point, _), result in results:
        named = [] if point.library in (OWN, "none") else point.library.split("+")
        result["provenance"] = {"adapters": {name: digest(name) for name in named}}
    return results


def reported(settings: Mapping[str, Any]) -> str:
    """The paper's number (Table 20) where the adapters have the names of its libraries."""
    from lora_reuse.paper_checks.reported import load

    names = {name.rstrip("/").split("/")[-1].rsplit(":")[-1] for name in settings["library"].split("+")}
    tasks = {
        f"kilt_tasks_hotpotqa_{task}"
        for task in ("straighforward_qa", "complex_question", "combining_facts", "final_exam")
    }
    rows = {
        frozenset({"none"}): "kilt_tasks_hotpotqa_straighforward_qa",
        frozenset({"kilt_tasks_hotpotqa_straighforward_qa"}): "kilt_tasks_hotpotqa_straighforward_qa",
        frozenset(tasks): "all 4 hotpotqa (excl. formulate)",
        frozenset(tasks | {"kilt_tasks_hotpotqa_formulate"}): "all 5 hotpot qa",
    }
    rules = {"base": ["Base"], "alone": ["Uniform", "Arrow"], "uniform": ["Uniform"], "arrow": ["Arrow"]}.get(
        settings["composition"], []
    )
    kind = {"original": "Phi2 / Original Question", "continent": "Phi2 / Continent Prompt"}[settings["prompting"]]
    if settings["data"] == OWN or "phi" not in settings["model"].lower():
        return ""
    cells = load(20)
    cells = cells[
        (cells["library"] == rows.get(frozenset(names), ""))
        & (cells["question"] == kind)
        & cells["composition"].isin(rules)
    ]
    return " and ".join(f"{value} %" for value in cells["value"])


def table(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a setting."""
    from lora_reuse.llm.protocols.solved import solved

    return solved(rows, ("lenient", "exact"), reported)


PROTOCOL = Protocol(
    "continent",
    __doc__ or "",
    Continent,
    lambda point: point.data,
    library,
    sensible,
    ask=ask,
    table=table,
    specs=specs,
    questions=lambda point: point.count or 100,
    options=Options,
    ready=ready,
)

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
