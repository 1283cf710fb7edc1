"""lora-reuse capacity model=Qwen/Qwen2.5-3B-Instruct data=counterfact.json facts=100,1000 rank=1,4,16

How many facts does an adapter store, against its rank, and how many are left when two are merged? An expert learns
`facts` facts in one prompt each and is asked them in that prompt (asked=own) and in others (paraphrases); of other
subjects it is asked whether their answer stays (neighbours). library=2-combination merges it with an expert on as many
other facts, whose own prompts are asked, too.

data=own, the default, are new homes of made-up people, which the pocket model can learn. A file of facts is read in
CounterFact's form or as a phone book (llm/data/fact_files.py says how). An answer is right if it names the right one
and not the one that it replaced; of a neighbour, the old one and not the new. With CounterFact's form its measures are
printed, too, of the base and of the adapter (llm/protocols/rewrites.py says which)."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lora_reuse.llm.adapters.specs import Spec, lessons
from lora_reuse.llm.data.fact_files import FORMS, OWN, Fact, facts
from lora_reuse.llm.protocols.controls import Control
from lora_reuse.llm.protocols.dials import COMPOSITIONS, RULES
from lora_reuse.llm.protocols.libraries import in_one_way
from lora_reuse.llm.protocols.protocol import Protocol, Question, main
from lora_reuse.llm.protocols.rewrites import ASKED, asked, below, counts, enough, preferences, score
from lora_reuse.llm.protocols.settings import Composing, Options
from lora_reuse.runs.settings import Choice, Text, Whole, setting

EXPERTS = {"none": 0, "1": 1, "2-combination": 2}


@dataclass(frozen=True)
class Capacity(Composing):
    """The facts, how they are learned, and how two experts are composed."""

    POCKET: ClassVar = {"epochs": 100, "answer_tokens": 16}

    data: str = setting(OWN, Text(FORMS), "whose facts")
    facts: int = setting(100, Whole(1, 10**6), "facts an expert learns", grid=(20, 50, 100))
    library: str = setting("1", Choice(*EXPERTS), "one expert, or two on other facts each", grid=("1", "2-combination"))
    composition: str = setting(
        "average",
        Choice(*COMPOSITIONS, "base", *RULES),
        "how the two are composed",
        grid=(*COMPOSITIONS, "base"),
    )
    asked: str = setting(
        "own", Choice(*ASKED), "the prompts that were learned, others for the same facts, or other subjects", grid=ASKED
    )
    answer_tokens: int = setting(32, Whole(1, 10**5), "longest answer; model=pocket: 16")


@dataclass(frozen=True)
class Learned:
    """What an expert learns: its share of the facts."""

    data: str
    count: int
    number: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.count} facts"

    def facts(self) -> tuple[Fact, ...]:
        return facts(self.data, self.seed)[self.count * (self.number - 1) : self.count * self.number]

    def pairs(self) -> list[tuple[str, str]]:
        return [(fact.prompt, fact.answer) for fact in self.facts()]


def experts(point: Capacity, seed: int) -> list[Spec]:
    """The experts of the library."""
    numbers = range(1, EXPERTS[point.library] + 1)
    return [lessons(Learned(point.data, point.facts, number, seed), point, seed, number) for number in numbers]


def sensible(point: Capacity) -> Capacity | None:
    """The base has no library, and one expert is not composed."""
    return in_one_way(point, point.library == "1")


def questions(point: Capacity, seed: int) -> list[Question]:
    """Of every expert in the library (of the base, those of the first) the prompts that are asked."""
    return [
        question
        for number in range(1, max(1, EXPERTS[point.library]) + 1)
        for i, fact in enumerate(Learned(point.data, point.facts, number, seed).facts())
        for question in asked(fact, point.asked, f"{number} {i}", {"expert": number})
    ]


def controls(point: Capacity) -> tuple[Control, ...]:
    """The expert alone in the same prompts."""
    alone = Control("expert alone", "got", {"library": "1", "composition": "alone"})
    return (alone,) if point.library == "2-combination" else ()


def ready(points: Sequence[Capacity], options: Options) -> None:
    """Raises SettingError for a file that cannot be read, or that has too few facts, or none of what is asked."""
    for point in points:
        needed = point.facts * max(1, EXPERTS[point.library])
        enough(point, "asked", needed, questions(point, options.first_seed), options.first_seed)


PROTOCOL = Protocol(
    __name__,
    Capacity,
    experts,
    questions,
    score,
    observers=(preferences,),
    counts=counts,
    sensible=sensible,
    controls=controls,
    below=below,
    ready=ready,
)

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
