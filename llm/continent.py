"""lora-reuse continent model=microsoft/phi-2 data=hotpot_dev_distractor_v1.json
library=experts/a,experts/a+experts/b

Asks shared adapters, composed, for a place and for its continent (A.6, Tables 18 to 20). The questions are HotpotQA's
whose answer is a city or a country, in their own words and asked for the continent. `library` names adapters joined by
+: PEFT folders or hub names (`lora-reuse mttl` makes a folder of an expert of mttl's). Without data= and library=
the pocket model answers about its own people, with an expert on homes and one on places of study: a stand-in that runs
anywhere; it knows no continent."""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lora_reuse.llm.adapters.specs import trained
from lora_reuse.llm.data.hotpot import OWN, PROMPTS
from lora_reuse.llm.protocols.dials import COMPOSITIONS, CONTROLS, RULES
from lora_reuse.llm.protocols.problems import ExamSettings
from lora_reuse.llm.protocols.protocol import Marks, Protocol, Question, main, share_of
from lora_reuse.llm.protocols.settings import Options
from lora_reuse.llm.scoring.two_hop import direct
from lora_reuse.runs.settings import Choice, SettingError, Text, Whole, setting

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


def experts(point: Continent, seed: int) -> list[Any]:
    """The library: what makes the experts of the stand-in, or the names of adapters that are there."""
    if point.library != OWN:
        return point.library.split("+")
    return trained(point, seed, [((subset,), (), role) for subset, role in ROLES.items()])


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
    return [Question(template.format(question=q.question), q.id, about(q), (q, point.prompting)) for q in found]


def score(question: Question, answer: str) -> Marks:
    """Right: the answer names the place in any of its spellings, or, asked for the continent, that one and no other;
    `lenient`: that one among others; `exact`: it says nothing else."""
    from lora_reuse.llm.data.continents import CONTINENTS
    from lora_reuse.llm.data.hotpot import exact

    q, prompting = question.reference
    if prompting == "original":
        found = next((s for s in (direct(answer, text, q.answers) for text in q.answers) if s.lenient), None)
        right = lenient = found is not None
    else:
        right, lenient = direct(answer, q.place.continent, frozenset(CONTINENTS.values()))
    return {"right": right, "lenient": lenient, "exact": exact(answer, q, prompting)}


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


def reported(point: Continent) -> str:
    """The paper's number (Table 20) where the adapters have the names of its libraries."""
    from lora_reuse.paper_checks.reported import load

    names = {name.rstrip("/").split("/")[-1].rsplit(":")[-1] for name in point.library.split("+")}
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
        point.composition, []
    )
    kind = {"original": "Phi2 / Original Question", "continent": "Phi2 / Continent Prompt"}[point.prompting]
    if point.data == OWN or "phi" not in point.model.lower():
        return ""
    cells = load(20)
    cells = cells[
        (cells["library"] == rows.get(frozenset(names), ""))
        & (cells["question"] == kind)
        & cells["composition"].isin(rules)
    ]
    return " and ".join(f"{value} %" for value in cells["value"])


PROTOCOL = Protocol(
    __name__,
    Continent,
    experts,
    questions,
    score,
    sensible=sensible,
    reported=reported,
    columns={name: share_of(name) for name in ("lenient", "exact")},
    ready=ready,
)

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
