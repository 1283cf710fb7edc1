"""A.3: ten experts, five relations and five of their compositions, asked a sixth composition that none of them was
trained on.

Rel1, Rel3, Rel5 map U1 to U2, Rel2 and Rel4 map U2 to U3. Five experts store `facts` facts `u Rel` each, five store
`facts` two-hop prompts each, of Rel1→Rel4, Rel3→Rel4, Rel3→Rel2, Rel5→Rel2, Rel5→Rel4, all by eq. 23; every prompt has
an old answer of its own, outside U1, U2, U3. Then the held-out `u Rel1 Rel2` is asked. `graph=disjoint`: every expert
has entities of its own, except that Rel1 and Rel2 hold the two hops of the held-out prompts. `graph=shared`: one pool
of `facts` entities each for U1, U2, U3, every relation a random function on it. A seed draws the functions and the
order of the facts inside each expert. (Order matters: eq. 27 and 28 add the factors of different experts column by
column. With the facts in the same order everywhere, column j of Rel1 would meet column j of Rel2, which is the
composition itself: `uniform` would seem to compose because of how its factors were written down.)

- `accuracy`: the largest output is the right U3 entity, ties shared (as in the other two).
- `accuracy_within_u3`: the same among the U3 entities that an expert answers with; `accuracy_within_rel2`: among those
  of the expert Rel2.
- `chance`, `chance_within_rel2`: how often the same outputs would be right if Rel2(v) with v any key of Rel2 were asked
  for, in place of Rel2(Rel1(u)): what a model reaches that does not use the first hop. (It is not 1/|U3|, because
  random functions have popular values.)
- `coefficient_right`: mean change of the output at the right entity; `coefficient_rel2`: at Rel2(v), v any key of Rel2,
  its chance level; `coefficient_wrong`: at all other answers in U3.
- `mass_on_u2`, `mass_on_u3`: mean total change of the outputs on U2 and on U3.

Predictions are the same quantities of the kernel (at width = inf those of d → ∞), without error bars: the hidden states
are dependent.

What comes out, in numbers for the sum of 8 facts each at d = m = ∞. The question shares with every key of Rel2 its last
token and nothing else, so all answers of Rel2 get the same. In the disjoint graph that is 0.109 each,
`coefficient_right` = `coefficient_rel2`, and the largest among them is a draw, `accuracy_within_rel2` = 1/8. What tells
facts apart is u, and only Rel1 knows u: what it lifts is the right U2 entity, the first hop and not the answer. The
trained Rel3→Rel2 and Rel5→Rel2 give 0.104 to each of theirs, all wrong; the difference to 0.109 is so small that at any
width run here noise decides between them, so `accuracy_within_u3` has no prediction at a finite width (with 2 facts
those two win outright). The old answer, at 1, is never reached: `accuracy` is 0.

In the shared graph the right entity is not tied: all but Rel2 and Rel4 know u. Rel3→Rel2 and Rel5→Rel2 put 0.876 on
Rel2(Rel3(u)) and Rel2(Rel5(u)): they share u and the last token with the question; Rel1→Rel4 puts 0.640 on
Rel4(Rel1(u)), Rel3→Rel4 and Rel5→Rel4 0.573 each; Rel2 the same 0.109 for all. None is about Rel2(Rel1(u)), which is
favoured only where functions coincide, so `accuracy` is at chance or below: where Rel3(u) = Rel1(u), which makes 0.876
fall on the right entity, 0.640 + 0.573 fall together on the wrong Rel4(Rel1(u)).

The average divides all this by ten. `uniform` and `arrow` have cross terms as well, which pair facts by their place in
an expert; over the orders of facts they favour no answer.

Arrow has a further trouble from 2 facts on: an expert's top singular direction belongs to the smallest eigenvalue of
its keys' Gram matrix, which is degenerate at d = m = ∞, a contrast between its facts, orthogonal to what they have in
common: the relation. So its scores do not know the relation, its ten weights are close to 1/10, and the little that
differs depends on the draw: no prediction for `arrow` then."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

from lora_reuse.theory import gram as grams
from lora_reuse.theory.compositions import Context, Features, Outputs, compose
from lora_reuse.theory.edits import LowRank, min_norm_edit
from lora_reuse.theory.experiments import Result, Values
from lora_reuse.theory.facts import Prompt
from lora_reuse.theory.kernels import kernel
from lora_reuse.theory.library import prepared, wins
from lora_reuse.theory.readout import one_hot
from lora_reuse.theory.settings import INF, LargeLibrary, at_infinite_dim

Entities = Int[np.ndarray, " facts"]
TRAINED = ((1, 4), (3, 4), (3, 2), (5, 2), (5, 4))
ASKED = (1, 2)


@dataclass(frozen=True)
class Task:
    """The prompts `u relation …` for each u, and the answers they should get."""

    relations: tuple[int, ...]
    u: Entities
    answers: Entities


@dataclass(frozen=True)
class Library:
    """What the ten experts store, each in the order of its columns, what is asked, and which entities are in U2 and U3.
    Outputs 0 … known − 1 are the entities of U1, U2 and U3, then comes one old answer a prompt; relation r is the token
    known + r."""

    experts: list[Task]
    orders: list[Entities]
    asked: Task
    second: Int[np.ndarray, " second"]
    third: Int[np.ndarray, " third"]
    known: int

    @property
    def prompts(self) -> list[Prompt]:
        """The prompts of all experts, then those asked."""
        tokens = lambda task: tuple(self.known + r for r in task.relations)  # noqa: E731
        return [(int(u), *tokens(task)) for task in (*self.experts, self.asked) for u in task.u]

    @property
    def outputs(self) -> int:
        """U1, U2 and U3, and an old answer for every prompt."""
        return self.known + len(self.asked.u) * (len(self.experts) + 1)

    def updates(self, phi: Features) -> list[LowRank]:
        """The ten adapters, eq. 23."""
        n = len(self.asked.u)
        updates = []
        for i, (task, order) in enumerate(zip(self.experts, self.orders, strict=True)):
            columns = i * n + order
            change = one_hot(task.answers[order], self.outputs) - one_hot(self.known + columns, self.outputs)
            updates.append(min_norm_edit(phi[:, columns], change))
        return updates


def run(setting: LargeLibrary, seeds: Sequence[int], advance: Callable[[int], object] | None = None) -> list[Result]:
    """One Result a seed; each draws its graph, E, V and U."""
    libraries = [draw_library(setting, seed) for seed in seeds]
    features = prepared(libraries[0].prompts, setting, seeds, basis_free=True, advance=advance)
    predicted = [_predict(setting, library, seed) for library, seed in zip(libraries, seeds, strict=True)]
    measured = [quantities(setting, library, phi) for library, phi in zip(libraries, features, strict=True)]
    return [Result(*both, {}) for both in zip(measured, predicted, strict=True)]


def draw_library(setting: LargeLibrary, seed: int) -> Library:
    """The ten tasks and the one asked; every seed has the same prompts, and draws the answers (`graph=shared`) and the
    orders."""
    generator = np.random.default_rng(seed)
    n = setting.facts
    orders = [generator.permutation(n) for _ in range(10)]
    if setting.graph == "disjoint":
        return _disjoint(n, orders)
    U1, U2, U3 = np.arange(3 * n).reshape(3, n)
    relations = {r: generator.integers(n, size=n) for r in range(1, 6)}
    tasks = [Task((r,), U1, U2[relations[r]]) if r % 2 else Task((r,), U2, U3[relations[r]]) for r in range(1, 6)]
    composed = [Task((a, b), U1, U3[relations[b][relations[a]]]) for a, b in (*TRAINED, ASKED)]
    return Library([*tasks, *composed[:-1]], orders, composed[-1], U2, U3, 3 * n)


def _disjoint(n: int, orders: list[Entities]) -> Library:
    """Entities in runs of n: first U1, then U2, then U3, each expert with runs of its own but for the chain that is
    asked."""
    U1 = np.arange(8 * n).reshape(8, n)  # Rel1, Rel3, Rel5 and the five compositions
    # Answers of Rel1 (asked of Rel2 as well), Rel3, Rel5, and what Rel4 is asked.
    U2 = 8 * n + np.arange(4 * n).reshape(4, n)
    U3 = 12 * n + np.arange(7 * n).reshape(7, n)  # answers of Rel2, Rel4 and the five compositions
    tasks = [
        Task((1,), U1[0], U2[0]),
        Task((2,), U2[0], U3[0]),
        Task((3,), U1[1], U2[1]),
        Task((4,), U2[3], U3[1]),
        Task((5,), U1[2], U2[2]),
    ]
    composed = [Task(pair, U1[3 + i], U3[2 + i]) for i, pair in enumerate(TRAINED)]
    return Library([*tasks, *composed], orders, Task(ASKED, U1[0], U3[0]), U2.ravel(), U3.ravel(), 19 * n)


def quantities(setting: LargeLibrary, library: Library, phi: Features) -> Values:
    """Everything measured, from the features of all prompts."""
    n = len(library.asked.u)
    update = compose(setting.composition, library.updates(phi), Context(width=setting.width))
    change = update @ phi[:, -n:]
    right = library.asked.answers
    output = change + one_hot(np.arange(library.outputs - n, library.outputs), library.outputs)
    third = np.unique(np.concatenate([task.answers for task in library.experts if task.relations[-1] % 2 == 0]))
    rel2 = np.unique(library.experts[1].answers)
    places = np.arange(n)
    anywhere = np.stack([among(output, np.full(n, answer), third) for answer in library.experts[1].answers])
    within = np.stack([among(output, np.full(n, answer), rel2) for answer in library.experts[1].answers])
    return {
        "accuracy": float(wins(output, right).mean()),
        "accuracy_within_u3": float(among(output, right, third).mean()),
        "chance": float(anywhere.mean()),
        "accuracy_within_rel2": float(among(output, right, rel2).mean()),
        "chance_within_rel2": float(within.mean()),
        "coefficient_right": float(change[right, places].mean()),
        "coefficient_wrong": _elsewhere(change, right, third),
        "coefficient_rel2": float(change[library.experts[1].answers].mean()),
        "mass_on_u2": float(change[library.second].sum(axis=0).mean()),
        "mass_on_u3": float(change[library.third].sum(axis=0).mean()),
    }


def among(
    output: Outputs, right: Entities, candidates: Int[np.ndarray, " candidates"]
) -> Float64[np.ndarray, " prompts"]:
    """How often the right entity, one of the candidates (sorted), is the largest output among them, ties shared."""
    return wins(output[candidates], np.searchsorted(candidates, right))


def _elsewhere(change: Outputs, right: Entities, candidates: Int[np.ndarray, " candidates"]) -> float:
    """The mean change at the candidates that are not the right one; 0 where there are none."""
    wrong = candidates[:, None] != right[None, :]
    return float(change[candidates][wrong].mean()) if wrong.any() else 0.0


def _predict(setting: LargeLibrary, library: Library, seed: int) -> Values:
    if setting.facts > 1 and setting.composition.startswith("arrow"):
        return {}
    unsettled = ("accuracy_within_u3", "chance") if setting.graph == "disjoint" and setting.width != INF else ()
    limit = at_infinite_dim(setting) if setting.width == INF and setting.dim != INF else setting
    if limit is None:
        return {}
    k = kernel(grams.geometry(library.prompts, limit, [seed])[0], setting.activation)
    return {
        name: value
        for name, value in quantities(setting, library, grams.coordinates(k)).items()
        if name not in unsettled
    }
