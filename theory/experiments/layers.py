"""Two blocks: experts compose where the first sits below the second, and nowhere else.

The model is `theory.blocks`. On `x_j r1 r2` the first expert, in the lower block, writes g w_{y_j} at position r1, and
the upper block attends to it with weight a. The key of the second expert's own fact, h² of `y_j r2`, contains V_2
e_{y_j}, so the hidden state ξ_j overlaps it by

    η_j·ξ_j − η_i·ξ_j = a g γ,        γ = w·e the alignment,

more than the keys of other facts, and C = G_ee⁻¹ G_eξ has a diagonal: as n → ∞ C_jj → (k(η_j, ξ_j) − k(η_i, ξ_j))/
(k(η, η) − ρ), and C_ij → 0. For any a g γ > 0 the answer z_j is the largest of all new answers at d = m = ∞. In the
other three placements no key of the second expert sees which x the prompt has, all z_i tie (A.1.1), and one in n is
right.

To be the answer, z_j must also pass the old answer (which `base=stored` has memorised for the hidden state before the
edits) and y_j, which the first expert answers at the last position as in Theorem 2. Both hold beyond a weight w of the
second expert: `threshold`.

- `accuracy`: the share of composed prompts, none of which any expert has seen, whose largest output is z_j, ties
  shared; `accuracy_among_new`: the share for which z_j is the largest of z_1 … z_n;
- `output_new`, `output_new_elsewhere`, `output_old`, `output_bridge`: the mean outputs at z_j, at z_i of the other
  facts (absent for n = 1), at r₂(r₁(x_j)) and at y_j;
- `key_cosine`, `key_cosine_elsewhere`: the mean cosine of ξ_j with η_j, and with the η_i of the other facts;
- `first_kept`, `second_kept`: accuracies on the experts' own one-hop prompts under both, the positive control.

Predictions at a finite width are of the outputs' normal law about the kernel (`law`): its mean to O(1/m), its error to
O(m^(−1/2)), each block's part by the influence of one feature, the lower block's through the hidden states of the
upper one. Accuracies are that law integrated numerically. At width = inf and a finite d the prediction is d → ∞,
without errors.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int
from scipy import optimize

from lora_reuse.theory import gram as grams
from lora_reuse.theory.blocks import LOWER, UPPER, Blocks, Coefficients, Metric, solved
from lora_reuse.theory.compositions import Outputs
from lora_reuse.theory.experiments import REMAINDER, Result, Values
from lora_reuse.theory.gaussian import QUADRATURE_NODES, quadrature_features
from lora_reuse.theory.kernels import kernel
from lora_reuse.theory.library import wins
from lora_reuse.theory.settings import INF, Layers
from lora_reuse.theory.streaming import Advance, Grams, stream, streamed

DRAWS = 2**13
RARE = 0.1  # where fewer rows than this differ from most, a mean over rows is not normal whatever its error
TWO_HOP = 3
LARGEST_SCALE = 1000.0
Square = Float64[np.ndarray, "n n"]


def run(setting: Layers, seeds: Sequence[int], advance: Callable[[int], object] | None = None) -> list[Result]:
    """One Result a seed."""
    blocks = Blocks(setting)
    metrics = [blocks.metric(seed) for seed in seeds]
    lower = _grams(setting, [blocks.lower_geometry(metric) for metric in metrics], seeds, LOWER, advance)
    written = [blocks.lower_outputs(blocks.lower_coefficients(G)) for G in lower]
    upper = [blocks.upper_geometry(metric, outputs) for metric, outputs in zip(metrics, written, strict=True)]
    results, known = [], {}
    found = _grams(setting, upper, seeds, UPPER, advance)
    for S, G, outputs, metric in zip(upper, found, written, metrics, strict=True):
        measured = quantities(blocks, S, blocks.outputs(G, outputs))
        if metric.tobytes() not in known:
            known[metric.tobytes()] = _predict(setting, metric)
        predicted, stderr = known[metric.tobytes()]
        results.append(Result(measured, dict(predicted), dict(stderr)))
    return results


def _grams(setting: Layers, S: Sequence[Square], seeds: Sequence[int], block: int, advance: Advance | None) -> Grams:
    """The Gram matrices of one block, whose features are drawn for it alone."""
    if setting.width == INF:
        return kernel(np.stack(S), setting.activation)
    width, dim = int(setting.width), 0 if setting.dim == INF else int(setting.dim)
    keys = [stream(seed, grams.FEATURES, width, dim, block) for seed in seeds]
    return streamed(np.stack(S), width, keys, setting.activation, advance)


def quantities(blocks: Blocks, S: Square, outputs: Outputs) -> Values:
    """Everything measured, from the outputs on all prompts and the inner products of the upper block's states."""
    e, n = blocks.scene.edits, blocks.setting.facts
    two_hop = outputs[:, blocks.part(TWO_HOP)]
    one_hop = [wins(outputs[:, blocks.part(i)], new).mean() for i, new in enumerate((e.y, e.z))]
    norms = np.sqrt(np.diagonal(S))
    asked = slice(len(S) - n, len(S))
    cosines = S[blocks.part(1), asked] / np.outer(norms[blocks.part(1)], norms[asked])
    values = {
        "accuracy": float(wins(two_hop, e.z).mean()),
        "accuracy_among_new": float(wins(two_hop[e.z], np.arange(n)).mean()),
        **{name: float(np.sum(weights * two_hop)) for name, weights in means(blocks).items()},
        "key_cosine": float(np.diagonal(cosines).mean()),
    }
    if n > 1:
        values["key_cosine_elsewhere"] = float((cosines.sum() - np.trace(cosines)) / (n * (n - 1)))
    return values | {"first_kept": float(one_hop[0]), "second_kept": float(one_hop[1])}


def means(blocks: Blocks) -> dict[str, Outputs]:
    """The weights of each mean over the outputs on the composed prompts."""
    e, n = blocks.scene.edits, blocks.setting.facts
    i = blocks.scene.one_hot
    found = {"output_new": i(e.z) / n, "output_old": i(e.r2r1x) / n, "output_bridge": i(e.y) / n}
    if n > 1:
        every = i(e.z).sum(axis=1, keepdims=True)
        found["output_new_elsewhere"] = (every - i(e.z)) / (n * (n - 1))
    return found


def at_kernel(blocks: Blocks, metric: Metric) -> tuple[Values, Outputs, Coefficients]:
    """Quantities, outputs and the lower block's coefficients at m → ∞."""
    activation = blocks.setting.activation
    coefficients = blocks.lower_coefficients(kernel(blocks.lower_geometry(metric), activation))
    written = blocks.lower_outputs(coefficients)
    S = blocks.upper_geometry(metric, written)
    outputs = blocks.outputs(kernel(S, activation), written)
    return quantities(blocks, S, outputs), outputs, coefficients


def _predict(setting: Layers, metric: Metric) -> tuple[Values, Values]:
    """The limit one step on: m → ∞ at these vectors; at width = inf, d → ∞."""
    if setting.width == INF:
        setting = replace(setting, dim=INF)
        blocks = Blocks(setting)
        return at_kernel(blocks, blocks.metric(0))[0], {}
    blocks = Blocks(setting)
    predicted, _, _ = at_kernel(blocks, metric)
    found = law(blocks, metric)
    stderr: Values = {}
    for name, weights in means(blocks).items():
        flat = weights[found.entities].ravel()
        predicted[name] = float(flat @ found.mean.ravel())
        error = float(np.linalg.norm(flat @ found.root))
        # What no feature changes, as the old answers under experts that the stored prompt does not see, has no error.
        stderr[name] = error if error > 1e-9 else 0.0
        stderr[name + REMAINDER] = float(abs(flat @ found.shift.ravel()) * found.left_out)
    draws = found.mean.ravel() + np.random.default_rng(0).normal(size=(DRAWS, found.root.shape[1])) @ found.root.T
    rows = np.searchsorted(found.entities, blocks.scene.edits.z)
    drawn = draws.reshape(DRAWS, *found.mean.shape)
    for name, of in (("accuracy", drawn), ("accuracy_among_new", drawn[:, rows])):
        answers = rows if name == "accuracy" else np.arange(len(rows))
        share = (of.argmax(axis=1) == answers).mean(axis=1)
        predicted[name], stderr[name] = float(share.mean()), float(share.std())
        if (share != np.median(share)).mean() < RARE:
            stderr[name + REMAINDER] = stderr[name]
    return predicted, stderr


class Law(NamedTuple):
    """The normal law of the outputs on the composed prompts at a finite width: outputs of `entities` ~ N(`mean`, `root`
    `root`ᵀ). `shift` is the part of O(1/m) in the mean, `left_out` the ratio of the next term to it, as estimated."""

    entities: Int[np.ndarray, " entities"]
    mean: Float64[np.ndarray, "entities facts"]
    shift: Float64[np.ndarray, "entities facts"]
    left_out: float
    root: Float64[np.ndarray, "outputs rank"]


def law(blocks: Blocks, metric: Metric) -> Law:
    """The delta method for two blocks, to O(1/m) in the mean and the covariance.

    One feature φ moves C = G_ee⁻¹ G_ea by ψ/m, ψ = G_ee⁻¹ φ_e (φ_a − φ_eᵀ C), and the mean of C by −E[hψ]/m, h =
    φ_eᵀ G_ee⁻¹ φ_e; the next term of the mean is 3 (E h²/n − 1)/m of it, as in `many_facts`. The upper block's outputs
    are linear in its C. The lower block's C moves the upper block's hidden states, by numerical derivatives of first
    and second order. The two blocks' features are independent, so the covariances add."""
    setting = blocks.setting
    m, n = setting.width, setting.facts
    _, outputs, coefficients = at_kernel(blocks, metric)
    e = blocks.scene.edits
    entities = np.unique(np.concatenate([e.y, e.z, e.r1x, e.r2y, e.r2r1x]))
    limit = outputs[entities, blocks.part(TWO_HOP)]
    S = blocks.upper_geometry(metric, blocks.lower_outputs(coefficients))
    # The upper block: every readout in it, at nodes of its features.
    phi = quadrature_features(S, setting.activation) * QUADRATURE_NODES**0.5
    k = kernel(S, setting.activation)
    asked = np.arange(len(k) - n, len(k))
    psi, shift, left_out = np.zeros((len(phi), *limit.shape)), np.zeros_like(limit), 0.0
    for keys, D in blocks.upper_edits():
        moved, h = influence(phi, k, keys, asked)
        of_readout = np.einsum("xe,uea->uxa", D[entities], moved)
        shift -= np.einsum("u,uxa->xa", h, of_readout) / len(phi) / m
        psi += of_readout
        left_out = max(left_out, 3 * (np.mean(h**2) / len(keys) - 1) / m)
    flat = psi.reshape(len(phi), -1)
    covariance = flat.T @ flat / len(phi) / m
    if blocks.experts_in(LOWER):
        further, below = _from_below(blocks, metric, coefficients, entities)
        shift, covariance = shift + further, covariance + below
    values, vectors = np.linalg.eigh(covariance)
    return Law(entities, limit + shift, shift, float(left_out), vectors * np.sqrt(np.maximum(values, 0.0)))


def influence(
    phi: Float64[np.ndarray, "nodes n"], k: Square, keys: np.ndarray, asked: np.ndarray
) -> tuple[Float64[np.ndarray, "nodes keys asked"], Float64[np.ndarray, " nodes"]]:
    """ψ and h of `law` at every node."""
    inward = phi[:, keys] @ np.linalg.inv(k[np.ix_(keys, keys)])
    left = phi[:, asked] - phi[:, keys] @ solved(k, keys, asked)
    return inward[:, :, None] * left[:, None, :], np.sum(inward * phi[:, keys], axis=1)


def _from_below(
    blocks: Blocks, metric: Metric, coefficients: Coefficients, entities: np.ndarray
) -> tuple[Float64[np.ndarray, "entities facts"], Float64[np.ndarray, "outputs outputs"]]:
    """What the lower block's features add to mean and covariance of the outputs. The output on a composed prompt
    depends on the coefficients at its own three prefixes alone, so one derivative serves all composed prompts."""
    setting = blocks.setting
    m, n = setting.width, setting.facts
    places = np.array([blocks.at([p[:i] for p in blocks.prompts[blocks.part(TWO_HOP)]]) for i in (1, 2, 3)])
    S = blocks.lower_geometry(metric)
    phi, k = quadrature_features(S, setting.activation) * QUADRATURE_NODES**0.5, kernel(S, setting.activation)
    psi, bias = [], []
    for expert in blocks.experts_in(LOWER):
        moved, h = influence(phi, k, blocks.at(blocks.prompts[blocks.part(expert)]), places.ravel())
        psi.append(moved)
        bias.append(-np.einsum("u,uea->ea", h, moved) / len(phi))
    moved = np.stack(psi, axis=1).reshape(len(phi), -1, n)  # a coefficient at a prefix is an axis, a prompt the last
    drift = np.stack(bias).reshape(-1, n)

    def outputs(step: Float64[np.ndarray, "axes facts"]) -> Outputs:
        shifted = [C.copy() for C in coefficients]
        for C, change in zip(shifted, step.reshape(len(shifted), n, 3, n), strict=True):
            C[:, places] += change
        written = blocks.lower_outputs(shifted)
        found = blocks.outputs(kernel(blocks.upper_geometry(metric, written), setting.activation), written)
        return found[entities, blocks.part(TWO_HOP)]

    zero = np.zeros_like(drift)
    step = 1e-4
    slopes = np.empty((len(drift), len(entities), n))
    for axis in range(len(drift)):
        unit = zero.copy()
        unit[axis] = step
        slopes[axis] = (outputs(unit) - outputs(-unit)) / (2 * step)
    flat = np.einsum("axj,uaj->uxj", slopes, moved, optimize=True).reshape(len(phi), -1)
    shift = np.einsum("axj,aj->xj", slopes, drift)
    values, vectors = np.linalg.eigh(np.einsum("uaj,ubj->jab", moved, moved, optimize=True) / len(phi))
    centre = outputs(zero)
    for axis in range(len(drift)):
        direction = vectors[:, :, axis].T
        bend = (outputs(step * 10 * direction) - 2 * centre + outputs(-step * 10 * direction)) / (10 * step) ** 2
        shift = shift + np.maximum(values[:, axis], 0.0) * bend / 2
    return shift / m, flat.T @ flat / len(phi) / m


def threshold(setting: Layers) -> float:
    """The weight w of the second expert beyond which every composed prompt has z_j as its largest output at d = m = ∞;
    0.01 where that is enough, and inf where no weight up to 1000 is, as where the new answers tie."""

    def margin(scale: float) -> float:
        blocks = Blocks(replace(setting, width=INF, dim=INF, scale=float(scale)))
        _, outputs, _ = at_kernel(blocks, blocks.metric(0))
        two_hop = outputs[:, blocks.part(TWO_HOP)]
        right = two_hop[blocks.scene.edits.z, np.arange(setting.facts)]
        two_hop[blocks.scene.edits.z, np.arange(setting.facts)] = -np.inf
        return float((right - two_hop.max(axis=0)).min()) - 1e-9

    scales = np.geomspace(1e-2, LARGEST_SCALE, 26)
    margins = [margin(scale) for scale in scales]
    above = next((i for i, value in enumerate(margins) if value > 0), None)
    if above is None:
        return INF
    if above == 0:
        return float(scales[0])
    return optimize.root_scalar(margin, bracket=(scales[above - 1], scales[above]), xtol=1e-10).root
