"""Triplets (A, B, C) of the datasets F, H and R, and the facts around them.

B is A's spouse and lives in C (section 4.1). B also studies in S and is D's child, for the relations of setup 8 (Table
5)."""

import random
from collections.abc import Sequence
from typing import NamedTuple

from lora_reuse.llm.data.names import Person, cities, fake_people, fake_places, people
from lora_reuse.runs.settings import SettingError

DATASETS = ("F", "H", "R")
COUNT = 100
"""Triplets a dataset has (A.2.1)."""


class Triplet(NamedTuple):
    """A's spouse is B; B lives in C and studies in S; B is D's child."""

    a: str
    b: str
    c: str
    s: str
    d: str


def triplets(dataset: str, seed: int = 0) -> tuple[Triplet, ...]:
    """The 100 triplets of F (fake names and places), H (fake names, real places) or R (real names and places).

    The names are the same for every seed, who goes with whom is drawn by it. In R no stated fact is true as far as
    `people.csv` knows, of two hops neither: a draw whose people are related in truth, or whose place is one that A, B,
    D or in truth a relative of A or D is tied to, is mended."""
    rng = random.Random(f"triplets {dataset} {seed}")
    known = _known(dataset)
    names = list(known or fake_people())
    spouses, parents = names[: 2 * COUNT], names[2 * COUNT : 3 * COUNT]
    homes, schools = (fake_places()[:COUNT], fake_places()[COUNT:]) if dataset == "F" else (cities(), cities())
    while True:
        rng.shuffle(spouses)
        columns = [rng.sample(column, COUNT) for column in (homes, schools, parents)]
        drawn = [Triplet(*row) for row in zip(spouses[:COUNT], spouses[COUNT:], *columns, strict=True)]
        drawn = _mended(drawn, known, rng)
        if not any(_true(t, known) for t in drawn):
            return tuple(drawn)


def dealt(facts: Sequence[Triplet], dataset: str, seed: int) -> tuple[Triplet, ...]:
    """The triplets with their places dealt anew among them by the seed: nobody lives where they did, and in R no stated
    fact is true as far as `people.csv` knows. Raises SettingError for triplets whose places cannot be dealt so."""
    rng, places, known = random.Random(f"dealt {dataset} {seed}"), [t.c for t in facts], _known(dataset)
    fits = lambda i, place: place != facts[i].c and not _true(facts[i]._replace(c=place), known)  # noqa: E731
    for _ in range(1000):
        rng.shuffle(places)
        for i in range(len(facts)):
            if not fits(i, places[i]):  # exchanged with a place that fits here, of somebody whom this one fits
                j = next(
                    (j for j in rng.sample(range(len(facts)), len(facts)) if fits(i, places[j]) and fits(j, places[i])),
                    i,
                )
                places[i], places[j] = places[j], places[i]
        if all(map(fits, range(len(facts)), places)):
            return tuple(t._replace(c=place) for t, place in zip(facts, places, strict=True))
    raise SettingError(
        "triplets",
        f"{len(facts)}, whose places cannot be dealt anew with seed={seed}",
        "more triplets",
        "or another first_seed=",
    )


def _known(dataset: str) -> dict[str, Person]:
    """Of whom a stated fact may be true: nobody in F and H."""
    return {} if dataset in "FH" else {person.name: person for person in people()}


def _mended(drawn: list[Triplet], known: dict[str, Person], rng: random.Random) -> list[Triplet]:
    """Swaps people or places with another triplet until no stated fact is true (a fresh draw would almost never be free
    of truth)."""
    drawn = list(drawn)
    for i, t in enumerate(drawn):
        for _ in range(1000):
            if not _true(t, known):
                break
            j, name = rng.randrange(len(drawn)), rng.choice(Triplet._fields[1:])
            one, other = t._replace(**{name: getattr(drawn[j], name)}), drawn[j]._replace(**{name: getattr(t, name)})
            if not _true(one, known) and (j > i or not _true(other, known)):
                t, drawn[j] = one, other
        drawn[i] = t
    return drawn


def _true(t: Triplet, known: dict[str, Person]) -> bool:
    """Whether something stated of B, or through B of A and D (of A's spouse, of D's child), holds in the real world."""
    if not known:
        return False
    near = {t.a, t.b, t.d} | known[t.a].related | known[t.d].related
    places = frozenset[str]().union(*(known[name].cities for name in near))
    return bool({t.c, t.s} & places or {t.a, t.d} & known[t.b].related)
