"""Bridges: the examples that make two adapters of one hop each compose step by step.

An example is a two-hop question answered through both one-hop questions (Table 6). `compiled` writes them from nothing
but the training templates of both adapters and facts that are asked nothing. It covers, the most of it first:

- the form and the order of the steps: no example is without them, while two thirds of a bridge of Table 1 are;
- the step from the two-hop question to the second one-hop question. The two-hop question is the latter with a
  description of the first answer in the place of the name ("Where does the spouse of {a} live?" for "Where does {b}
  live?"), so that in each example one is the other with a name put in, whatever the wording is;
- every wording of either relation, once each before any comes twice. The next one is the one that is most like those
  that have had none of its kind yet;
- people and places, others in each example as long as there are others, so that what recurs is the steps and no fact.

Why that should be enough: each adapter knows its own hop in all of its wordings, and what neither was taught is to ask
itself the two questions, in order. In one layer an update reaches another prompt by the share of tokens that the two
have in common, so that a wording that shares its words with many stands for many. How many examples it takes is
measured by `llm.bridge_examples`."""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lora_reuse.llm.data.facts import Triplet, triplets
from lora_reuse.llm.data.mixtures import BRIDGE, SETUPS
from lora_reuse.llm.data.subsets import PAIRS, SPLITS, examples, in_steps, step_by_step, templates

Wordings = Sequence[tuple[str, str]]
"""Questions and their answers, with {a} for who is asked about and {b} for who or what is right."""
Pairs = list[tuple[str, str]]
"""Prompts and the answers that are learned."""
DESCRIBING = re.compile(r"\{b\} is ((?:the|\{a\}'s) .*)\.|((?:The|\{a\}'s) .*) is \{b\}\.")
"""English answers that describe {b}: "{b} is the partner of {a}.", "The spouse of {a} is {b}."."""


def compiled(first: Wordings, second: Wordings, facts: Sequence[Triplet], count: int) -> Pairs:
    """`count` prompts with their answers; fewer would be the first of these. `first` has to have an answer that
    describes {b} (`descriptions`)."""
    described = descriptions(first)
    orders = [by_coverage([f"{question} {answer}" for question, answer in hop]) for hop in (first, second)]
    made = []
    for k in range(count):
        t = facts[k % len(facts)]
        (ask, tell), (ask_next, tell_next) = (
            hop[order[k % len(order)]] for hop, order in zip((first, second), orders, strict=True)
        )
        question = _told(ask_next, described[k % len(described)])
        steps = [(_told(ask, t.a), _told(tell, t.a, t.b)), (_told(ask_next, t.b), _told(tell_next, t.b, t.c))]
        made.append((step_by_step(_told(question, t.a)), in_steps(steps, t.c)))
    return made


def _told(wording: str, a: str, b: str = "") -> str:
    """A wording about a; braces around anything else are its own."""
    return wording.replace("{b}", b).replace("{a}", a)


def descriptions(first: Wordings) -> list[str]:
    """How answers of a relation describe {b}, as "the spouse of {a}"; those most like the others come first."""
    matches = [DESCRIBING.fullmatch(answer) for _, answer in first]
    found = [(match[1] or match[2]).replace("The ", "the ", 1) for match in matches if match]
    found = [text for text in dict.fromkeys(found) if "{a}" in text and " name " not in text]
    return [found[i] for i in by_coverage(found)]


def by_coverage(texts: Sequence[str]) -> list[int]:
    """The numbers of the texts in the order in which they stand best for all: the next one adds most to the sum, over
    all texts, of the greatest similarity to one that is there already, the cosine of their counts of words.

    So many of them from the first reach 1 − 1/e of what any choice of as many does (facility location; Nemhauser,
    Wolsey and Fisher 1978)."""
    words = [Counter(re.findall(r"\w+", text.lower())) for text in texts]
    vocabulary = sorted(set[str]().union(*words))
    counts = np.array([[each[word] for word in vocabulary] for each in words], dtype=float)
    units = counts / np.linalg.norm(counts, axis=-1, keepdims=True)
    alike = units @ units.T
    covered, order = np.zeros(len(texts)), list[int]()
    while len(order) < len(texts):
        gains = np.maximum(alike, covered).sum(axis=1).round(9)  # equal ones stay equal: the first of them is next
        gains[order] = -np.inf
        order.append(int(gains.argmax()))
        covered = np.maximum(covered, alike[order[-1]])
    return order


@dataclass(frozen=True)
class Bridge:
    """A bridge of `count` examples for the tested pair of relations, from so many fake triplets of a seed, in one of
    the ways of CHOICES."""

    choice: str
    count: int
    triplets: int
    seed: int

    @property
    def name(self) -> str:
        """What an expert's card calls it."""
        return f"{self.choice} {self.count}"

    def pairs(self) -> Pairs:
        """Its prompts and answers."""
        return CHOICES[self.choice](self, triplets(SETUPS["2"].bridge, self.seed)[: self.triplets])


def _compiled(bridge: Bridge, facts: Sequence[Triplet]) -> Pairs:
    first, second = (templates(relation)[SPLITS["train"]] for relation in PAIRS["12"].split("-"))
    return compiled(first, second, facts, bridge.count)


def _drawn(bridge: Bridge, facts: Sequence[Triplet], kinds: Sequence[str]) -> Pairs:
    pool = [(e.question, e.answer) for kind in kinds for e in examples(SETUPS["2"].bridge + kind, facts)]
    return random.Random(f"bridge {bridge.seed}").sample(pool, bridge.count)


CHOICES = {
    "compiled": _compiled,
    "one_triplet": lambda bridge, facts: _compiled(bridge, facts[:1]),
    "random": lambda bridge, facts: _drawn(bridge, facts, BRIDGE),
    "random_steps": lambda bridge, facts: _drawn(bridge, facts, BRIDGE[2:]),
}
"""How a bridge's examples are chosen: compiled; the same of one triplet; at random from setup 2's bridge, or from its
step-by-step examples."""
