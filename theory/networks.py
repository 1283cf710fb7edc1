"""Networks of `theory.depth` drawn in full, with d = m = n: their readout Gram matrix and their tangent kernel by JAX's
own derivatives, which know nothing of the recursions that they are compared with."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int, PRNGKeyArray

from lora_reuse.theory.activations import ACTIVATIONS
from lora_reuse.theory.depth import Segments, attention, gain, last_token, prefixes
from lora_reuse.theory.facts import Prompt


class Network(NamedTuple):
    """Every matrix: entries of E and V have variance 1/n, of U 1, of W g/n, of the readout w of one output 1."""

    E: Float[Array, "tokens n"]
    V: Float[Array, "blocks n n"]
    U: Float[Array, "blocks n n"]
    W: Float[Array, "lower n n"]
    w: Float[Array, " n"]


class Kernels(NamedTuple):
    """Two Gram matrices of the prompts: of the top features, and of what the W below the top add to the tangent kernel
    in the NTK parametrisation."""

    readout: Float64[np.ndarray, "prompts prompts"]
    lower: Float64[np.ndarray, "prompts prompts"]


@functools.partial(jax.jit, static_argnames=("tokens", "width", "depth", "gain", "dtype"))
def draw_network(key: PRNGKeyArray, *, tokens: int, width: int, depth: int, gain: float, dtype=jnp.float32) -> Network:
    """Draws E, V, U, W and w with i.i.d. Gaussian entries."""
    shapes = [(tokens, width), *[(blocks, width, width) for blocks in (depth, depth, depth - 1)], (width,)]
    stds = [width**-0.5, width**-0.5, 1.0, (gain / width) ** 0.5, 1.0]
    keys = jax.random.split(key, len(shapes))
    return Network(*(s * jax.random.normal(k, shape, dtype) for k, shape, s in zip(keys, shapes, stds, strict=True)))


def forward(
    network: Network,
    added: Float[Array, "lower positions n"],
    last: Int[Array, " positions"],
    A: Float[Array, "positions positions"],
    *,
    activation: str = "relu",
    norm: str = "none",
) -> tuple[Float[Array, " positions"], Float[Array, "blocks positions n"]]:
    """One output at every position, and the features φ(U n(h))/√m of every block; `added` is added to the stream where
    each W below the top is."""
    product = functools.partial(jnp.matmul, precision="highest")
    unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True) if norm == "rms" else x  # noqa: E731
    x, found = network.E[last], []
    for block in range(len(network.V)):
        h = x + product(A, product(unit(x), network.V[block].T))
        u = product(unit(h), network.U[block].T)
        found.append(ACTIVATIONS[activation](u) / len(network.w) ** 0.5)
        if block < len(network.W):
            x = h + product(found[-1], network.W[block].T) + added[block]
    return product(found[-1], network.w), jnp.stack(found)


@functools.partial(jax.jit, static_argnames=("activation", "norm"))
def _kernels(network, last, A, asked, gain, *, activation, norm):
    width = len(network.w)
    none = jnp.zeros((len(network.W), len(last), width), network.w.dtype)
    run = functools.partial(forward, network, last=last, A=A, activation=activation, norm=norm)
    _, pull, phi = jax.vjp(run, none, has_aux=True)
    (gradients,) = jax.vmap(pull)(jnp.eye(len(last), dtype=none.dtype)[asked])  # [prompts lower positions n]
    grams = jnp.einsum("lti,lsi->lts", phi, phi, precision="highest")
    through = jnp.einsum("plti,lts->plsi", gradients, grams[:-1], precision="highest")
    lower = jnp.einsum("plsi,qlsi->pq", through, gradients, precision="highest")
    return grams[-1][asked][:, asked], gain / width * lower


def kernels(
    prompts: Sequence[Prompt] | Sequence[Segments],
    network: Network,
    *,
    mask: str,
    activation: str,
    norm: str,
    decay: float = 1.0,
    locality: float = 1.0,
) -> Kernels:
    """Both kernels of one network. ∂f/∂W_l = Σ_t g_t φ_tᵀ with g_t the gradient of the output f with respect to the
    stream, so that its inner products need the gradients [n] and never the [n n] of a W."""
    positions = prefixes(prompts)
    tokens = sorted({last_token(prefix) for prefix in positions})
    dtype = network.w.dtype
    found = _kernels(
        network,
        jnp.array([tokens.index(last_token(prefix)) for prefix in positions]),
        jnp.asarray(attention(positions, mask, decay, locality), dtype),
        jnp.array([positions.index(prompt) for prompt in prompts]),
        jnp.asarray(gain(activation), dtype),
        activation=activation,
        norm=norm,
    )
    return Kernels(*(np.asarray(matrix, np.float64) for matrix in found))
