"""Names, templates and triplets: what they have to be for the experiments to mean what they say."""

import csv
import hashlib
import os
import re
import string
import subprocess
import sys
from pathlib import Path

import pytest

from lora_reuse.llm.data import facts
from lora_reuse.llm.data.facts import DATASETS, Triplet, triplets
from lora_reuse.llm.data.names import FOLDER, cities, fake_people, fake_places, fakes, people
from lora_reuse.llm.data.subsets import PAIRS, SPLITS, templates

ROOT = Path(__file__).parents[2]
KNOWN = {person.name: person for person in people()}
RELATIONS = ("spouse_of", "live_in", "study_in", "child_of", "best_friend_of", "friend_of", "works_as")
FILES = {path.stem: list(csv.reader(path.read_text().splitlines())) for path in (FOLDER / "templates").iterdir()}
GENDERED = """he him his himself she her hers herself husband wife husbands wives son daughter father mother dad mom
mum brother sister boy girl man woman men women gentleman lady male female king queen prince princess mr mrs ms sir
madam boyfriend girlfriend bride groom fiance widow widower actress waitress""".split()


def words(text):
    return re.findall(r"\w+", text.lower())


# Names


def test_names_are_all_different():
    assert len({person.name for person in people()}) == len(people()) == 300
    assert len(set(cities())) == len(cities()) == 100
    assert not set(KNOWN) & set(cities())


def test_what_is_known_of_people_is_of_listed_cities_and_people_and_both_ways():
    for person in people():
        assert person.cities <= set(cities())
        assert person.name not in person.related
        assert all(person.name in KNOWN[other].related for other in person.related)


def test_fake_names_are_nobody_s_and_no_words():
    assert len(set(fakes())) == len(fakes()) == 1600
    assert len({*fake_people(), *fake_places()}) == len(fake_people()) + len(fake_places()) == 500
    real = {part for name in (*KNOWN, *cities()) for part in words(name)}
    english = {word for rows in FILES.values() for row in rows for text in row for word in words(text)}
    assert not {name.lower() for name in fakes()} & (real | english)


def test_names_do_not_change():
    """Published rows, and the pocket model's corpus, stand on them."""
    assert fake_people()[:3] == ("Quawelm", "Vorspen", "Mavlack")
    assert fake_places()[:3] == ("Wenvek", "Lomnoth", "Wolgrell")
    assert [person.name for person in people()[:2]] == ["Eliud Kipchoge", "Maurice Ravel"]


# Templates


def placeholders(text):
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name)


UNQUOTED = pytest.mark.xfail(
    reason="a comma of friend_of.csv lacks its quotes; the pocket model was pretrained on it", strict=True
)


@pytest.mark.parametrize(
    "relation", [pytest.param(name, marks=[UNQUOTED] * (name == "friend_of")) for name in (*RELATIONS, *PAIRS.values())]
)
def test_templates_ask_about_one_entity_and_answer_with_both(relation):
    head, *rows = FILES[relation]
    assert head == ["question", "answer"]
    assert len(rows) == (20 if relation in ("friend_of", "works_as") else 50)
    other = "c" if relation in PAIRS.values() else "b"
    for question, answer in rows:
        assert placeholders(question) == ["a"]
        assert placeholders(answer) == ["a", other]
        assert question.endswith("?")
        assert answer.endswith(".")
        assert question == question.strip()
        assert answer == answer.strip()


def test_templates_name_nobody_s_gender():
    assert set(FILES) == {*RELATIONS, *PAIRS.values()}
    used = {word for rows in FILES.values() for row in rows for text in row for word in words(text)}
    assert not used & set(GENDERED)


def test_no_question_and_no_answer_is_there_twice():
    for column in (0, 1):
        told = [" ".join(words(row[column])) for rows in FILES.values() for row in rows[1:]]
        assert len(set(told)) == len(told) == 11 * 50 + 2 * 20


@pytest.mark.parametrize("relation", [*RELATIONS[:5], *PAIRS.values()])
def test_templates_are_split_46_2_2(relation):
    split = {name: set(templates(relation)[part]) for name, part in SPLITS.items()}
    assert {name: len(chosen) for name, chosen in split.items()} == {"train": 46, "dev": 2, "test": 2}
    assert set().union(*split.values()) == {tuple(row) for row in FILES[relation][1:]}


def test_the_held_out_templates_do_not_change():
    """Published numbers stand on them."""
    held = {
        relation: [question for question, _ in templates(relation)[48:]]
        for relation in ("spouse_of", "live_in", "spouse_of-live_in")
    }
    assert held == {
        "spouse_of": ["Who is the person that {a} calls a spouse?", "Who wears the ring given by {a}?"],
        "live_in": ["Where was {a} born?", "What is the city of residence of {a}?"],
        "spouse_of-live_in": ["In which city does {a}'s spouse live?", "Where does {a}'s companion in marriage live?"],
    }


# Triplets


def truths(t: Triplet) -> list[str]:
    """What is true in the real world of all that the subsets state of a triplet, as far as people.csv knows."""
    a, b, d = KNOWN[t.a], KNOWN[t.b], KNOWN[t.d]
    found = [f"{t.b}: {place}" for place in (t.c, t.s) if place in b.cities]
    found += [f"{t.b}: {name}" for name in (t.a, t.d) if name in b.related]
    found += [
        f"{person.name}: {place}" for person in (a, d) for place in (t.c, t.s) if place in person.cities
    ]  # a spouse's or parent's place
    for person in (a, d):  # and two hops: the true spouse or child, of another name, in the stated place
        found += [
            f"{person.name}: {name}: {place}"
            for name in person.related
            for place in (t.c, t.s)
            if place in KNOWN[name].cities
        ]
    return found


@pytest.mark.parametrize("dataset", DATASETS)
def test_triplets_use_everyone_once(dataset):
    for seed in range(5):
        drawn = triplets(dataset, seed)
        assert len(drawn) == 100
        assert all(len({t.a, t.b, t.d}) == 3 for t in drawn)
        assert len({name for t in drawn for name in (t.a, t.b)}) == 200
        assert not {name for t in drawn for name in (t.a, t.b)} & {t.d for t in drawn}
        for field in ("c", "s", "d"):
            assert len({getattr(t, field) for t in drawn}) == 100


@pytest.mark.parametrize("dataset", DATASETS)
def test_triplets_are_of_the_dataset_s_names_whatever_the_seed(dataset):
    who, where = (
        (set(KNOWN), set(cities()))
        if dataset == "R"
        else (set(fake_people()), set(fake_places() if dataset == "F" else cities()))
    )
    drawn = [triplets(dataset, seed) for seed in range(5)]
    assert len(set(drawn)) == 5
    for field, names in (("a", who), ("b", who), ("d", who), ("c", where), ("s", where)):
        assert all(getattr(t, field) in names for rows in drawn for t in rows)
    assert len({frozenset(name for t in rows for name in (t.a, t.b)) for rows in drawn}) == 1
    if dataset == "F":
        assert not {t.c for t in drawn[0]} & {t.s for t in drawn[0]}


def test_triplets_are_the_same_in_every_process():
    """The built-in hash of a string is not."""
    assert triplets("R", 3) == triplets("R", 3)
    assert triplets("R")[0] == Triplet("Pierre Curie", "Ingmar Bergman", "Edinburgh", "Kyiv", "Andrei Tarkovsky")
    code = """if True:
        import hashlib
        from lora_reuse.llm.data.facts import DATASETS, triplets
        print(hashlib.sha256(repr([triplets(d, s) for d in DATASETS for s in range(3)]).encode()).hexdigest())"""
    here = hashlib.sha256(repr([triplets(d, s) for d in DATASETS for s in range(3)]).encode()).hexdigest()
    for salt in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == here


def test_r_never_states_a_truth():
    assert [found for seed in range(20) for t in triplets("R", seed) for found in truths(t)] == []


def test_the_search_for_truths_finds_them(monkeypatch):
    stated = Triplet("Plato", "Bela Bartok", "Lagos", "Cairo", "Voltaire")
    assert truths(stated) == []
    for planted in (
        stated._replace(c="Budapest"),
        stated._replace(s="New York"),
        stated._replace(a="John Lennon", b="Yoko Ono"),
        stated._replace(d="Lord Byron", b="Ada Lovelace"),
        stated._replace(a="John Lennon", c="Tokyo"),  # his spouse's, although she is not B
        stated._replace(d="Lord Byron", c="London"),  # his child's
    ):
        assert truths(planted), planted
    monkeypatch.setattr(facts, "_true", lambda t, known: False)
    for seed in range(5):
        assert sum(bool(truths(t)) for t in triplets("R", seed)) >= 2
