"""What composing two experts does to facts that nobody edited, and whether a model sees the order of two relations
(A.1.2).

Expert 1 stores y under `x r1`, expert 2 stores z under `y r2`, in place of r₁(x) and r₂(y). Whatever is asked, a rule
that stays in the span of the two answer differences d₁ = i_y − i_{r1(x)} and d₂ = i_z − i_{r2(y)} adds c₁d₁ + c₂d₂.
With the kernel k (eq. 13) and the sum, c₁ on the prompt p is k(`x r1`, p)/k(`x r1`, `x r1`), and c₂ the same with `y
r2`. Every prompt below has an entity of its own (u, u', v, w), so that the eight hidden states are linearly
independent. Each pair `*_first`, `*_second` is c₁ and c₂, or one of them:

- `efficacy_first`, `efficacy_second`: c₁ on `x r1`, c₂ on `y r2`; 1 for one expert alone, and for the sum.
- `leakage_same_relation_first`, `_second`: c₁ on `u r1`, c₂ on `u' r2`. Sum, d = m = ∞: 0.609, the kernel at cos θ =
  1/2 over that at 1.
- `leakage_unrelated_first`, `_second`: c₁, c₂ on `v q`, no token of it in an expert. Sum, d = m = ∞: 1/π, the kernel at
  cos θ = 0. So a ReLU model gives every prompt at all a third of every edit.
- `two_hop_first`, `_second`: c₁, c₂ on `x r1 r2`. Sum, d = m = ∞: 0.412 and 0.573.
- `two_hop_other_first`, `_second`: c₁, c₂ on `w r1 r2`, which asks for none of the edited facts. Sum, d = m = ∞: 0.276
  and 0.573.

The average halves them all. Eq. 27 with equal weights adds (d₁ + d₂)(φ₁ + φ₂)ᵀ/(4‖φ₁‖²) where both keys have one norm,
as at d = m = ∞: c₁ = c₂, half the mean of the sum's two, so `efficacy_*` is (1 + 1/π)/4 = 0.330 and each own prompt
receives as much of the other's difference.

- `order_distance`: 1 − k(p, p')/√(k(p, p) k(p', p')), p = `x r1 r2`, p' = `x r2 r1`: the two hidden states share a
  quarter of their context and no residual, S = 1/4 against 3/2, so θ = arccos(1/6) and the distance is 0.594 for ReLU
  features, 5/6 for linear ones.
- `order_distance_pooled`: the same where the hidden state is the mean of the embeddings of all tokens, (e_x + e_{r1} +
  e_{r2})/3 for both: 0 exactly, at any d and m. No readout can then tell r₂(r₁(x)) from r₁(r₂(x)).

Predictions are the same quantities of the kernel of the hidden states drawn, with the delta method's term of O(1/m) and
its errors at the width; at width = inf those of d → ∞, without an error bar. Errors are left out where the hidden
states are dependent."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float64

from lora_reuse.theory import gram as grams
from lora_reuse.theory.compositions import Context, Features, compose
from lora_reuse.theory.edits import min_norm_edit
from lora_reuse.theory.error_bars import dependent, expansion, sure_signs
from lora_reuse.theory.experiments import REMAINDER, Result, Values
from lora_reuse.theory.facts import Prompt, World, draw_world
from lora_reuse.theory.kernels import kernel
from lora_reuse.theory.library import prepared
from lora_reuse.theory.readout import one_hot
from lora_reuse.theory.settings import INF, Specificity, at_infinite_dim
from lora_reuse.theory.streaming import stream, streamed

Square = Float64[np.ndarray, "n n"]
FIRST, SECOND, SAME_FIRST, SAME_SECOND, UNRELATED, TWO_HOP, OTHER, REVERSED = range(8)
# name: (which difference, on which prompt)
COEFFICIENTS = {
    "efficacy_first": (0, FIRST),
    "efficacy_second": (1, SECOND),
    "leakage_same_relation_first": (0, SAME_FIRST),
    "leakage_same_relation_second": (1, SAME_SECOND),
    "leakage_unrelated_first": (0, UNRELATED),
    "leakage_unrelated_second": (1, UNRELATED),
    "two_hop_first": (0, TWO_HOP),
    "two_hop_second": (1, TWO_HOP),
    "two_hop_other_first": (0, OTHER),
    "two_hop_other_second": (1, OTHER),
}


def run(setting: Specificity, seeds: Sequence[int], advance: Callable[[int], object] | None = None) -> list[Result]:
    """One Result a seed; each draws E, V and U for the same facts."""
    world = draw_world(0, entities=10, relations=3)
    asked = prompts(world)
    features = prepared(asked, setting, seeds, basis_free=True, advance=advance)
    shapes = grams.geometry(asked, setting, seeds)
    predictions: dict[bytes, tuple[Values, Values]] = {}
    results = []
    for phi, S, pooled in zip(features, shapes, pooled_grams(setting, seeds), strict=True):
        if S.tobytes() not in predictions:
            predictions[S.tobytes()] = _predict(setting, world, S)
        predicted, stderr = predictions[S.tobytes()]
        measured = quantities(setting, world, phi) | {"order_distance_pooled": order_distance(pooled)}
        results.append(Result(measured, dict(predicted), dict(stderr)))
    return results


def prompts(world: World) -> list[Prompt]:
    """The eight prompts, in the order of FIRST … REVERSED; relations 0, 1, 2 are r1, r2, q."""
    e = world.edits
    x, y = int(e.x[0]), int(e.y[0])
    used = {int(role[0]) for role in (e.x, e.y, e.z, e.r1x, e.r2y, e.r2r1x)}
    u, u2, v, w = [entity for entity in range(world.entities) if entity not in used]
    own = [world.one_hop(x, 0), world.one_hop(y, 1)]
    others = [world.one_hop(u, 0), world.one_hop(u2, 1), world.one_hop(v, 2)]
    return [*own, *others, world.two_hop(x, 0, 1), world.two_hop(w, 0, 1), world.two_hop(x, 1, 0)]


def quantities(setting: Specificity, world: World, phi: Features) -> Values:
    """The ten coefficients and `order_distance`, from the features of the eight prompts."""
    e = world.edits
    i = lambda role: one_hot(role, world.entities)  # noqa: E731
    D = np.hstack([i(e.y) - i(e.r1x), i(e.z) - i(e.r2y)])
    experts = [min_norm_edit(phi[:, [key]], D[:, [key]]) for key in (FIRST, SECOND)]
    update = compose(setting.composition, experts, Context(width=setting.width))
    c = np.linalg.lstsq(D, update @ phi, rcond=None)[0]
    pair = phi[:, [TWO_HOP, REVERSED]]
    return {name: float(c[where]) for name, where in COEFFICIENTS.items()} | {
        "order_distance": order_distance(pair.T @ pair)
    }


def order_distance(G: Float64[np.ndarray, "2 2"]) -> float:
    """1 − the cosine of two feature vectors, from their Gram matrix; exactly 0 where they are the same."""
    return float(1 - G[0, 1] / np.sqrt(G[0, 0] * G[1, 1]))


def bags(asked: Sequence[Prompt], tokens: int) -> Float64[np.ndarray, "prompts tokens"]:
    """Pooling: the hidden state of p₁ … p_N is Σ_i e_{p_i}/N, so row p holds the counts of tokens over N."""
    return np.stack([np.bincount(prompt, minlength=tokens) / len(prompt) for prompt in asked])


def pooled_grams(setting: Specificity, seeds: Sequence[int]) -> Float64[np.ndarray, "seeds 2 2"]:
    """G of `x r1 r2` and `x r2 r1` for pooled embeddings: orthonormal at dim=inf, else the embeddings of the
    transformer's draw."""
    weights = bags([(0, 1, 2), (0, 2, 1)], 3)
    shapes = []
    for seed in seeds:
        H = weights
        if setting.dim != INF:
            key = stream(seed, grams.GEOMETRY, int(setting.dim))
            H = weights @ grams.token_images(key, 3, int(setting.dim), setting.init_scale)[0][0]
        shapes.append(H @ H.T)
    if setting.width == INF:
        return kernel(np.stack(shapes), setting.activation)
    return streamed(np.stack(shapes), int(setting.width), grams.feature_keys(setting, seeds), setting.activation)


def _predict(setting: Specificity, world: World, S: Square) -> tuple[Values, Values]:
    values = lambda G: quantities(setting, world, grams.nearest_coordinates(G))  # noqa: E731
    pooled = {"order_distance_pooled": 0.0}
    if setting.width == INF and setting.dim != INF:
        limit = at_infinite_dim(setting)
        if limit is None:
            return pooled, dict(pooled)
        S = grams.geometry(prompts(world), limit, [0])[0]
        return values(kernel(S, setting.activation)) | pooled, dict(pooled)
    if dependent(S):
        return values(kernel(S, setting.activation)) | pooled, dict(pooled)
    if setting.width == INF:
        limit = values(kernel(S, setting.activation))
        return limit | pooled, dict.fromkeys(limit, 0.0) | pooled
    found = expansion(values, S, setting.width, setting.activation)
    mean, errors = found.mean | pooled, found.errors() | pooled
    if setting.composition.startswith("arrow"):
        sure = sure_signs(S, setting.width, setting.activation)
        for name in (name for name, (_, asked) in COEFFICIENTS.items() if not sure[[FIRST, SECOND], asked].all()):
            del mean[name], errors[name], errors[name + REMAINDER]
    return mean, errors
