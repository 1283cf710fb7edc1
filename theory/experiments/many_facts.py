"""Experts of n facts each (A.1.1, eq. 23-25): no weights on the two adapters find the right one of the n composed
answers.

On the composed prompt `x_j r1 r2` the second expert contributes Σ_i C_ij (i_{z_i} − i_{r2(y_i)}) with C = G_ee⁻¹ G_et,
e its n keys `y_i r2`, t the n composed prompts. As d → ∞ the tokens of `x_j r1 r2` overlap every key in r2 alone, so
G_et = κ for all i and j, G_ee = k(η, η) on and ρ off the diagonal, and every entry of C is the same (eq. 25 says so for
two facts):

    C_ij = κ / (k(η, η) + (n − 1)ρ),     0.573 / (1 + 0.609 (n − 1)) under `std`, strict masking, ReLU.

All n new answers z_i therefore tie on every composed prompt, whatever weights α₁, α₂ multiply the experts: accuracy is
at most 1/n, the `ceiling`, and a rule that leaves the old answer on top has none. The first expert does not help: it
moves y's and r₁(x)'s only.

- `coefficient_second`: the mean over facts and prompts of the composed coefficients of i_z − i_{r2(y)}. For `sum` its
  error and the term of O(1/m) of its mean follow from the influence of one feature (`coefficient_expansion`);
- `coefficient_second_spread`: the standard deviation of C over facts and prompts, 0 at d = m = ∞; for `sum` at width =
  inf and a finite d predicted as `spread_of_dim`·d^(−1/2), the correction to eq. 25 (std, uniform attention, ReLU);
- `accuracy`: the share of composed prompts whose largest output is z_j (ties shared); for data=held_out, of the earlier
  half of the facts.
- for `composition=best`: `accuracy` and `ceiling` are the best over all weights (α₁, α₂) by search; both are predicted
  as 1/n. The search picks the luckiest weights for the very prompts it is scored on, so at finite d or m it can pass
  the ceiling by chance.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from lora_reuse.theory.compositions import RULES, Features, Outputs, compose, dials_of
from lora_reuse.theory.experiments import REMAINDER, Result, Values
from lora_reuse.theory.gaussian import QUADRATURE_NODES, quadrature_features
from lora_reuse.theory.gram import geometry
from lora_reuse.theory.kernels import kernel, kernel_change
from lora_reuse.theory.library import Scene, draw_scene, prepared, wins
from lora_reuse.theory.limit import limit_geometry
from lora_reuse.theory.model import coefficients_of
from lora_reuse.theory.settings import INF, ManyFacts, Model, at_infinite_dim

ANGLES = np.linspace(0, 2 * np.pi, 144, endpoint=False)
LENGTHS = np.geomspace(1e-2, 1e4, 49)


def run(setting: ManyFacts, seeds: Sequence[int], advance: Callable[[int], object] | None = None) -> list[Result]:
    """One Result a seed."""
    scene = draw_scene(setting.facts)
    basis_free = setting.composition == "best" or RULES[setting.composition].basis_free
    features = prepared(scene.prompts, setting, seeds, basis_free, advance)
    at_limit = at_infinite_dim(replace(setting, width=INF))
    if at_limit is None:
        return [
            Result(quantities(setting, scene, phi, seed), {}, {}) for seed, phi in zip(seeds, features, strict=True)
        ]
    (limit,) = prepared(scene.prompts, at_limit, [0], basis_free)
    shared = quantities(at_limit, scene, limit, seeds[0])
    stderr: Values = {}
    if setting.composition == "sum" and setting.dim == INF and setting.width != INF and setting.depth == 1:
        S = geometry(scene.prompts, at_limit, [0])[0]
        bias, error, left_out = coefficient_expansion(scene, S, setting.activation)
        shared["coefficient_second"] += bias / setting.width
        stderr = {
            "coefficient_second": error * setting.width**-0.5,
            "coefficient_second" + REMAINDER: abs(bias) * left_out / setting.width**2,
        }
    closed = (setting.composition, setting.width, setting.init_scale, setting.attention, setting.activation)
    one_head = setting.heads == 1 and not setting.beyond_one_block()
    if closed == ("sum", INF, "std", "uniform", "relu") and setting.dim != INF and one_head:
        shared["coefficient_second_spread"] = spread_of_dim(scene, setting) * setting.dim**-0.5
    if setting.composition == "best":
        shared |= {"accuracy": 1 / setting.facts, "ceiling": 1 / setting.facts}
    results = []
    for seed, phi in zip(seeds, features, strict=True):
        predicted = quantities(at_limit, scene, limit, seed) if setting.random() else shared
        results.append(Result(quantities(setting, scene, phi, seed), dict(predicted), dict(stderr)))
    return results


def quantities(setting: ManyFacts, scene: Scene, phi: Features, seed: int) -> Values:
    """Everything measured, from the features of the scene's prompts."""
    n = setting.facts
    asked = phi[:, scene.two_hop]
    experts = scene.experts(phi)
    if setting.composition == "best":
        best = best_accuracy(scene, [expert @ asked for expert in experts])
        return coefficients(scene, experts[1] @ asked) | {"accuracy": best, "ceiling": best}
    context = scene.context(phi, setting.data, setting.width, seed)
    change = compose(setting.composition, experts, context, **dials_of(setting)) @ asked
    scored = slice(0, n // 2) if setting.data == "held_out" and n > 1 else slice(None)
    right = wins(scene.two_hop_outputs(change), scene.edits.z)[scored]
    return coefficients(scene, change) | {"accuracy": float(right.mean())}


def coefficients(scene: Scene, change: Outputs) -> Values:
    """Mean and spread of the coefficients of i_z − i_{r2(y)} over facts and composed prompts."""
    n = len(scene.edits.x)
    C = np.linalg.lstsq(scene.differences, change, rcond=1e-9)[0][n:]
    return {"coefficient_second": float(C.mean()), "coefficient_second_spread": float(C.std())}


def best_accuracy(scene: Scene, changes: Sequence[Outputs]) -> float:
    """The largest accuracy over α₁, α₂ of old + α₁ ΔW₁φ + α₂ ΔW₂φ: every direction, and lengths from 0.01 to 10⁴."""
    rows = np.unique(np.concatenate([getattr(scene.edits, role) for role in ("x", "y", "z", "r1x", "r2y", "r2r1x")]))
    old = scene.two_hop_outputs(np.zeros_like(changes[0]))[rows]
    first, second = (change[rows] for change in changes)
    answers = np.searchsorted(rows, scene.edits.z)
    best = 0.0
    for angle in ANGLES:
        direction = np.cos(angle) * first + np.sin(angle) * second
        for length in LENGTHS:
            best = max(best, float(wins(old + length * direction, answers, tolerance=1e-9 * max(length, 1.0)).mean()))
    return best


def closed_form(kappa: float, own: float, rho: float, facts: int) -> float:
    """κ/(k(η, η) + (n − 1)ρ): the coefficient of every fact on every composed prompt at d = m = ∞."""
    return kappa / (own + (facts - 1) * rho)


def spread_of_dim(scene: Scene, model: Model) -> float:
    """√d times the root mean square of C_ij − mean C at dimension d, to first order.

    dC = G_ee⁻¹ (dG_et − dG_ee C) is linear in the fluctuations of E Eᵀ = I + A, (V e_s)·(V e_t) = I + A + B and (V
    e_s)·e_t = C' (variances as in `limit.geometry_stderr`), so the mean square is a sum over their independent
    entries."""
    prompts = scene.prompts[scene.second] + scene.prompts[scene.two_hop]
    used = sorted({token for prompt in prompts for token in prompt})
    compact = [tuple(used.index(t) for t in prompt) for prompt in prompts]
    attended, residual = coefficients_of(model, compact, len(used))
    S = limit_geometry(attended, residual)
    k, n = kernel(S), len(scene.edits.x)
    inverse = np.linalg.inv(k[:n, :n])
    C = inverse @ k[:n, n:]

    def square(change: Float64[np.ndarray, "prompts prompts"]) -> float:
        dk = kernel_change(S, change)
        return float(np.var(inverse @ (dk[:n, n:] - dk[:n, :n] @ C)))

    total = 0.0
    for s in range(len(used)):
        for t in range(len(used)):
            mixed = np.outer(attended[:, s], residual[:, t])
            total += square(mixed + mixed.T)
            if s <= t:  # the entry (s, t) of a symmetric matrix of variance 1 off and 2 on the diagonal
                images, tokens = (np.outer(a[:, s], a[:, t]) for a in (attended, residual))
                images, tokens = (m + m.T if s < t else np.sqrt(2) * m for m in (images, tokens))
                total += square(images + tokens) + square(images)
    return float(np.sqrt(total))


def coefficient_expansion(
    scene: Scene, S: Float64[np.ndarray, "prompts prompts"], activation: str
) -> tuple[float, float, float]:
    """Of the mean coefficient under `sum` at width m: m times the term of O(1/m) of its mean, √m times its standard
    error, and m times the ratio of the next term of the mean to this one, as estimated.

    One feature moves C̄ by ψ/m, ψ = (aᵀφ_e)(φ̄_t − φ_eᵀC̄) with a = k_ee⁻¹1/n, bars for means over prompts, and with h
    = φ_eᵀk_ee⁻¹φ_e it moves G_ee⁻¹ along with it: the standard error is √E ψ², the term of O(1/m) is −E h ψ.
    Expectations are by quadrature. G_ee differs from k_ee by a share of mean square (E h²/n − 1)/m, and a Gaussian one
    makes the next term three times as large as that share of this one."""
    phi = quadrature_features(S, activation) * QUADRATURE_NODES**0.5
    e, t = phi[:, scene.second], phi[:, scene.two_hop]
    n = e.shape[1]
    inverse = np.linalg.inv(e.T @ e / len(e))
    h = np.einsum("ui,ij,uj->u", e, inverse, e)
    psi = (e @ inverse.mean(axis=0)) * (t.mean(axis=1) - e @ (inverse @ (e.T @ t.mean(axis=1)) / len(e)))
    return float(-np.mean(h * psi)), float(np.sqrt(np.mean(psi**2))), float(3 * (np.mean(h**2) / n - 1))
