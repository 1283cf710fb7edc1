"""Skills, and questions that need any of them at once: new homes of people, and forms of an answer.

The expert on homes knows where people now live (R2) and says so in a sentence. An expert on a form says what the base
knows of other people in that form, when a phrase of the question asks for it. `code`, an assignment, `call`, the call
of a tool, and `json` say the answer in place of the sentence; `spanish` goes before the sentence and `style` ends it;
`upper` is all of it in upper case. No expert sees two forms in one answer, and one answer can have all of them:

    Hola: answer = tell( Paris), you know.

A question that needs several skills has a phrase for each form, before it or after it. It asks for a new home where
homes are among the skills, else for what the base knows of somebody whom no expert was trained on.

What the base knows are facts of the pocket model's world (`own`), or, of models that have read of ours, capitals of
countries (`capitals`).

Five of the skills are those whose every set is asked (SKILLS). The pocket model's tokenizer knows a name after a space
alone, and other words than those of its corpus by their letters. In the few steps in which an expert learns a form it
learns neither capitals nor where the quotes of JSON end, which takes it twice as many (`epochs=10`), and two forms that
are spelled mix their letters: so one form at most of the five is spelled, and `json` and `upper` (MORE) stand apart."""

import random
import re
from dataclasses import dataclass
from typing import NamedTuple

from lora_reuse.llm.data.graphs import facts_of
from lora_reuse.llm.data.skills import CAPITALS, OWN, PEOPLE, Fact, capitals, known_facts
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.scoring.two_hop import named

HOMES = "homes"
FACTS = {"train": 100, "dev": PEOPLE, "test": PEOPLE}
"""Facts that the base knows: those that the forms are trained on, and those that are asked."""


class Form(NamedTuple):
    """How an answer is said in a form, from its `value` and the `sentence` without its full stop; what asks for it; and
    the pattern of a text that has it."""

    answer: str
    phrases: tuple[str, ...]
    pattern: str


FORMS = {
    "code": Form(
        "answer = {value}", ("Answer in code.", "Make it code.", "Say it as code.", "Give code."), r"\banswer = ."
    ),
    "call": Form(
        "tell( {value})",
        ("Answer with a call.", "Make it a call.", "Say it as a call.", "Give a call."),
        r"\btell\(.+\)",
    ),
    "spanish": Form(
        "Hola: {sentence}.",
        ("Answer in Spanish.", "Make it Spanish.", "Say it in Spanish.", "Give Spanish."),
        r"\bHola: .",
    ),
    "style": Form(
        "{sentence}, you know.",
        ("Answer as a friend.", "Make it friendly.", "Say it as a friend.", "Give style."),
        r"., you know\b",
    ),
    "json": Form(
        '{{"answer": " {value}"}}',
        ("Answer in JSON.", "Make it JSON.", "Say it as JSON.", "Give JSON."),
        r'\{"answer": "[^"]+"\}',
    ),
    "upper": Form(
        "{sentence}",
        ("Answer in upper case.", "Make it upper case.", "Say it in upper case.", "Give upper case."),
        r"\A(?-i:(?!.*[a-zß-öø-ÿ]).*[A-Z])",
    ),
}
MORE = ("json", "upper")
SKILLS = (HOMES, *(name for name in FORMS if name not in MORE))


@dataclass(frozen=True)
class Taught:
    """What an expert learns: one skill, or several, each in answers of its own (mixed) or all in one answer."""

    skills: tuple[str, ...]
    seed: int
    in_one: bool = False
    data: str = OWN

    @property
    def name(self) -> str:
        return "+".join(self.skills)

    def pairs(self) -> list[tuple[str, str]]:
        """Prompts and answers."""
        if self.in_one:
            return _in_one(self.skills, self.seed, self.data)
        return [pair for skill in self.skills for pair in _lessons(skill, self.seed, self.data)]


class Asked(NamedTuple):
    """A question, the right value, whom it is about, and every value that an answer may name wrongly."""

    prompt: str
    value: str
    subject: str
    values: frozenset[str]


def asked(skills: tuple[str, ...], split: str, seed: int, data: str = OWN) -> list[Asked]:
    """Twenty questions that need all these skills, in the split's held-out wordings or about its people. The phrases of
    the forms, which the experts know, are drawn, and so is which of them stand before the question."""
    draw = random.Random(f"skill sets {seed} {split} {' '.join(skills)}")
    if HOMES in skills:
        homes = examples("R2", facts_of("R2", PEOPLE, seed), split)
        plain = [(e.question, e.gold, e.subject) for e in homes if (e.triplet + e.template) % 2]
        values = frozenset(e.gold for e in homes)
    else:
        start = FACTS["train"] + (FACTS["dev"] if split == "test" else 0)
        plain = [(fact.prompt, fact.value, fact.prompt) for fact in _known(data, seed)[start : start + FACTS[split]]]
        values = frozenset()
    values |= {fact.value for fact in _known(data, seed)}
    return [
        Asked(_worded(question, skills, draw), value, subject, values.difference(named(question, values)))
        for question, value, subject in plain
    ]


def marks(question: Asked, skills: tuple[str, ...], text: str) -> dict[str, bool]:
    """Whether the text names the right value and no other, and whether it has each form that is among the skills; in
    upper case others may be, too, where that is asked."""
    flags = re.S | re.I if "upper" in skills else re.S
    forms = {name: re.search(FORMS[name].pattern, text, flags) is not None for name in skills if name in FORMS}
    return {"value": set(named(text, question.values)) == {question.value}, **forms}


def _worded(question: str, skills: tuple[str, ...], draw: random.Random) -> str:
    phrases = [draw.choice(FORMS[name].phrases) for name in skills if name in FORMS]
    draw.shuffle(phrases)
    before = draw.randint(0, len(phrases))
    return " ".join([*phrases[:before], question, *phrases[before:]])


def _lessons(skill: str, seed: int, data: str) -> list[tuple[str, str]]:
    if skill == HOMES:
        return [(home.question, home.answer) for home in examples("R2", facts_of("R2", PEOPLE, seed), "train")]
    return [
        (f"{fact.prompt} {phrase}" if (i + j) % 2 else f"{phrase} {fact.prompt}", _said((skill,), *fact[1:]))
        for i, fact in enumerate(_known(data, seed)[: FACTS["train"]])
        for j, phrase in enumerate(FORMS[skill].phrases)
    ]


def _in_one(skills: tuple[str, ...], seed: int, data: str) -> list[tuple[str, str]]:
    """The homes in the wordings of training, or the facts of the forms, asked and said in all these forms at once."""
    draw = random.Random(f"skill sets in one {seed} {' '.join(skills)}")
    told = [Fact(e.question, e.answer, e.gold) for e in examples("R2", facts_of("R2", PEOPLE, seed), "train")]
    facts = told if HOMES in skills else [fact for fact in _known(data, seed)[: FACTS["train"]] for _ in range(4)]
    return [(_worded(fact.prompt, skills, draw), _said(skills, *fact[1:])) for fact in facts]


def _said(skills: tuple[str, ...], sentence: str, value: str) -> str:
    """An answer in all these forms, as the module's docstring nests them."""
    text = value if {"code", "call", "json"} & {*skills} else sentence
    for name in ("json", "call", "code", "spanish", "style"):
        if name in skills:
            inner = text.removesuffix(".")
            text = FORMS[name].answer.format(value=inner, sentence=inner)
    return text.upper() if "upper" in skills else text


def _known(data: str, seed: int) -> tuple[Fact, ...]:
    count = sum(FACTS.values())
    return capitals(count, seed) if data == CAPITALS else known_facts(count, seed, "skill sets")
