"""lora-reuse edit model=Qwen/Qwen2.5-3B-Instruct depth=0.3

Do answers flip when facts are written into one MLP layer in closed form, with no adapter trained? The form is that of
Proposition 1 and eq. 23 (covariance=rome: Meng et al. 2022). Do they flip in the template they were written at, and in
others? Does the two-hop fact follow, when the edits of both hops are added (composition=sum, Theorem 2) or written at
once (joint)? Are other people's answers kept?

data=FILE writes facts of a file instead, `facts` of them at once, in CounterFact's form or a phone book's
(llm/data/fact_files.py says how): each is asked in the prompt it was written at (own), in others (paraphrases) and
beside it (neighbours). With CounterFact's form its measures are printed, too, of the base and of the edited model
(llm/protocols/rewrites.py says which). facts=1 seeds=100 writes one at a time, as Meng et al. do."""

import dataclasses
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lora_reuse.llm.data.fact_files import FORMS, facts
from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.edits.neighbours import neighbours
from lora_reuse.llm.protocols import hops, rewrites
from lora_reuse.llm.protocols.bound import once_in_n
from lora_reuse.llm.protocols.controls import Control, own_hops
from lora_reuse.llm.protocols.hops import asked, question
from lora_reuse.llm.protocols.protocol import Asked, Marks, Protocol, Question, main
from lora_reuse.llm.protocols.settings import Answered, Dataset, Model, Options
from lora_reuse.llm.scoring.two_hop import named
from lora_reuse.runs.grid import Cell
from lora_reuse.runs.settings import Choice, Number, Text, Whole, setting

HOPS = {"1": (1,), "2": (2,), "2-combination": (1, 2)}
KEPT = ("same_relation", "same_entity", "unrelated")
"""The kinds of neighbours."""
ASKED = ("own", "first", "second", "direct", "steps", "paraphrases", "neighbours")


@dataclass(frozen=True)
class Edit(Dataset, Answered, Model):
    """Edits of one hop, or of both."""

    depth: float = setting(
        0.35, Number(0, 1), "the layer that is written to: 0 the first, 1 the last", grid=(0.0, 0.35, 0.7, 1.0)
    )
    templates: int = setting(1, Whole(1, 46), "training templates that each fact is written at")
    covariance: str = setting(
        "identity",
        Choice("identity", "rome"),
        "C of the least change: I, or that of the keys of other text",
        grid=("identity", "rome"),
    )
    ridge: float = setting(0.01, Number(0, 1e6), "covariance=rome: added to C's diagonal, in units of its mean")
    value_steps: int = setting(25, Whole(1, 10**5), "steps of Adam that search the layer's new output")
    value_rate: float = setting(0.5, Number(0, 1e3), "their rate, in units of the output's root mean square")
    value_decay: float = setting(
        0.05, Number(0, 1e6), "the weight of the squared change, in units of the output's square, beside nats a token"
    )
    value_clamp: float = setting(4.0, Number(0, 1e6), "the longest change, in units of the output's length")
    library: str = setting(
        "2-combination",
        Choice("1", "2", "2-combination"),
        "the edits of the first hop, of the second, or both",
        grid=("1", "2", "2-combination"),
    )
    composition: str = setting(
        "sum", Choice("sum", "joint"), "both: added, or written at once (eq. 23 over all facts)", grid=("sum", "joint")
    )
    prompting: str = setting(
        "direct",
        Choice(*ASKED),
        "own: the questions that were written at; first, second: held-out templates of a hop; direct, steps: two hops;"
        " paraphrases: of a file's facts; neighbours: people whom no edit names, where a hit is an answer that stays",
        grid=ASKED,
    )
    data: str = setting("", Text(FORMS), "facts that are written instead of the dataset's", omitted=True)
    facts: int = setting(20, Whole(1, 10**5), "data: facts that are written at once", omitted=True)


def sensible(point: Edit) -> Edit | None:
    """The edits of one hop are not composed, and are asked what they hold. Those of a file have one hop."""
    if point.data:
        alone = point.library == "1" and point.prompting in rewrites.ASKED
        return dataclasses.replace(point, composition="sum", templates=1) if alone else None
    if point.prompting == "paraphrases":
        return None
    if point.library == "2-combination":
        return point
    if point.prompting not in ("own", "neighbours", {"1": "first", "2": "second"}[point.library]):
        return None
    return dataclasses.replace(point, composition="sum")


def questions(point: Edit, seed: int) -> list[Question]:
    """The very questions that the facts were written at (own), those whose answers nobody edited (neighbours), or the
    held-out questions of a hop or of both; or what a file asks of its facts."""
    if point.data:
        chosen = enumerate(facts(point.data, seed)[: point.facts])
        return [it for i, fact in chosen for it in rewrites.asked(fact, point.prompting, str(i), {})]
    subset, chosen = f"{point.dataset}12", triplets(point.dataset, seed)[: point.triplets]
    if point.prompting == "own":
        return [
            question(e, ("first", "second")[hop - 1], subset)
            for hop in HOPS[point.library]
            for e in examples(f"{point.dataset}{hop}", chosen, "train", point.templates)
        ]
    if point.prompting == "neighbours":
        return [
            Question(e.question, str(e.triplet), {"kind": kind, **e._asdict()}, e)
            for kind in KEPT
            for hop in HOPS[point.library]
            for e in neighbours(kind, hop, chosen, point.split)
        ]
    return asked(subset, point, seed, point.prompting)


def score(question: Question, answer: str) -> Marks:
    """The marks of an answer to an edited fact; those of a neighbour need the base's answer (`stays`)."""
    if isinstance(question.reference, rewrites.Wanted):
        return rewrites.score(question, answer)
    return hops.score(question, answer) if isinstance(question.reference, hops.Hop) else {}


def stays(asked: Asked) -> list[list[Marks]]:
    """Of the answers to neighbours, whether each first names whom or what the base's first names; with data, whether it
    names the same of the fact's two answers."""
    if asked.points[0].prompting != "neighbours":
        return [[{} for _ in asked.questions] for _ in asked.answers]
    from lora_reuse.llm.decoding import greedy

    prompts, rows = [q.prompt for q in asked.questions], asked.options.batch_rows
    (before,) = greedy.answers(asked.base, [None], prompts, asked.points[0].answer_tokens, rows)
    hits = ("right",) if asked.points[0].data else ("strict", "lenient")
    found = []
    for after in asked.answers:
        marks = []
        for q, old, new in zip(asked.questions, before, after, strict=True):
            same = _said(q, old) == _said(q, new)
            marks.append({"base": old, **dict.fromkeys(hits, same)})
        found.append(marks)
    return found


def _said(question: Question, answer: str) -> Any:
    if isinstance(question.reference, rewrites.Wanted):
        return rewrites.score(question, answer)
    everything, subject = hops.everyone() | hops.everywhere(), question.reference.subject
    return next((name for name in named(answer, everything) if name != subject), "")


def counts(point: Edit, questions: Sequence[Question], records: Sequence[Marks]) -> dict[str, Any]:
    """What a row measures: hits by triplet; of neighbours also by their kind. With data, `rewrites.counts`."""
    if point.data:
        return rewrites.counts(point, questions, records)
    if point.prompting not in ("own", "neighbours"):
        return hops.counts(point, questions, records)
    by_triplet = _by_triplet(point, records)
    measured: dict[str, Any] = {"hits": sum(by_triplet), "total": len(records), "by_triplet": by_triplet}
    measured["lenient"] = sum(record["lenient"] for record in records)
    for kind in KEPT if point.prompting == "neighbours" else ():
        chosen = [record for record in records if record["kind"] == kind]
        measured |= {f"kept_{kind}_by_triplet": _by_triplet(point, chosen), f"asked_{kind}": len(chosen)}
    return measured


def _by_triplet(point: Edit, records: Sequence[Marks]) -> list[int]:
    hits = Counter(record["triplet"] for record in records if record["strict"])
    return [hits[i] for i in range(point.triplets)]


def bound(point: Edit) -> float | None:
    """Theory has a bound for the edits of both hops, added or written at once."""
    return once_in_n(point) if point.library == "2-combination" else None


def controls(point: Edit) -> tuple[Control, ...]:
    """Of two hops: what is left of the edits of either."""
    return own_hops(point) if point.library == "2-combination" else ()


def ready(points: Sequence[Edit], options: Options) -> None:
    """Raises SettingError for a file that cannot be read, or that has too few facts, or none of what is asked."""
    for point in points:
        if point.data:
            found = questions(point, options.first_seed)
            rewrites.enough(point, "prompting", point.facts, found, options.first_seed)


def ask(base: Any, protocol: Protocol, cells: list[Cell], options: Options) -> list[tuple[Cell, dict[str, Any]]]:
    """`llm.edits.editing.ask`, which needs torch."""
    from lora_reuse.llm.edits import editing

    return editing.ask(base, protocol, cells, options)


PROTOCOL = Protocol(
    __name__,
    Edit,
    lambda point, seed: (),
    questions,
    score,
    observers=(hops.log_probs, hops.gates, rewrites.preferences, stays),
    counts=counts,
    sensible=sensible,
    bound=bound,
    controls=controls,
    columns=hops.COLUMNS,
    below=rewrites.below,
    ready=ready,
    ask=ask,
)

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
