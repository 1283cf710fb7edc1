"""python my_protocol.py number=3,7

Experts on sums, asked in other words; right is an answer of which the length is even."""

import sys
from dataclasses import dataclass

from lora_reuse.llm.adapters.specs import lessons
from lora_reuse.llm.protocols.problems import ExamSettings
from lora_reuse.llm.protocols.protocol import Protocol, Question, main, share_of
from lora_reuse.runs.settings import Choice, Whole, setting


@dataclass(frozen=True)
class Sums(ExamSettings):
    """Sums with a number."""

    number: int = setting(3, Whole(0, 99), "what is added")
    composition: str = setting("sum", Choice("base", "sum", "average"), "how they are composed", grid=("base", "sum"))


@dataclass(frozen=True)
class Taught:
    """Four sums, in one order or the other."""

    number: int
    order: int

    @property
    def name(self):
        return f"sums {self.order}"

    def pairs(self):
        words = ("{0} plus {1}?", "{1} plus {0}?")[self.order]
        return [(words.format(i, self.number), str(i + self.number)) for i in range(4)]


def experts(point, seed):
    return [lessons(Taught(point.number, order), point, seed, order + 1) for order in (0, 1)]


def questions(point, seed):
    return [Question(f"{i} and {point.number}?", str(i), {"of": i}, i + point.number) for i in range(3)]


def score(question, answer):
    return {"right": len(answer) % 2 == 0, "spoken": bool(answer)}


def hoped(point, seed, count):
    a, b = ([asked for asked, _ in Taught(point.number, order).pairs()][:count] for order in (0, 1))
    return {"a": a, "b": b, "hoped": [f"{i} and {point.number} more?" for i in range(count)]}


PROTOCOL = Protocol(
    __name__,
    Sums,
    experts,
    questions,
    score,
    bound=lambda point: 0.5,
    reported=lambda point: "42 %",
    columns={"spoken": share_of("spoken")},
    hoped=hoped,
)

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
