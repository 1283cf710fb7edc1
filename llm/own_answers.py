"""lora-reuse own_answers library=12,123,12345 composition=sum,average,ties

What does each rule leave of each expert's own answers, from two experts to five? An expert is on one of the relations
Rel1 to Rel5 (A.3), a digit each, and the library 135 has those of Rel1, Rel3 and Rel5. Asked are the facts that the
experts learned, in templates that they did not; a row counts the right answers of every expert apart. Beside the
libraries stands each expert alone. Without a model, the pocket model answers."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lora_reuse.llm.adapters.specs import Spec, trained
from lora_reuse.llm.data.graphs import facts_of
from lora_reuse.llm.data.subsets import ATOMIC, examples
from lora_reuse.llm.large_library import GRAPHS
from lora_reuse.llm.protocols.controls import Control
from lora_reuse.llm.protocols.dials import COMPOSITIONS, LEARNED, RULES
from lora_reuse.llm.protocols.hops import marks
from lora_reuse.llm.protocols.libraries import in_one_way
from lora_reuse.llm.protocols.protocol import Marks, Protocol, Question, Row, counted, main
from lora_reuse.llm.protocols.settings import Asked
from lora_reuse.runs.settings import Choice, SettingError, Text, setting

GIVEN = (*COMPOSITIONS, "random", *(rule for rule in RULES if not rule.startswith("lori") and rule != "cat"))
"""Every rule that learns nothing and takes experts of any kind. CAT with equal weights is the sum."""
OWN = tuple(rule for rule in LEARNED if rule.endswith(":own"))
WAYS = {"135": "first", "24": "second"}
"""Which hop a relation is, as `llm.protocols.hops.marks` calls it: it says what its answers are."""


@dataclass(frozen=True)
class OwnAnswers(Asked):
    """The experts, and how they are composed."""

    graph: str = setting("shared", Choice(*GRAPHS), "relations on the same entities, or on others where they can be")
    library: str = setting(
        "12",
        Text("digits 1 to 5, each once and in order"),
        "the relations that the experts are on; none for the base",
        grid=(*ATOMIC, "12", "123", "1234", "12345"),
    )
    composition: str = setting(
        "average", Choice(*GIVEN, "base", *OWN), "how the library is composed", grid=("base", *GIVEN)
    )

    def __post_init__(self) -> None:
        """Raises SettingError for a library of anything but relations."""
        in_order = "".join(digit for digit in ATOMIC if digit in self.library)
        if self.library not in ("none", in_order or "none"):
            allowed = "none, or digits 1 to 5, each once and in order, as 135"
            raise SettingError("library", repr(self.library[:40]), allowed)


def experts(point: OwnAnswers, seed: int) -> Sequence[Spec]:
    """An expert a relation, in the roles that `llm.large_library` gives them, so that they are trained once."""
    graph = GRAPHS[point.graph]
    return trained(point, seed, [((graph + digit,), (), int(digit)) for digit in digits(point)])


def digits(point: OwnAnswers) -> str:
    """The relations that are asked; the base is asked all."""
    return "".join(ATOMIC) if point.library == "none" else point.library


def questions(point: OwnAnswers, seed: int) -> list[Question]:
    """The facts of every expert in the templates of the split. Questions about one fact are a group."""
    graph = GRAPHS[point.graph]
    found = []
    for digit in digits(point):
        facts = facts_of(graph + digit, point.triplets, seed)
        for e in examples(graph + digit, facts, point.split):
            group = f"{digit} {e.triplet}"
            found.append(Question(e.question, group, e._asdict() | {"right": e.answer, "expert": digit}, (e, digit)))
    return found


def score(question: Question, answer: str) -> Marks:
    """Whether the answer names the right one and no other."""
    e, digit = question.reference
    way = next(way for relations, way in WAYS.items() if digit in relations)
    return {"right": marks(e, answer, way)["strict"]}


def counts(point: OwnAnswers, asked: Sequence[Question], records: Sequence[Marks]) -> dict[str, Any]:
    """The hits, and those of each expert: `by_expert` of `asked_of_each`."""
    told = [(question.reference[1], record["right"]) for question, record in zip(asked, records, strict=True)]
    each = {digit: [bool(right) for of, right in told if of == digit] for digit in digits(point)}
    return counted(point, asked, records) | {
        "by_expert": [sum(right) for right in each.values()],
        "asked_of_each": [len(right) for right in each.values()],
    }


def sensible(point: OwnAnswers) -> OwnAnswers | None:
    """One expert is not composed, and the base has no library."""
    return in_one_way(point, len(point.library) == 1)


def controls(point: OwnAnswers) -> tuple[Control, ...]:
    """Each expert alone, which has to know what it learned."""
    composed = len(point.library) > 1 and point.composition != "base"
    alone = [{"library": digit, "composition": "alone"} for digit in point.library] if composed else []
    return tuple(Control(f"expert {of['library']} alone", "got", of) for of in alone)


def kept(row: Row) -> list[float]:
    """The share of right answers to each expert's questions."""
    return [
        hits / total for hits, total in zip(row["measured"]["by_expert"], row["measured"]["asked_of_each"], strict=True)
    ]


def _each(rows: Sequence[Row]) -> str:
    """Of each expert the mean over seeds, in percent."""
    return " ".join(f"{100 * sum(shares) / len(shares):.0f}" for shares in zip(*map(kept, rows), strict=True))


PROTOCOL = Protocol(
    __name__,
    OwnAnswers,
    experts,
    questions,
    score,
    counts=counts,
    sensible=sensible,
    controls=controls,
    columns={"each expert, %": _each},
)

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
