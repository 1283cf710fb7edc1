"""lora-reuse exposed relations=chained,apart

Do adapters compose where pretraining has the bridge? The corpus of a pocket model asks two-hop questions about some
pairs of relations, directly and step by step, and single questions alone about others. Two adapters learn new facts of
one hop each, and no steps. Their composition is asked two-hop questions about these facts, of relations that the corpus
chained (relations=chained) or did not (relations=apart): in the words in which the corpus asks such questions
(words=pretraining), or in held-out templates and the prompt of Table 6, which it never has (words=paper). Beside them
stand the single questions of both adapters, and library=mixed, one adapter on the facts of both.

Apart are spouse of and live in, the relations of Table 1. Chained are these, too, where the corpus has them so
(`lora-reuse pocket skill=same`), else child of and study in. A model says in its pocket.json what it read."""

import dataclasses
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lora_reuse.llm.adapters.specs import Spec, trained
from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.data.mixtures import EXPERTS
from lora_reuse.llm.data.subsets import PAIRS, Example, examples
from lora_reuse.llm.exposure import concluded, in_its_words, world_of
from lora_reuse.llm.pocket.corpus import TESTED_PAIR
from lora_reuse.llm.protocols.bound import once_in_n
from lora_reuse.llm.protocols.controls import Control, own_hops
from lora_reuse.llm.protocols.hops import everyone, everywhere, marks
from lora_reuse.llm.protocols.libraries import in_one_way
from lora_reuse.llm.protocols.protocol import Marks, Protocol, Question, main, share_of
from lora_reuse.llm.protocols.settings import Composed, Options
from lora_reuse.llm.scoring.chance import by_chance
from lora_reuse.llm.scoring.two_hop import direct, named
from lora_reuse.runs.settings import Choice, SettingError, setting

DATASET = "R"
APART, OTHERS = "12", "54"
"""The hops of Table 1, and others that the corpus of every pocket model chains, as `llm.data.subsets` counts them."""


@dataclass(frozen=True)
class Exposed(Composed):
    """Two one-hop experts, or one on both hops, of relations that pretraining has chained or not."""

    relations: str = setting(
        "chained",
        Choice("chained", "apart"),
        "those of the hops: a pair that the corpus asks two-hop questions about, or one of single questions alone",
        grid=("chained", "apart"),
    )
    library: str = setting(
        "2-combination",
        Choice("none", "2-combination", "mixed"),
        "an expert on each hop, or one on both",
        grid=("2-combination", "mixed"),
    )
    words: str = setting(
        "pretraining",
        Choice("pretraining", "paper"),
        "of the two-hop question: those of the corpus, or held-out templates and the prompt of Table 6",
        grid=("pretraining", "paper"),
    )


class Reference(NamedTuple):
    """What an answer is marked against: the example, and the way and the words in which it was asked."""

    example: Example
    way: str
    words: str


def experts(point: Exposed, seed: int) -> list[Spec]:
    """The experts of the point's library, in the roles that `llm.two_hop` gives those of the same hops."""
    hops = tuple(DATASET + digit for digit in hops_of(point))
    if point.library == "mixed":
        return trained(point, seed, [(hops, (), list(EXPERTS).index("mixed") + 1)])
    return trained(point, seed, [((hop,), (), role) for role, hop in enumerate(hops, 1)])


def hops_of(point: Exposed) -> str:
    """The digits of both relations (`llm.data.subsets`). Raises SettingError for a model that does not say what it
    read."""
    chained = world_of(point.model).chained
    return APART if point.relations == "apart" or TESTED_PAIR in chained else OTHERS


def questions(point: Exposed, seed: int) -> list[Question]:
    """Every triplet as often as the split has templates: in words drawn by the seed, or in these templates; single
    questions are always asked in them. Questions about one triplet are a group."""
    way, digits = point.prompting, hops_of(point)
    kind = {"direct": digits, "steps": f"{digits}-CoT", "first": digits[0], "second": digits[1]}[way]
    corpus, rng = world_of(point.model).corpus, random.Random(f"exposed {point.split} {seed}")
    first, second = PAIRS[digits].split("-")
    found = []
    for e in examples(DATASET + kind, triplets(DATASET, seed)[: point.triplets], point.split):
        own = way in ("direct", "steps") and point.words == "pretraining"
        prompt = in_its_words(corpus, (first, second), e.subject, e.gold, way, rng) if own else e.question
        about = {name: getattr(e, name) for name in ("subject", "bridge", "gold", "triplet")}
        found.append(Question(prompt, str(e.triplet), about, Reference(e, way, point.words)))
    return found


def score(question: Question, answer: str) -> Marks:
    """Whether the answer is right, and step by step whether it names the person in between."""
    example, way, _ = question.reference
    named_b = {"b_named": example.bridge in named(answer, everyone())} if way == "steps" else {}
    return {"right": right(question.reference, answer), **named_b}


def right(reference: Reference, answer: str) -> bool:
    """Whether an answer says what is right and nothing else of its kind. In words of pretraining that is its last
    sentence, or where no steps are asked for its first line (`llm.exposure`); otherwise as `llm.two_hop` has it."""
    example, way, words = reference
    if way in ("first", "second") or words == "paper":
        return marks(example, answer, way)["strict"]
    return direct(concluded(answer, way), example.gold, everywhere(), everyone()).strict


def counts(point: Exposed, asked: Sequence[Question], records: Sequence[Marks]) -> dict[str, Any]:
    """Hits, by triplet too, and of steps how many name the person in between. `permuted` is how many of the answers
    would be right if the right ones were dealt anew among the questions."""
    by_triplet = [0] * point.triplets
    golds = [question.reference.example.gold for question in asked]
    right_for = []
    for question, record in zip(asked, records, strict=True):
        reference, answer = question.reference, record["answer"]
        by_triplet[reference.example.triplet] += bool(record["right"])
        said = {*named(answer, everyone() | everywhere())}.intersection(golds)
        others = {gold: reference._replace(example=reference.example._replace(gold=gold)) for gold in said}
        right_for.append([gold for gold, other in others.items() if right(other, answer)])
    measured = {"hits": sum(by_triplet), "total": len(records), "by_triplet": by_triplet}
    measured |= {"permuted": round(sum(by_chance(golds, right_for)), 4)}
    if point.prompting == "steps":
        measured["b_named"] = sum(bool(record["b_named"]) for record in records)
    return measured


def sensible(point: Exposed) -> Exposed | None:
    """One expert is not composed, the base has none, single questions are asked in one way, and where the corpus chains
    the relations of Table 1 none are apart."""
    if point.relations == "apart" and hops_of(dataclasses.replace(point, relations="chained")) == APART:
        return None
    if point.prompting in ("first", "second"):
        point = dataclasses.replace(point, words="pretraining")
    return in_one_way(point, point.library == "mixed")


def bound(point: Exposed) -> float | None:
    """Theory has a bound for two one-hop experts of relations that nothing has chained."""
    return once_in_n(point) if (point.library, point.relations) == ("2-combination", "apart") else None


def controls(point: Exposed) -> tuple[Control, ...]:
    """Of two hops, the single questions of both experts."""
    return tuple(one.at(words="pretraining") for one in own_hops(point)) if point.library == "2-combination" else ()


def ready(points: Sequence[Exposed], options: Options) -> None:
    """Raises SettingError for a model that does not say what it read, or that read no steps whose words are to be
    used."""
    for point in points:
        if world_of(point.model).corpus.skill == "none" and point.prompting == "steps" and point.words == "pretraining":
            got = f"pretraining with prompting=steps, and the corpus of {point.model} has no steps"
            raise SettingError("words", got, "words=paper", "or a pocket model of skill=other or skill=same")


PROTOCOL = Protocol(
    __name__,
    Exposed,
    experts,
    questions,
    score,
    counts=counts,
    sensible=sensible,
    bound=bound,
    controls=controls,
    columns={"names B": share_of("b_named"), "dealt": share_of("permuted")},
    ready=ready,
)

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
