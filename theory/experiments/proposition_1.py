"""Proposition 1 in a model that knows its world: one edited fact, what it does to other prompts, and the edit that
training finds.

- `efficacy`: 1 − ‖output − i_y‖/‖i_{r(x)} − i_y‖ on the edited prompt `x r1`, with the base W and the edit in place.
- `leakage_*`: the share of i_y − i_{r(x)} that the edit adds to `u r1` (same relation), `x r2` (same entity) and `u r2`
  (unrelated).
- `norm_*`: ‖ΔW‖_F of other updates that make the same edit, over that of Proposition 1: along the key of `u r1`, and
  ROME's, whose covariance is that of all prompts of the world (in their span it changes no other answer, at this
  price).
- `trained_relative_error`: ‖ΔW − Prop. 1‖/‖Prop. 1‖ for gradient descent with the penalty annealed away;
  `lora_alignment`, `lora_excess_norm`: the cosine and norm ratio for AdamW from B random, A zero and no penalty (small
  steps), with the prediction of `training.predicted_alignment`.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64

from lora_reuse.theory import kernels
from lora_reuse.theory.edits import LowRank, min_norm_edit
from lora_reuse.theory.error_bars import expansion
from lora_reuse.theory.experiments import Result, Values
from lora_reuse.theory.facts import World, draw_world
from lora_reuse.theory.gram import TRAINING, coordinates, feature_keys, geometry, gram
from lora_reuse.theory.readout import min_norm_readout, one_hot
from lora_reuse.theory.settings import INF, Proposition1
from lora_reuse.theory.streaming import features, stream
from lora_reuse.theory.training import predicted_alignment, train_lora, train_penalised

STEPS = 500


def run(setting: Proposition1, seeds: Sequence[int], advance: Callable[[int], object] | None = None) -> list[Result]:
    """One Result a seed: its world, its features, its edit."""
    worlds = [draw_world(seed, entities=setting.entities, relations=setting.relations) for seed in seeds]
    prompts, _ = worlds[0].known()
    grams = gram(prompts, setting, seeds, advance=advance)
    shapes = geometry(prompts, setting, seeds)
    results = [_closed_form(setting, world, G, S) for world, G, S in zip(worlds, grams, shapes, strict=True)]
    if setting.train and setting.width != INF:
        for result, trained in zip(results, _trained(setting, worlds, shapes, seeds), strict=True):
            result.measured.update(trained.measured)
            result.predicted.update(trained.predicted)
    return results


def _closed_form(
    setting: Proposition1, world: World, G: Float64[np.ndarray, "n n"], S: Float64[np.ndarray, "n n"]
) -> Result:
    prompts, answers = world.known()
    x, y, old = (int(role[0]) for role in (world.edits.x, world.edits.y, world.edits.r1x))
    u = next(entity for entity in range(world.entities) if entity not in (x, y))
    four = [prompts.index(world.one_hop(entity, r)) for entity, r in ((x, 0), (u, 0), (x, 1), (u, 1))]
    edited = four[0]

    keys = coordinates(G)
    base = min_norm_readout(keys, one_hot(answers, world.entities))
    key, change = keys[:, [edited]], one_hot(np.array([y]), world.entities) - one_hot(np.array([old]), world.entities)
    edit = min_norm_edit(key, change)
    rome = min_norm_edit(key, change, C=keys @ keys.T / len(prompts))
    neighbour = keys[:, [four[1]]]
    along = LowRank(change, neighbour / (neighbour.T @ key))
    error = (base @ key + edit @ key) - one_hot(np.array([y]), world.entities)
    measured = {"efficacy": float(1 - np.linalg.norm(error) / np.linalg.norm(change))}
    leaks = {"leakage_same_relation": 1, "leakage_same_entity": 2, "leakage_unrelated": 3}
    measured |= {
        name: (change.T @ (edit @ keys[:, [four[i]]])).item() / float(np.sum(change**2)) for name, i in leaks.items()
    }
    measured |= {"norm_neighbour_key": along.norm() / edit.norm(), "norm_rome": rome.norm() / edit.norm()}
    return Result(measured, *_limits(setting, S, four, leaks))


def _limits(
    setting: Proposition1, S: Float64[np.ndarray, "n n"], four: list[int], leaks: dict[str, int]
) -> tuple[Values, Values]:
    """Predictions and errors, pair by pair: `x r1` − `u r1` and `x r2` − `u r2` are one vector, so the four hidden
    states are linearly dependent."""
    k_all = kernels.kernel(S)
    predicted, stderr = {"efficacy": 1.0}, {}
    for name, i in leaks.items():
        pair = np.ix_([four[0], four[i]], [four[0], four[i]])
        quantities = functools.partial(_of_pair, name)
        if setting.width == INF:
            limit = quantities(k_all[pair])
            predicted |= limit
            stderr |= dict.fromkeys(limit, 0.0)
        else:
            found = expansion(quantities, S[pair], setting.width)
            predicted |= found.mean
            stderr |= found.errors()
    # (G⁻¹)_ηη exceeds (k⁻¹)_ηη by 1/(1 − prompts/m), as the inverse of a sample covariance does, to first order in
    # prompts/m.
    shrink = 1 - len(k_all) / setting.width
    predicted["norm_rome"] = float(np.sqrt(np.linalg.inv(k_all)[four[0], four[0]] * k_all[four[0], four[0]] / shrink))
    return predicted, stderr


def _of_pair(leak: str, G: Float64[np.ndarray, "2 2"]) -> Values:
    """What depends on the Gram matrix of the edited prompt and the one that `leak` is about."""
    values = {leak: float(kernels.coefficient(G, 0, 1))}
    if leak == "leakage_same_relation":
        values["norm_neighbour_key"] = float(np.sqrt(G[0, 0] * G[1, 1]) / G[0, 1])
    return values


def _trained(
    setting: Proposition1, worlds: Sequence[World], shapes: Float64[np.ndarray, "seeds n n"], seeds: Sequence[int]
) -> list[Result]:
    """Trains every seed's edit at once, on the features that its Gram matrix was made of."""
    prompts, _ = worlds[0].known()
    width = int(setting.width)
    keys, changes = [], []
    for world, S, stream_key in zip(worlds, shapes, feature_keys(setting, seeds), strict=True):
        edited = prompts.index(world.one_hop(int(world.edits.x[0]), 0))
        keys.append(features(S, width, stream_key)[:, edited])
        changes.append(one_hot(world.edits.y, world.entities)[:, 0] - one_hot(world.edits.r1x, world.entities)[:, 0])
    v, w = (jnp.asarray(np.stack(a), jnp.float32) for a in (keys, changes))
    random = jnp.stack([stream(seed, TRAINING, width) for seed in seeds])

    penalised = jax.vmap(lambda r, v, w: train_penalised(r, v, w, rank=setting.rank))(random, v, w)
    rate = 0.02 * width**-0.5
    lora, start = jax.vmap(lambda r, v, w: train_lora(r, v, w, rank=setting.rank, learning_rate=rate, steps=STEPS))(
        random, v, w
    )
    aligned = jax.vmap(predicted_alignment)(v, start)
    results = []
    for i in range(len(seeds)):
        closed = min_norm_edit(*(np.asarray(a[i], np.float64)[:, None] for a in (v, w)))
        trained, plain = (
            LowRank(np.asarray(f[0][i], np.float64), np.asarray(f[1][i], np.float64)) for f in (penalised, lora)
        )
        alignment = np.sum((plain.out.T @ closed.out) * (plain.into.T @ closed.into)) / (plain.norm() * closed.norm())
        measured = {
            "trained_relative_error": (trained + -1.0 * closed).norm() / closed.norm(),
            "lora_alignment": float(alignment),
            "lora_excess_norm": plain.norm() / closed.norm(),
        }
        predicted = {"trained_relative_error": 0.0}
        if setting.rank == 1:
            predicted |= {"lora_alignment": float(aligned[i]), "lora_excess_norm": float(1 / aligned[i])}
        results.append(Result(measured, predicted, {}))
    return results
