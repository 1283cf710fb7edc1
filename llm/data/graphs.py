"""The graphs of A.3: three disjoint sets of fake entities, five relations, and six chains of two of them.

Rel1, Rel3 and Rel5 go from people U1 to people U2, Rel2 and Rel4 from U2 to places U3; they are digits 1 to 5 of
`llm.data.subsets`. A.3 does not say which relations, which names and how many facts; here they are spouse, best friend
and child of, where one lives and where one studies, with the names of dataset F.

- Disjoint (D): each of the six pairs has chains of its own, and nobody and no place is in two of them. An expert on a
  relation learns the facts of all chains that it is in: of Rel1, Rel3, Rel5 twice as many as a pair has, of Rel2 and
  Rel4 three times.
- Shared (S): one pool for each of U1, U2 and U3, on which every relation is one to one, so that no answer is popular
  and all chains go through the same people. Nobody's spouse, best friend and child are one person, and nobody lives
  where they study, so that pairs with a relation in common have different answers (other pairs agree by chance, on one
  person in as many as there are). In the theory's shared graph relations are random functions, which may coincide.
"""

import functools
import random

from lora_reuse.llm.data.facts import Triplet, triplets
from lora_reuse.llm.data.names import fake_people, fake_places
from lora_reuse.llm.data.subsets import ATOMIC, GRAPHS, PAIRS, parts
from lora_reuse.runs.settings import SettingError

COUNTS = {"D": (1, 16), "S": (3, 100)}
"""Facts of a pair, at least and at most: three relations that agree on nobody need three people, and a hundred places
are kept for other use."""


@functools.cache
def facts_of(subset: str, count: int, seed: int) -> tuple[Triplet, ...]:
    """What a subset asks about: the first `count` triplets of F, H and R; of a graph with `count` facts a pair, the
    chains that the subset's relations are in, with "" for what their relations do not speak of. Raises SettingError for
    too many."""
    dataset, kind = parts(subset)
    if dataset not in GRAPHS:
        return triplets(dataset, seed)[:count]
    drawn = chains(dataset, count, seed)
    through = [pair for pair in PAIRS if kind.removesuffix("-CoT") in (pair, *pair)]
    if dataset == "S":
        through = through[:1]  # the relation is on all of its entities in any of them
    return tuple(chain for pair in through for chain in drawn[pair])


@functools.cache
def chains(graph: str, count: int, seed: int) -> dict[str, tuple[Triplet, ...]]:
    """The chains of every pair, drawn by the seed. Raises SettingError for a count that the names do not suffice
    for."""
    low, high = COUNTS[graph]
    if not low <= count <= high:
        raise SettingError(
            "triplets", count, f"{low} to {high} facts a pair in the {'disjoint' if graph == 'D' else 'shared'} graph"
        )
    rng = random.Random(f"graph {graph} {seed}")
    people, places = list(fake_people()), list(fake_places()[: COUNTS["S"][1]])
    rng.shuffle(people)
    rng.shuffle(places)
    if graph == "D":
        runs = [slice(i * count, (i + 1) * count) for i in range(len(PAIRS))]
        first, second = people[: len(people) // 2], people[len(people) // 2 :]
        return {
            pair: tuple(map(_chain, [pair] * count, first[run], second[run], places[run]))
            for pair, run in zip(PAIRS, runs, strict=True)
        }
    first, second, third = people[:count], people[count : 2 * count], places[:count]
    onto: dict[str, dict[str, str]] = {}
    for relations, sources, targets in (("135", first, second), ("24", second, third)):
        for relation in relations:
            onto[relation] = _one_to_one(sources, targets, [onto[other] for other in relations if other in onto], rng)
    return {(a + b): tuple(_chain(a + b, u, onto[a][u], onto[b][onto[a][u]]) for u in first) for a, b in PAIRS}


def _one_to_one(
    sources: list[str], targets: list[str], others: list[dict[str, str]], rng: random.Random
) -> dict[str, str]:
    """A random one-to-one relation that agrees with none of the others on anybody."""
    while True:
        drawn = dict(zip(sources, rng.sample(targets, len(targets)), strict=True))
        if not any(drawn[source] == other[source] for other in others for source in sources):
            return drawn


def _chain(pair: str, u1: str, u2: str, u3: str) -> Triplet:
    """The chain as a triplet that the pair's subsets read: who is asked about and what the answer is stand in the
    fields they look at."""
    (_, asked, _), (_, _, answer) = ATOMIC[pair[0]], ATOMIC[pair[1]]
    return Triplet(**({"a": "", "c": "", "s": "", "d": ""} | {asked: u1, "b": u2, answer: u3}))
