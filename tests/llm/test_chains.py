"""Chains of experts: what is drawn and taught, what is asked, what is right, who is known, which rows are controls."""

import dataclasses
import random

import pytest

from lora_reuse.llm.adapters.specs import lessons
from lora_reuse.llm.chains import PROTOCOL, Chains, bound, controls, counts, experts, questions, score, sensible
from lora_reuse.llm.data.chains import MOST, RELATIONS, Taught, asked, chains, described, hops_of
from lora_reuse.llm.data.names import people
from lora_reuse.llm.protocols.controls import verdicts
from lora_reuse.llm.protocols.dials import TRAINED
from lora_reuse.runs.settings import SettingError
from tests.rows_of_models import row

POINT = Chains(hops=4, triplets=3, split="test")
KNOWN = {person.name: person for person in people()}


@pytest.mark.parametrize("fake", [False, True])
def test_nobody_and_no_place_is_twice_and_no_fact_is_true(fake):
    for seed in range(20):
        drawn = chains(MOST, seed, fake)
        named = [name for chain in drawn for name in chain]
        assert len(named) == len(set(named)) == MOST * (len(RELATIONS) + 1)
        assert drawn[:5] == chains(5, seed, fake) != chains(5, seed + 1, fake)
        for *whom, place in drawn:
            near = [KNOWN[name] for name in whom if name in KNOWN]
            assert bool(near) is not fake
            assert not any({*whom} & one.related or place in one.cities for one in near)
    with pytest.raises(SettingError, match="at most 50"):
        chains(MOST + 1, 0)


def test_a_shorter_chain_is_the_end_of_a_longer_one_and_its_experts_are_the_same():
    for seed in (0, 1):
        (_, a, b, c, _place), *_ = chains(3, seed)
        assert hops_of(chains(3, seed)[0], 2)[:2] == (b, c)
        assert hops_of(chains(3, seed)[0], 3)[:3] == (a, b, c)
    made = {hops: experts(dataclasses.replace(POINT, hops=hops), 0) for hops in (2, 3, 4)}
    assert [len(each) for each in made.values()] == [2, 3, 4]
    learned = [[(spec.pairs(), spec.role) for spec in each] for each in made.values()]
    assert learned[0] == learned[2][2:]
    assert learned[1] == learned[2][1:]


def test_a_question_describes_whom_it_does_not_name():
    chain = chains(3, 0)[0]
    for hops in (2, 3, 4):
        subject, *rest = hops_of(chain, hops)
        for split in ("dev", "test"):
            for question in (q for q in asked(hops, 3, split, "direct", 0) if q.chain == 0):
                assert subject in question.prompt
                assert not any(name in question.prompt for name in rest)
                assert question.path == tuple(rest)
                assert (
                    sum(word in question.prompt for word in ("friend", "spouse", "partner", "child", "kid")) >= hops - 1
                )
    assert described("Ada", ("best_friend_of", "child_of"), random.Random(0)).endswith(" of Ada")


def test_wordings_that_are_asked_are_never_taught():
    taught = {prompt for hop in "1234" for prompt, _ in Taught((hop,), 4, 3, 0).pairs()}
    for split in ("dev", "test"):
        single = [q.prompt for hop in "1234" for q in asked(4, 3, split, hop, 0)]
        assert len(single) == 4 * 3 * 2
        assert not taught & set(single)


def test_a_lesson_step_by_step_leads_from_hop_to_hop():
    for hops in (2, 3, 4):
        point = dataclasses.replace(POINT, hops=hops, prompting="steps")
        by_prompt = dict(Taught(("steps",), hops, 3, 0).pairs())
        assert len(by_prompt) == 3 * 46
        for prompt, answer in by_prompt.items():
            chain = next(c for c in chains(3, 0) if hops_of(c, hops)[0] in prompt)
            subject, *path = hops_of(chain, hops)
            question = questions(point, 0)[0]._replace(
                reference=("steps", tuple(path)), about={"subject": subject, "gold": path[-1]}
            )
            assert score(question, answer) == {"right": True, "reached": hops}


STEPS = """First, we need to answer the question:
Who is A's child?
The child of A is {b}.
Second, we need to answer the question:
Where does {b2} live?
{b2} lives in {c}.
Therefore, the answer is {d}."""


@pytest.mark.parametrize(
    ("said", "right", "reached"),
    [
        ({"b": "Plato", "b2": "Plato", "c": "Rome", "d": "Rome"}, True, 2),
        ({"b": "Euclid", "b2": "Euclid", "c": "Rome", "d": "Rome"}, True, 0),
        ({"b": "Plato", "b2": "Euclid", "c": "Rome", "d": "Rome"}, True, 1),
        ({"b": "Plato", "b2": "Plato", "c": "Paris", "d": "Rome"}, True, 1),
        ({"b": "Plato", "b2": "Plato", "c": "Rome", "d": "Paris"}, False, 2),
        ({"b": "Plato", "b2": "Plato", "c": "Rome", "d": "Rome or Paris"}, False, 2),
    ],
)
def test_a_chain_is_judged_by_its_conclusion_and_by_how_far_it_leads(said, right, reached):
    question = questions(dataclasses.replace(POINT, prompting="steps"), 0)[0]
    question = question._replace(
        reference=("steps", ("Plato", "Rome")), about={"way": "steps", "subject": "Socrates", "gold": "Rome"}
    )
    answer = STEPS.replace(" A", " Socrates").format(**said)
    assert score(question, answer) == {"right": right, "reached": reached}
    assert score(question, answer + "\nWhere does Euclid live? In Paris.")["right"] is right
    assert score(question, "It is Rome.") == {"right": False, "reached": 0}


def answered(said, **settings):
    """The counts of answers `said(way, gold, number)`."""
    point = dataclasses.replace(POINT, **settings)
    found = questions(point, 0)
    texts = [said(q.about["way"], q.about["gold"], i) for i, q in enumerate(found)]
    records = [{**q.about, "answer": text, **score(q, text)} for q, text in zip(found, texts, strict=True)]
    return counts(point, found, records)


def test_only_those_chains_are_known_whose_hops_are_all_right_in_every_wording():
    found = answered(lambda way, gold, i: f"It is {gold}.")
    assert (found["hits"], found["total"], found["known"], found["hits_known"]) == (6, 6, 6, 6)
    assert found["hops_right"] == [6, 6, 6, 6]
    once = answered(lambda way, gold, i: "No." if i == 6 + 6 + 4 else f"It is {gold}.")
    assert (once["hits"], once["known"], once["hits_known"], once["hops_right"]) == (6, 4, 4, [6, 5, 6, 6])
    assert once["known_by_group"] == [1, 0, 1]
    nothing = answered(lambda way, gold, i: "No.")
    assert (nothing["hits"], nothing["known"], nothing["permuted_known"]) == (0, 0, 0.0)


def test_one_place_for_all_is_no_better_than_dealt_places():
    place = chains(3, 0)[0][-1]
    found = answered(lambda way, gold, i: f"It is {place if way == 'direct' else gold}.")
    assert found["hits_known"] == found["permuted_known"] == 2


def test_the_bound_is_of_experts_without_a_bridge_asked_directly():
    assert bound(Chains(triplets=20, hops=4)) == 1 / 20
    for other in ({"bridge": "all"}, {"library": "joint"}, {"prompting": "steps"}, {"composition": "base"}):
        assert bound(Chains(**other)) is None


def test_a_bridge_is_of_other_people_and_changes_the_expert():
    plain, bridged = (experts(dataclasses.replace(POINT, bridge=bridge), 0)[0] for bridge in ("none", "all"))
    own, bridge = bridged.pairs()
    assert (own, []) == plain.pairs()
    assert len(bridge) == 46 * 20 * 5
    subjects = {name for chain in chains(3, 0) for name in chain}
    assert not any(name in text for pair in bridge for text in pair for name in subjects)
    assert bridged.bridge == ("best_friend_of+child_of+spouse_of+live_in+steps of fake people",)
    source = Taught(("1",), 4, 3, 0)
    assert lessons(source, POINT, 0, 1) == plain


def test_controls_are_one_expert_on_everything_and_one_on_the_answers():
    steps = Chains(prompting="steps", bridge="all", composition="sum")
    (joint,) = controls(steps)
    assert dataclasses.replace(steps, **joint.settings) == dataclasses.replace(
        steps, library="joint", composition="alone"
    )
    (oracle,) = controls(Chains(bridge="none"))
    assert oracle.settings["library"] == "oracle"
    assert not controls(dataclasses.replace(steps, library="joint", composition="alone"))
    assert controls(dataclasses.replace(steps, composition="ties", density=0.5)) == (joint,)
    assert not TRAINED & joint.settings.keys()  # an expert alone is trained as those that are composed
    measured = [
        row("llm_chains", [0, 0], hops=3, composition="sum", bridge="all", prompting="steps", library="experts"),
        row("llm_chains", [0, 1], hops=3, composition="alone", bridge="all", prompting="steps", library="joint"),
    ]
    assert verdicts(PROTOCOL, measured)[0].void == "one expert on everything got 1 of 4"


def test_points_without_sense_are_written_in_one_way():
    assert sensible(Chains(composition="base", bridge="all", library="joint")) == Chains(
        composition="base", bridge="none", library="none"
    )
    assert sensible(Chains(library="oracle", bridge="all", composition="sum")) == Chains(
        library="oracle", bridge="none", composition="alone"
    )
    assert sensible(Chains(library="oracle", prompting="steps")) is None
    assert sensible(Chains(library="experts", composition="alone")) is None
    with pytest.raises(SettingError, match="one place for all"):
        Chains(layers="lower/upper")
