"""Random features at any width: drawn in blocks from the factor of a Gram matrix of inputs, and added up, none kept.

Block b of a seed is drawn from `fold_in(key, b)` alone and its Gram matrix is computed in float32 on one device; blocks
are spread over all devices, and the host adds them in float64 in the order of b. So 1 and N devices give the same
bits."""

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float32, Float64, Int, PRNGKeyArray, UInt32

from lora_reuse.runs.settings import SettingError
from lora_reuse.theory.activations import ACTIVATIONS
from lora_reuse.theory.gaussian import factor

# About three times cheaper than the default threefry2x32 and, like it, the same numbers on any device count (rbg is
# not).
PRNG = "threefry4x32"

Grams = Float64[np.ndarray, "seeds n n"]
Advance = Callable[[int], object]


def stream(seed: int, *labels: int) -> PRNGKeyArray:
    """The key of one purpose: `seed`, with each label (a non-negative whole number below 2^64) folded in."""
    key = jax.random.key(seed, impl=PRNG)
    for label in labels:
        key = jax.random.fold_in(jax.random.fold_in(key, label & 0xFFFFFFFF), label >> 32)
    return key


def different(seeds: Any) -> list[int]:
    """Whatever came as seeds, if each is a draw of its own: jax takes those that differ by 2³² for one. Raises
    SettingError."""
    try:
        given = [operator.index(seed) for seed in seeds]
    except TypeError:
        given = []
    if not given or len(set(given)) < len(given) or not 0 <= min(given) <= max(given) < 2**31:
        allowed = "one or more different whole numbers from 0 to 2**31-1, as range(16)"
        raise SettingError("seeds", repr(seeds), allowed)
    return given


def block_size(n: int) -> int:
    """Features a block: at most 2^14, fewer for many prompts, so that a block of features stays near 8 MB."""
    return 1 << int(np.clip(21 - (n - 1).bit_length(), 8, 14))


def _block_normals(key: PRNGKeyArray, rank: int, block: int) -> Float32[Array, "rank block"]:
    """Z, the projections of one block of rows of U on the span of the hidden states."""
    return jax.random.normal(key, (rank, block), jnp.float32)


@functools.partial(jax.jit, static_argnames=("activation", "lanes", "mesh"))
def _block_grams(
    keys: UInt32[Array, "items words"],
    blocks: UInt32[Array, " items"],
    counts: Int[Array, " items"],
    factors: Float32[Array, "items n rank"],
    *,
    activation: str,
    lanes: int,
    mesh: Mesh,
) -> Float32[Array, "items n n"]:
    """φφᵀ of each item, a block of one seed: items are spread over devices, `lanes` of a device's items are vmapped."""

    def item(
        key: UInt32[Array, " words"], block: UInt32[Array, ""], count: Int[Array, ""], L: Float32[Array, "n rank"]
    ):
        n, rank = L.shape
        Z = _block_normals(jax.random.fold_in(jax.random.wrap_key_data(key, impl=PRNG), block), rank, block_size(n))
        h = jnp.matmul(L, Z, precision="highest")
        phi = jnp.where(jnp.arange(block_size(n))[None, :] < count, ACTIVATIONS[activation](h), 0.0)
        return jnp.matmul(phi, phi.T, precision="highest")

    def local(*arguments: Array) -> Float32[Array, "local n n"]:
        # batch_size=1 would still make every product a batched one, which XLA's CPU backend runs a quarter slower.
        return jax.lax.map(lambda one: item(*one), arguments, batch_size=lanes if lanes > 1 else None)

    spec = PartitionSpec("blocks")
    spread = jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    return spread(keys, blocks, counts, factors)


def streamed(
    S: Grams,
    width: int,
    keys: Sequence[PRNGKeyArray],
    activation: str = "relu",
    advance: Advance | None = None,
) -> Grams:
    """G at a finite width, one seed a matrix of `S` and a key; time grows with width · seeds, memory does not.

    Raises SettingError beyond 2^32 blocks of features, where the numbers of blocks would repeat.
    """
    if width > (most := block_size(S.shape[1]) << 32):
        raise SettingError("width", width, f"up to {most} with {S.shape[1]} prompts, or inf")
    factors = [factor(matrix) for matrix in S]
    rank = max(L.shape[1] for L in factors)
    L = np.stack([np.pad(one, ((0, 0), (0, rank - one.shape[1]))) for one in factors]).astype(np.float32)
    words = np.stack([jax.random.key_data(key) for key in keys])
    total = np.zeros(S.shape)
    for which, counts, partial in _in_flight(L, words, width, activation):
        for seed, matrix in zip(which, np.asarray(partial, np.float64), strict=False):
            total[seed] += matrix
        if advance is not None:
            advance(int(counts.sum()))
    return total / width


def _in_flight(
    L: Float32[np.ndarray, "seeds n rank"], words: UInt32[np.ndarray, "seeds words"], width: int, activation: str
) -> Iterator:
    """Blocks in order of (seed, block), a fixed number a call so that a width compiles nothing new; one call runs
    ahead."""
    n, rank = L.shape[1:]
    block = block_size(n)
    mesh = Mesh(np.array(jax.devices()), ("blocks",))
    lanes = 1 if jax.default_backend() == "cpu" else max(1, 2**26 // (block * n))
    chunk = mesh.size * max(lanes, min(64, 2**22 // (n * max(n, rank)) or 1))
    blocks_each = -(-width // block)
    pending = None
    for start in range(0, len(L) * blocks_each, chunk):
        index = np.arange(start, min(start + chunk, len(L) * blocks_each))
        seeds, blocks = index // blocks_each, index % blocks_each
        counts = np.minimum(width - blocks * block, block)
        padded = lambda a: np.concatenate([a, np.zeros((chunk - len(a), *a.shape[1:]), a.dtype)])  # noqa: E731
        out = _block_grams(
            padded(words[seeds]),
            padded(blocks.astype(np.uint32)),
            padded(counts.astype(np.int32)),
            padded(L[seeds]),
            activation=activation,
            lanes=lanes,
            mesh=mesh,
        )
        if pending:
            yield pending
        pending = seeds, counts, out
    yield pending


def features(
    S: Float64[np.ndarray, "n n"], width: int, key: PRNGKeyArray, activation: str = "relu"
) -> Float64[np.ndarray, "width n"]:
    """The features that `streamed` adds up, kept: φ(U h), one column a prompt. The products are taken in float64,
    because float32 rounding alone would make dependent features independent, and store what cannot be stored."""
    L = factor(S)
    block = block_size(len(S))
    draw = jax.jit(_block_normals, static_argnums=(1, 2))
    Z = [np.asarray(draw(jax.random.fold_in(key, b), L.shape[1], block), np.float64) for b in range(-(-width // block))]
    h = np.concatenate(Z, axis=1)[:, :width].T @ L.T
    return ACTIVATIONS[activation](h)
