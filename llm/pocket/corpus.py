"""The text the pocket model is pretrained on: a world of familiar people and places, told and asked in many ways.

The world invents facts about the same real names that R and H use, but nobody of R has a spouse or a home in it (unless
`conflict`), so an expert's facts contradict nothing. What the tests hold absent: every fake name of F and H, the chain
spouse_of -> live_in (unless `skill=same`, or of the people that `exposure` says), and the prompt of Table 6 with its
three fixed lines; the words of that prompt do occur, in styles of the corpus's own, because embeddings stay frozen
while an expert trains."""

import functools
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lora_reuse.llm.data.facts import COUNT
from lora_reuse.llm.data.names import cities, fakes, people
from lora_reuse.llm.data.subsets import templates
from lora_reuse.llm.pocket.size import Corpus
from lora_reuse.llm.pocket.styles import OWN_STYLES, PLAIN, RESTATING, WITHOUT_RESTATING, WORD_STYLES, step_styles

JOBS = """baker doctor teacher painter pilot farmer lawyer nurse sailor tailor butcher gardener carpenter miner judge
dentist grocer printer plumber weaver potter florist jeweler barber banker clerk cook hunter fisher mason""".split()
RELATIONS = ("spouse_of", "live_in", "study_in", "child_of", "friend_of", "works_as")
OTHER_PAIRS = tuple(
    (first, second)
    for first in ("child_of", "friend_of")
    for second in ("study_in", "works_as", "friend_of", "child_of")
    if first != second
)
TESTED_PAIR = ("spouse_of", "live_in")
TAUGHT_PAIRS = ("spouse_of-live_in", "spouse_of-study_in", "child_of-live_in")
"""The two-hop templates whose words the tokenizer was made with: those of Table 1's setups."""
NOUNS = {
    "child_of": ("{a}'s child", "the child of {a}"),
    "friend_of": ("{a}'s friend", "the friend of {a}"),
    "spouse_of": ("{a}'s spouse", "the spouse of {a}", "{a}'s partner"),
}
"""How a two-hop question of the corpus speaks of the person in between, who is never named."""


class Document(NamedTuple):
    """Text before the answer (learned with a small weight), and the answer."""

    prompt: str
    answer: str


def tested() -> tuple[str, ...]:
    """The people of R as A and B: familiar, but without spouse or home in the world."""
    return tuple(person.name for person in people()[: 2 * COUNT])


@dataclass(frozen=True)
class World:
    """Invented facts: relation -> who -> whom, where or what."""

    corpus: Corpus
    seed: int = 0
    facts: dict[str, dict[str, str]] = field(init=False, repr=False)

    def __post_init__(self):
        rng = random.Random(f"world {self.seed}")
        everybody = [person.name for person in people()]
        familiar = set(rng.sample(tested(), round(self.corpus.coverage * len(tested()))))
        known = [name for name in everybody if name in familiar or name not in tested()]
        single = known if self.corpus.conflict else [name for name in known if name not in tested()]
        pick = lambda name, pool: rng.choice([other for other in pool if other != name])  # noqa: E731
        makers: dict[str, tuple[list[str], Callable[[str], str]]] = {
            "spouse_of": (single, lambda name: pick(name, single)),
            "live_in": (single, lambda _: rng.choice(cities())),
            "study_in": (known, lambda _: rng.choice(cities())),
            "child_of": (known, lambda name: pick(name, known)),
            "friend_of": (known, lambda name: pick(name, known)),
            "works_as": (known, lambda _: rng.choice(JOBS)),
        }
        object.__setattr__(
            self, "facts", {relation: {name: make(name) for name in who} for relation, (who, make) in makers.items()}
        )

    def chains(self, pair: tuple[str, str]) -> list[tuple[str, str, str]]:
        """(A, B, C) for every A whose B under the first relation has a C under the second."""
        first, second = (self.facts[relation] for relation in pair)
        return [(a, b, second[b]) for a, b in first.items() if b in second]

    @functools.cached_property
    def chained(self) -> dict[tuple[str, str], list[tuple[str, str, str]]]:
        """The chains of the relation pairs that the corpus asks two-hop questions about."""
        found = {pair: self.chains(pair) for pair in OTHER_PAIRS}
        tested = [chain for chain in self.chains(TESTED_PAIR) if chain[0] in self.exposed]
        return found | ({TESTED_PAIR: tested} if tested else {})

    @functools.cached_property
    def exposed(self) -> frozenset[str]:
        """The people whose spouse's home the corpus asks for: every A of skill=same, otherwise as many as `exposure`
        says. Those of a smaller exposure are among those of a larger one, and the facts of the world are the same."""
        everyone = [a for a, _, _ in self.chains(TESTED_PAIR)]
        share = 1.0 if self.corpus.skill == "same" else self.corpus.exposure
        order = random.Random(f"exposure {self.seed}").sample(everyone, len(everyone))
        return frozenset(order[: round(share * len(everyone))])


def documents(world: World, rng: random.Random) -> Iterator[Document]:
    """Endless documents, drawn by `rng`."""
    story_names = fakes()[500:]
    styles: list[tuple[float, Callable[[], Document]]] = [
        (6, lambda: _one_hop(world, rng)),
        (1.5, lambda: _statements(world, rng)),
        (1.5, lambda: _story(world, rng, story_names)),
        (1.5, lambda: _restated(world, rng)),
        (world.corpus.recall, lambda: _quiz(world, rng)),
        (0.5, lambda: _direct(world, rng)),
    ]
    if world.corpus.skill != "none":
        styles += [(2, lambda: _steps(world, rng)), (1.5, lambda: _steps_in_story(world, rng, story_names))]
    if world.corpus.words:
        styles += [(1.5, lambda: _words(world, rng))]
    if world.corpus.direct:
        styles += [(world.corpus.direct, lambda: _direct_quiz(world, rng))]
    weights, makers = zip(*styles, strict=True)
    while True:
        yield rng.choices(makers, weights)[0]()


def ask(relation: str, a: str, b: str, rng: random.Random) -> Document:
    """A one-hop question and its answer in one of the relation's templates."""
    question, answer = rng.choice(templates(relation))
    return Document(question.format(a=a, b=b), answer.format(a=a, b=b))


def ask_two(pair: tuple[str, str], a: str, c: str, rng: random.Random) -> Document:
    """A two-hop question: a one-hop template of the second relation asked about "A's child" and the like."""
    noun = rng.choice(NOUNS[pair[0]]).format(a=a)
    question, answer = (_capital(text.format(a=noun, b=c)) for text in rng.choice(templates(pair[1])))
    return Document(question, answer)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _fact(world: World, rng: random.Random) -> tuple[str, str, str]:
    relation = rng.choice(RELATIONS)
    a = rng.choice(list(world.facts[relation]))
    return relation, a, world.facts[relation][a]


def _one_hop(world: World, rng: random.Random) -> Document:
    return ask(*_fact(world, rng), rng)


def _statements(world: World, rng: random.Random) -> Document:
    return Document("", " ".join(ask(*_fact(world, rng), rng).answer for _ in range(3)))


def _story(world: World, rng: random.Random, names: tuple[str, ...]) -> Document:
    """Three or four facts, half of them about fake people, then three of them asked."""
    told = [_told(world, rng, names) for _ in range(rng.choice((3, 4)))]
    lines = [ask(*fact, rng).answer for fact in told]
    turns = [ask(*fact, rng) for fact in rng.sample(told, 3)]
    return Document(" ".join(lines), "\n".join(f"{turn.prompt} {turn.answer}" for turn in turns))


def _told(world: World, rng: random.Random, names: tuple[str, ...]) -> tuple[str, str, str]:
    if rng.random() < 0.5:
        return _fact(world, rng)
    relation = rng.choice(RELATIONS)
    values = JOBS if relation == "works_as" else names
    return relation, rng.choice(names), rng.choice(values)


def _restated(world: World, rng: random.Random) -> Document:
    """A single question, said again before it is answered, as a step of a longer answer would."""
    turn = ask(*_fact(world, rng), rng)
    opening, answer = rng.choice(RESTATING)
    return _filled(opening, answer, turn)


def _quiz(world: World, rng: random.Random) -> Document:
    """Three to six unrelated single questions, some said again before they are answered: a fact is recalled anywhere in
    a text."""
    return _in_a_row(
        [_restated(world, rng) if rng.random() < 0.5 else _one_hop(world, rng) for _ in range(rng.randint(3, 6))]
    )


def _in_a_row(turns: Sequence[Document]) -> Document:
    first, *others = turns
    return Document(first.prompt, "\n".join([first.answer, *(f"{turn.prompt} {turn.answer}" for turn in others)]))


def _filled(opening: str, answer: str, turn: Document) -> Document:
    return Document(opening.format(q=turn.prompt), answer.format(q=turn.prompt, t=turn.answer))


def _direct(world: World, rng: random.Random) -> Document:
    pair, (a, _, c) = _chain(world, rng)
    return ask_two(pair, a, c, rng)


def _direct_quiz(world: World, rng: random.Random) -> Document:
    """Three to six unrelated two-hop questions, answered directly: packing leaves out most that stand alone."""
    return _in_a_row([_direct(world, rng) for _ in range(rng.randint(3, 6))])


def _chain(world: World, rng: random.Random) -> tuple[tuple[str, str], tuple[str, str, str]]:
    pair = rng.choice(list(world.chained))
    return pair, rng.choice(world.chained[pair])


def _steps(world: World, rng: random.Random) -> Document:
    """A two-hop question answered through its two one-hop questions."""
    pair, (a, b, c) = _chain(world, rng)
    return _in_steps(world, pair, a, b, c, rng)


def _in_steps(world: World, pair: tuple[str, str], a: str, b: str, c: str, rng: random.Random) -> Document:
    opening, steps = rng.choice(step_styles(world.corpus))
    first, second = ask(pair[0], a, b, rng), ask(pair[1], b, c, rng)
    whole = ask_two(pair, a, c, rng)
    filled = steps.format(q1=first.prompt, t1=first.answer, q2=second.prompt, t2=second.answer, c=c)
    return Document(opening.format(q=whole.prompt), filled)


def _steps_in_story(world: World, rng: random.Random, names: tuple[str, ...]) -> Document:
    """Facts of fake people told first, so that the steps are read from the text and not from memory."""
    pair = rng.choice(list(world.chained))
    a, b = rng.sample(names, 2)
    c = rng.choice(JOBS if pair[1] == "works_as" else names)
    lines = [ask(pair[0], a, b, rng).answer, ask(pair[1], b, c, rng).answer, ask(*_told(world, rng, names), rng).answer]
    rng.shuffle(lines)
    steps = _in_steps(world, pair, a, b, c, rng)
    return Document(" ".join([*lines, steps.prompt]), steps.answer)


def _words(world: World, rng: random.Random) -> Document:
    """One-hop answers among the words of the bridge's prompt, which the embeddings must know."""
    turn = ask(*_fact(world, rng), rng)
    opening, answer = rng.choice(PLAIN)
    return _filled(opening, answer, turn)


def texts() -> list[str]:
    """Every template and style, without their places for names: the words a tokenizer of the corpus has to know."""
    kinds = (*RELATIONS, *TAUGHT_PAIRS)
    told = [text for kind in kinds for pair in templates(kind) for text in pair]
    styles = [text for pair in (*OWN_STYLES, *WORD_STYLES, *WITHOUT_RESTATING, *RESTATING, *PLAIN) for text in pair]
    nouns = [noun for nouns in NOUNS.values() for noun in nouns]
    return [re.sub(r"\{\w+\}", "", text) for text in (*told, *styles, *nouns, *map(_capital, told), " ".join(JOBS))]
