"""CAT (LoRA Soups): one fitted weight an expert, on the updates (eq. 26)."""

import functools
import operator
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lora_reuse.runs.settings import SettingError
from lora_reuse.theory.compositions import Context, Library, rule
from lora_reuse.theory.compositions.sums import Weights, weights_for
from lora_reuse.theory.edits import LowRank

Fit = Annotated[Literal["free", "softmax", "given"], "weights by least squares, on the simplex, or given"]


@rule(span=True, gauge_free=True, basis_free=True, alone=False, smooth=True)
def cat(library: Library, context: Context, *, fit: Fit = "free", weights: Weights = None) -> LowRank:
    """ΔW = Σ_i α_i A_i B_iᵀ (eq. 26). α is `weights` with `fit=given`, or fitted to the squared error on the context's
    examples: free (least squares, in closed form) or on the simplex (`fit=softmax`, by optax, as in LoRA Soups)."""
    if weights is not None and fit != "given":
        raise SettingError("weights", f"{weights} with fit={fit}", "none: cat then fits its own", "add fit=given")
    alpha = weights_for(library, weights) if fit == "given" else fitted_weights(library, context, fit)
    return functools.reduce(operator.add, [float(a) * expert for a, expert in zip(alpha, library, strict=True)])


def fitted_weights(library: Library, context: Context, fit: str = "free") -> np.ndarray:
    """α of the least squared error ‖Σ_i α_i ΔW_i Φ − changes‖ over the examples."""
    if context.examples is None:
        raise SettingError("examples", "none", "examples to fit the weights of cat on, or fit=given")
    parts = np.stack([(expert @ context.examples.features).ravel() for expert in library], axis=1)
    goal = context.examples.changes.ravel()
    if fit == "softmax":
        return _on_the_simplex(parts.T @ parts, parts.T @ goal)
    return np.linalg.lstsq(parts, goal, rcond=None)[0]


def _on_the_simplex(gram: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    """α = softmax(s) of the least αᵀ gram α − 2 overlapᵀ α, by Adam on s."""
    rule = optax.adam(0.1)

    def step(carry, _):
        s, state = carry
        gradient = jax.grad(
            lambda s: (
                jax.nn.softmax(s) @ jnp.asarray(gram) @ jax.nn.softmax(s) - 2 * jax.nn.softmax(s) @ jnp.asarray(overlap)
            )
        )(s)
        updates, state = rule.update(gradient, state)
        return (optax.apply_updates(s, updates), state), None

    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        start = jnp.zeros(len(overlap), jnp.float64)
        (s, _), _ = jax.lax.scan(step, (start, rule.init(start)), None, length=1000)
        return np.asarray(jax.nn.softmax(jnp.asarray(s)))
