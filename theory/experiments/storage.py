"""Linear features (Nichani et al. 2025) against ReLU features, when relations share their range and when they do not
(A.1.2).

The readout of least norm stores every one-hop prompt `x r`, r a random function into all of X (`share=shared`) or into
a part of X of its own (`share=disjoint`). The hidden state is V e_x + e_r, a sum, so whatever is linear in it is an
additive function a_x + b_r of the prompt.

- `stored_exactly`: share of prompts whose output is the one-hot answer to 1e-6. ReLU: all, from m = the number of
  prompts on, short of a few lost features (`capacity`); linear: next to none, at any width.
- `stored_argmax`: share whose largest output is the answer, ties shared.
- `unstored`: ‖WΦ − Y‖²/‖Y‖², with the closed form of `readout.unstored_share`.
- `interaction`: the mean of the kernel's quadratic form over functions of (x, r) with no additive part, over its mean
  on one prompt: tr(P G)/tr P/mean(diag G) with P = C_X ⊗ C_R, C centring. At d = m = ∞, where k depends on how many of
  the two tokens two prompts share, it is (k(1) − 2k(1/2) + k(0))/k(1), the arguments being cos θ: 1 − 2 · 1/2 + 0 = 0
  for linear features, 0.1003 for ReLU features. This number is A.1.2's reason for the ReLU: what it cannot see, no
  readout can store.
- `linear_can_store` (linear only): 1 if some additive model, of least squares or not, has the largest output right on
  every prompt.

Linear features of width m ≥ |X| + |R| − 1 give the additive function of least squares, whatever m: with n_r(e) the
number of x with r(x) = e,

    output(e | x, r) = #{r' : r'(x) = e}/|R| + n_r(e)/|X| − Σ_r' n_r'(e)/(|X||R|),

and the prediction of `stored_argmax` is the argmax of this count (`additive_outputs`). For disjoint ranges the right
answer gets 1/|R| + n_r(e)(1 − 1/|R|)/|X|, another answer e' of the same relation the same without 1/|R|, and answers of
other relations less than 1/|R|. So the argmax is right on every prompt of r exactly if no answer of r is more popular
than another by |X|/(|R| − 1): always with two relations or with relations that spread evenly, with a random function
nearly always. Without least squares there is no condition: a_x = Σ_r i_{r(x)}, b_r = the range of r, whose sum is 2 at
r(x) alone and at most 1 elsewhere. For shared ranges the entities r'(x) of the other relations tie with r(x) but for
their popularity, and the share that is right falls towards 1/|R|.

Disjointness is enough for storage by argmax but not needed. Two relations can be stored by some additive model exactly
if the graph on entities with an edge from r₂(x) to r₁(x) for every x (r₁(x) ≠ r₂(x)) has no cycle: adding a_x(e) +
b_1(e) > a_x(f) + b_1(f) and a_x(f) + b_2(f) > a_x(e) + b_2(e), with e = r₁(x) and f = r₂(x), leaves (b_1 − b_2)(e) >
(b_1 − b_2)(f), and any order b_1 − b_2 of an acyclic graph does. "John was born in London" and "Mary lives in London"
can be held together; what cannot is a cycle, as John born in London and living in Paris, Mary born in Paris and living
in London. Random functions into one range have such cycles."""

import graphlib
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float64, Int
from scipy import optimize, sparse

from lora_reuse.theory.experiments import Result, Values
from lora_reuse.theory.facts import Prompt, World, draw_world
from lora_reuse.theory.gaussian import factor
from lora_reuse.theory.gram import feature_keys, geometry
from lora_reuse.theory.kernels import kernel
from lora_reuse.theory.library import wins
from lora_reuse.theory.readout import min_norm_readout, one_hot, unstored_share
from lora_reuse.theory.settings import INF, Storage
from lora_reuse.theory.streaming import features

Answers = Int[np.ndarray, "relations entities"]
Square = Float64[np.ndarray, "n n"]


def run(setting: Storage, seeds: Sequence[int], advance: Callable[[int], object] | None = None) -> list[Result]:
    """One Result a seed; each draws its relations and its features."""
    results = []
    for seed in seeds:
        answers = draw_answers(setting, seed)
        prompts, wanted = one_hop_prompts(answers)
        Y = one_hot(wanted, setting.entities)
        S = geometry(prompts, setting, [seed])[0]
        k = kernel(S, setting.activation)
        if setting.width == INF:
            # Of the rank of k exactly: a phantom direction of size 1e-8 would store what cannot be stored.
            keys = factor(k).T
        else:
            drawn = feature_keys(setting, [seed])[0]
            keys = features(S, int(setting.width), drawn, setting.activation) / np.sqrt(setting.width)
        outputs = min_norm_readout(keys, Y) @ keys
        measured = {
            "stored_exactly": float(np.mean(np.abs(outputs - Y).max(axis=0) < 1e-6)),
            "stored_argmax": float(wins(outputs, wanted).mean()),
            "unstored": float(np.sum((outputs - Y) ** 2) / np.sum(Y**2)),
            "interaction": interaction(keys.T @ keys, setting),
        }
        if setting.activation == "linear":
            measured["linear_can_store"] = float(linear_can_store(answers))
        results.append(Result(measured, _predict(setting, answers, k, Y), {}))
        if advance is not None and setting.width != INF:
            advance(int(setting.width))
    return results


def draw_answers(setting: Storage, seed: int) -> Answers:
    """r(x) for every relation and entity: uniform over X, or over the r-th of |R| equal parts of X."""
    if setting.share == "shared":
        return draw_world(seed, entities=setting.entities, relations=setting.relations, edits=0).answers
    size = setting.entities // setting.relations
    starts = size * np.arange(setting.relations)[:, None]
    return starts + np.random.default_rng(seed).integers(size, size=(setting.relations, setting.entities))


def one_hop_prompts(answers: Answers) -> tuple[list[Prompt], Int[np.ndarray, " prompts"]]:
    """Every `x r`, relation by relation, and its answer."""
    relations, entities = answers.shape
    world = World(answers, draw_world(0, entities=entities, edits=0).edits)
    return [world.one_hop(x, r) for r in range(relations) for x in range(entities)], answers.ravel()


def interaction(G: Square, setting: Storage) -> float:
    """tr(P G)/tr P over the mean of G's diagonal, P the projection on functions of (r, x) without additive part."""
    relation, entity = (np.eye(n) - 1 / n for n in (setting.relations, setting.entities))
    blocks = G.reshape(setting.relations, setting.entities, setting.relations, setting.entities)
    degrees = (setting.relations - 1) * (setting.entities - 1)
    return float(np.einsum("rxsy,rs,xy->", blocks, relation, entity) / degrees / np.mean(np.diagonal(G)))


def additive_outputs(answers: Answers) -> Float64[np.ndarray, "entities prompts"]:
    """The additive function of (x, r) nearest to the one-hot answers: the mean over r, plus the mean over x, minus the
    mean over both."""
    relations, entities = answers.shape
    Y = one_hot(answers.ravel(), entities).reshape(entities, relations, entities)
    fit = Y.mean(axis=1, keepdims=True) + Y.mean(axis=2, keepdims=True) - Y.mean(axis=(1, 2), keepdims=True)
    return fit.reshape(entities, -1)


def linear_can_store(answers: Answers) -> bool:
    """Whether a_x(e) + b_r(e) can have its largest entry at r(x) for all x and r: a linear program.

    a_x can be as low as it likes away from the answers of x, so only those compete: a_x(r(x)) + b_r(r(x)) ≥ a_x(e') +
    b_r(e') + 1."""
    relations, entities = answers.shape
    rows = []
    for x in range(entities):
        for e, other in itertools.permutations(sorted(set(answers[:, x].tolist())), 2):
            rows += [(x, int(r), e, other) for r in np.flatnonzero(answers[:, x] == e)]
    if not rows:
        return True
    x, r, e, other = np.array(rows).T
    a, b = (lambda entity: x * entities + entity), (lambda entity: (entities + r) * entities + entity)
    columns = np.stack([a(e), b(e), a(other), b(other)], axis=1)
    values = np.tile([-1.0, -1.0, 1.0, 1.0], len(rows))
    shape = (len(rows), (entities + relations) * entities)
    matrix = sparse.csr_array((values, (np.repeat(np.arange(len(rows)), 4), columns.ravel())), shape=shape)
    return (
        optimize.linprog(
            np.zeros(shape[1]), A_ub=matrix, b_ub=-np.ones(len(rows)), bounds=(None, None), method="highs"
        ).status
        == 0
    )


def acyclic(first: Int[np.ndarray, " entities"], second: Int[np.ndarray, " entities"]) -> bool:
    """Whether the edges second[x] → first[x] between different entities form no cycle."""
    graph: dict[int, set[int]] = {}
    for e, f in zip(first.tolist(), second.tolist(), strict=True):
        if e != f:
            graph.setdefault(e, set()).add(f)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError:
        return False
    return True


def _predict(setting: Storage, answers: Answers, k: Square, Y: Float64[np.ndarray, "entities prompts"]) -> Values:
    unstored = unstored_share(k, Y, setting.width)
    predicted = {"stored_exactly": float(unstored < 1e-9), "unstored": unstored, "interaction": interaction(k, setting)}
    if setting.activation == "relu":
        return predicted | ({"stored_argmax": 1.0} if unstored < 1e-9 else {})
    additive = setting.entities + setting.relations - 1
    in_general_position = np.linalg.matrix_rank(k, rtol=1e-9, hermitian=True) == additive
    if in_general_position and interaction(k, setting) < 1e-9 and setting.width >= additive:
        outputs = additive_outputs(answers)
        predicted["stored_argmax"] = float(wins(outputs, answers.ravel()).mean())
        predicted["stored_exactly"] = float(np.mean(np.abs(outputs - Y).max(axis=0) < 1e-6))
    if setting.share == "disjoint":
        predicted["linear_can_store"] = 1.0
    elif setting.relations == 2:
        predicted["linear_can_store"] = float(acyclic(*answers))
    return predicted
