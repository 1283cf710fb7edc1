"""Where a router sends the two hops of a step-by-step answer, and what comes of it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from llm.data.subsets import Example
from llm.models import Base, example


def hop_gates(
    base: Base, asked: Example, answer: str, weights: Float[Tensor, "tokens experts"], people: Collection[str], places: Collection[str]
) -> dict[str, float]:
    """The weight of expert 1 in the first hop of `answer` and of expert 2 in the second: `gate_1_at_first_hop`, `gate_2_at_second_hop` over
    the hop's tokens, `gate_1_at_first_answer`, `gate_2_at_second_answer` where the first token of the hop's answer is predicted, the last
    person (but the one asked about) or place that the hop names. Nothing where the answer has no "Second"; `weights` are those of its tokens."""
    if not (asked.bridge and "Second" in answer and len(weights)):
        return {}
    second = answer.index("Second")
    border = min(_token(base, asked.question, answer, second), len(weights) - 1)
    found = {"gate_1_at_first_hop": float(weights[: max(border, 1), 0].mean()), "gate_2_at_second_hop": float(weights[border:, 1].mean())}
    end = answer.find("Therefore", second)
    hops = ((1, "first", set(people) - {asked.subject}, 0, second), (2, "second", places, second, len(answer) if end < 0 else end))
    for expert, hop, names, start, stop in hops:
        said = max(answer.rfind(name, start, stop) for name in names)
        if said >= 0:
            at = min(_token(base, asked.question, answer, said), len(weights) - 1)
            found[f"gate_{expert}_at_{hop}_answer"] = float(weights[at, expert - 1])
    return found


def _token(base: Base, question: str, answer: str, at: int) -> int:
    """Which of the answer's tokens begins at character `at`, a word's first: the first that the text up to there does not have."""
    whole, before = (example(base, question, text)[1] for text in (answer, answer[:at]))
    return next((i for i, pair in enumerate(zip(whole, before, strict=False)) if pair[0] != pair[1]), min(len(whole), len(before)))


def hops_by_gate(records: Sequence[Mapping[str, Any]]) -> dict[str, list[list[int]]]:
    """[[right, wrong], [right, wrong]] answers of a hop, where the gate is more than half on its expert as the answer is predicted, and where
    it is not: `hop_1_by_gate`, and `hop_2_by_gate` of the answers with the right bridge. Nothing without gates."""
    found = {}
    for hop, gate, right in ((1, "gate_1_at_first_answer", "bridge_right"), (2, "gate_2_at_second_answer", "gold_right_given_bridge")):
        judged = [(record[gate] > 0.5, record[right]) for record in records if gate in record and record[right] is not None]
        if any(gate in record for record in records):
            found[f"hop_{hop}_by_gate"] = [[judged.count((routed, True)), judged.count((routed, False))] for routed in (True, False)]
    return found
