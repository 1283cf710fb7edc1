"""lora-reuse latent model=Qwen/Qwen2.5-3B-Instruct triplets=5,10,20,40

Latent two-hop reasoning: are the two-hop answers of merged one-hop experts above chance at all? Two experts on n facts
each are asked the two-hop question directly, and both one-hop questions of the same triplet in templates of the same
number, under the same composition. So each two-hop answer is counted by whether its own two hops were kept, and by
whether it names the person in between.

second=dealt is the control: expert 2 learns of the same people that they live in each other's places. Merged with it a
model knows every name and every place, but not the fact that the answer needs; its own chain leads to the dealt place.
The contrast of right and dealt is paired by question. library=mixed and library=document are one expert on both facts:
in documents of their own, or both in one document.

Theory: the direct answer of two merged one-hop experts is the right place no more often than another place of the n, so
the bound is 1/n."""

import dataclasses
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lora_reuse.llm.adapters.specs import Spec, lessons, trained
from lora_reuse.llm.data.facts import dealt, triplets
from lora_reuse.llm.data.mixtures import EXPERTS
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.protocols.bound import once_in_n
from lora_reuse.llm.protocols.hops import asked, chances, counted, everyone, everywhere, gates, log_probs, score
from lora_reuse.llm.protocols.protocol import Asked, Marks, Protocol, Question, main, share_of
from lora_reuse.llm.protocols.settings import Composed, Dataset, Options
from lora_reuse.llm.scoring.two_hop import direct as scored
from lora_reuse.llm.scoring.two_hop import named
from lora_reuse.runs.settings import Choice, Whole, setting

WAYS = ("direct", "first", "second")
"""What is asked beside each other: the two-hop question, and either one-hop question."""
DOCUMENT = 5
"""The role of the expert on documents, which is none of LoRA 1 to 4. Its seed is drawn from it."""


@dataclass(frozen=True)
class Beside(Composed):
    """A two-hop question that is asked directly, with both of its hops beside it."""

    split: str = setting("test", Choice("dev", "test"), "the held-out templates that are asked", grid=("dev", "test"))
    prompting: str = setting(
        "direct", Choice("direct"), "what is asked: the two-hop question, and beside it both one-hop questions"
    )


@dataclass(frozen=True)
class Latent(Dataset, Beside):
    """Two one-hop experts, or one expert on both facts, asked directly."""

    triplets: int = setting(20, Whole(2, 100), "n: triplets, and so facts of each expert", grid=(5, 10, 20, 40))
    library: str = setting(
        "2-combination",
        Choice("none", "2-combination", "mixed", "document"),
        "two one-hop experts; one expert on both hops; one on documents that state both hops",
        grid=("2-combination", "mixed", "document"),
    )
    second: str = setting(
        "right",
        Choice("right", "dealt"),
        "expert 2's facts: the right places, or each other's",
        grid=("right", "dealt"),
    )


@dataclass(frozen=True)
class Dealt:
    """What expert 2 learns with second=dealt: the second hop of the same people with each other's places, in the same
    words and order."""

    dataset: str
    triplets: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.dataset}2 dealt"

    def pairs(self) -> list[tuple[str, str]]:
        facts = dealt(triplets(self.dataset, self.seed)[: self.triplets], self.dataset, self.seed)
        return [(e.question, e.answer) for e in examples(f"{self.dataset}2", facts)]


@dataclass(frozen=True)
class Documents:
    """Documents that state both hops of a triplet: each hop's question, answered by its statement and that of the other
    hop."""

    dataset: str
    triplets: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.dataset}1 and {self.dataset}2 in one document"

    def pairs(self) -> list[tuple[str, str]]:
        facts = triplets(self.dataset, self.seed)[: self.triplets]
        first, second = (examples(f"{self.dataset}{hop}", facts) for hop in "12")
        one_way = [(a.question, f"{a.answer} {b.answer}") for a, b in zip(first, second, strict=True)]
        return one_way + [(b.question, f"{b.answer} {a.answer}") for a, b in zip(first, second, strict=True)]


def experts(point: Latent, seed: int) -> list[Spec]:
    """The experts of the point's library, those of `two_hop` in the roles that they have there, so that they are
    trained once. The experts of both values of `second` start from the same adapter and see the same questions at the
    same steps."""
    first, second = f"{point.dataset}1", f"{point.dataset}2"
    learnt = (point.dataset, point.triplets, seed)
    if point.library == "document":
        return [lessons(Documents(*learnt), point, seed, DOCUMENT)]
    if point.library == "mixed":
        return trained(point, seed, [((first, second), (), list(EXPERTS).index("mixed") + 1)])
    both = trained(point, seed, [((first,), (), 1), ((second,), (), 2)] if point.library != "none" else [])
    return [both[0], lessons(Dealt(*learnt), point, seed, 2)] if point.second == "dealt" else both


def questions(point: Latent, seed: int) -> list[Question]:
    """The two-hop questions, then both one-hop questions of the same triplets and template numbers."""
    return [q for way in WAYS for q in asked(f"{point.dataset}12", point, seed, way)]


def sensible(point: Latent) -> Latent | None:
    """One expert is not composed, and has no second one; nor have the base and random adapters."""
    if point.composition == "base":
        return dataclasses.replace(point, library="none", second="right")
    if point.library == "none":
        return None
    if point.library != "2-combination":
        return dataclasses.replace(point, composition="alone", second="right")
    return dataclasses.replace(point, second="right") if point.composition == "random" else point


def bound(point: Latent) -> float | None:
    """Theory has a bound for two one-hop experts, whatever the second learns: a place of the n is right once in n at
    most."""
    return once_in_n(point) if point.library == "2-combination" else None


def ready(points: Sequence[Latent], options: Options) -> None:
    """Raises SettingError for triplets whose places cannot be dealt anew."""
    for dataset, count in dict.fromkeys((p.dataset, p.triplets) for p in points):
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            dealt(triplets(dataset, seed)[:count], dataset, seed)


def joined(asked: Asked) -> list[list[Marks]]:
    """Beside the records of the two-hop questions, what those of the one-hop questions say: the marks of `beside`."""
    dataset, size = asked.points[0].dataset, len(asked.questions) // len(WAYS)
    facts = triplets(dataset, asked.seed)[: asked.points[0].triplets]
    places = [(t.c, other.c) for t, other in zip(facts, dealt(facts, dataset, asked.seed), strict=True)]
    listed = [q.reference.example for q in asked.questions[:size]]
    found = []
    for point, records in zip(asked.points, asked.records, strict=True):
        direct, first, second = (records[i * size :][:size] for i in range(len(WAYS)))
        marks = beside(direct, first, second, places, point.second, chances(direct, listed, "direct"))
        found.append([*marks, *({} for _ in (*first, *second))])
    return found


def counts(point: Latent, questions: Sequence[Question], records: Sequence[Marks]) -> dict[str, Any]:
    """The counts of the two-hop questions, and how they go with the one-hop questions."""
    direct, size = records[: len(records) // len(WAYS)], len(records) // len(WAYS)
    measured = counted(direct, [q.reference.example for q in questions[:size]], "direct", point)
    return measured | hop_counts(direct, point.triplets) | dealt_counts(direct, point.triplets)


Records = Sequence[Marks]
"""A dictionary a question: what it is about, the answer, its marks."""


def beside(
    direct: Records,
    first: Records,
    second: Records,
    places: Sequence[tuple[str, str]],
    taught: str,
    chance: Sequence[float],
) -> list[dict[str, Any]]:
    """The records of the two-hop questions with what stands beside each: whether the one-hop questions of its triplet
    and template number are answered as the experts were taught (`first_kept`, `second_kept`), whether its answer names
    the person in between (`y_named`), whether that is the dealt place (`dealt_hit`), and its `chance`. `places` are the
    right and the dealt one of each triplet, `taught` is which expert 2 learnt."""
    is_place = lambda record, place: scored(record["answer"], place, everywhere(), everyone()).strict  # noqa: E731
    found = []
    for two, one, other, probability in zip(direct, first, second, chance, strict=True):
        right, not_right = places[two["triplet"]]
        marks = {"first_kept": one["strict"], "second_kept": is_place(other, right if taught == "right" else not_right)}
        marks |= {"y_named": two["bridge"] in named(two["answer"], everyone() | everywhere())}
        found.append({**two, **marks, "dealt": not_right, "dealt_hit": is_place(two, not_right), "chance": probability})
    return found


def hop_counts(records: Records, triplets: int) -> dict[str, Any]:
    """How many questions have a hop kept, or both, and how many of those are hits; how many answers name the person in
    between, and how many hits do; triplets with a hit. `permuted_both_kept` is what the answers with both hops kept
    would hit by chance."""
    both = [record for record in records if record["first_kept"] and record["second_kept"]]
    marked = {
        name: [record for record in records if record[name]] for name in ("first_kept", "second_kept", "y_named")
    } | {"both_kept": both}
    counts: dict[str, Any] = {"triplets_hit": len({record["triplet"] for record in records if record["strict"]})}
    for name, those in marked.items():
        counts |= {name: len(those), f"hits_{name}": sum(record["strict"] for record in those)}
    counts["permuted_both_kept"] = round(sum(record["chance"] for record in both), 4)
    counts["both_kept_by_triplet"] = _by_triplet(both, triplets)
    counts["hits_both_kept_by_triplet"] = _by_triplet([record for record in both if record["strict"]], triplets)
    return counts


def dealt_counts(records: Records, triplets: int) -> dict[str, Any]:
    """How many answers are the dealt place: what the chain through a dealt expert 2 gives, and beside a right one
    nobody's chain."""
    hits = [record for record in records if record["dealt_hit"]]
    both = sum(record["first_kept"] and record["second_kept"] for record in hits)
    return {"hits_dealt": len(hits), "hits_dealt_both_kept": both, "dealt_by_triplet": _by_triplet(hits, triplets)}


def _by_triplet(records: Records, triplets: int) -> list[int]:
    counted = Counter(record["triplet"] for record in records)
    return [counted[i] for i in range(triplets)]


KEPT = ("first_kept", "second_kept", "both_kept", "hits_both_kept", "permuted_both_kept")
COLUMNS = ("permuted", *KEPT, "hits_dealt", "y_named")


PROTOCOL = Protocol(
    __name__,
    Latent,
    experts,
    questions,
    score,
    observers=(log_probs, gates, joined),
    counts=counts,
    sensible=sensible,
    bound=bound,
    columns={name: share_of(name) for name in COLUMNS},
    ready=ready,
)

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
