"""Trained depth: transformers of L blocks that were trained, from lazy to rich, and experts in some of their blocks
(beyond the paper, whose model has one block and random features).

The network is `theory.trained`. The base is trained on every one-hop fact of |R| relations and on all two-hop facts
but a share `held_out` and the n that are asked about. Each expert is trained on n new one-hop facts alone: r̃₁(x_j) =
y_j the first, r̃₂(y_j) = z_j the second, both from the base and each in its own blocks (`placement`; the lower half is
blocks 1 … ⌊L/2⌋). Their sum is asked the n composed questions `x_j r1 r2`.

Measured of the base: `one_hop`, `two_hop` and `held_out`, its accuracies on facts that it was and was not trained on;
`composed_before`, that on the n questions before any expert; `moved`, ‖θ − θ₀‖/‖θ₀‖. A base composes where `held_out`
is high. Where it does not, placements say nothing of composing. Of the experts:

- `own_first`, `own_second`: accuracy on its own prompts of each alone; `first_kept`, `second_kept`: under the sum;
- `accuracy`: the share of composed prompts whose largest output is z_j, ties shared; `accuracy_among_new`: for which
  z_j is the largest of z_1 … z_n;
- `passed_on`: the share of composed prompts on which the first expert alone makes the old r₂(y_j) the largest output,
  so that what it writes is read above; `found`: of all `x' r' r2` with r'(x') = y_j in the base, the share on which the
  second expert alone makes z_j the largest, so that it is reached from a composed prompt (absent where there is none);
- `c_first`, `c_second`, `c_second_elsewhere`: the mean multiples of i_{y_j} − i_{r1(x_j)}, of i_{z_j} − i_{r2(y_j)} and
  of each other fact's second difference in what the sum adds to the composed prompts (least squares);
- `linear_error`: ‖change − linearised change‖/‖linearised change‖ there; `c_first_linear`, `c_second_linear`: the
  multiples of the linearised change, which is kernel regression with the base's own tangent kernel.

Predictions are those of the kernel regime: α → ∞ and then d = m = ∞, by the recursion of `theory.trained.tangents`.

What was expected before any row was made. At the lazy end (`linear_error` small) the multiples are those of the
recursion at every depth, and no placement has more than 1/n in `accuracy_among_new`. At the rich end, at depth 2 and
more and where the base composes, `first_below` has more right among the new than `second_below`, and more than 1/n;
`both_lower` and `both_upper` have less than `first_below`. Between, `accuracy_among_new` of `first_below` rises with
`held_out` as α falls."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float64

from lora_reuse.theory.blocks import solved
from lora_reuse.theory.experiments import Result, Values
from lora_reuse.theory.facts import World, draw_world
from lora_reuse.theory.gram import TRAINED
from lora_reuse.theory.library import wins
from lora_reuse.theory.readout import one_hot
from lora_reuse.theory.settings import Trained
from lora_reuse.theory.streaming import stream
from lora_reuse.theory.trained import (
    EXPERT_STEPS,
    Answers,
    Learned,
    Network,
    Prompts,
    Task,
    draw_expert,
    draw_network,
    forward,
    tangents,
    train_base,
    train_expert,
    with_expert,
)

Outputs = Float64[np.ndarray, "entities prompts"]


def run(setting: Trained, seeds: Sequence[int], advance: Callable[[int], object] | None = None) -> list[Result]:
    """One Result a seed. The bases of the last setting are kept, so that its placements share them."""
    results = []
    predicted = kernel_limit(setting)
    for seed in seeds:
        base = trained_base(*_base_settings(setting), seed)
        results.append(Result(base.measured | quantities(setting, base, seed), dict(predicted), {}))
        if advance is not None:
            advance(setting.features())
    return results


class Base(NamedTuple):
    """A trained base: its facts, θ₀'s answers and θ on every prompt, and its accuracies."""

    world: World
    start: Answers
    network: Network
    measured: Values


def _base_settings(setting: Trained) -> tuple:
    return tuple(
        getattr(setting, name)
        for name in ("depth", "alpha", "width", "norm", "entities", "relations", "held_out", "steps", "facts")
    )


@functools.lru_cache(maxsize=64)
def trained_base(
    depth: int,
    alpha: float,
    width: int,
    norm: str,
    entities: int,
    relations: int,
    held_out: float,
    steps: int,
    facts: int,
    seed: int,
) -> Base:
    """Draws a world and θ₀ from the seed, and trains."""
    world = draw_world(seed, entities=entities, relations=relations, edits=facts)
    one, two = known(world)
    asked = np.random.default_rng([seed, TRAINED]).random(two.shape) >= held_out
    asked[world.edits.x, 0, 1] = False
    goal = Answers(*(jax.nn.one_hot(jnp.asarray(part), entities) for part in (one, two)))
    shares = Answers(*(jnp.asarray(part / part.sum() / 2)[..., None] for part in (np.ones(one.shape), asked)))
    shares = Answers(*(part.astype(jnp.float32) for part in shares))
    prompts = every(world)
    theta = draw_network(stream(seed, TRAINED, width, depth), tokens=entities + relations, width=width, depth=depth)
    network = train_base(theta, prompts, goal, shares, jnp.asarray(alpha, jnp.float32), steps=steps, norm=norm)
    start = forward(theta, prompts, entities=entities, norm=norm)
    found = forward(network, prompts, entities=entities, norm=norm)
    right = [np.asarray((f - f0).argmax(axis=-1)) == y for f, f0, y in zip(found, start, (one, two), strict=True)]
    squares = [
        sum(float(jnp.sum(part**2)) for part in parts)
        for parts in ([a - b for a, b in zip(network, theta, strict=True)], theta)
    ]
    composed = right[1][world.edits.x, 0, 1]
    measured = {
        "one_hop": float(right[0].mean()),
        "two_hop": float(right[1][asked].mean()),
        "held_out": float(right[1][~asked].mean()),
        "composed_before": float(composed.mean()),
        "moved": (squares[0] / squares[1]) ** 0.5,
    }
    return Base(world, start, network, measured)


def known(world: World) -> tuple[np.ndarray, np.ndarray]:
    """The old answers of every one-hop prompt, [entities relations], and of every two-hop prompt."""
    one = world.answers.T
    return one, world.answers.T[one]


def every(world: World) -> Prompts:
    """All one-hop and two-hop prompts."""
    relations = jnp.arange(world.entities, world.entities + world.relations)
    return Prompts(jnp.arange(world.entities), relations, relations)


def in_blocks(placement: str, depth: int) -> Bool[np.ndarray, "experts blocks"]:
    """In which blocks each expert is."""
    lower = np.arange(depth) < depth // 2
    both = np.ones(depth, dtype=bool)
    halves = {
        "all": (both, both),
        "both_lower": (lower, lower),
        "both_upper": (~lower, ~lower),
        "first_below": (lower, ~lower),
        "second_below": (~lower, lower),
    }
    return np.array(halves[placement])


def experts(setting: Trained, base: Base, seed: int) -> list[Learned]:
    """Both, trained from the base, each on its own facts alone."""
    e, alpha = base.world.edits, jnp.asarray(setting.alpha, jnp.float32)
    first, second = (jnp.asarray(base.world.entities + r) for r in (0, 1))
    asked = Prompts(jnp.asarray(e.x), first[None], second[None])
    facts = ((e.x, first, e.y, e.r1x), (e.y, second, e.z, e.r2y))
    learned = []
    for i, (x, r, new, old) in enumerate(facts):
        change = one_hot(new, setting.entities) - one_hot(old, setting.entities)
        task = Task(jnp.asarray(x), r, jnp.asarray(change.T, jnp.float32))
        blocks = jnp.asarray(in_blocks(setting.placement, setting.depth)[i], jnp.float32)
        key = stream(seed, TRAINED, setting.width, setting.depth, 1 + i)
        drawn = draw_expert(key, base.network, setting.rank, blocks)
        learned.append(train_expert(base.network, drawn, task, asked, alpha, norm=setting.norm, steps=EXPERT_STEPS))
    return learned


def quantities(setting: Trained, base: Base, seed: int) -> Values:
    """Everything measured of the two experts."""
    world, e = base.world, base.world.edits
    first, second = experts(setting, base, seed)
    prompts = every(world)

    def answers(*merged: Learned) -> tuple[np.ndarray, np.ndarray]:
        network = functools.reduce(with_expert, [each.expert for each in merged], base.network)
        found = forward(network, prompts, entities=setting.entities, norm=setting.norm)
        one, two = (setting.alpha * np.asarray(f - f0, np.float64) for f, f0 in zip(found, base.start, strict=True))
        return one, two

    def right(outputs: np.ndarray, wanted: np.ndarray) -> float:
        return float(wins(outputs.T, wanted).mean())

    (_, before), alone_1, alone_2, both = answers(), answers(first), answers(second), answers(first, second)
    asked = both[1][e.x, 0, 1]
    reached = [np.argwhere(y == world.answers.T) for y in e.y]
    found = [right(alone_2[1][x, r, 1][None], np.array([z])) for z, at in zip(e.z, reached, strict=True) for x, r in at]
    change, linear = asked - before[e.x, 0, 1], np.asarray(first.linear + second.linear, np.float64)
    values = {
        "own_first": right(alone_1[0][e.x, 0], e.y),
        "own_second": right(alone_2[0][e.y, 1], e.z),
        "first_kept": right(both[0][e.x, 0], e.y),
        "second_kept": right(both[0][e.y, 1], e.z),
        "accuracy": right(asked, e.z),
        "accuracy_among_new": right(asked[:, e.z], np.arange(setting.facts)),
        "passed_on": right(alone_1[1][e.x, 0, 1], e.r2y),
        **({"found": float(np.mean(found))} if found else {}),
        **multiples(world, change.T),
        "linear_error": float(np.linalg.norm(change - linear) / np.linalg.norm(linear)),
    }
    lines = multiples(world, linear.T)
    return values | {f"{name}_linear": lines[name] for name in ("c_first", "c_second")}


def multiples(world: World, change: Outputs) -> Values:
    """The mean multiples of the answer differences in a change of the outputs on the composed prompts."""
    e, n = world.edits, len(world.edits.x)
    i = functools.partial(one_hot, entities=world.entities)
    D = np.hstack([i(e.y) - i(e.r1x), i(e.z) - i(e.r2y)])
    C = np.linalg.lstsq(D, change)[0]
    return _means(C[:n], C[n:])


def _means(first: Float64[np.ndarray, "n n"], second: Float64[np.ndarray, "n n"]) -> Values:
    n = len(first)
    values = {"c_first": float(np.trace(first) / n), "c_second": float(np.trace(second) / n)}
    if n > 1:
        values["c_second_elsewhere"] = float((second.sum() - np.trace(second)) / (n * (n - 1)))
    return values


def kernel_limit(setting: Trained) -> Values:
    """α → ∞ and d = m = ∞."""
    world = draw_world(0, entities=setting.entities, relations=setting.relations, edits=setting.facts)
    e, n = world.edits, setting.facts
    prompts = [world.one_hop(int(x), 0) for x in e.x] + [world.one_hop(int(y), 1) for y in e.y]
    found = tangents(prompts + [world.two_hop(int(x), 0, 1) for x in e.x], setting.limit)
    keys, asked = np.arange(2 * n).reshape(2, n), np.arange(2 * n, 3 * n)
    first, second = (
        solved(found[blocks].sum(axis=0), own, asked)
        for blocks, own in zip(in_blocks(setting.placement, setting.depth), keys, strict=True)
    )
    i = functools.partial(one_hot, entities=setting.entities)
    outputs = i(e.r2r1x) + (i(e.y) - i(e.r1x)) @ first + (i(e.z) - i(e.r2y)) @ second
    return {
        "accuracy": float(wins(outputs, e.z).mean()),
        "accuracy_among_new": float(wins(outputs[e.z], np.arange(n)).mean()),
        **_means(first, second),
    }
