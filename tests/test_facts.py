import itertools

import numpy as np
import pytest

from lora_reuse.runs.settings import SettingError
from lora_reuse.theory.facts import ROLES, UNDEFINED, draw_world

PAIRS = list(itertools.combinations(ROLES, 2))


def roles(world):
    return {role: getattr(world.edits, role) for role in ROLES}


def test_by_default_every_entity_of_every_edit_is_its_own():
    world = draw_world(0, entities=60, edits=10)
    drawn = np.concatenate(list(roles(world).values()))
    assert len(set(drawn.tolist())) == 60


@pytest.mark.parametrize("seed", range(5))
def test_the_table_says_what_the_edits_say_of_it(seed):
    world = draw_world(seed, entities=40, relations=3, edits=4, defined=0.5)
    e = world.edits
    assert (world.answers[0, e.x] == e.r1x).all()
    assert (world.answers[1, e.y] == e.r2y).all()
    assert (world.answers[1, e.r1x] == e.r2r1x).all()


@pytest.mark.parametrize("pair", PAIRS)
def test_every_coincidence_can_be_asked_for_and_brings_no_other(pair):
    world = draw_world(1, entities=60, edits=5, coincide=[pair])
    asked = {pair} | ({("r2y", "r2r1x")} if pair == ("y", "r1x") else set())
    for a, b in PAIRS:
        equal = roles(world)[a] == roles(world)[b]
        assert equal.all() if (a, b) in asked else not equal.any()


@pytest.mark.parametrize("pair", PAIRS)
def test_every_coincidence_can_be_forbidden_alone(pair):
    world = draw_world(2, entities=12, edits=2, forbid=[pair])
    assert not (roles(world)[pair[0]] == roles(world)[pair[1]]).any()


def test_left_to_chance_coincidences_happen_as_often_as_chance_says():
    hits = sum(int(w.edits.z[0] == w.edits.r2y[0]) for s in range(400) for w in [draw_world(s, entities=8, forbid=())])
    assert abs(hits - 50) < 5 * np.sqrt(400 / 8 * 7 / 8)  # a right program fails once in 1e6


def test_relations_share_their_range_and_may_be_partial():
    world = draw_world(0, entities=500, relations=3, defined=0.7, edits=0)
    share = np.mean(world.answers != UNDEFINED)
    assert abs(share - 0.7) < 5 * np.sqrt(0.21 / 1500)
    ranges = [set(row[row != UNDEFINED].tolist()) for row in world.answers]
    assert len(ranges[0] & ranges[1]) > 50


def test_known_prompts_are_all_that_have_an_answer():
    world = draw_world(3, entities=20, relations=2, defined=0.6, edits=1)
    prompts, answers = world.known()
    assert len(set(prompts)) == len(prompts)
    for prompt, answer in zip(prompts, answers, strict=True):
        value = prompt[0]
        for token in prompt[1:]:
            value = world.answers[token - 20, value]
        assert value == answer
    two_hop = sum(
        1
        for x in range(20)
        for r in (0, 1)
        if world.answers[r, x] >= 0
        for s in (0, 1)
        if world.answers[s, world.answers[r, x]] >= 0
    )
    assert len(prompts) == (world.answers >= 0).sum() + two_hop


def test_the_same_seed_is_the_same_world():
    a, b = draw_world(7, entities=30, edits=2), draw_world(7, entities=30, edits=2)
    assert np.array_equal(a.answers, b.answers)
    assert np.array_equal(a.edits.z, b.edits.z)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"entities": 5, "edits": 6}, "edits: got 6; allowed: at most 5"),
        ({"entities": 20, "edits": 4}, "edits: got 4; allowed: at most 3 with 20 entities"),
        ({"entities": 20, "relations": 1}, "relations: got 1"),
        ({"entities": 20, "defined": 1.5}, "defined: got 1.5"),
        ({"entities": 20, "coincide": [("x", "w")]}, "coincide: got w"),
        ({"entities": 20, "coincide": [("y", "r1x")], "forbid": [("r2y", "r2r1x")]}, "forbid: got r2y=r2r1x"),
        ({"entities": 20, "coincide": [("x", "y"), ("y", "z")]}, "coincide: got x = y = z"),
    ],
)
def test_impossible_worlds_are_refused(wrong, named):
    with pytest.raises(SettingError) as error:
        draw_world(0, **wrong)
    assert named in str(error.value)
