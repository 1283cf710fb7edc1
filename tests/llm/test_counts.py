"""Every count, control and label of a row on a tiny case that is reckoned by hand; and a mistake planted in each, which
the case has to show.

A number that is only there, or that is summed over labels before it is looked at, could be another's. So no two numbers
of a case are alike."""

# ruff: noqa: E501 (a planted mistake a line)

import inspect
import textwrap
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lora_reuse.llm import edit
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.data.names import fake_people, fake_places
from lora_reuse.llm.data.subsets import Example, examples
from lora_reuse.llm.decoding import greedy as decoding
from lora_reuse.llm.edit import KEPT, Edit
from lora_reuse.llm.protocols import ask as asking
from lora_reuse.llm.protocols import composed as composing
from lora_reuse.llm.protocols import hops, observers, protocol
from lora_reuse.llm.protocols.protocol import Asked, Protocol, Question
from lora_reuse.llm.protocols.settings import Options
from lora_reuse.llm.scoring import chance

FACTS = triplets("F")[:3]
A, B, C = (fact.c for fact in FACTS)


def question(gold, triplet, subject="", bridge=""):
    return Example(f"where? {triplet}", f"It is {gold}.", subject, bridge, gold, triplet, 0)


def planted(function: Any, right: str, wrong: str) -> Any:
    """The function with one place of its source changed."""
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    assert source.count(right) == 1, f"{right!r} is {source.count(right)} times in {function.__name__}"
    names = dict(inspect.unwrap(function).__globals__)
    exec(source.replace(right, wrong), names)
    return names[function.__name__]


# Counts of a row


def directly(counted):
    """Five questions: A is right of three, B and C of one each. The answers: A, A, B for A; A for B; and B and C for
    C."""
    asked = [question(A, 0), question(A, 0), question(A, 2), question(B, 1), question(C, 1)]
    said = [A, A, B, A, f"{B}, {C}"]
    records: Any = [
        e._asdict() | {"answer": answer} | hops.marks(e, answer, "direct")
        for e, answer in zip(asked, said, strict=True)
    ]
    for i, record in enumerate(records):
        record |= {"logp_z": -1.0 - i, "rank_z": float(i * i)}
    return counted(records, asked, "direct", SimpleNamespace(triplets=3, dtype="float32"))


def constant_is_the_best_answers(counted):
    """A is right of three questions, so the best constant answer hits three."""
    assert directly(counted)["constant"] == 3


def permuted_is_what_these_answers_hit_by_chance(counted):
    """Dealt anew, each answer A is right in 3/5 and B in 1/5: 3·3/5 + 1/5; the one that names two places never is."""
    assert directly(counted)["permuted"] == pytest.approx(3 * 3 / 5 + 1 / 5)


def triplets_are_in_their_places(counted):
    """Both hits are of triplet 0; triplet 1 has two misses, one of which names the place among others."""
    measured = directly(counted)
    assert (measured["hits"], measured["total"], measured["lenient"], measured["by_triplet"]) == (2, 5, 3, [2, 0, 0])


def numbers_are_means_and_those_of_triplets_are_in_order(counted):
    """log p is -1 to -5, of triplets 0, 0, 2, 1, 1; ranks are 0, 1, 4, 9, 16."""
    measured = directly(counted)
    assert (measured["logp_z"], measured["logp_z_by_triplet"], measured["rank_z"]) == (-3.0, [-1.5, -4.5, -3.0], 6.0)


def the_bound_is_of_hits(asked):
    """A quarter of five."""
    asked.__globals__.update(_records=lambda *_: [[{"right": True}] * 5], keep=lambda *_: None)
    bounded = Protocol(__name__, Edit, lambda *_: (), lambda *_: (), bound=lambda point: 0.25)
    none: Any = None
    cell = asking.Asking((Edit(), 0), none, "", [Question("", "", {}, None)] * 5, ())
    (result,) = asked(none, bounded, [cell], Options()).values()
    assert result["predicted"] == {"at_most": 1.25}


def hops_are_counted_apart(counted):
    """Of six answers five have the template, three the bridge, and two of these the place."""
    marks = [(1, 1, 1), (1, 1, 1), (1, 0, 1), (0, None, 1), (0, None, 1), (0, None, 0)]
    asked = [question(A, i % 3) for i in range(6)]
    named = ("bridge_right", "gold_right_given_bridge", "template")
    judged: dict[str, Any] = {"strict": False, "lenient": False, "answer": ""}
    records = [
        judged | {name: value if value is None else bool(value) for name, value in zip(named, mark, strict=True)}
        for mark in marks
    ]
    measured = counted(records, asked, "steps", SimpleNamespace(triplets=3, dtype="float32"))
    assert [measured[name] for name in named] == [3, 2, 5]


# Log-probabilities of candidates

LIKELY = {"old": -3.0, "old first": -5.0, "old second": -7.0, "Y": -11.0, A: -2.0, B: -1.0, C: -4.0}


@pytest.fixture(autouse=True)
def stubs(monkeypatch):
    """A base that has said three old answers, and gives each candidate its own log-probability."""
    observers._old.clear()
    monkeypatch.setattr(
        observers,
        "old_answers",
        lambda base, asked, *_: tuple([name] * len(asked) for name in ("old", "old first", "old second")),
    )
    monkeypatch.setattr(
        observers,
        "likelihoods",
        lambda base, listed, asked, begun, columns, rows: [
            [[LIKELY[c] for c in line] for line in columns] for _ in listed
        ],
    )
    yield
    observers._old.clear()


def each_candidate_has_its_own_column(candidates):
    """Asked for A, the others are B and C, of which B alone is likelier: -2.5 on average, and rank 1. Asked for B
    nothing is."""
    base: Any = SimpleNamespace(digest="d", chat=False)
    asked = [
        question(A, 0, bridge="Y"),
        question(A, 0, bridge="Y"),
        question(B, 1, bridge="Y"),
        question(C, 2, bridge="Y"),
    ]
    ((first, _, second, third),) = candidates(base, [None], asked, FACTS, "F12", "test", 8)
    old = {"logp_old": -3.0, "logp_old_first": -5.0, "logp_old_second": -7.0, "logp_y": -11.0}
    assert first == old | {"logp_z": -2.0, "logp_other": -2.5, "rank_z": 1.0}
    assert second == old | {"logp_z": -1.0, "logp_other": -3.0, "rank_z": 0.0}
    assert third == old | {"logp_z": -4.0, "logp_other": -1.5, "rank_z": 2.0}


def the_old_answers_are_to_two_hops_and_to_either(olds):
    """The stub answers with whom it was asked about, and says what it was asked: two hops of x, x's hop, y's hop. Of
    five people x is not an own spouse, nor is y, whom the edit names; and of the places after the first hundred one is
    named by an edit."""
    asked_in_turn = []

    def likeliest(base, asked, candidates, rows):
        asked_in_turn.append((asked[0].subject, asked[0].gold, set(candidates[0])))
        return [f"{e.subject}'s" for e in asked]

    x, y = FACTS[0].a, FACTS[0].b
    people, places = fake_people()[50:53], fake_places()[150:152]
    olds.__globals__.update(
        _likeliest=likeliest,
        fake_people=lambda: (x, *people, y),
        fake_places=lambda: (*fake_places()[:100], A, *places),
    )
    asked = examples("F12", FACTS, "test")
    base: Any = None
    two_hop, first, second = olds(base, asked, FACTS, "F12", "test", 8)
    assert (two_hop[0], first[0], second[0]) == (f"{x}'s", f"{x}'s", f"{y}'s")
    assert asked_in_turn == [(x, A, {*places}), (x, y, {*people}), (y, A, {*places})]


# Gates


def gates_are_in_the_order_of_the_experts(weighed):
    """Over two tokens expert 1 has 0.1 and 0.3, expert 2 what is left."""
    routed = weighed.__globals__["RoutedDelta"]
    weighed.__globals__["routing"] = lambda *_: [torch.tensor([[0.1, 0.9], [0.3, 0.7]])]
    weighed.__globals__["hop_gates"] = lambda *_: {}
    composition: Any = {"module": object.__new__(routed)}
    base: Any = None
    (found,) = weighed(base, composition, [question(A, 0)], [A], 8)
    assert found == pytest.approx({"gate_1": 0.2, "gate_2": 0.8})


# Experts side by side


def updates_are_measured_against_the_weights_and_prototypes_against_each_other(collided):
    """W is the 3 by 4 matrix of norm 2 in two modules. Norms of the updates are 1, 2, 3 and 4, 5, 6: 3.5 on average,
    and 1.75 of ‖W‖. Their directions are (1, 0), (0.6, 0.8), (0, 1) and (1, 0), (1, 0), (-1, 0) of the first two
    inputs: |cos| is 0.6, 0, 0.8 and 1, 1, 1."""
    model: Any = nn.ModuleDict({name: nn.Linear(4, 3, bias=False) for name in ("one", "two")}).requires_grad_(False)
    for module in model.values():
        nn.init.zeros_(module.weight)
        module.weight[0, 3] = 2.0
    directions = {"one": ((1.0, 0.0), (0.6, 0.8), (0.0, 1.0)), "two": ((1.0, 0.0), (1.0, 0.0), (-1.0, 0.0))}
    norms = {"one": (1.0, 2.0, 3.0), "two": (4.0, 5.0, 6.0)}

    def update(name, i):
        out, into = torch.zeros(3, 1), torch.zeros(4, 1)
        out[1, 0], into[:2, 0] = norms[name][i], torch.tensor(directions[name][i])
        return LowRank(out, into)

    library = [{name: update(name, i) for name in model} for i in range(3)]
    base: Any = SimpleNamespace(model=model)
    assert collided(base, library) == pytest.approx({"update_ratio": 1.75, "prototype_cos": (1.4 / 3 + 1) / 2})
    assert collided(base, library[:1]).keys() == {"update_ratio"}


# Edits


def edited(stays, counts):
    """What is measured of three people's questions under two templates: all of the same relation stay, of the same
    entity those of the first person, and of another relation one of the third."""
    one, other = fake_people()[50:52]
    point = Edit(dataset="F", triplets=3, library="1", prompting="neighbours")
    asked = edit.questions(point, 0)
    kept = [True] * 6 + [True, False, False] * 2 + [False] * 5 + [True]
    said, none = [one if same else other for same in kept], None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "answers", lambda *_: [[one] * len(asked)])
        (marks,) = stays(Asked(none, 0, [point], [none], asked, [said], [[]], Options()))  # pyright: ignore
    records = [{**q.about, "answer": text, **mark} for q, text, mark in zip(asked, said, marks, strict=True)]
    return counts(point, asked, records)


def an_edit_keeps_by_kind_and_triplet(counts):
    check_edited(edited(edit.stays, counts))


def what_the_base_says_stays(stays):
    check_edited(edited(stays, edit.counts))


def check_edited(measured):
    kept = {kind: measured[f"kept_{kind}_by_triplet"] for kind in KEPT}
    assert kept == {"same_relation": [2, 2, 2], "same_entity": [2, 0, 0], "unrelated": [0, 0, 1]}
    assert [measured[f"asked_{kind}"] for kind in KEPT] == [6, 6, 6]
    assert (measured["hits"], measured["total"], measured["by_triplet"]) == (9, 18, [4, 2, 3])


# Exams


def groups_are_in_the_order_in_which_they_are_asked(counted):
    """Group b has three questions and one is right, group a two and both are; three answers are text, two say it after
    a mark."""
    asked = [Question("", group, {}, "") for group in "babba"]
    marks = [
        {"right": r, "marked": m, "kind": k} for r, m, k in zip((0, 1, 1, 0, 1), (0, 1, 0, 1, 0), "tttcu", strict=True)
    ]
    kinds = {"t": "text", "c": "code", "u": "unidentified"}
    marks = [
        mark | {"right": bool(mark["right"]), "marked": bool(mark["marked"]), "kind": kinds[mark["kind"]]}
        for mark in marks
    ]
    measured = counted(None, asked, marks)
    assert (measured["hits"], measured["total"], measured["by_group"], measured["group_sizes"]) == (
        3,
        5,
        [1, 2],
        [3, 2],
    )
    assert {name: value for name, value in measured.items() if name.startswith(("kind", "marked"))} == {
        **{"marked": 2, "kind_text": 3},
        **{"kind_code": 1, "kind_unidentified": 1},
    }


MISTAKES = [
    (constant_is_the_best_answers, hops.counted, "constant = max(", "constant = min("),
    (permuted_is_what_these_answers_hit_by_chance, hops.chances, "[e.gold] if", "[] if"),
    (permuted_is_what_these_answers_hit_by_chance, hops.chances, "else said", "else []"),
    (permuted_is_what_these_answers_hit_by_chance, chance.by_chance, "times[gold]", "1"),
    (triplets_are_in_their_places, hops.counted, "by_triplet[e.triplet]", "by_triplet[2 - e.triplet]"),
    (triplets_are_in_their_places, hops.counted, 'bool(record["lenient"])', 'bool(record["strict"])'),
    (
        numbers_are_means_and_those_of_triplets_are_in_order,
        hops.counted,
        'if record["triplet"] == i]',
        'if record["triplet"] == point.triplets - 1 - i]',
    ),
    (numbers_are_means_and_those_of_triplets_are_in_order, hops.counted, "fmean(record[name] for", "max(record[name] for"),
    (the_bound_is_of_hits, asking.asked, "total * bound", "bound"),
    (hops_are_counted_apart, hops.counted, "bool(record[name])", "bool(record['template'])"),
    (hops_are_counted_apart, hops.counted, "bool(record[name])", "record[name] is not None"),
    (hops_are_counted_apart, hops.counted, "sum(bool(record[name]) for record in records)", "sum(bool(record[name]) for record in records[:4])"),
    (each_candidate_has_its_own_column, observers.candidate_log_probs, "old[i], first[i], second[i]", "old[i], second[i], first[i]"),
    (each_candidate_has_its_own_column, observers.candidate_log_probs, "e.bridge, e.gold, *", "e.gold, e.bridge, *"),
    (each_candidate_has_its_own_column, observers.candidate_log_probs, "np.mean(v[5:])", "np.mean(v[4:])"),
    (each_candidate_has_its_own_column, observers.candidate_log_probs, "other > v[4]", "other < v[4]"),
    (the_old_answers_are_to_two_hops_and_to_either, observers.old_answers, "first, second = (", "second, first = ("),
    (the_old_answers_are_to_two_hops_and_to_either, observers.old_answers, "if n not in (e.subject, e.gold)", "if n != e.gold"),
    (the_old_answers_are_to_two_hops_and_to_either, observers.old_answers, "if place not in edited", "if place"),
    (gates_are_in_the_order_of_the_experts, observers.gate_weights, 'f"gate_{k + 1}"', 'f"gate_{2 - k}"'),
    (gates_are_in_the_order_of_the_experts, observers.gate_weights, "weights.mean(0)", "weights[0]"),
    (updates_are_measured_against_the_weights_and_prototypes_against_each_other, composing.collisions, "len(v), len(v), 1)", "len(v), len(v), 0)"),
    (updates_are_measured_against_the_weights_and_prototypes_against_each_other, composing.collisions, "(v @ v.T).abs()", "(v @ v.T)"),
    (updates_are_measured_against_the_weights_and_prototypes_against_each_other, composing.collisions, "sum(ratios) / len(ratios)", "max(ratios)"),
    (what_the_base_says_stays, edit.stays, "_first_named(old, q", "_first_named(new, q"),
    (an_edit_keeps_by_kind_and_triplet, edit.counts, "kept_{kind}_by_triplet", "kept_{KEPT[-1 - KEPT.index(kind)]}_by_triplet"),
    (an_edit_keeps_by_kind_and_triplet, edit._by_triplet, 'record["triplet"]', '2 - record["triplet"]'),
    (groups_are_in_the_order_in_which_they_are_asked, protocol.counted, "groups: dict[str, list[bool]] = {}", "groups = {name: [] for name in 'ab'}"),
    (groups_are_in_the_order_in_which_they_are_asked, protocol.counted, "[len(group) for group in groups.values()]", "right"),
]  # fmt: skip


def named(mistake):
    return f"{mistake[1].__name__}: {mistake[3]}"


@pytest.mark.parametrize(
    ("case", "function"),
    dict.fromkeys((case, function) for case, function, *_ in MISTAKES),
    ids=lambda part: part.__name__,
)
def test_by_hand(case, function, monkeypatch):
    check(case, function, planted(function, "def ", "def "), monkeypatch)


@pytest.mark.parametrize("mistake", MISTAKES, ids=named)
def test_a_planted_mistake_shows(mistake, monkeypatch):
    case, function, right, wrong = mistake
    with pytest.raises(AssertionError):
        check(case, function, planted(function, right, wrong), monkeypatch)


def check(case, function, made, monkeypatch):
    """The case of the function as made: itself, or, of a part of another, that with it."""
    for part, module, whole in (
        (hops.chances, hops, hops.counted),
        (chance.by_chance, hops, hops.counted),
        (edit._by_triplet, edit, edit.counts),
    ):
        if function is part:
            monkeypatch.setattr(module, part.__name__, made)
            made = planted(whole, "def ", "def ")
    case(made)
