"""Two-hop questions: what the protocols that ask them have in common. torch is not needed to read it."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from lora_reuse.llm.adapters.specs import Mixture, trained
from lora_reuse.llm.data.graphs import facts_of
from lora_reuse.llm.data.names import cities, fake_people, fake_places, people
from lora_reuse.llm.data.subsets import Example, examples
from lora_reuse.llm.protocols.protocol import Asked, Marks, Protocol, Question, Row, total
from lora_reuse.llm.scoring.chance import by_chance
from lora_reuse.llm.scoring.two_hop import direct, named, step_by_step
from lora_reuse.runs.settings import SettingError


class Hop(NamedTuple):
    """What a question of one hop or two is marked against: the example, the way it is asked ("direct", "steps",
    "first" or "second") and the two-hop subset that it belongs to, as "R12"."""

    example: Example
    way: str
    subset: str


def hop_protocol(
    module: str,
    axes: type,
    subset: Callable[[Any], str],
    library: Callable[[Any], Sequence[Mixture]],
    **others: Any,
) -> Protocol:
    """A protocol that asks the two-hop questions of `subset(point)`, or the one-hop questions of either relation, as
    `point.prompting` says. `library(point)` are its experts by the subsets they learn."""

    def experts(point: Any, seed: int) -> Sequence[Any]:
        return trained(point, seed, library(point))

    def questions(point: Any, seed: int) -> list[Question]:
        return asked(subset(point), point, seed, point.prompting)

    standard = {"experts": experts, "questions": questions, "score": score, "counts": counts}
    standard |= {"observers": (log_probs, gates), "columns": COLUMNS}
    return Protocol(module, axes, **(standard | others))


def asked(subset: str, point: Any, seed: int, way: str) -> list[Question]:
    """The held-out questions of a subset in one way, every triplet in every template of the split."""
    pair = subset[1:]
    kind = {"direct": pair, "steps": f"{pair}-CoT", "first": pair[0], "second": pair[1]}[way]
    found = examples(subset[0] + kind, facts_of(subset, point.triplets, seed), point.split)
    return [question(e, way, subset) for e in found]


def question(e: Example, way: str, subset: str) -> Question:
    """An example as it is put to a model. Questions about one triplet are a group."""
    return Question(e.question, str(e.triplet), e._asdict() | {"right": e.answer}, Hop(e, way, subset))


def subset_of(questions: Sequence[Question]) -> str:
    """The two-hop subset that questions belong to; "" for other questions."""
    return next((q.reference.subset for q in questions if isinstance(q.reference, Hop)), "")


def score(question: Question, answer: str) -> dict[str, Any]:
    """Whether the answer is right, strictly and leniently, and hop by hop when it is step by step."""
    return marks(question.reference.example, answer, question.reference.way)


def marks(e: Example, answer: str, way: str) -> dict[str, Any]:
    """The marks of an answer to an example that was asked in this way."""
    names, places = everyone(), everywhere()
    if way == "steps":
        return step_by_step(
            answer, subject=e.subject, bridge=e.bridge, gold=e.gold, people=names, places=places
        )._asdict()
    if way == "first":
        return direct(answer, e.gold, names - {e.subject})._asdict()
    return direct(answer, e.gold, places, names)._asdict()


@functools.cache
def everyone() -> frozenset[str]:
    """All people, fake and real."""
    return frozenset(fake_people()) | {person.name for person in people()}


@functools.cache
def everywhere() -> frozenset[str]:
    """All places, fake and real."""
    return frozenset(fake_places()) | frozenset(cities())


def log_probs(asked: Asked) -> list[list[Marks]]:
    """`llm.protocols.observers.log_probs`, which needs torch."""
    from lora_reuse.llm.protocols import observers

    return observers.log_probs(asked)


def gates(asked: Asked) -> list[list[Marks]]:
    """`llm.protocols.observers.gates`, which needs torch."""
    from lora_reuse.llm.protocols import observers

    return observers.gates(asked)


def counts(point: Any, questions: Sequence[Question], records: Sequence[Marks]) -> dict[str, Any]:
    """Counts of a row, and the chance controls: hits against permuted answers, and those of the best constant
    answer."""
    return counted(records, [q.reference.example for q in questions], questions[0].reference.way, point)


def counted(records: Sequence[Marks], asked: Sequence[Example], way: str, point: Any) -> dict[str, Any]:
    """The counts of records of examples that were asked in one way. Raises SettingError for a mean that is not
    finite."""
    by_triplet = [0] * point.triplets
    for e, record in zip(asked, records, strict=True):
        by_triplet[e.triplet] += bool(record["strict"])
    golds = [e.gold for e in asked]
    constant = max(golds.count(gold) for gold in set(golds))
    measured: dict[str, Any] = {"hits": sum(by_triplet), "total": len(records), "by_triplet": by_triplet}
    measured |= {"lenient": sum(bool(record["lenient"]) for record in records), "constant": constant}
    measured["permuted"] = round(sum(chances(records, asked, way)), 4)
    if way == "steps":
        for name in ("bridge_right", "gold_right_given_bridge", "template"):
            measured[name] = sum(bool(record[name]) for record in records)
        measured |= hops_by_gate(records)
    for name in sorted({name for record in records for name in record if name.startswith(("logp_", "gate_", "rank_"))}):
        measured[name] = fmean(record[name] for record in records if name in record)
        if not math.isfinite(measured[name]):
            raise SettingError(
                "dtype",
                f"{point.dtype}, and {name} is {measured[name]}",
                "a dtype in which the model's outputs are finite",
            )
        if name.startswith("logp_"):  # so that differences between candidates, and between rows, get errors
            each = [[record[name] for record in records if record["triplet"] == i] for i in range(point.triplets)]
            measured[f"{name}_by_triplet"] = [round(fmean(values), 6) for values in each]
    return measured


def chances(records: Sequence[Marks], asked: Sequence[Example], way: str) -> list[float]:
    """Of each answer, the probability of a hit if the right answers were dealt anew among the questions."""
    golds, anything = [e.gold for e in asked], everyone() | everywhere()
    right_for = []
    for e, record in zip(asked, records, strict=True):
        others = {*named(record["answer"], anything)}.intersection(golds) - {e.gold}
        said = [gold for gold in others if marks(e._replace(gold=gold), record["answer"], way)["strict"]]
        right_for.append([e.gold] if record["strict"] else said)
    return by_chance(golds, right_for)


def hops_by_gate(records: Sequence[Mapping[str, Any]]) -> dict[str, list[list[int]]]:
    """Counts [[right, wrong], [right, wrong]] of a hop's answers: those with more than half of the weight on the hop's
    expert as the answer is predicted, then the others.

    `hop_1_by_gate` counts all answers, `hop_2_by_gate` those whose first hop is right. The result is empty where no
    record has gates."""
    found = {}
    for hop, gate, right in (
        (1, "gate_1_at_first_answer", "bridge_right"),
        (2, "gate_2_at_second_answer", "gold_right_given_bridge"),
    ):
        judged = [
            (record[gate] > 0.5, record[right]) for record in records if gate in record and record[right] is not None
        ]
        if any(gate in record for record in records):
            found[f"hop_{hop}_by_gate"] = [
                [judged.count((routed, True)), judged.count((routed, False))] for routed in (True, False)
            ]
    return found


# The columns of the final table


def _lenient(rows: Sequence[Row]) -> str:
    return str(total(rows, "lenient")) if "lenient" in rows[0]["measured"] else ""


def _bridge(rows: Sequence[Row]) -> str:
    return percent(rows, "bridge_right", "total")


def _given(rows: Sequence[Row]) -> str:
    return percent(rows, "gold_right_given_bridge", "bridge_right")


def _form(rows: Sequence[Row]) -> str:
    return percent(rows, "template", "total")


def percent(rows: Sequence[Row], part: str, whole: str) -> str:
    """One count of rows as a share of another; "" where they do not have it, or it is of nothing."""
    if part not in rows[0]["measured"] or not total(rows, whole):
        return ""
    return f"{100 * total(rows, part) / total(rows, whole):.0f} %"


def _beyond(rows: Sequence[Row]) -> str:
    measured = [row["measured"] for row in rows]
    if not all("logp_z" in m and "logp_other" in m for m in measured):
        return ""
    return f"{fmean(m['logp_z'] for m in measured) - fmean(m['logp_other'] for m in measured):+.2f}"


COLUMNS: Mapping[str, Callable[[Sequence[Row]], str]] = {
    "lenient": _lenient,
    "B": _bridge,
    "C|B": _given,
    "form": _form,
    "z/other": _beyond,
}
"""Of all answers, how many name the right place among others; step by step: those with the right bridge B, of these
those with the right C, and those in the form that was asked for; by how much z is likelier than the other places."""
