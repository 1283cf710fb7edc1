"""The Gram matrix of a prompt set, from four providers: everything else in `theory` stands on it.

At any width, Proposition 1, eq. 23 and Theorems 2-3 depend on the random features only through G(p, q) =
φ(Uh_p)ᵀφ(Uh_q)/m over the prompts in use (entries of U scaled to unit variance, which cancels in every ratio). `gram`
gives it
- from explicit matrices E, V, K, Q, U (the reference, small models),
- streamed, at any width: blocks of features drawn in the span of the hidden states, none kept,
- at m = ∞ (the arc-cosine kernel of the drawn hidden states), and at d = m = ∞.

Projected sampling. U enters only as U Hᵀ, whose rows are i.i.d. N(0, S) with S = H Hᵀ: with S = L Lᵀ, L of r = rank(S)
columns, each feature needs r normals and not d, with exactly the same joint law for a prompt set fixed in advance. In
the same way V enters only as V Eᵀ: with Eᵀ = Q R, the entries of V Q are i.i.d., so d² draws become d · tokens.

Streaming. Block b of a seed is drawn from `fold_in(key, b)` alone and its Gram matrix is computed in float32 on one
device; blocks are spread over all devices, and the host adds them in float64 in the order of b. So 1 and N devices give
the same bits."""

import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float32, Float64, Int, PRNGKeyArray, UInt32

from lora_reuse.runs.settings import SettingError
from lora_reuse.theory import model as transformer
from lora_reuse.theory.facts import Prompt
from lora_reuse.theory.kernels import kernel, limit_geometry
from lora_reuse.theory.settings import INF, Model

# About three times cheaper than the default threefry2x32 and, like it, the same numbers on any device count (rbg is
# not).
PRNG = "threefry4x32"
# What a seed is used for; each has a stream of its own.
GEOMETRY, FEATURES, TRAINING = range(3)

Grams = Float64[np.ndarray, "seeds n n"]


def stream(seed: int, *labels: int) -> PRNGKeyArray:
    """The key of one purpose: `seed`, with each label (a non-negative whole number below 2^64) folded in."""
    key = jax.random.key(seed, impl=PRNG)
    for label in labels:
        key = jax.random.fold_in(jax.random.fold_in(key, label & 0xFFFFFFFF), label >> 32)
    return key


def gram(
    prompts: Sequence[Prompt],
    model: Model,
    seeds: Sequence[int],
    *,
    explicit: bool = False,
    advance: Callable[[int], object] | None = None,
) -> Grams:
    """G over `prompts`, one matrix a seed, from the provider that `model.width`, `model.dim` and `explicit` name.

    `advance` is told how many features have been streamed since the last call.
    """
    if explicit:
        return np.stack([_explicit(prompts, model, seed) for seed in seeds])
    S = geometry(prompts, model, seeds)
    if model.width == INF:
        return kernel(S, model.activation)
    return streamed(S, int(model.width), feature_keys(model, seeds), model.activation, advance)


def feature_keys(model: Model, seeds: Sequence[int]) -> list[PRNGKeyArray]:
    """One key a seed for the rows of U: independent across seeds, widths and dims."""
    return [stream(seed, FEATURES, int(model.width), 0 if model.dim == INF else int(model.dim)) for seed in seeds]


def geometry(prompts: Sequence[Prompt], model: Model, seeds: Sequence[int]) -> Grams:
    """S = H Hᵀ of the hidden states, one matrix a seed; the same for every seed at dim = inf."""
    used = sorted({token for prompt in prompts for token in prompt})
    compact = [tuple(used.index(token) for token in prompt) for prompt in prompts]
    if model.dim == INF:
        attended, residual = transformer.coefficients(compact, len(used), mask=model.mask)
        if model.init_scale == "variance" and not attended.any(axis=1).all():
            raise SettingError(
                "init_scale",
                "variance with a one-token prompt at dim=inf",
                "prompts with a context, a finite dim, or std",
            )
        S = limit_geometry(attended, residual, model.init_scale)
        return np.broadcast_to(S, (len(seeds), *S.shape)).copy()
    return np.stack([_drawn_geometry(compact, len(used), model, seed) for seed in seeds])


@functools.partial(jax.jit, static_argnames=("shape",))
def _normals(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float32[Array, "..."]:
    return jax.random.normal(key, shape, jnp.float32)


def _drawn_geometry(prompts: Sequence[Prompt], tokens: int, model: Model, seed: int) -> Float64[np.ndarray, "n n"]:
    images, scores = token_images(stream(seed, GEOMETRY, int(model.dim)), tokens, int(model.dim), model.init_scale)
    attended, residual = transformer.coefficients(
        prompts, tokens, mask=model.mask, logits=scores if model.attention == "softmax" else None
    )
    H = attended @ images[1] + residual @ images[0]
    return H @ H.T


def token_images(
    key: PRNGKeyArray, tokens: int, dim: int, init_scale: str
) -> tuple[Float64[np.ndarray, "2 tokens dim"], Float64[np.ndarray, "tokens tokens"]]:
    """The embeddings e_t, their images V e_t, and all attention logits, in their exact joint law at d · tokens draws a
    matrix."""
    std = transformer.entry_std(dim, init_scale)
    span = min(tokens, dim)
    E, VQ, KQ, QQ = (
        std * np.asarray(_normals(k, (dim, columns)), np.float64)
        for k, columns in zip(jax.random.split(key, 4), (tokens, span, span, span), strict=True)
    )
    R = np.linalg.qr(E).R
    return np.stack([E.T, (VQ @ R).T]), (KQ @ R).T @ (QQ @ R)


def _explicit(prompts: Sequence[Prompt], model: Model, seed: int) -> Float64[np.ndarray, "n n"]:
    if INF in (model.dim, model.width):
        raise SettingError("explicit", "an infinite dim or width", "finite ones: the matrices are drawn in full")
    tokens = 1 + max(token for prompt in prompts for token in prompt)
    key = stream(seed, FEATURES, int(model.width), int(model.dim))
    drawn = transformer.draw_transformer(
        key, tokens=tokens, dim=int(model.dim), width=int(model.width), init_scale=model.init_scale
    )
    states = transformer.hidden(drawn, prompts, attention=model.attention, mask=model.mask)
    phi = np.asarray(transformer.features(drawn, states, activation=model.activation), np.float64)
    return phi.T @ phi / (model.width * transformer.entry_std(int(model.dim), model.init_scale) ** 2)


def factor(S: Float64[np.ndarray, "n n"], tolerance: float = 1e-10) -> Float64[np.ndarray, "n rank"]:
    """L with L Lᵀ = S and as many columns as S has rank: Cholesky, with no column for a prompt in the span of those
    before it.

    Unlike an eigendecomposition it is unique, so the features drawn from it are the same numbers on every machine.
    """
    L = np.zeros_like(S)
    pivots: list[int] = []
    for i in range(len(S)):
        rank = len(pivots)
        for column, pivot in enumerate(pivots):
            L[i, column] = (S[i, pivot] - L[i, :column] @ L[pivot, :column]) / L[pivot, column]
        left = S[i, i] - L[i, :rank] @ L[i, :rank]
        if left > tolerance * S[i, i]:
            L[i, rank] = np.sqrt(left)
            pivots.append(i)
    return L[:, : max(len(pivots), 1)]


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
        phi = jnp.where(jnp.arange(block_size(n))[None, :] < count, jax.nn.relu(h) if activation == "relu" else h, 0.0)
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
    advance: Callable[[int], object] | None = None,
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
    return np.maximum(h, 0.0) if activation == "relu" else h


def coordinates(G: Float64[np.ndarray, "... n n"]) -> Float64[np.ndarray, "... rank n"]:
    """Features of dimension n with the same inner products: Φᵀ Φ = G. Whatever depends on the features only through
    inner products (the readout, eq. 1, eq. 23, sums of adapters) has the same value on these, so width = inf needs no
    code of its own."""
    values, vectors = np.linalg.eigh(G)
    # What is no more than rounding must not become a direction of size 1e-8.
    rounding = 1e-14 * G.shape[-1] * values[..., -1:]
    return np.sqrt(np.where(values > rounding, values, 0.0))[..., :, None] * np.swapaxes(vectors, -1, -2)
