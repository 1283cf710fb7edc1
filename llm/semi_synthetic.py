"""lora-reuse semi_synthetic model=smollm2 fact=birth_country,birth_capital triplets=40

Does a new first hop reach a fact that the model already knows (semi-synthetic two-hop questions)? An expert learns that
A's spouse is B, who is a well-known person; then A's spouse's country of birth, or the capital of it, is asked
directly: under the expert alone (library=1), and merged with an expert on something unrelated, the homes of other
people (library=2-combination).

Only people B count of whom the base alone is right in `known_in` of four questions that are not asked again (in its
chat template, where it has one): a row has their names, and its total is of theirs. Beside each two-hop question stand,
under the same composition, the first hop (is the adapter's fact kept?) and the question asked about B (is the base's?).
An expert on couples alone forgets much of what the base knows; with replay=true it also learns the fact of people in no
couple. A pocket model knows no country: fact=study_in asks what its own world says. A model that answers in its chat
template alone, as smollm2 does, says little of what it knows without chat=on."""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lora_reuse.llm.adapters.specs import Spec, lessons, trained
from lora_reuse.llm.data.births import CHECKS, FACTS, births, couples, golds, others, spellings
from lora_reuse.llm.data.births import questions as births_questions
from lora_reuse.llm.data.facts import Triplet
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.latent import KEPT, Beside, hop_counts
from lora_reuse.llm.own_answers import OWN
from lora_reuse.llm.protocols.dials import COMPOSITIONS, CONTROLS, RULES
from lora_reuse.llm.protocols.hops import everyone
from lora_reuse.llm.protocols.libraries import in_one_way
from lora_reuse.llm.protocols.protocol import Protocol, Question, main, share_of
from lora_reuse.llm.protocols.settings import Options
from lora_reuse.llm.scoring.chance import by_chance
from lora_reuse.llm.scoring.two_hop import direct as scored
from lora_reuse.llm.scoring.two_hop import named
from lora_reuse.runs.grid import Cell, hash_of
from lora_reuse.runs.settings import Choice, Flag, SettingError, Whole, setting

if TYPE_CHECKING:
    from lora_reuse.llm.decoding.models import Base

UNRELATED = "H2"
"""Homes of people that are none of those asked about."""


@dataclass(frozen=True)
class SemiSynthetic(Beside):
    """A new first hop, asked with a known second."""

    POCKET: ClassVar = {"fact": "study_in"}

    triplets: int = setting(
        100, Whole(2, 100), "couples that the expert learns, known B or not; pocket and smollm2: 20"
    )
    fact: str = setting(
        "birth_country",
        Choice(*FACTS),
        "the second hop: the country B was born in; its capital; model=pocket: where B studies",
    )
    names: str = setting("fake", Choice("fake", "real"), "A: fake people, or well-known ones", grid=("fake", "real"))
    known_in: int = setting(
        3, Whole(1, CHECKS), f"of {CHECKS} questions about B, in how many the base alone has to be right"
    )
    replay: bool = setting(
        False,
        Flag(),
        "whether the expert on couples also learns the fact of the people of births.csv in no couple",
        omitted=True,
    )
    library: str = setting(
        "1",
        Choice("none", "1", "2-combination"),
        "the expert on couples alone, or with an unrelated one",
        grid=("1", "2-combination"),
    )
    composition: str = setting(
        "average",
        Choice(*COMPOSITIONS, *CONTROLS, *RULES, *OWN),
        "how the library is composed",
        grid=(*COMPOSITIONS, "arrow:swapped", "base"),
    )

    def __post_init__(self) -> None:
        """Raises SettingError for more couples than there are people."""
        super().__post_init__()
        if self.triplets > len(births()):
            raise SettingError("triplets", self.triplets, f"at most {len(births())}, the people of births.csv")


@dataclass(frozen=True)
class Couples:
    """What expert 1 learns: the first hop of every couple in the training templates; and, so that it forgets less of
    what the model knows, the replayed fact of people who are in no couple."""

    names: str
    triplets: int
    seed: int
    replayed: str
    model: str

    @property
    def name(self) -> str:
        also = f", with {self.replayed} of other people" if self.replayed else ""
        return f"couples of {self.names} and well-known people{also}"

    def pairs(self) -> list[tuple[str, str]]:
        wed = couples(self.names, self.triplets, self.seed)
        own = [(e.question, e.answer) for e in examples("R1", wed)]
        return own + (others(self.replayed, self.model, wed) if self.replayed else [])


def experts(point: SemiSynthetic, seed: int) -> list[Spec]:
    """The experts of the point's library; without replay= neither depends on what is asked, or on what the base
    knows."""
    unrelated = trained(point, seed, [((UNRELATED,), (), 2)])
    wed = Couples(point.names, point.triplets, seed, point.fact if point.replay else "", point.model)
    made = [lessons(wed, point, seed, 1), *unrelated]
    return made[: {"none": 0, "1": 1, "2-combination": 2}[point.library]]


def put(facts: Sequence[Triplet], point: SemiSynthetic) -> dict[str, list[str]]:
    """What is asked about couples: the two-hop questions, the first hop of each, and the questions about each B."""
    return {
        "direct": two_hop(facts, point),
        "first": first(facts, point.split),
        "second": about(facts, births_questions(point.fact, point.split)),
    }


def questions(point: SemiSynthetic, seed: int) -> list[Question]:
    """What the point asks where the base knows every B. `ask` leaves out the others."""
    asked = put(couples(point.names, point.triplets, seed), point)
    return [Question(text, text, {}, None) for texts in asked.values() for text in texts]


def sensible(point: SemiSynthetic) -> SemiSynthetic | None:
    """The base has no library, and one expert is not composed."""
    return in_one_way(point, point.library == "1", replay=False)


def ready(points: Sequence[SemiSynthetic], options: Options) -> None:
    """Raises SettingError for a fact that this model or this machine has no answers for."""
    for fact, model in dict.fromkeys((p.fact, p.model) for p in points):
        golds(fact, model)
        spellings(fact)


def ask(base: "Base", protocol: Protocol, cells: list[Cell], options: Options) -> list[tuple[Cell, dict[str, Any]]]:
    """Measures a group of cells. Raises SettingError where the base knows the fact of nobody."""
    from lora_reuse.llm.decoding.greedy import answers
    from lora_reuse.llm.protocols.ask import composed, keep, with_costs

    point, seed = cells[0]
    facts = known(base, point, seed, options.batch_rows)
    askings, asked = composed(base, protocol, cells, options), put(facts, point)
    unique = {asking.key: asking.made.composition for asking in askings}
    said: dict[str, dict[str, list[str]]] = {}
    for what, listed in asked.items():
        told = answers(base, list(unique.values()), listed, point.answer_tokens, options.batch_rows)
        said[what] = dict(zip(unique, told, strict=True))
    results = {}
    for asking in askings:
        two, one, other = (said[what][asking.key] for what in ("direct", "first", "second"))
        records = marked(facts, two, one, other, point.fact)
        kept = [{"question": question} | record for question, record in zip(asked["direct"], records, strict=True)]
        keep(Path(options.out) / "answers", hash_of(protocol.experiment, asking.cell), kept)
        results[asking.cell] = counted(records, facts)
    return with_costs(base, askings, results, options)


def known(base: "Base", point: SemiSynthetic, seed: int, rows: int) -> list[Triplet]:
    """The couples whose B's fact the base knows, with it as C: it alone is right in `known_in` of the questions that
    are not asked again.

    They are put in the tokenizer's chat template where it has one, whatever `chat` says of the other questions: to a
    bare question a model made to chat says nothing, whatever it knows. Raises SettingError for nobody."""
    from lora_reuse.llm.decoding.greedy import answers

    right = golds(point.fact, point.model)
    drawn = [t._replace(c=right[t.b]) for t in couples(point.names, point.triplets, seed) if t.b in right]
    checks = births_questions(point.fact, "check")
    chatting = dataclasses.replace(base, chat=bool(base.tokenizer.chat_template))
    (said,) = answers(chatting, [None], about(drawn, checks), point.answer_tokens, rows)
    times = [sum(is_right(answer, t.c, point.fact) for answer in said[i :: len(drawn)]) for i, t in enumerate(drawn)]
    found = [t for t, count in zip(drawn, times, strict=True) if count >= point.known_in]
    if not found:
        got = f"{point.fact}, of which {point.model} knows none of {len(drawn)} people"
        raise SettingError("fact", got, "facts that the base knows", "a smaller known_in=, or another fact")
    return found


def about(facts: Sequence[Triplet], texts: Sequence[str]) -> list[str]:
    """The questions about each B, template by template."""
    return [text.format(a=t.b) for text in texts for t in facts]


def two_hop(facts: Sequence[Triplet], point: SemiSynthetic) -> list[str]:
    """The same questions about each A's spouse."""
    return [text.format(a=f"{t.a}'s spouse") for text in births_questions(point.fact, point.split) for t in facts]


def first(facts: Sequence[Triplet], split: str) -> list[str]:
    """The first hop of each, in as many templates of the split."""
    return [e.question for e in examples("R1", facts, split)]


def is_right(answer: str, gold: str, fact: str) -> bool:
    """Whether the answer names the right place by any of its names, and no other place."""
    every = spellings(fact)
    others = frozenset(name for place, known in every.items() if place != gold for name in known)
    return any(scored(answer, name, others | {name}, everyone()).strict for name in every[gold])


def marked(
    facts: Sequence[Triplet], direct: Sequence[str], first: Sequence[str], second: Sequence[str], fact: str
) -> list[dict[str, Any]]:
    """A record for each two-hop question: whether it is right (`strict`), whether each hop is, whether the answer names
    B, and the probability of a hit if the right answers were dealt anew (`chance`)."""
    golds = [t.c for t in facts]
    chance = by_chance(golds, [[gold for gold in set(golds) if is_right(two, gold, fact)] for two in direct])
    records = []
    for i, (two, one, other) in enumerate(zip(direct, first, second, strict=True)):
        t = facts[i % len(facts)]
        records.append(
            {
                "triplet": i % len(facts),
                "subject": t.a,
                "bridge": t.b,
                "gold": t.c,
                "answer": two,
                "first_answer": one,
                "second_answer": other,
            }
            | {"strict": is_right(two, t.c, fact), "first_kept": scored(one, t.b, everyone() - {t.a}).strict}
            | {"second_kept": is_right(other, t.c, fact), "y_named": t.b in named(two, everyone())}
            | {"chance": chance[i]}
        )
    return records


def counted(records: Sequence[dict[str, Any]], facts: Sequence[Triplet]) -> dict[str, Any]:
    """Counts of a row over the people whom the base knows, whose names it has; `by_triplet` is in their order."""
    hits, total = sum(record["strict"] for record in records), len(records)
    every = [record["gold"] for record in records]
    measured: dict[str, Any] = {"hits": hits, "total": total}
    measured["by_triplet"] = [
        sum(record["strict"] for record in records if record["triplet"] == i) for i in range(len(facts))
    ]
    measured |= {"known": [t.b for t in facts], "constant": max(map(every.count, every))}
    measured["permuted"] = round(sum(record["chance"] for record in records), 4)
    measured |= hop_counts(records, len(facts))
    return {"measured": measured, "predicted": {}, "stderr": {"hits": (hits * (total - hits) / total) ** 0.5}}


COLUMNS = ("permuted", "constant", *KEPT, "y_named")


PROTOCOL = Protocol(
    __name__,
    SemiSynthetic,
    experts,
    questions,
    sensible=sensible,
    columns={name: share_of(name) for name in COLUMNS},
    ready=ready,
    ask=ask,
)

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
