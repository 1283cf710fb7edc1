"""The one-layer transformer of section 3.1 and A.1: what its MLP sees of a prompt.

The hidden state of p₁ … p_N is h = e_{p_N} + Σ_i a_i V e_{p_i}: the residual plus attention over the context. With
strict masking the context is p₁ … p_{N−1} (eq. 4); with ordinary causal masking it includes p_N (eq. 21). a is uniform
(eq. 5) or the softmax of the logits e_{p_i}ᵀ Kᵀ Q e_{p_N} (eq. 4). So every hidden state is a fixed combination of
token embeddings e_t and their images V e_t, and `coefficients` is all of the model that depends on the prompt. Whoever
has a `Model` calls `coefficients_of`, so that another assumption on attention is in one place.

N(0, 1/√d) in the paper can name a standard deviation or a variance; `init_scale` says which. With `std` the logits of
eq. 4 shrink like d^(−1/2), so attention becomes uniform; with `variance` they grow like d^(1/2), and it does not
(`experiment=attention`)."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, PRNGKeyArray

from lora_reuse.theory.activations import ACTIVATIONS
from lora_reuse.theory.facts import Prompt
from lora_reuse.theory.settings import Model


class Transformer(NamedTuple):
    """Every matrix drawn in full: the reference that the projected draws of `gram` are tested against."""

    E: Float[Array, "tokens dim"]
    V: Float[Array, "dim dim"]
    K: Float[Array, "dim dim"]
    Q: Float[Array, "dim dim"]
    U: Float[Array, "width dim"]


def entry_std(dim: int, init_scale: str) -> float:
    """The standard deviation of the entries of E, V, K, Q and U: d^(−1/2) reading N(0, 1/√d) as `std`, d^(−1/4) as
    `variance`."""
    return dim**-0.5 if init_scale == "std" else dim**-0.25


def draw_transformer(
    key: PRNGKeyArray, *, tokens: int, dim: int, width: int, init_scale: str = "std", dtype=jnp.float32
) -> Transformer:
    """Draws E, V, K, Q, U with i.i.d. Gaussian entries."""
    std = entry_std(dim, init_scale)
    shapes = ((tokens, dim), (dim, dim), (dim, dim), (dim, dim), (width, dim))
    return Transformer(
        *(std * jax.random.normal(k, shape, dtype) for k, shape in zip(jax.random.split(key, 5), shapes, strict=True))
    )


def logits(model: Transformer) -> Float[Array, "tokens tokens"]:
    """Attention logits e_iᵀ Kᵀ Q e_j of eq. 4, row i the context token, column j the last token."""
    return (model.E @ model.K.T) @ (model.E @ model.Q.T).T


def by_position(length: int, decay: float = 1.0) -> Float64[np.ndarray, " length"]:
    """What attention on the tokens of a context, first to last, is multiplied by before it is normalised: `decay` for
    each token that stands between one and the end. All that knows of positions is here.

    With a softmax it is the linear bias of slope −log decay (Press et al., *Train short, test long*, ICLR 2022)."""
    return decay ** np.arange(length - 1, -1, -1, dtype=float)


def turned(vectors: Float[np.ndarray, "dim n"], distance: int) -> Float[np.ndarray, "dim n"]:
    """Queries under rotary positions, for keys that stand `distance` tokens before them: coordinates i and i + d/2 are
    turned by the angle distance · 10000^(−2i/d) (Su et al., *RoFormer*, arXiv:2104.09864)."""
    first, second = np.split(vectors, 2)
    angles = distance * 1e4 ** -np.linspace(0.0, 1.0, len(first), endpoint=False)[:, None]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cos - second * sin, first * sin + second * cos])


def coefficients(
    prompts: Sequence[Prompt],
    tokens: int,
    *,
    mask: str = "strict",
    decay: float = 1.0,
    heads: int = 1,
    logits: Float[np.ndarray, "heads distances tokens tokens"] | None = None,
) -> tuple[Float64[np.ndarray, "prompts images"], Float64[np.ndarray, "prompts tokens"]]:
    """(α, β) with h(p) = Σ_{k,t} α[p, k t] V_k e_t + Σ_t β[p, t] e_t; attention is uniform (eq. 5) unless `logits` are
    given (eq. 4), or it decays.

    Logits are those of each head by the distance to the last token, the last of them for all that is farther. What the
    heads read is added and divided by √heads. Head k = 0, 1, … decays by decay^(2^(−8k/heads)), slopes that fall
    geometrically as in ALiBi. A prompt of one token has an empty context under strict masking, and attention then
    contributes nothing.
    """
    attended = np.zeros((len(prompts), heads, tokens))
    residual = np.zeros((len(prompts), tokens))
    for row, prompt in enumerate(prompts):
        last = prompt[-1]
        context = np.array(prompt if mask == "causal" else prompt[:-1], dtype=int)
        far = len(prompt) - 1 - np.arange(len(context))
        for head in range(heads):
            scores = np.zeros(len(context))
            if logits is not None:
                scores = np.asarray(logits[head])[np.minimum(far, len(logits[head]) - 1), context, last]
            near = by_position(len(context), decay**2.0 ** (-8 * head / heads))
            weights = np.exp(scores - scores.max(initial=-np.inf)) * near  # in float64, whatever the logits are
            np.add.at(attended[row, head], context, weights / weights.sum())
        residual[row, last] = 1.0
    return attended.reshape(len(prompts), -1) / heads**0.5, residual


def coefficients_of(
    model: Model,
    prompts: Sequence[Prompt],
    tokens: int,
    logits: Float[np.ndarray, "heads distances tokens tokens"] | None = None,
) -> tuple[Float64[np.ndarray, "prompts images"], Float64[np.ndarray, "prompts tokens"]]:
    """`coefficients` under the settings of a model; logits are asked for where `attention=softmax`."""
    return coefficients(prompts, tokens, mask=model.mask, decay=model.decay, heads=model.heads, logits=logits)


def hidden(drawn: Transformer, prompts: Sequence[Prompt], model: Model | None = None) -> Float[Array, "prompts dim"]:
    """The hidden states h(p) that the MLP reads under the settings of a model, the paper's unless given."""
    model = model or Model()
    scores = np.asarray(logits(drawn))[None, None] if model.attention == "softmax" else None
    attended, residual = coefficients_of(model, prompts, drawn.E.shape[0], scores)
    return jnp.asarray(attended, drawn.E.dtype) @ (drawn.E @ drawn.V.T) + jnp.asarray(residual, drawn.E.dtype) @ drawn.E


def features(
    model: Transformer, states: Float[Array, "prompts dim"], *, activation: str = "relu", scale: float = 1.0
) -> Float[Array, "width prompts"]:
    """φ(scale · U h), one column a prompt: the key under which the MLP stores the prompt's answer."""
    preactivations = jnp.matmul(scale * model.U, states.T, precision="highest")
    return ACTIVATIONS[activation](preactivations)
