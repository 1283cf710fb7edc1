"""The Gram matrix of a prompt set, from four providers: everything else in `theory` stands on it.

At any width, Proposition 1, eq. 23 and Theorems 2-3 depend on the random features only through G(p, q) =
φ(Uh_p)ᵀφ(Uh_q)/m over the prompts in use (entries of U scaled to unit variance, which cancels in every ratio). `gram`
gives it
- from explicit matrices E, V, K, Q, U (the reference, small models),
- streamed, at any width: blocks of features drawn in the span of the hidden states, none kept,
- at m = ∞ (the arc-cosine kernel of the drawn hidden states), and at d = m = ∞.

Projected sampling. U enters only as U Hᵀ, whose rows are i.i.d. N(0, S) with S = H Hᵀ: with S = L Lᵀ, L of r = rank(S)
columns, each feature needs r normals and not d, with exactly the same joint law for a prompt set fixed in advance. In
the same way V enters only as V Eᵀ: with Eᵀ = Q R, the entries of V Q are i.i.d., so d² draws become d · tokens."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Float64, PRNGKeyArray

from lora_reuse.runs.settings import SettingError
from lora_reuse.theory import depth, kernels
from lora_reuse.theory import model as transformer
from lora_reuse.theory.facts import Prompt, Prompts, tokenised
from lora_reuse.theory.limit import limit_geometry
from lora_reuse.theory.settings import INF, Model
from lora_reuse.theory.streaming import Advance, Grams, different, stream, streamed

# What a seed is used for; each has a stream of its own.
GEOMETRY, FEATURES, TRAINING, BLOCKS, NETWORKS, TRAINED = range(6)

Gram = Float64[np.ndarray, "n n"]
_ROUNDING = 1e-6  # of float32 sums, which leave a Gram matrix indefinite by less


@overload
def gram(prompts: Prompts, model: Model, seeds: int, *, explicit: bool = ...) -> Gram: ...
@overload
def gram(
    prompts: Prompts, model: Model, seeds: Sequence[int], *, explicit: bool = ..., advance: Advance | None = ...
) -> Grams: ...
def gram(
    prompts: Prompts,
    model: Model,
    seeds: int | Sequence[int],
    *,
    explicit: bool = False,
    advance: Advance | None = None,
) -> Gram | Grams:
    """The Gram matrix G(p, q) = φ(Uh_p)ᵀφ(Uh_q)/m of the features of n prompts, for one draw of E, V and U a seed.

    Time grows with `model.width`, memory does not. At infinite width G is the arc-cosine kernel of the hidden states
    that are drawn. With more than one block the features are those of the top one, and with `adapted=all` G is the
    tangent kernel (`theory.depth`).

    Args:
        prompts: n token sequences, as `(0, 3)` or in words, as `"x r1 r2"`.
        model: the transformer.
        seeds: one seed, or several.
        explicit: draw E, V, K, Q and U in full instead of in the span of the prompts (small finite models of one
            block).
        advance: is told how many features have been drawn since its last call.

    Returns:
        G of one seed, [n n] in float64; of several, [seeds n n]. Entries of U have unit variance, which cancels in
        every ratio.

    Raises:
        SettingError: for an empty prompt, no seed, seeds that are not different ones from 0 to 2^31 − 1, an infinite
            model with `explicit`, or 2^32 blocks of features and more.

    Examples:
        >>> G = lr.gram(["x r1", "y r2", "x r1 r2"], lr.Model(width=2**12), 0)
        >>> G.shape
        (3, 3)
        >>> (G[[0, 1], 2] / G.diagonal()[:2]).round(2)  # c₁ and c₂ of eq. 19 at this width
        array([0.42, 0.58])

    Source: eq. 13-15.
    """
    every, alone = _listed(seeds)
    found = _grams(tokenised(prompts), model, every, explicit, advance)
    return found[0] if alone else found


def _listed(seeds: Any) -> tuple[list[int], bool]:
    """The seeds, and whether it was one and not a list. Raises SettingError for seeds that are not draws of their
    own."""
    alone = isinstance(seeds, (int, np.integer))
    return different([seeds] if alone else seeds), alone


def _grams(
    prompts: Sequence[Prompt], model: Model, seeds: Sequence[int], explicit: bool, advance: Advance | None
) -> Grams:
    if explicit:
        return np.stack([_explicit(prompts, model, seed) for seed in seeds])
    if model.adapted == "all":
        return np.stack([depth.tangent_kernel(prompts, model)] * len(seeds))
    S = geometry(prompts, model, seeds)
    if model.width == INF:
        return kernels.kernel(S, model.activation)
    return streamed(S, int(model.width), feature_keys(model, seeds), model.activation, advance)


class Kernel(NamedTuple):
    """The kernel of n prompts, and the standard deviation of each entry of G about it: [n n] each, or [seeds n n]."""

    k: Gram | Grams
    stderr: Gram | Grams


def kernel(prompts: Prompts, model: Model, seeds: int | Sequence[int] = 0) -> Kernel:
    """The arc-cosine kernel k(p, q) = ‖h_p‖‖h_q‖ (sin θ + (π − θ) cos θ)/2π that `gram` tends to as m → ∞, and the
    error bar of `gram` at `model.width`, both in closed form.

    (G − k)/stderr has mean 0 and variance 1 at every width. k is E[G] for the hidden states that the seed draws; at
    `dim=inf` all seeds have the same, if the model has one block or infinite width. With `adapted=all` k is the tangent
    kernel.

    Args:
        prompts: n token sequences, as `(0, 3)` or in words, as `"x r1 r2"`.
        model: the transformer.
        seeds: one seed, or several.

    Returns:
        `k` and `stderr`, √((E[(φφ')²] − k²)/m), each [n n] in float64, or [seeds n n].

    Raises:
        SettingError: for an empty prompt, no seed, or seeds that are not different ones from 0 to 2^31 − 1.

    Examples:
        >>> k, stderr = lr.kernel(["x r1", "y r2", "x r1 r2"], lr.Model(width=2**12))
        >>> (k[[0, 1], 2] / k.diagonal()[:2]).round(4)  # c₁ and c₂ of eq. 19 at d = m = ∞
        array([0.4122, 0.573 ])
        >>> stderr.round(3)
        array([[0.035, 0.015, 0.018],
               [0.015, 0.035, 0.023],
               [0.018, 0.023, 0.026]])

    Source: eq. 13-15; Cho and Saul, *Kernel methods for deep learning*, NeurIPS 2009.
    """
    if model.adapted == "all":
        k = gram(prompts, model, seeds)
        return Kernel(k, np.zeros_like(k))
    every, alone = _listed(seeds)
    S = geometry(tokenised(prompts), model, every)
    S = S[0] if alone else S
    return Kernel(kernels.kernel(S, model.activation), kernels.gram_stderr(S, model.activation) / np.sqrt(model.width))


def feature_keys(model: Model, seeds: Sequence[int]) -> list[PRNGKeyArray]:
    """One key a seed for the rows of U: independent across seeds, widths and dims."""
    return [stream(seed, FEATURES, int(model.width), 0 if model.dim == INF else int(model.dim)) for seed in seeds]


def geometry(prompts: Sequence[Prompt] | Sequence[depth.Segments], model: Model, seeds: Sequence[int]) -> Grams:
    """S = σ² H Hᵀ, the covariance of the preactivations of the (top) MLP, one matrix a seed; the same for every seed at
    dim = inf and one block.

    H are the hidden states, σ² is `model.input_variance`."""
    if model.beyond_one_block():
        return _geometry_of_blocks(prompts, model, seeds)
    used = sorted({token for prompt in prompts for token in prompt})
    compact = [tuple(used.index(token) for token in prompt) for prompt in prompts]
    if model.dim == INF:
        attended, residual = transformer.coefficients_of(model, compact, len(used))
        if model.init_scale == "variance" and not attended.any(axis=1).all():
            raise SettingError(
                "init_scale",
                "variance with a one-token prompt at dim=inf",
                "prompts with a context, a finite dim, or std",
            )
        S = model.input_variance * limit_geometry(attended, residual, model.init_scale)
        return np.broadcast_to(S, (len(seeds), *S.shape)).copy()
    return model.input_variance * np.stack([_drawn_geometry(compact, len(used), model, seed) for seed in seeds])


def _geometry_of_blocks(
    prompts: Sequence[Prompt] | Sequence[depth.Segments], model: Model, seeds: Sequence[int]
) -> Grams:
    positions = depth.prefixes(prompts)
    asked = np.ix_(*[[positions.index(prompt) for prompt in prompts]] * 2)
    labels = [0 if size == INF else int(size) for size in (model.width, model.dim)]
    return np.stack([depth.drawn_states(positions, model, stream(seed, BLOCKS, *labels))[asked] for seed in seeds])


@functools.partial(jax.jit, static_argnames=("shape",))
def _normals(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float32[Array, "..."]:
    return jax.random.normal(key, shape, jnp.float32)


def _drawn_geometry(prompts: Sequence[Prompt], tokens: int, model: Model, seed: int) -> Float64[np.ndarray, "n n"]:
    dim = int(model.dim)
    distances = max(map(len, prompts)) if model.positions == "rotary" else 1
    heads = [
        token_images(stream(seed, GEOMETRY, dim), tokens, dim, model.init_scale, head=head, distances=distances)
        for head in range(model.heads)
    ]
    logits = np.stack([scores for _, scores in heads]) if model.attention == "softmax" else None
    attended, residual = transformer.coefficients_of(model, prompts, tokens, logits)
    H = attended @ np.concatenate([images[1] for images, _ in heads]) + residual @ heads[0][0][0]
    return H @ H.T


def token_images(
    key: PRNGKeyArray, tokens: int, dim: int, init_scale: str, *, head: int = 0, distances: int = 1
) -> tuple[Float64[np.ndarray, "2 tokens dim"], Float64[np.ndarray, "distances tokens tokens"]]:
    """The embeddings e_t, their images V e_t, and all attention logits, in their exact joint law at d · tokens draws a
    matrix. Heads share embeddings alone; with more than one distance positions are rotary."""
    std = transformer.entry_std(dim, init_scale)
    span, keys = min(tokens, dim), list(jax.random.split(key, 4))
    if head:
        keys[1:] = jax.random.split(jax.random.fold_in(key, head), 4)[1:]
    E, VQ, KQ, QQ = (
        std * np.asarray(_normals(k, (dim, columns)), np.float64)
        for k, columns in zip(keys, (tokens, span, span, span), strict=True)
    )
    R = np.linalg.qr(E).R
    asks = QQ @ R
    turned = [asks, *(transformer.turned(asks, distance) for distance in range(1, distances))]
    return np.stack([E.T, (VQ @ R).T]), np.stack([(KQ @ R).T @ queries for queries in turned])


def _explicit(prompts: Sequence[Prompt], model: Model, seed: int) -> Float64[np.ndarray, "n n"]:
    if model.beyond_one_block():
        raise SettingError("explicit", f"true with depth={model.depth}, norm={model.norm}", "depth=1 and norm=none")
    if model.heads > 1 or model.positions != "none":
        got = f"true with heads={model.heads}, positions={model.positions}"
        raise SettingError("explicit", got, "heads=1 and positions=none")
    if INF in (model.dim, model.width):
        raise SettingError("explicit", "an infinite dim or width", "finite ones: the matrices are drawn in full")
    tokens = 1 + max(token for prompt in prompts for token in prompt)
    key = stream(seed, FEATURES, int(model.width), int(model.dim))
    drawn = transformer.draw_transformer(
        key, tokens=tokens, dim=int(model.dim), width=int(model.width), init_scale=model.init_scale
    )
    states = transformer.hidden(drawn, prompts, model)
    scale = model.input_variance**0.5 / transformer.entry_std(int(model.dim), model.init_scale)
    phi = np.asarray(transformer.features(drawn, states, activation=model.activation, scale=scale), np.float64)
    return phi.T @ phi / model.width


def coordinates(G: Float64[np.ndarray, "... n n"]) -> Float64[np.ndarray, "... n n"]:
    """Features of dimension n with the same inner products, Φᵀ Φ = G: columns that stand for φ(Uh)/√m at any width.

    Whatever depends on the features only through inner products (the readout, eq. 1, eq. 23, sums of adapters) has the
    same value on these, so width = inf needs no code of its own.

    Args:
        G: a Gram matrix, or a kernel, [... n n].

    Returns:
        Φ, [... n n], one column a prompt.

    Raises:
        SettingError: for a G that is not symmetric or has an eigenvalue below 0, by more than a millionth of its size.

    Examples:
        >>> phi = lr.coordinates(np.array([[2.0, 1.0], [1.0, 2.0]]))
        >>> (phi.T @ phi).round(6)
        array([[2., 1.],
               [1., 2.]])
    """
    phi = nearest_coordinates(G)
    off = np.abs(np.swapaxes(phi, -1, -2) @ phi - G).max(axis=(-2, -1))
    if (off > _ROUNDING * np.abs(G).max(axis=(-2, -1))).any():
        got = f"a matrix {off.max():.2g} away from what any features have"
        raise SettingError("G", got, "a Gram matrix: symmetric, without an eigenvalue below 0")
    return phi


def nearest_coordinates(G: Float64[np.ndarray, "... n n"]) -> Float64[np.ndarray, "... n n"]:
    """`coordinates` of the nearest G without an eigenvalue below 0: a numerical derivative may step beyond."""
    values, vectors = np.linalg.eigh(G)
    # What is no more than rounding must not become a direction of size 1e-8.
    rounding = 1e-14 * G.shape[-1] * values[..., -1:]
    return np.sqrt(np.where(values > rounding, values, 0.0))[..., :, None] * np.swapaxes(vectors, -1, -2)
