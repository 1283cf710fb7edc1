"""The router's weight at each hop of a step-by-step answer, token by token, and the hops counted by it."""

import pytest
import torch

from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.decoding.models import example, load_base
from lora_reuse.llm.protocols.hops import hops_by_gate
from lora_reuse.llm.scoring.gates import hop_gates
from tests.llm.tiny import tiny

torch.set_num_threads(1)
ASKED = examples("F12-CoT", triplets("F")[:1], "test")
PEOPLE = {name for t in triplets("F") for name in (t.a, t.b, t.d)}
PLACES = {t.c for t in triplets("F")}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    text = " ".join(f"{e.question} {e.answer}" for e in ASKED)
    return load_base(str(tiny("qwen2", tmp_path_factory.mktemp("model"), text=text)))


def gates(base, e, answer):
    """Gates of weights that say at which token they are: expert 1's is the token's number, expert 2's a thousand
    more."""
    _, tokens = example(base, e.question, answer)
    numbers = torch.arange(len(tokens)).double()
    words = [base.tokenizer.decode([token]).strip() for token in tokens]
    return hop_gates(base, e, answer, torch.stack([numbers, numbers + 1000], dim=1), PEOPLE, PLACES), words


@pytest.mark.parametrize("e", ASKED, ids=["first template", "second template"])
def test_gates_are_those_where_the_hops_answers_are_predicted(base, e):
    found, words = gates(base, e, e.answer)
    second = words.index("Second")
    first = max(i for i, word in enumerate(words[:second]) if word == e.bridge)
    last = max(i for i, word in enumerate(words[: words.index("Therefore")]) if word == e.gold)
    assert found["gate_1_at_first_answer"] == first
    assert found["gate_2_at_second_answer"] == 1000 + last
    assert found["gate_1_at_first_hop"] == pytest.approx((second - 1) / 2)
    assert found["gate_2_at_second_hop"] == pytest.approx(1000 + (second + len(words) - 1) / 2)


def test_a_wrong_answer_has_its_own_place_and_no_name_has_none(base):
    e = ASKED[0]
    other, elsewhere = triplets("F")[5].b, triplets("F")[5].c
    found, words = gates(base, e, e.answer.replace(e.bridge, other).replace(e.gold, elsewhere))
    right, _ = gates(base, e, e.answer)
    assert (
        found["gate_1_at_first_answer"] <= right["gate_1_at_first_answer"] + 8
    )  # an unknown name is of several tokens
    assert words[int(found["gate_1_at_first_answer"])] == other[: len(words[int(found["gate_1_at_first_answer"])])]
    silent, _ = gates(base, e, "First, nobody. Second, nowhere. Therefore, nothing.")
    assert silent.keys() == {"gate_1_at_first_hop", "gate_2_at_second_hop"}
    assert gates(base, e, "It is unknown.")[0] == {}
    assert gates(base, e._replace(bridge=""), e.answer)[0] == {}


def test_hops_are_counted_by_their_gates():
    record = lambda g1, g2, b, c: {  # noqa: E731
        "gate_1_at_first_answer": g1,
        "gate_2_at_second_answer": g2,
        "bridge_right": b,
        "gold_right_given_bridge": c,
    }
    records = [
        record(0.9, 0.9, True, True),
        record(0.9, 0.1, True, False),
        record(0.2, 0.9, False, None),
        record(0.2, 0.2, True, True),
    ]
    records.append({"bridge_right": True, "gold_right_given_bridge": True})  # an answer without hops has no gates
    assert hops_by_gate(records) == {"hop_1_by_gate": [[2, 0], [1, 1]], "hop_2_by_gate": [[1, 0], [1, 1]]}
    assert hops_by_gate(records[-1:]) == {}
