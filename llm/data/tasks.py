"""Small programming tasks of our own in English and Spanish, and sentences in both, in place of MBPP and of a parallel
corpus."""

import itertools
import random

from lora_reuse.llm.data.mbpp import Task

_FAMILIES = (
    ("add", "x + {n}", "adds {n} to a number", "sume {n} a un número", (0, 3, 10)),
    ("times", "x * {n}", "multiplies a number by {n}", "multiplique un número por {n}", (0, 3, 10)),
    ("minus", "x - {n}", "subtracts {n} from a number", "reste {n} a un número", (0, 30, 7)),
    (
        "rest",
        "x % {n}",
        "finds the remainder of a number divided by {n}",
        "halle el resto de un número dividido por {n}",
        (5, 17, 40),
    ),
    ("most", "max(x, {n})", "returns a number, but at least {n}", "devuelva un número, pero al menos {n}", (0, 8, 99)),
    (
        "first",
        "x[:{n}]",
        "returns the first {n} items of a list",
        "devuelva los primeros {n} elementos de una lista",
        (list(range(30)), [], [5]),
    ),
    (
        "last",
        "x[-{n}:]",
        "returns the last {n} items of a list",
        "devuelva los últimos {n} elementos de una lista",
        (list(range(30)), [], [5]),
    ),
    (
        "above",
        "[y for y in x if y > {n}]",
        "keeps the numbers of a list above {n}",
        "deje los números de una lista mayores que {n}",
        ([1, 30, 9, 4], [], [25]),
    ),
    (
        "count",
        "x.count({n})",
        "counts how often {n} is in a list",
        "cuente cuántas veces está {n} en una lista",
        (list(range(30)), [], [2, 2, 7]),
    ),
    ("repeat", "x * {n}", "repeats a text {n} times", "repita un texto {n} veces", ("a", "", "xyz")),
)
"""Name, expression, what the function does in English and in Spanish, what its tests call it with."""
NUMBERS = range(2, 22)
HELD_OUT = {"test": (3, 8, 13, 18), "dev": (5, 15)}
"""The numbers whose tasks are not trained on."""

_NOUNS = (
    *(
        ("the house", "la casa"),
        ("the dog", "el perro"),
        ("the table", "la mesa"),
        ("the tree", "el árbol"),
        ("the moon", "la luna"),
    ),
    *(
        ("the road", "el camino"),
        ("the door", "la puerta"),
        ("the boat", "el barco"),
        ("the city", "la ciudad"),
        ("the book", "el libro"),
    ),
)
_SENTENCES = (
    ("Where is {a}?", "¿Dónde está {a}?"),
    ("I see {a} and {b}.", "Veo {a} y {b}."),
    ("Between {a} and {b} there is nothing.", "Entre {a} y {b} no hay nada."),
    ("Tomorrow we look for {a}, not for {b}.", "Mañana buscamos {a}, no {b}."),
)


def tasks(language: str, split: str) -> list[Task]:
    """The tasks of a split (train, dev or test): the same functions in both languages, with other numbers in each
    split."""
    held_out = set(itertools.chain(*HELD_OUT.values()))
    numbers = HELD_OUT.get(split, [n for n in NUMBERS if n not in held_out])
    return [_task(language, place, number) for number in numbers for place in range(len(_FAMILIES))]


def _task(language: str, place: int, number: int) -> Task:
    name, expression, english, spanish, inputs = _FAMILIES[place]
    said = f"Write a function that {english}." if language == "english" else f"Escribe una función que {spanish}."
    code = f"def {name}_{number}(x):\n    return {expression}".format(n=number)
    function = eval(f"lambda x: {expression.format(n=number)}")  # our own expression
    tests = tuple(f"assert {name}_{number}({x!r}) == {function(x)!r}" for x in inputs)
    return Task(str(number * len(_FAMILIES) + place), said.format(n=number), code, tests)


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    """English sentences and their translations, none of which asks for a program."""
    pairs = [
        tuple(
            side.format(a=a[i], b=b[i])[:1].upper() + side.format(a=a[i], b=b[i])[1:] for i, side in enumerate(sentence)
        )
        for sentence in _SENTENCES
        for a, b in itertools.permutations(_NOUNS, 2)
    ]
    unique = list(dict.fromkeys(pairs))
    random.Random(f"sentences {seed}").shuffle(unique)
    return [(english, spanish) for english, spanish in unique[:count]]
