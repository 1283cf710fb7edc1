"""Questions beside an edited one: what Theorem 2 and its proof say an adapter acts on, and by how much.

    own            x r1 or y r2, what expert 1 or 2 was trained on
    two_hop        x r1 r2
    two_hop_other  d r1 r2, of someone whom no edit names (eq. 20)
    same_relation  d r1 or d r2
    same_entity    x or y under another relation
    unrelated      d under another relation

The kinds are those of the theory's experiments `specificity` and `proposition_1`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from lora_reuse.llm.data.facts import Triplet
from lora_reuse.llm.data.subsets import ATOMIC, PAIRS, SPLITS, templates

KINDS = ("own", "two_hop", "two_hop_other", "same_relation", "same_entity", "unrelated")
BESIDE = KINDS[1:]
"""The kinds that are not an expert's own."""
KERNELS = ("linear", "arccos", "eq23")
"""The kernels that may explain how far an edit acts on a question beside it (`llm.edits.kernel`)."""
OTHER = {1: "4", 2: "5"}
"""Another relation than the hop's, with another kind of answer: studies of a spouse's spouse, children of a
resident."""


class Neighbour(NamedTuple):
    """A question and its answer up to where the one asked for would be named; the people it names."""

    question: str
    beginning: str
    subject: str
    triplet: int


def neighbours(kind: str, hop: int, facts: Sequence[Triplet], split: str, count: int = 50) -> list[Neighbour]:
    """The questions of a kind beside those of expert `hop`: each triplet under each template of the split (the first
    `count`), in the order of `examples`."""
    relation, asked, _ = ATOMIC[str(hop)]
    subject = {"two_hop": "a", "two_hop_other": "d", "same_relation": "d", "unrelated": "d"}.get(kind, asked)
    if kind.startswith("two_hop"):
        relation = PAIRS["12"]
    elif kind in ("same_entity", "unrelated"):
        relation = ATOMIC[OTHER[hop]][0]
    found = []
    for question, answer in templates(relation)[SPLITS[split]][:count]:
        for i, fact in enumerate(facts):
            name = getattr(fact, subject)
            beginning = answer.format(a=name, b="\0", c="\0").split("\0")[0]
            found.append(Neighbour(question.format(a=name), beginning, name, i))
    return found
