"""Theorem 3: every rule for composing two experts of one fact each, on the prompt that needs both.

Whatever the rule, as long as it stays in the span of the two answer differences, the output on `x r1 r2` is i_old +
c₁(i_y − i_{r1(x)}) + c₂(i_z − i_{r2(y)}), old = r₂(r₁(x)), and on another entity's prompt `u r1 r2` the same
differences appear. The composed fact needs i_z − i_old. At d = m = ∞ the oracle alone answers z. At a finite width
`linear` does so in some seeds: there z lags behind the old answer by 0.015, which is less than the standard error of
that margin, 1.48 m^(−1/2), up to a width of 10 000.

Measured, with the same quantities of the kernel as prediction and, where the rule is smooth in the Gram matrix or in it
and one softmax, the term of O(1/m) and the errors of `theory.error_bars`:

- `c_first`, `c_second`, `c_first_other_entity`, `c_second_other_entity`; absent when coincidences make the differences
  dependent;
- `span_residual`: the norm of what lies outside their span; `exact_output_error`: ‖output − i_z‖;
- `margin_old_over_new`: output at the old answer minus output at z;
- `wins_old`, `wins_y`, `wins_z`, `wins_r1x`, `wins_r2y`: which entity has the largest output (ties shared).
"""

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from lora_reuse.runs.dials import check
from lora_reuse.runs.settings import SettingError, did_you_mean
from lora_reuse.theory.compositions import RULES, Features, compose, dials_of
from lora_reuse.theory.error_bars import Expansion, expansion, routed_expansion, sure_signs
from lora_reuse.theory.estimate import Estimate
from lora_reuse.theory.experiments import Result, Values
from lora_reuse.theory.gram import coordinates, geometry, gram, nearest_coordinates
from lora_reuse.theory.kernels import kernel
from lora_reuse.theory.library import Scene, draw_scene, prepared, wins
from lora_reuse.theory.settings import INF, Model, Theorem3, at_infinite_dim, of_rule
from lora_reuse.theory.streaming import different

Square = Float64[np.ndarray, "n n"]
COEFFICIENTS = ("c_first", "c_second", "c_first_other_entity", "c_second_other_entity")
OTHER = COEFFICIENTS[2:]
SMOOTH = (*COEFFICIENTS, "margin_old_over_new", "exact_output_error")


def run(setting: Theorem3, seeds: Sequence[int], advance: Callable[[int], object] | None = None) -> list[Result]:
    """One Result a seed."""
    scene = draw_scene(1, setting.coincidences())
    registered = RULES[setting.composition]
    features = prepared(scene.prompts, setting, seeds, registered.basis_free, advance)
    predictions: dict[tuple[bytes, int], tuple[Values, Values]] = {}
    results = []
    for seed, phi, S in zip(seeds, features, geometry(scene.prompts, setting, seeds), strict=True):
        key = S.tobytes(), seed if setting.random() else 0
        if key not in predictions:
            predictions[key] = _predict(setting, scene, S, key[1])
        predicted, stderr = predictions[key]
        results.append(Result(quantities(setting, scene, phi, seed), dict(predicted), dict(stderr)))
    return results


class Coefficients(NamedTuple):
    """c₁ and c₂ of eq. 19 under a rule."""

    first: Estimate
    second: Estimate


def coefficients(
    model: Model,
    rule: str = "sum",
    seeds: Sequence[int] = range(16),
    *,
    coincide: str = "none",
    data: str = "two_hop",
    **dials: Any,
) -> Coefficients:
    """c₁ and c₂ of Theorems 2 and 3: two experts of one edited fact each, composed by a rule, add c₁(i_y − i_{r1(x)}) +
    c₂(i_z − i_{r2(y)}) to the output on the two-hop prompt `x r1 r2`.

    This is the measurement of `sweep experiment=theorem_3`.

    Args:
        model: the transformer.
        rule: a rule of `theory.compositions`, or of one's own under `theory.compositions.rule`.
        seeds: the draws of E, V and U, one a seed; each counts as an independent one.
        coincide: entities of the edits that are the same, as `r2y=r2r1x`; all others differ.
        data: what `cat` and `lorahub` fit their weights on: `two_hop`, `held_out` or `one_hop`.
        **dials: the rule's own, as `temperature=0.1` for `arrow`.

    Returns:
        `first` and `second`: each what the seeds measured, the closed form to O(1/m), and its standard error. There is
        no closed form for a rule that is not smooth in the Gram matrix (`ties`, `dare`).

    Raises:
        SettingError: for an unknown rule or dial, a value out of range, a repeated seed, a width too small for the
            edits or too large for a rule that looks at single weights, or coincidences that leave c₁ and c₂
            undetermined.

    Examples:
        >>> c1, c2 = lr.coefficients(lr.Model(width=2**12))
        >>> print(c1)
        0.41621 ± 0.00352 (closed form 0.41235, z = +1.10)
        >>> c1, c2 = lr.coefficients(lr.Model(width=float("inf")), "arrow", temperature=0.1)
        >>> round(c1.mean, 4), round(c2.mean, 4)
        (0.0911, 0.4551)

    Source: eq. 19 (Theorem 2), eq. 26-28 (Theorem 3).
    """
    if rule not in RULES:
        raise SettingError("rule", repr(rule), " | ".join(RULES), did_you_mean(rule, RULES))
    seeds = different(seeds)
    registered = RULES[rule]
    check(rule, registered.dials, dials)
    transformer = {f.name: getattr(model, f.name) for f in fields(Model)}
    settings = of_rule(rule, registered.dials, vars(registered))
    results = run(settings(**transformer, coincide=coincide, data=data, **dials), seeds)
    if "c_first" not in results[0].measured:
        raise SettingError("coincide", coincide, "coincidences that leave the two answer differences independent")
    return Coefficients(Estimate.of(results, "c_first"), Estimate.of(results, "c_second"))


def quantities(setting: Theorem3, scene: Scene, phi: Features, seed: int) -> Values:
    """Everything measured, from the features of the scene's prompts."""
    context = scene.context(phi, setting.data, setting.width, seed)
    update = compose(setting.composition, scene.experts(phi), context, **dials_of(setting))
    change = update @ phi[:, [scene.two_hop.start, scene.other.start]]
    D = scene.differences
    coefficients = np.linalg.lstsq(D, change, rcond=1e-9)[0]
    values: Values = {}
    if np.linalg.matrix_rank(D) == 2:
        values |= dict(zip(COEFFICIENTS, map(float, coefficients.T.ravel()), strict=True))
    output = scene.two_hop_outputs(change[:, :1])
    e = scene.edits
    goal = scene.one_hot(e.z)
    values |= {
        "margin_old_over_new": (output[e.r2r1x] - output[e.z]).item(),
        "exact_output_error": float(np.linalg.norm(output - goal)),
        "span_residual": float(np.linalg.norm(change[:, 0] - D @ coefficients[:, 0])),
    }
    roles = {"old": e.r2r1x, "y": e.y, "z": e.z, "r1x": e.r1x, "r2y": e.r2y}
    return values | {f"wins_{name}": wins(output, entity).item() for name, entity in roles.items()}


def _predict(setting: Theorem3, scene: Scene, S: np.ndarray, seed: int) -> tuple[Values, Values]:
    """The limit one step on: m → ∞ at these hidden states; at width = inf, d → ∞ (then without error bars)."""
    registered = RULES[setting.composition]
    if not registered.basis_free and setting.dim != INF:
        return {}, {}
    if not registered.basis_free:
        limit = replace(setting, width=INF)
        (phi,) = prepared(scene.prompts, limit, [0], basis_free=False)
        return quantities(limit, scene, phi, seed), {}
    if setting.width == INF:
        limit = at_infinite_dim(setting)
        if limit is None:
            return {}, {}
        k = gram(scene.prompts, limit, 0)
    else:
        k = kernel(S, setting.activation)
    limit = quantities(setting, scene, coordinates(k), seed)
    if not registered.smooth or setting.width == INF:
        return limit, dict.fromkeys(
            [name for name in SMOOTH if name in limit], 0.0
        ) if setting.dim == INF and registered.smooth else {}
    found = _expand(setting, scene, S, seed)
    return limit | found.mean, found.errors()


def _expand(setting: Theorem3, scene: Scene, S: Square, seed: int) -> Expansion:
    """Means and errors at the width. Under a routed rule, quantities of either prompt contain the softmax on that
    prompt."""

    def smooth(G: Square, wanted: Callable[[str], bool]) -> Values:
        values = quantities(setting, scene, nearest_coordinates(G), seed)
        return {name: values[name] for name in SMOOTH if name in values and wanted(name)}

    if setting.composition not in ("arrow", "arrow_after"):
        return expansion(lambda G: smooth(G, lambda _: True), S, setting.width, setting.activation)
    sure = sure_signs(S, setting.width, setting.activation)
    parts = [Expansion({}, {}, {})]
    for asked, is_other in ((scene.two_hop, False), (scene.other, True)):
        if not sure[[scene.first.start, scene.second.start], asked.start].all():
            continue
        parts.append(
            routed_expansion(
                lambda G, is_other=is_other: smooth(G, lambda name: (name in OTHER) == is_other),
                lambda G, asked=asked: log_odds(setting, scene, G, asked.start),
                S,
                setting.width,
                setting.activation,
                jumps=setting.top_k == 1,
            )
        )
    return Expansion(*(functools.reduce(operator.or_, values) for values in zip(*parts, strict=True)))


def log_odds(setting: Theorem3, scene: Scene, G: Square, asked: int) -> float:
    """The first expert's log odds under Arrow: the difference of |G(η_i, ξ)|/√G(η_i, η_i), in the units of `scores`,
    over the temperature."""
    keys = [scene.first.start, scene.second.start]
    scores = np.abs(G[keys, asked]) / np.sqrt(np.diagonal(G)[keys])
    unit = {"kernel": 1.0, "cosine": G[asked, asked] ** -0.5, "raw": setting.width**0.5}[setting.scores]
    return float((scores[0] - scores[1]) * unit / setting.temperature)
