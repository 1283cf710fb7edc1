"""LoRA by gradients, against the closed form: with the paper's penalty annealed away, and as LoRA is really trained."""

import functools
from typing import cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

Factors = tuple[Float[Array, "outputs rank"], Float[Array, "features rank"]]


def loss(factors: Factors, key: Float[Array, " features"], residual: Float[Array, " outputs"]) -> Float[Array, ""]:
    """‖A Bᵀ v − w‖²: how far the adapter is from changing the output on the prompt from r(x) to r̃(x) (eq. 8)."""
    out, into = factors
    return jnp.sum((out @ (into.T @ key) - residual) ** 2)


@functools.partial(jax.jit, static_argnames=("rank", "steps"))
def train_penalised(
    random: PRNGKeyArray,
    key: Float[Array, " features"],
    residual: Float[Array, " outputs"],
    *,
    rank: int,
    steps: int = 1500,
) -> Factors:
    """Gradient descent on the loss + λ(‖A‖² + ‖B‖²) from random factors, λ = 0.1 for half the steps and then falling to
    1e-7: the regularised LoRA of section 3.1 in the limit of no penalty, whose ΔW is Proposition 1. The penalty alone
    removes what the random start has outside the key, so it is held until that is gone. The key is used at norm 1,
    which scales ΔW and nothing else."""
    norm = jnp.linalg.norm(key)
    unit = key / norm
    outputs, features = residual.shape[0], key.shape[0]
    first, second = jax.random.split(random)
    factors = (
        jax.random.normal(first, (outputs, rank), key.dtype) * outputs**-0.5,
        jax.random.normal(second, (features, rank), key.dtype) * features**-0.5,
    )

    def objective(factors: Factors, penalty: Float[Array, ""]) -> Float[Array, ""]:
        return loss(factors, unit, residual) + penalty * sum(jnp.sum(factor**2) for factor in factors)

    def step(factors: Factors, penalty: Float[Array, ""]) -> tuple[Factors, None]:
        gradients = jax.grad(objective)(factors, penalty)
        return jax.tree.map(lambda factor, gradient: factor - 0.1 * gradient, factors, gradients), None

    fall = jnp.maximum(jnp.linspace(-1.0, 1.0, steps, dtype=key.dtype), 0.0)
    (out, into), _ = jax.lax.scan(step, factors, 0.1 * 1e-6**fall)
    return out, into / norm


@functools.partial(jax.jit, static_argnames=("rank", "steps", "optimiser"))
def train_lora(
    random: PRNGKeyArray,
    key: Float[Array, " features"],
    residual: Float[Array, " outputs"],
    *,
    rank: int,
    learning_rate: float | Float[Array, ""],
    steps: int,
    optimiser: str = "adamw",
) -> tuple[Factors, Float[Array, "features rank"]]:
    """LoRA as it is trained: A = 0, B uniform on ±m^(−1/2) (PEFT's default), no penalty, AdamW without weight decay, or
    plain gradient descent. Returns the factors and the initial B."""
    bound = key.shape[0] ** -0.5
    start = jax.random.uniform(random, (key.shape[0], rank), key.dtype, -bound, bound)
    factors = (jnp.zeros((residual.shape[0], rank), key.dtype), start)
    rule = {
        "adamw": optax.adamw(optax.linear_schedule(learning_rate, 0.0, steps), weight_decay=0.0),  # pyright: ignore[reportArgumentType]
        "sgd": optax.sgd(learning_rate),
    }[optimiser]

    def step(carry, _):
        factors, state = carry
        updates, state = rule.update(jax.grad(loss)(factors, key, residual), state, factors)
        return (optax.apply_updates(factors, updates), state), None

    with jax.numpy_dtype_promotion("standard"):  # optax raises decays to the power of an integer count
        carry, _ = jax.lax.scan(step, (factors, rule.init(factors)), None, length=steps)
    return cast(Factors, carry[0]), start


def predicted_alignment(
    key: Float[Array, " features"], start: Float[Array, "features rank"], *, optimiser: str = "adamw"
) -> Float[Array, ""]:
    """cos(ΔW, Proposition 1) at the end of `train_lora` at rank one for w = i_y − i_r(x), in the limit of small steps.

    A rank-one adapter that fits has ΔW = w qᵀ/(q·v), so the cosine is |q·v|/(‖q‖‖v‖) and the excess norm ‖ΔW‖/‖Prop. 1‖
    its inverse. What q ends as depends on the optimiser, from a start q₀ of norm 3^(−1/2):
    - gradient flow moves q along v and keeps ‖p‖² − ‖q‖² (p, q the columns of A, B), so p = β w/‖w‖ with β² = α² + 2α
      q₀·v/‖v‖, β (q₀·v + α‖v‖) = ‖w‖: α falls like m^(−1/4), and the trained adapter turns away from the closed form as
      width grows;
    - AdamW moves every coordinate with a gradient equally: q = q₀ + a·1[v > 0], p = a w, a (q₀·v + a Σv) = 1: the
      cosine tends to √(E v/E v²)/√(1/3 + 1/(2 E v)), 0.680 for ‖h‖² = 2, and the closed form is not reached at any
      width.
    """
    q0 = start[:, 0]
    norm, overlap = jnp.linalg.norm(key), jnp.abs(q0 @ key)
    if optimiser == "adamw":
        moved = (key > 0).astype(key.dtype) * jnp.sign(q0 @ key)
        total = key.sum()
        length = (-overlap + jnp.sqrt(overlap**2 + 4 * total)) / (2 * total)
    else:
        moved = key / norm * jnp.sign(q0 @ key)
        length = _flow_length(norm, overlap)
    q = q0 + length * moved
    return jnp.abs(q @ key) / (jnp.linalg.norm(q) * norm)


def _flow_length(norm: Float[Array, ""], overlap: Float[Array, ""]) -> Float[Array, ""]:
    """The α ≥ 0 with √(α² + 2αs)(s + α) = √2/‖v‖, s = |q₀·v|/‖v‖: the left side grows with α, so bisection finds it."""
    s = overlap / norm

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        beyond = jnp.sqrt(middle**2 + 2 * middle * s) * (s + middle) * norm > 2**0.5
        return jnp.where(beyond, low, middle), jnp.where(beyond, middle, high)

    return jax.lax.fori_loop(0, 40, halve, (jnp.zeros_like(s), 2 * norm**-0.5))[0]
