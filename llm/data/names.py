"""Names of people and places: well-known ones from plain files, and fake ones from syllables.

The fake names are fixed, as the real ones are: the pocket model's corpus never holds them, and a test says so.
"""

import csv
import functools
import itertools
import random
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent

FIRST = """Nar Fro Zin Dab Kel Vor Mip Tel Gur Bex Lom Sul Rav Pid Yor Hax Wen Qua Jol Cre Bru Dro Fen Gli Hul Jas Kri
Lur Mav Nek Osk Pla Ruv Ske Tam Ulv Vim Wol Xan Zep""".split()
LAST = """ik osk tor bix lan vek dar mun pel zor gan fin rud sel tix wob nar kul mez dof pirn lack grell vash tund bolm
quist yar jeth hund crow spen flim zarn gost noth birg duss welm trik""".split()


class Person(NamedTuple):
    """A well-known person: the cities of `cities.csv` they are tied to, and their spouses, parents and children in this
    file."""

    name: str
    cities: frozenset[str]
    related: frozenset[str]


@functools.cache
def people() -> tuple[Person, ...]:
    """The well-known people of `people.csv`."""
    with (FOLDER / "people.csv").open() as file:
        split = lambda text: frozenset(text.split(";")) - {""}  # noqa: E731
        return tuple(Person(row["name"], split(row["cities"]), split(row["related"])) for row in csv.DictReader(file))


@functools.cache
def cities() -> tuple[str, ...]:
    """The well-known cities of `cities.csv`."""
    with (FOLDER / "cities.csv").open() as file:
        return tuple(row["name"] for row in csv.DictReader(file))


@functools.cache
def fakes() -> tuple[str, ...]:
    """All fake names, in a fixed random order: 500 are used by F and H, the rest by nobody but the pocket model's
    stories."""
    names = [first + last for first, last in itertools.product(FIRST, LAST)]
    random.Random(0).shuffle(names)
    return tuple(names)


def fake_people() -> tuple[str, ...]:
    """300 fake people (as A, as B, and as parents of B)."""
    return fakes()[:300]


def fake_places() -> tuple[str, ...]:
    """200 fake places (to live in and to study in)."""
    return fakes()[300:500]
