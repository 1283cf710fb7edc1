"""Chains of two to four relations, the single facts that they consist of, and a bridge of such chains.

A chain of four is (A, B, C, D, E): B is A's best friend, C is B's child, D is C's spouse, and D lives in E. A shorter
chain is the end of one, so that an expert on a relation is the same expert in chains of every length, and chains of two
are those of the paper. A question describes whom it does not name by what the training answers call them (`described`),
and asks for the place in a wording of the split:

    Where does the spouse of the child of the best friend of A live?

The people and places that are asked about are real ones and those of a bridge fake ones, as in setup 2 of Table 1. No
fact of a chain is true as far as `people.csv` knows."""

import functools
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lora_reuse.llm.data.bridges import descriptions
from lora_reuse.llm.data.names import cities, fake_people, fake_places, people
from lora_reuse.llm.data.subsets import SPLITS, in_steps, step_by_step, templates
from lora_reuse.runs.settings import SettingError

RELATIONS = ("best_friend_of", "child_of", "spouse_of", "live_in")
MOST = 50
"""Chains of four that the hundred cities and the real people suffice for, with some to choose from."""
Chain = tuple[str, ...]
"""The people in order, then the place."""


class Asked(NamedTuple):
    """A question with what is right: about whom it is, the entities that its hops lead to, and which chain it is of."""

    prompt: str
    subject: str
    path: Chain
    chain: int


def chains(count: int, seed: int, fake: bool = False) -> tuple[Chain, ...]:
    """`count` chains of four relations, in which everybody and every place is once. Raises SettingError for more than
    there are names for."""
    if count > MOST:
        raise SettingError("triplets", count, f"at most {MOST} chains")
    return _drawn(count, seed, fake)


@functools.cache
def _drawn(count: int, seed: int, fake: bool) -> tuple[Chain, ...]:
    known = {} if fake else {person.name: person for person in people()}
    names, places = list(fake_people() if fake else known), list(fake_places() if fake else cities())
    rng = random.Random(f"chains {'fake' if fake else 'real'} {seed}")
    found: list[Chain] = []
    while len(found) < count:
        chain, place = rng.sample(names, len(RELATIONS)), rng.choice(places)
        ties = [known[name] for name in chain if name in known]
        if any({*chain} & one.related or place in one.cities for one in ties):
            continue  # a fact of it is true: drawn again
        names = [name for name in names if name not in chain]
        places.remove(place)
        found.append((*chain, place))
    return tuple(found)


def hops_of(chain: Chain, hops: int) -> Chain:
    """The last `hops` hops of a chain of four."""
    return chain[len(RELATIONS) - hops :]


def relations(hops: int) -> tuple[str, ...]:
    """The relations of a chain of so many hops."""
    return RELATIONS[len(RELATIONS) - hops :]


def described(subject: str, through: Sequence[str], rng: random.Random) -> str:
    """Whom the relations `through` lead to from the subject, each in a drawn description of the training answers: "the
    spouse of the child of Ada"."""
    for relation in through:
        subject = rng.choice(_plain(relation)).replace("{a}", subject)
    return subject


@functools.cache
def _plain(relation: str) -> tuple[str, ...]:
    """Descriptions that end with {a}, so that they nest: "the spouse of {a}"."""
    found = descriptions(templates(relation)[SPLITS["train"]])
    return tuple(text for text in found if text.endswith(" of {a}"))


def single(chain: Chain, number: int, hops: int, hop: int, wording: int) -> tuple[Asked, str]:
    """The question of one hop, counted from 0, of the last `hops` of a chain, with its answer."""
    a, b = hops_of(chain, hops)[hop : hop + 2]
    question, answer = (text.format(a=a, b=b) for text in templates(relations(hops)[hop])[wording])
    return Asked(question, a, (b,), number), answer


def whole(chain: Chain, number: int, hops: int, wording: int, rng: random.Random) -> tuple[Asked, str]:
    """The question of all hops, with its answer."""
    subject, *path = hops_of(chain, hops)
    question, answer = templates("live_in")[wording]
    name = described(subject, relations(hops)[:-1], rng)
    prompt, said = (text[0].upper() + text[1:] for text in (question.format(a=name), answer.format(a=name, b=path[-1])))
    return Asked(prompt, subject, tuple(path), number), said


def stepwise(chain: Chain, number: int, hops: int, wording: int, rng: random.Random) -> tuple[Asked, str]:
    """The question of all hops step by step, answered through the questions of the single hops (Table 6)."""
    asked, _ = whole(chain, number, hops, wording, rng)
    steps = [single(chain, number, hops, hop, wording) for hop in range(hops)]
    answer = in_steps([(one.prompt, said) for one, said in steps], asked.path[-1])
    return asked._replace(prompt=step_by_step(asked.prompt)), answer


WAYS = {"direct": whole, "steps": stepwise}
"""How a question of all hops is asked and answered."""


def asked(hops: int, count: int, split: str, way: str, seed: int) -> list[Asked]:
    """The questions about `count` chains in each wording of the split: of all hops ("direct", "steps"), or of one hop
    ("1" to "4")."""
    rng = random.Random(f"chains asked {hops} {seed}")
    cells = itertools.product(range(50)[SPLITS[split]], enumerate(chains(count, seed)))
    return [_made(way, chain, i, hops, wording, rng)[0] for wording, (i, chain) in cells]


def _made(way: str, chain: Chain, number: int, hops: int, wording: int, rng: random.Random) -> tuple[Asked, str]:
    if way in WAYS:
        return WAYS[way](chain, number, hops, wording, rng)
    return single(chain, number, hops, int(way) - 1, wording)


@dataclass(frozen=True)
class Taught:
    """What an expert learns of `count` chains in the training wordings: `ways` as in `asked`, of chains of `hops`
    relations."""

    ways: tuple[str, ...]
    hops: int
    count: int
    seed: int
    fake: bool = False

    @property
    def name(self) -> str:
        """What an expert's card calls it: its relations, or how whole chains are asked."""
        told = (way if way in WAYS else relations(self.hops)[int(way) - 1] for way in self.ways)
        return "+".join(told) + (" of fake people" if self.fake else "")

    def pairs(self) -> list[tuple[str, str]]:
        """Its prompts and answers."""
        return list(_pairs(self))


@functools.cache
def _pairs(taught: Taught) -> tuple[tuple[str, str], ...]:
    rng = random.Random(f"chains taught {taught.seed}")
    drawn = chains(taught.count, taught.seed, taught.fake)
    cells = itertools.product(range(50)[SPLITS["train"]], enumerate(drawn))
    made = [_made(way, chain, i, taught.hops, wording, rng) for wording, (i, chain) in cells for way in taught.ways]
    return tuple((one.prompt, answer) for one, answer in made)
