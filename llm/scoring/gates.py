"""Routing weights at the two hops of a step-by-step answer."""

from collections.abc import Collection

from jaxtyping import Float
from torch import Tensor

from lora_reuse.llm.data.subsets import Example
from lora_reuse.llm.decoding.models import Base, example


def hop_gates(
    base: Base,
    asked: Example,
    answer: str,
    weights: Float[Tensor, "tokens experts"],
    people: Collection[str],
    places: Collection[str],
) -> dict[str, float]:
    """The routing weight of each hop's own expert: expert 1 in the first hop of `answer`, expert 2 in the second.

    `weights` are those of the answer's tokens. `gate_1_at_first_hop` and `gate_2_at_second_hop` are means over the
    tokens of a hop. `gate_1_at_first_answer` and `gate_2_at_second_answer` are the weights where the first token of the
    hop's answer is predicted: the last person (but the one asked about) or place that the hop names. The result is
    empty where the answer has no "Second"."""
    if not (asked.bridge and "Second" in answer and len(weights)):
        return {}
    second = answer.index("Second")
    border = min(_token(base, asked.question, answer, second), len(weights) - 1)
    found = {
        "gate_1_at_first_hop": float(weights[: max(border, 1), 0].mean()),
        "gate_2_at_second_hop": float(weights[border:, 1].mean()),
    }
    end = answer.find("Therefore", second)
    hops = (
        (1, "first", set(people) - {asked.subject}, 0, second),
        (2, "second", places, second, len(answer) if end < 0 else end),
    )
    for expert, hop, names, start, stop in hops:
        said = max(answer.rfind(name, start, stop) for name in names)
        if said >= 0:
            at = min(_token(base, asked.question, answer, said), len(weights) - 1)
            found[f"gate_{expert}_at_{hop}_answer"] = float(weights[at, expert - 1])
    return found


def _token(base: Base, question: str, answer: str, at: int) -> int:
    """The index of the answer's token that begins at character `at`, the first of a word: the first token that the text
    up to there lacks."""
    whole, before = (example(base, question, text)[1] for text in (answer, answer[:at]))
    return next(
        (i for i, pair in enumerate(zip(whole, before, strict=False)) if pair[0] != pair[1]),
        min(len(whole), len(before)),
    )
