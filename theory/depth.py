"""The transformer with more than one block, beyond the paper: the Gram matrix of what its top MLP reads, and its
tangent kernel.

Block l = 1 … L has attention and an MLP, each added to the stream x of every position t of a prompt, x⁰_t = e_{p_t}:

    h^l_t = x^{l−1}_t + Σ_s a_ts V_l n(x^{l−1}_s),      x^l_t = h^l_t + W_l φ(U_l n(h^l_t))/√m.

V_l, U_l and the W_l below the top are random, drawn anew in every block. W_l has entries of variance g/d, g = 1/E
φ(z)², z ~ N(0, 1): 2 for the ReLU, so that an MLP adds a vector of the length of what it reads (He et al. 2015). n is
the identity (`norm=none`) or RMSNorm (`norm=rms`). The output is W_L φ(U_L n(h^L)) at the last position, and L = 1 is
the paper's model. A position attends to those before it, so its state depends on its prefix alone.

As d, m → ∞ the new vectors of every sublayer are orthogonal to the stream. So with K^l the Gram matrix of x^l over all
prefixes, S^l that of n(h^l), K̂ that of n(x), A the attention and k the kernel of φ,

    h: K^{l−1} + A K̂^{l−1} Aᵀ,      K^l = that of h + g k(S^l),      readout adapted: k(S^L).

With every W_l adapted and a small update, the output changes by the tangent kernel. Let B be the Gram matrix of the
gradients of one output, over all positions of all prompts, and k₀ = E[φ'φ'] the kernel of the derivative. Downwards,

    at h^L: k₀(S^L) at the last positions, else 0;   at x^{l−1}: B + Aᵀ B A;   at h^l: B (1 + g k₀(S^l)),

where with `norm=rms` what passes the norm of a vector is divided by its length. W_l adds g Σ_{t,t'} B_{x^l}(t, t')
k(S^l)(t, t'), once `lower_rate` of it. Sources: Cho and Saul 2009; Jacot et al. 2018 (arXiv:1806.07572); Hron et al.
2020 (arXiv:2006.10540) for attention. The derivation is on the page of the theory."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, cast

import jax
import numpy as np
from jaxtyping import Bool, Float64, Int, PRNGKeyArray

from lora_reuse.theory import kernels
from lora_reuse.theory.facts import Prompt
from lora_reuse.theory.gaussian import factor
from lora_reuse.theory.kernels import derivative_kernel
from lora_reuse.theory.model import by_position
from lora_reuse.theory.settings import INF, Model
from lora_reuse.theory.streaming import streamed

Square = Float64[np.ndarray, "... n n"]

Segments = tuple[Prompt, ...]
"""A prompt that attention divides: what is asked last, and the segments before it."""

Place = tuple[str, int]
"""E at 0, or V, U, W of a block, or D, U back, V back on the way down: where the draw of a matrix adds noise to a Gram
matrix."""
Noise = Mapping[Place, np.ndarray]


class Block(NamedTuple):
    """One block as d → ∞: the Gram matrices of x^{l−1}, of what attention adds to it, of h^l and of n(h^l), and the
    products of lengths by which RMSNorm divides x^{l−1} and h^l (ones without)."""

    stream: Square
    attended: Square
    state: Square
    S: Square
    stream_lengths: Square
    state_lengths: Square


def starts(prompt: Prompt | Segments) -> list[Prompt | Segments]:
    """The prefixes of one prompt, shortest first.

    Examples:
        >>> starts(((0, 3), (1,)))
        [((0,),), ((0, 3),), ((0, 3), (1,))]
    """
    if isinstance(prompt[0], tuple):
        segments = cast(Segments, prompt)
        return [(*segments[:s], part[: t + 1]) for s, part in enumerate(segments) for t in range(len(part))]
    return [prompt[: t + 1] for t in range(len(prompt))]


def last_token(prefix: Prompt | Segments) -> int:
    end = prefix[-1]
    return end[-1] if isinstance(end, tuple) else end


def prefixes(prompts: Sequence[Prompt] | Sequence[Segments]) -> list[Prompt | Segments]:
    """Every prefix of the prompts once: the positions of a model of several blocks.

    Examples:
        >>> prefixes([(0, 3), (0, 3, 4)])
        [(0,), (0, 3), (0, 3, 4)]
    """
    return list(dict.fromkeys(prefix for prompt in prompts for prefix in starts(prompt)))


def attention(
    positions: Sequence[Prompt | Segments], mask: str = "strict", decay: float = 1.0, locality: float = 1.0
) -> Square:
    """A, the attention of every prefix to its own prefixes, uniform unless it decays; a row of zeros for an empty
    context. Where a prompt has several segments, the context in the current one has the share `locality` and the
    segments before it the rest, uniformly; all of it goes to one of the two where the other is empty."""
    index = {prefix: i for i, prefix in enumerate(positions)}
    A = np.zeros((len(positions),) * 2)
    for prefix, i in index.items():
        context = [index[start] for start in starts(prefix)]
        current = prefix[-1]
        before = len(context) - len(current) if isinstance(current, tuple) else 0
        far, near = context[:before], context[before : len(context) - (mask == "strict")]
        share = locality if near and far else float(bool(near))
        weights = by_position(len(near), decay)
        A[i, near] = share * weights / weights.sum()
        A[i, far] = (1 - share) / max(len(far), 1)
    return A


def gain(activation: str) -> float:
    """g = 1/E φ(z)², z ~ N(0, 1): 2 for the ReLU."""
    return 1 / float(kernels.kernel(np.eye(1), activation)[0, 0])


def normalised(K: Square, norm: str) -> tuple[Square, Square]:
    """The Gram matrix of n(x) from that of x, and the products of lengths that it was divided by."""
    squares = np.diagonal(K, axis1=-2, axis2=-1)
    lengths = np.sqrt(squares) if norm == "rms" else np.ones_like(squares)
    scale = lengths[..., :, None] * lengths[..., None, :]
    return K / scale, scale


def blocks(
    positions: Sequence[Prompt | Segments],
    model: Model,
    key: PRNGKeyArray | None = None,
    noise: Noise = MappingProxyType({}),
) -> list[Block]:
    """Every block as d → ∞ over prefixes; with a key, at the finite `model.width` and its draw of U_1 … U_{L−1}.
    `noise` is added to the Gram matrices where it says; what it has in front of their axes, they have from there on."""
    A = attention(positions, model.mask, model.decay, model.local_share())
    last = np.array([last_token(prefix) for prefix in positions])
    K = (last[:, None] == last).astype(float) + noise.get(("E", 0), 0.0)
    found: list[Block] = []
    while True:
        block = len(found) + 1
        x, stream_lengths = normalised(K, model.norm)
        attended = A @ x @ A.T
        h = K + attended + noise.get(("V", block), 0.0)
        S, state_lengths = normalised(h, model.norm)
        found.append(Block(K, attended, h, S, stream_lengths, state_lengths))
        if block == model.depth:
            return found
        G = _features(S, model, key, block) + noise.get(("U", block), 0.0)
        K = h + gain(model.activation) * G + noise.get(("W", block), 0.0)


def drawn_states(positions: Sequence[Prompt | Segments], model: Model, key: PRNGKeyArray) -> Square:
    """S^L for one draw of every matrix, in their exact joint law: all enter through their products with vectors that
    are there already, so d draws a prefix and matrix suffice, and the features are streamed."""
    if model.dim == INF:
        return blocks(positions, model, key)[-1].S
    A, dim = attention(positions, model.mask, model.decay, model.local_share()), int(model.dim)
    tokens = sorted({last_token(prefix) for prefix in positions})
    X = _normals(key, 0, len(tokens), dim)[[tokens.index(last_token(prefix)) for prefix in positions]]
    block = 1
    while True:
        R = np.linalg.qr(_unit(X, model.norm).T).R
        H = X + A @ R.T @ _normals(key, 3 * block, len(R), dim)
        N = _unit(H, model.norm)
        if block == model.depth:
            return N @ N.T
        F = factor(gain(model.activation) * _features(N @ N.T, model, key, block))
        X = H + F @ _normals(key, 3 * block + 1, F.shape[1], dim)
        block += 1


class Steps(NamedTuple):
    """The positions of each prompt one after the other: the prompt of each, its prefix, which are last, and A."""

    prompt: Int[np.ndarray, " steps"]
    at: Int[np.ndarray, " steps"]
    last: Bool[np.ndarray, " steps"]
    A: Float64[np.ndarray, "steps steps"]

    def spread(self, matrix: Square) -> Float64[np.ndarray, "... steps steps"]:
        """A matrix over prefixes, over steps."""
        return matrix[..., self.at[:, None], self.at]


def steps(prompts: Sequence[Prompt] | Sequence[Segments], model: Model) -> Steps:
    """The steps of the prompts: unlike a state, the gradient at a prefix differs between the prompts that have it."""
    positions = prefixes(prompts)
    index = {prefix: i for i, prefix in enumerate(positions)}
    prompt, at = np.array([(p, index[start]) for p, q in enumerate(prompts) for start in starts(q)]).T
    A = attention(positions, model.mask, model.decay, model.local_share())[np.ix_(at, at)] * (prompt[:, None] == prompt)
    return Steps(prompt, at, np.append(prompt[1:] != prompt[:-1], True), A)


def tangent_kernel(
    prompts: Sequence[Prompt] | Sequence[Segments], model: Model, noise: Noise = MappingProxyType({})
) -> Square:
    """The tangent kernel of one output with every W_l adapted, at d = m = ∞: k(S^L) of the top W and `lower_rate` of
    what the W below it add.

    `lower_rate=1` is the NTK parametrisation, in which every W_l is g^(1/2) times a matrix of unit entries that is
    trained. 1/g is gradient descent on the entries of W_l themselves, 0 is the readout alone.

    Args:
        prompts: n token sequences, or sequences of segments.
        model: its depth, mask, decay, norm, activation and lower_rate are read.
        noise: what is added to Gram matrices on the way, for error bars, [... positions positions].

    Returns:
        T, [n n], or with the axes before them that the noise has.

    Examples:
        >>> T = tangent_kernel([(0, 2), (1, 3), (0, 2, 3)], Model(width=INF, depth=2, adapted="all"))
        >>> (T[[0, 1], 2] / np.diagonal(T)[:2]).round(4)
        array([0.4654, 0.4624])
    """
    found = blocks(prefixes(prompts), model, noise=noise)
    step, g = steps(prompts, model), gain(model.activation)
    of_prompt = (np.arange(len(prompts))[:, None] == step.prompt).astype(float)
    k = lambda level: kernels.kernel(found[level - 1].S, model.activation) + noise.get(("U", level), 0.0)  # noqa: E731
    last = np.flatnonzero(step.last)
    T = step.spread(k(model.depth))[..., last[:, None], last]
    for level, B in gradients(found, step, model, noise).items():
        T = T + model.lower_rate * g * of_prompt @ (B.stream * step.spread(k(level))) @ of_prompt.T
    return T


class Gradient(NamedTuple):
    """Gram matrices over steps of the gradients of one output: at x^l, and what W_l and U_l make of it below, at the
    units of the MLP and at its input."""

    stream: Square
    units: Square
    through: Square


def gradients(
    found: Sequence[Block], step: Steps, model: Model, noise: Noise = MappingProxyType({})
) -> dict[int, Gradient]:
    """Downwards from the top block, whose stream is read by nothing."""
    g, passed = gain(model.activation), {}
    B = np.zeros_like(step.A)
    for level in range(model.depth, 0, -1):
        block = found[level - 1]
        units = g * B if level < model.depth else np.outer(step.last, step.last).astype(float)
        through = units * step.spread(derivative_kernel(block.S, model.activation)) + noise.get(("D", level), 0.0)
        through = through / step.spread(block.state_lengths)
        passed[level] = Gradient(B, units, through)
        B = B + through + noise.get(("U back", level), 0.0)
        B = B + step.A.T @ B @ step.A / step.spread(block.stream_lengths) + noise.get(("V back", level), 0.0)
    return passed


def _features(S: Square, model: Model, key: PRNGKeyArray | None, block: int) -> Square:
    """The Gram matrix of the features of one block, at the model's width; the kernel without a key."""
    if key is None or model.width == INF:
        return kernels.kernel(S, model.activation)
    return streamed(S[None], int(model.width), [jax.random.fold_in(key, 3 * block + 2)], model.activation)[0]


def _normals(key: PRNGKeyArray, label: int, rows: int, dim: int) -> Float64[np.ndarray, "rows dim"]:
    return np.asarray(jax.random.normal(jax.random.fold_in(key, label), (rows, dim)), np.float64) * dim**-0.5


def _unit(X: Float64[np.ndarray, "n dim"], norm: str) -> Float64[np.ndarray, "n dim"]:
    return X / np.linalg.norm(X, axis=1, keepdims=True) if norm == "rms" else X
