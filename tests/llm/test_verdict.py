"""The verdict on a composition, against answers made by hand."""

from typing import Any

import pytest
import torch

from lora_reuse.llm.forecast.left_out import left_out
from lora_reuse.llm.forecast.measure import Answer, Composed
from lora_reuse.llm.forecast.subspace import Overlap, Scales
from lora_reuse.llm.forecast.verdict import bridge, forecast, signs


def answer(base, *adapters_and_composed, multiples=(0.0, 0.0), without=None) -> Answer:
    """Probabilities of three tokens by hand, under the base, each adapter and the composition, and of more than two
    adapters under the composition without each; every token sets off `multiples` of the adapters at scale 1."""
    *alone, said = adapters_and_composed
    best = [torch.full((3,), m) if isinstance(m, float) else torch.tensor(m) for m in multiples]
    overlaps = tuple(Overlap(m, torch.zeros(3, dtype=torch.long), m[:, None], m[:, None]) for m in best)
    each = Scales(torch.ones(3, len(alone)), torch.zeros(3))
    return Answer(
        "?",
        "x y z",
        ["x", "y", "z"],
        torch.tensor(base),
        torch.tensor(alone).T.contiguous(),
        torch.tensor(said),
        overlaps,
        each,
        None,
        torch.tensor(without or alone[::-1]).T.contiguous(),
    )


CASES = {
    "composed": answer(
        [0.9, 0.0, 0.1], [0.9, 1.0, 0.2], [0.9, 0.1, 1.0], [0.9, 1.0, 1.0], multiples=([0.0, 1.0, 0.2], [0.0, 0.1, 0.9])
    ),
    "a": answer(
        [0.9, 0.0, 0.1], [0.9, 1.0, 0.9], [0.9, 0.1, 0.1], [0.9, 1.0, 0.9], multiples=([0.0, 1.0, 1.0], [0.0, 0.1, 0.1])
    ),
    "b": answer(
        [0.9, 0.0, 0.1], [0.9, 0.1, 0.1], [0.9, 1.0, 0.9], [0.9, 1.0, 0.9], multiples=([0.0, 0.1, 0.1], [0.0, 1.0, 1.0])
    ),
    "base": answer([0.9, 0.9, 0.9], [0.9, 0.1, 0.8], [0.9, 0.2, 0.1], [0.8, 0.9, 0.9]),
    "mixture": answer(
        [0.1, 0.0, 0.1], [0.9, 1.0, 0.0], [0.1, 0.1, 0.0], [0.9, 1.0, 0.9], multiples=([0.6, 0.6, 0.6], [0.5, 0.5, 0.5])
    ),
}


@pytest.mark.parametrize("whose", CASES)
def test_whose_answer_it_is(whose):
    assert signs(CASES[whose]).whose == whose


def test_the_score_is_high_where_each_adapter_says_a_token_of_its_own_and_nobodys_are_none():
    scores = {name: signs(case).composes for name, case in CASES.items()}
    assert scores["composed"] == pytest.approx(0.8, abs=0.01)  # b's token has 0.2 under a
    assert max(score for name, score in scores.items() if name != "composed") <= 0.1
    assert signs(CASES["composed"]).composes_hidden == pytest.approx(0.7, abs=0.01)
    assert signs(CASES["mixture"]).composes_hidden < 0
    garbled = CASES["composed"]._replace(composed=torch.tensor([0.9, 1.0, 1.0]), base=torch.tensor([0.0, 0.0, 0.1]))
    garbled = garbled._replace(alone=torch.tensor([[0.0, 0.0], [1.0, 0.1], [0.2, 1.0]]))  # its first token is nobody's
    assert signs(garbled).composes == pytest.approx(-0.1, abs=0.01)
    assert signs(garbled).whose == "mixture"


def test_three_adapters_compose_where_each_says_a_token_that_no_other_says():
    nothing, said, apart = [0.1, 0.0, 0.0], [0.9, 1.0, 0.9], ([0.7, 0.0, 0.0], [0.0, 0.6, 0.0], [0.1, 0.1, 0.9])
    own = answer(nothing, [0.9, 0.1, 0.0], [0.1, 0.9, 0.1], [0.2, 0.1, 0.9], said, multiples=apart)
    assert signs(own).whose == "composed"
    assert signs(own).composes == pytest.approx(0.6, abs=0.01)  # a's token has 0.2 under c, b's is 0.1 more composed
    assert signs(own).composes_hidden == pytest.approx(0.5)
    shared = answer(nothing, [0.9, 0.1, 0.0], [0.1, 0.9, 0.1], [0.9, 0.1, 0.1], [0.9, 1.0, 0.1], multiples=apart)
    assert signs(shared).whose == "mixture"  # c says nothing that a does not say
    assert signs(shared).composes == pytest.approx(-0.1, abs=0.01)
    assert signs(answer(nothing, [0.1, 0.1, 0.1], [0.1, 0.1, 0.1], said, said, multiples=apart)).whose == "c"
    assert set(signs(own).numbers()) >= {"a", "c", "nobody", "lacks_base", "lacks_c", "hidden_c", "needs_c"}


def test_an_answer_of_three_is_united_where_it_changes_without_each_of_them():
    """Two of them together say what none says alone; the third adds nothing."""
    models = [0.1, 0.0, 0.0], [0.1, 0.0, 0.0], [0.1, 0.1, 0.0], [0.1, 0.0, 0.1], [0.9, 0.9, 0.8]
    changed = [0.1, 0.9, 0.8], [0.9, 0.1, 0.8], [0.9, 0.9, 0.1]
    of_two = answer(*models, multiples=(0.0,) * 3, without=[*changed[:2], models[-1]])
    assert signs(of_two).needs == pytest.approx((0.8, 0.8, 0.0), abs=0.01)
    assert signs(of_two).size > 0.7
    assert signs(of_two).united == pytest.approx(0, abs=0.01)
    of_three = answer(*models, multiples=(0.0,) * 3, without=changed)
    assert signs(of_three).united == pytest.approx(0.7, abs=0.01)
    assert signs(CASES["composed"]).needs == pytest.approx((0.9, 0.8), abs=0.01)  # of two, without one is the other
    assert signs(CASES["composed"]).united == signs(CASES["composed"]).size


def test_answers_that_are_united_in_two_ways_do_not_cancel():
    """One takes a token from each adapter, the other has one that no model says alone."""
    new = CASES["base"]._replace(base=torch.zeros(3), alone=torch.zeros(3, 2))
    assert signs(new).composes == pytest.approx(-0.9)
    found = forecast(Composed([CASES["composed"], new], [torch.ones(1)] * 2, [torch.ones(1)] * 2))
    assert found.score == pytest.approx(-0.05, abs=0.01)
    assert found.united == pytest.approx(0.85, abs=0.01)


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ((0.5, 0.2, 0.3), (0.2, 0.3)),
        ([0.5, 0.2, 0.3], (0.2, 0.3)),
        ({"m": (0.5, 0.2, 0.3)}, {"m": (0.2, 0.3)}),
        ("0-1=1:0:1/rest=0:1:0", "0-1=0:1/rest=1:0"),
        ("1:0:1", "0:1"),
        (None, None),
    ],
)
def test_the_weight_of_an_expert_goes_with_it(given, left, monkeypatch):
    made: list[dict[str, Any]] = []
    monkeypatch.setattr("lora_reuse.llm.forecast.left_out.compose", lambda rule, library, **dials: made.append(dials))
    left_out([{}, {}, {}], "cat", {"weights": given, "top_k": 3, "density": 0.5})
    assert made[0] == {"weights": left, "top_k": 2, "density": 0.5}
    assert len(made) == 3


def test_what_a_bridge_would_change():
    assert "a prompt of a, b or c." in bridge([False, False, False])
    assert "only b alone answers" in (said := bridge([False, True, False]))
    assert "the training data of a and c would" in said
    assert "only a and c alone answer the" in bridge([True, False, True])
    assert "more examples add nothing" in bridge([True, True])
