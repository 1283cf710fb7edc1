"""Two skills, and questions that need both (LoRA Soups): new homes of people, and answers given as a line of code.

The first skill knows where people now live (R2) and says so in a sentence; the second answers what the base knows of
other people as an assignment ("answer = Paris"), when one of several formats asks for it; both together give a new home
as an assignment. Wordings and formats are split for training and tests. Sums in place of homes do not serve: the pocket
model, which never saw a digit, learns one constant answer. `capitals` is the same for models that have read of our
world: the second skill answers what the capital of a country is.

Data of one's own are a folder with one JSON object {"prompt", "answer"} a line: first.jsonl and second.jsonl (what the
skills are trained on), both.jsonl (what needs both) and, if one likes, first_test.jsonl and second_test.jsonl. The
answers to both and to tests end in a number."""

import functools
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lora_reuse.llm.data import births
from lora_reuse.llm.data.graphs import facts_of
from lora_reuse.llm.data.pairs import pairs_in
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.pocket.corpus import World, ask
from lora_reuse.llm.pocket.size import Corpus

OWN, CAPITALS = "own", "capitals"
SKILLS = ("first", "second")
PEOPLE = 20
FACTS = 100
"""Facts that the base knows and the second skill is trained on, and half as many it is asked."""
FORMATS = {
    "train": ("{q} Answer in code.", "In code: {q}", "{q} As code.", "Answer this in code: {q}"),
    "dev": ("Make it code: {q}",),
    "test": ("{q} Give the answer in code.", "Say in code: {q}"),
}


class Asked(NamedTuple):
    """A question, the right answer, the format it is asked in ("" for one without) and an id that all formats of it
    share."""

    prompt: str
    answer: str
    format: str
    id: str


class Fact(NamedTuple):
    """A question, the sentence that answers it, and what of the sentence is the answer."""

    prompt: str
    sentence: str
    value: str


@dataclass(frozen=True)
class Taught:
    """What an expert learns: one skill, or both mixed."""

    data: str
    skills: tuple[str, ...]
    seed: int

    @property
    def name(self) -> str:
        return "+".join(self.skills)

    def pairs(self) -> list[tuple[str, str]]:
        """Prompts and answers. Raises SettingError for data that are not there."""
        return [
            pair
            for skill in self.skills
            for pair in (_made(self.data, skill, self.seed) if self.data in MADE else _file(self.data, skill))
        ]


def asked(data: str, what: str, formats: str, split: str, seed: int) -> list[Asked]:
    """The questions for `both`, or for one skill alone, in the split's held-out wordings. `formats` (known | new):
    those the second skill was trained on, or held-out ones; data of one's own have the formats they have. Raises
    SettingError for data that are not there."""
    if data not in MADE:
        name = what if what == "both" else f"{what}_test"
        return [Asked(prompt, answer, "", str(i)) for i, (prompt, answer) in enumerate(_file(data, name))]
    chosen = FORMATS["train" if formats == "known" else split]
    if what == "second":
        held_out = MADE[data](FACTS + FACTS // 2, seed)[FACTS:]
        return [
            Asked(f.format(q=fact.prompt), fact.value, f, str(i)) for i, fact in enumerate(held_out) for f in chosen
        ]
    homes = examples("R2", facts_of("R2", PEOPLE, seed), split)
    if what == "first":
        return [Asked(home.question, home.gold, "", home.subject) for home in homes]
    return [Asked(f.format(q=home.question), home.gold, f, home.subject) for home in homes for f in chosen]


def code(text: str) -> str | None:
    """What a line of code assigns to the answer, or None where the text is not one."""
    match = re.fullmatch(r"answer = (.+?)\s*;?", text.strip())
    return match[1].strip("\"' ") if match else None


def _made(data: str, skill: str, seed: int) -> list[tuple[str, str]]:
    if skill == "first":
        return [(home.question, home.answer) for home in examples("R2", facts_of("R2", PEOPLE, seed), "train")]
    return [
        (f.format(q=fact.prompt), f"answer = {fact.value}")
        for f in FORMATS["train"]
        for fact in MADE[data](FACTS + FACTS // 2, seed)[:FACTS]
    ]


@functools.lru_cache(maxsize=4)
def known_facts(count: int, seed: int, drawn_for: str = "skills") -> tuple[Fact, ...]:
    """One-hop questions and their answers in the world of the committed pocket model, which knows them (another model
    learns them along), about people who have no new home."""
    rng = random.Random(f"{drawn_for} {seed}")
    moved = {t.b for t in facts_of("R2", PEOPLE, seed)}
    facts = [
        (relation, a, b)
        for relation, known in World(Corpus()).facts.items()
        for a, b in known.items()
        if a not in moved
    ]
    chosen = rng.sample(facts, count)
    return tuple(Fact(*ask(relation, a, b, rng), b) for relation, a, b in chosen)


def capitals(count: int, seed: int) -> tuple[Fact, ...]:
    """Capitals of countries drawn from those of most people, where the one name does not say the other. Raises
    SettingError where GeoNames is not installed."""
    told = [
        Fact(f"What is the capital of {country}?", f"The capital of {country} is {capital}.", capital)
        for country, capital in births.countries().items()
        if capital not in country and country not in capital
    ]
    return tuple(random.Random(f"capitals {seed}").sample(told[: count + count // 10], count))


def some_of(sets: Mapping[str, Sequence[str]], seed: int, count: int) -> dict[str, list[str]]:
    """`count` prompts of each set, drawn, for a forecast of the seed."""
    draw = random.Random(f"forecast {seed}")
    return {name: draw.sample(prompts, min(count, len(prompts))) for name, prompts in sets.items()}


MADE: dict[str, Callable[[int, int], tuple[Fact, ...]]] = {OWN: known_facts, CAPITALS: capitals}
"""Data of this project: the facts of the second skill, so many of a seed."""


def _file(data: str, name: str) -> tuple[tuple[str, str], ...]:
    allowed = f"{', '.join(MADE)}, or a folder with first.jsonl, second.jsonl and both.jsonl"
    return pairs_in(Path(data).expanduser() / f"{name}.jsonl", "data", allowed)
