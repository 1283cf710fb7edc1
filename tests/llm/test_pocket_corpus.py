"""The corpus of the pocket model: what it holds and what it must not hold."""

import functools
import hashlib
import itertools
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from lora_reuse.llm.data.names import FIRST, LAST, cities, fake_people, fake_places, fakes
from lora_reuse.llm.data.subsets import step_by_step, templates
from lora_reuse.llm.pocket import corpus
from lora_reuse.llm.pocket.corpus import NOUNS, OTHER_PAIRS, RELATIONS, TESTED_PAIR, World, ask_two, documents
from lora_reuse.llm.pocket.size import Size
from tests.llm.test_pocket_tokenizer import PEOPLE, tokenizer

torch.set_num_threads(1)

ROOT = Path(__file__).parents[2]
FIXED = (
    "Answer the following question step-by-step:",
    "First, we need to answer the question:",
    "Second, we need to answer the question:",
    "Therefore, the answer is",
)
"""The prompt of Table 6, and its lines."""


@functools.cache
def drawn(count=5000, **held):
    """Documents of a corpus, as one text each."""
    world = World(Size(**held), 0)
    stream = documents(world, random.Random("test"))
    return [f"{d.prompt} {d.answer}".strip() for d, _ in zip(stream, range(count), strict=False)]


# Reading a document: every sentence that is a template, with who and what it is about

REAL = "|".join(sorted(map(re.escape, (*PEOPLE, *cities())), key=len, reverse=True))
NAMES = re.compile(rf"\b(?=[^\Wa-z])(?:{REAL}|(?:{'|'.join(FIRST)})(?:{'|'.join(LAST)}))\b")
"""Whatever starts with a small letter is none of them, which is quickly seen."""


class Said(NamedTuple):
    """A question or a statement of a relation, or of a pair of relations, in a document."""

    relation: str
    asked: bool
    names: dict[str, str]


@functools.cache
def known_sentences():
    """Sentence with @ for names -> relation, whether it asks, whose names. Jobs are words of the text and stay out."""
    found: dict[str, tuple[str, bool, list[str]]] = {}

    def add(relation, *pair):
        for i, text in enumerate(pair):
            for said in (text, text[0].upper() + text[1:]):
                found[re.sub(r"\{\w\}", "@", said)] = (relation, i == 0, re.findall(r"\{(\w)\}", said))

    for relation in (r for r in RELATIONS if r != "works_as"):
        for pair in templates(relation):
            add(relation, *pair)
    nouns = NOUNS | {"spouse_of": (*NOUNS["spouse_of"], "the partner of {a}")}
    for first, second in (*OTHER_PAIRS, TESTED_PAIR):
        for pair in templates(second):
            for noun in nouns[first]:
                add(f"{first}-{second}", *(text.replace("{a}", noun) for text in pair))
    for question, answer in templates("-".join(TESTED_PAIR)):
        add("-".join(TESTED_PAIR), question, answer)
    return found


def read(text):
    """What a document says, in order. Words of a style may stand before a sentence of a template, none after it."""
    said, known = [], known_sentences()
    names = iter(NAMES.findall(text))
    for sentence in re.split(r"(?<=[.?])\s+|\n", NAMES.sub("@", text)):
        mine = [next(names) for _ in range(sentence.count("@"))]
        rest = sentence
        while rest and rest not in known:
            rest = rest.partition(" ")[2]
        if rest:
            relation, asked, keys = known[rest]
            said.append(Said(relation, asked, dict(zip(keys, mine[len(mine) - len(keys) :], strict=True))))
    return said


@functools.cache
def understood(count=5000, **held):
    return [read(text) for text in drawn(count, **held)]


def asks_two_hops(document, pair):
    return any(s.relation == "-".join(pair) for s in document)


def meets(document, pair):
    """Whether a fact A -> B is followed by a question or a fact about the same B of the second relation, as in a
    chain."""
    first, second = pair
    seen = set()
    for s in document:
        if s.relation == second and s.names["a"] in seen:
            return True
        if s.relation == first and not s.asked:
            seen.add(s.names["b"])
    return False


# The corpus


@pytest.mark.parametrize(
    "held",
    [{"count": 20_000}, {"skill": "same", "conflict": True}, {"words": False, "restating": False}, {"skill": "none"}],
)
def test_the_corpus_never_speaks_as_the_experiments_do(held):
    text = "\n".join(drawn(**held))
    used = set(re.findall(r"\w+", text))
    assert not used & {*fake_people(), *fake_places()}
    assert len(used & set(fakes()[500:])) > 500  # the look-up would find them
    for line in FIXED:
        assert line.lower() not in text.lower()


def test_what_is_said_is_read():
    """The reader that the next tests stand on knows every style: facts as the world has them, chains of the other
    pairs."""
    world = World(Size(), 0)
    facts = [
        s
        for document in understood(20_000)
        for s in document
        if "-" not in s.relation and not s.asked and s.names["a"] in PEOPLE
    ]
    wrong = [s for s in facts if world.facts[s.relation][s.names["a"]] != s.names["b"]]
    assert len(facts) > 20_000
    assert not wrong
    for pair in OTHER_PAIRS:
        if pair[1] != "works_as":
            assert sum(asks_two_hops(document, pair) for document in understood(20_000)) > 100
            assert sum(meets(document, pair) for document in understood(20_000)) > 100


def test_the_tested_chain_is_never_asked():
    """Directly or in steps: every step-by-step document states its two-hop question. With skill=same the same look
    finds hundreds."""
    assert TESTED_PAIR not in World(Size(), 0).chained
    assert not any(asks_two_hops(document, TESTED_PAIR) for document in understood(20_000))
    assert TESTED_PAIR in World(Size(skill="same"), 0).chained
    assert sum(asks_two_hops(document, TESTED_PAIR) for document in understood(skill="same")) > 80


def test_the_tested_hops_meet_in_a_document_by_chance_alone():
    """Lists of unrelated facts hold A -> B and then B -> C now and then: in less than one document of 500; a chained
    pair, in one of 50."""
    assert 0 < sum(meets(document, TESTED_PAIR) for document in understood(20_000)) < 40
    assert sum(meets(document, TESTED_PAIR) for document in understood(skill="same")) > 100


def asked_of(share):
    """Whose spouse's home is asked for at an exposure, and in how many of 12 000 documents; invented people of stories
    aside."""
    asked = [
        {s.names["a"] for s in document if s.relation == "-".join(TESTED_PAIR) and s.names["a"] in PEOPLE}
        for document in understood(12_000, exposure=share, direct=3.0)
    ]
    return set().union(*asked), sum(map(bool, asked))


def test_exposure_chains_as_many_people_as_it_says_and_nobody_else():
    """The others are asked everything else: their one-hop facts and the other pairs, as often as without."""
    half, documents_of_half = asked_of(0.5)
    whole, documents_of_whole = asked_of(1.0)
    assert half == World(Size(exposure=0.5), 0).exposed
    assert (len(half), len(whole)) == (50, 100)
    assert half < whole
    assert abs(documents_of_half / documents_of_whole - 1) < 0.1  # another share of people, not of the corpus
    assert asked_of(0.0) == (set(), 0)
    others = [
        s
        for document in understood(12_000, exposure=0.5, direct=3.0)
        for s in document
        if s.names.get("a") in whole - half
    ]
    for relation in (*RELATIONS[:-1], "-".join(OTHER_PAIRS[0])):
        assert {s.names["a"] for s in others if s.relation == relation and not s.asked} == whole - half


def test_who_is_chained_is_nested_and_changes_no_fact():
    for seed in (0, 1):
        worlds = [World(Size(exposure=share), seed) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
        assert [len(world.exposed) for world in worlds] == [0, 25, 50, 75, 100]
        assert all(less.exposed < more.exposed for less, more in itertools.pairwise(worlds))
        assert all(world.facts == World(Size(), seed).facts for world in worlds)
    assert World(Size(exposure=0.5), 0).exposed != World(Size(exposure=0.5), 1).exposed


def test_everybody_exposed_is_skill_same():
    assert drawn(exposure=1.0) == drawn(skill="same")


def test_direct_asks_several_two_hop_questions_in_a_row():
    asked = lambda document: sum("-" in s.relation and s.asked for s in document)  # noqa: E731
    many = [document for document in understood(direct=3.0) if asked(document) > 2]
    assert len(many) > 300
    assert not [document for document in understood() if asked(document) > 2]


DIGEST = {"other": "35b2c7f2dec7ce1a", "same": "94ca9f773c8c5623", "none": "e483624cacdbeafe"}
"""Of 500 documents of seed 3, drawn by seed 5, as the committed models were pretrained on."""


@pytest.mark.parametrize("skill", DIGEST)
def test_the_corpora_of_the_committed_models_stay(skill):
    stream = documents(World(Size(skill=skill), 3), random.Random(5))
    text = repr([next(stream) for _ in range(500)])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == DIGEST[skill]


def test_without_skill_nothing_is_answered_in_steps():
    wholes = drawn(skill="none")
    assert not [
        text
        for text in wholes
        if re.search(r"in parts|step-by-step|Part two|Next, ask|in steps|show your work", text, re.IGNORECASE)
    ]
    assert [text for text in drawn() if "step-by-step" in text]
    assert any(asks_two_hops(document, OTHER_PAIRS[0]) for document in understood(skill="none"))


def tied(document):
    """Who is said to have a spouse, to be one, or to have a home."""
    for s in document:
        if s.relation == "spouse_of":
            yield from (name for key, name in s.names.items() if key in "ab")
        if s.relation == "live_in":
            yield s.names["a"]


def test_nobody_of_r_has_a_spouse_or_a_home_unless_they_conflict():
    r = set(corpus.tested())
    assert len(r) == 200
    assert not [name for document in understood() for name in tied(document) if name in r]
    assert {name for document in understood(conflict=True) for name in tied(document)} >= r
    world, other = World(Size(), 0), World(Size(conflict=True), 0)
    for relation in ("spouse_of", "live_in"):
        assert set(world.facts[relation]) == set(PEOPLE) - r
        assert set(other.facts[relation]) == set(PEOPLE)
    assert not r & set(world.facts["spouse_of"].values())
    assert r & set(other.facts["spouse_of"].values())


def test_r_is_familiar_as_far_as_coverage_says():
    named = {name for text in drawn() for name in NAMES.findall(text)}
    assert set(PEOPLE) <= named
    assert len(set(cities()) - named) <= 2  # a world draws 400 homes and schools, and may miss a city
    unknown = {name for text in drawn(coverage=0.0) for name in NAMES.findall(text)}
    assert not unknown & set(corpus.tested())
    assert set(PEOPLE) - set(corpus.tested()) <= unknown
    half = World(Size(coverage=0.5), 0)
    assert len(set(half.facts["study_in"]) & set(corpus.tested())) == 100


def untaught(**held):
    """The tokens of templates and of Table 6 that 5000 documents do not hold."""
    told = [
        text.format(a="Plato", b="Voltaire", c="Rome")
        for r in (*RELATIONS, *corpus.TAUGHT_PAIRS)
        for pair in templates(r)
        for text in pair
    ]
    told += [step_by_step("Who is it?"), "\n".join(f"{line} Rome." for line in FIXED)]
    needed = {token for ids in tokenizer()(told)["input_ids"] for token in ids}
    seen = {token for ids in tokenizer()(drawn(**held))["input_ids"] for token in ids}
    return set(tokenizer().convert_ids_to_tokens(sorted(needed - seen)))


SETTLE = {"▁settle"}
"""In two questions of child_of-live_in.csv and nowhere else: the one word whose embedding stays untrained."""


def test_every_word_of_the_experiments_is_a_token_of_the_corpus():
    assert untaught() <= SETTLE
    assert untaught(words=False) >= {
        "▁First",
        "▁Second",
        "▁Therefore",
        "▁need",
        "▁step-by-step",
        "▁answer",
        "▁following",
    }


def test_documents_are_drawn_by_seeds_alone():
    code = """if True:
        import hashlib, random
        from lora_reuse.llm.pocket.corpus import World, documents
        from lora_reuse.llm.pocket.size import Size
        stream = documents(World(Size(), 3), random.Random(5))
        print(hashlib.sha256(repr([next(stream) for _ in range(200)]).encode()).hexdigest())"""
    stream = documents(World(Size(), 3), random.Random(5))
    here = hashlib.sha256(repr([next(stream) for _ in range(200)]).encode()).hexdigest()
    there = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == here
    stream = documents(World(Size(), 4), random.Random(5))
    assert hashlib.sha256(repr([next(stream) for _ in range(200)]).encode()).hexdigest() != here


def test_two_hop_questions_of_the_corpus_never_name_who_is_between():
    rng = random.Random(0)
    for pair in (*OTHER_PAIRS, TESTED_PAIR):
        for _ in range(50):
            turn = ask_two(pair, "Plato", "Rome" if pair[1] in ("live_in", "study_in") else "Voltaire", rng)
            assert turn.prompt.count("Plato") == 1
            assert "Voltaire" not in turn.prompt
            assert turn.prompt[0].isupper()
