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

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float64, PRNGKeyArray

from lora_reuse.theory import kernels
from lora_reuse.theory.facts import Prompt
from lora_reuse.theory.gaussian import factor
from lora_reuse.theory.settings import INF, Model
from lora_reuse.theory.streaming import streamed

Square = Float64[np.ndarray, "n n"]


class Block(NamedTuple):
    """One block in the limit: S^l, and the products of lengths by which RMSNorm divides x^{l−1} and h^l (ones
    without)."""

    S: Square
    stream_lengths: Square
    state_lengths: Square


def prefixes(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Every prefix of the prompts once: the positions of a model of several blocks.

    Examples:
        >>> prefixes([(0, 3), (0, 3, 4)])
        [(0,), (0, 3), (0, 3, 4)]
    """
    return list(dict.fromkeys(prompt[: t + 1] for prompt in prompts for t in range(len(prompt))))


def attention(positions: Sequence[Prompt], mask: str = "strict") -> Square:
    """A, the uniform attention of every prefix to its own prefixes; a row of zeros for an empty context."""
    index = {prefix: i for i, prefix in enumerate(positions)}
    A = np.zeros((len(positions),) * 2)
    for prefix, i in index.items():
        context = [index[prefix[: s + 1]] for s in range(len(prefix) - (mask == "strict"))]
        A[i, context] = 1 / max(len(context), 1)
    return A


def gain(activation: str) -> float:
    """g = 1/E φ(z)², z ~ N(0, 1): 2 for the ReLU."""
    return 1 / float(kernels.kernel(np.eye(1), activation)[0, 0])


def derivative_kernel(S: Square, activation: str) -> Square:
    """k₀ = E[φ'(u·h) φ'(u·h')]: the arc-cosine kernel of order 0 for the ReLU."""
    return kernels.arc_cosine(S, 0) if activation == "relu" else np.ones_like(S)


def normalised(K: Square, norm: str) -> tuple[Square, Square]:
    """The Gram matrix of n(x) from that of x, and the products of lengths that it was divided by."""
    lengths = np.sqrt(np.diagonal(K)) if norm == "rms" else np.ones(len(K))
    scale = np.outer(lengths, lengths)
    return K / scale, scale


def blocks(positions: Sequence[Prompt], model: Model, key: PRNGKeyArray | None = None) -> list[Block]:
    """Every block as d → ∞ over prefixes; with a key, at the finite `model.width` and its draw of U_1 … U_{L−1}."""
    A = attention(positions, model.mask)
    last = np.array([prefix[-1] for prefix in positions])
    K = (last[:, None] == last).astype(float)
    found: list[Block] = []
    while True:
        x, stream_lengths = normalised(K, model.norm)
        h = K + A @ x @ A.T
        S, state_lengths = normalised(h, model.norm)
        found.append(Block(S, stream_lengths, state_lengths))
        if len(found) == model.depth:
            return found
        K = h + gain(model.activation) * _features(S, model, key, len(found))


def drawn_states(positions: Sequence[Prompt], model: Model, key: PRNGKeyArray) -> Square:
    """S^L for one draw of every matrix, in their exact joint law: all enter through their products with vectors that
    are there already, so d draws a prefix and matrix suffice, and the features are streamed."""
    if model.dim == INF:
        return blocks(positions, model, key)[-1].S
    A, dim = attention(positions, model.mask), int(model.dim)
    tokens = sorted({prefix[-1] for prefix in positions})
    X = _normals(key, 0, len(tokens), dim)[[tokens.index(prefix[-1]) for prefix in positions]]
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


def tangent_kernel(prompts: Sequence[Prompt], model: Model) -> Square:
    """The tangent kernel of one output with every W_l adapted, at d = m = ∞: k(S^L) of the top W and `lower_rate` of
    what the W below it add.

    `lower_rate=1` is the NTK parametrisation, in which every W_l is g^(1/2) times a matrix of unit entries that is
    trained. 1/g is gradient descent on the entries of W_l themselves, 0 is the readout alone.

    Args:
        prompts: n token sequences.
        model: its depth, mask, norm, activation and lower_rate are read.

    Returns:
        T, [n n].

    Examples:
        >>> T = tangent_kernel([(0, 2), (1, 3), (0, 2, 3)], Model(width=INF, depth=2, adapted="all"))
        >>> (T[[0, 1], 2] / np.diagonal(T)[:2]).round(4)
        array([0.4654, 0.4624])
    """
    positions = prefixes(prompts)
    index = {prefix: i for i, prefix in enumerate(positions)}
    prompt, at = np.array([(p, index[q[: t + 1]]) for p, q in enumerate(prompts) for t in range(len(q))]).T
    last = np.append(prompt[1:] != prompt[:-1], True)
    spread = lambda matrix: matrix[np.ix_(at, at)]  # noqa: E731
    A = spread(attention(positions, model.mask)) * (prompt[:, None] == prompt)
    of_prompt = (np.arange(len(prompts))[:, None] == prompt).astype(float)
    found, g = blocks(positions, model), gain(model.activation)
    top = found[-1]
    T = spread(kernels.kernel(top.S, model.activation))[np.ix_(last, last)]
    B = np.outer(last, last) * spread(derivative_kernel(top.S, model.activation) / top.state_lengths)
    for above, block in zip(found[:0:-1], found[-2::-1], strict=True):
        B = B + A.T @ B @ A / spread(above.stream_lengths)
        T = T + model.lower_rate * g * of_prompt @ (B * spread(kernels.kernel(block.S, model.activation))) @ of_prompt.T
        B = B * (1 + g * spread(derivative_kernel(block.S, model.activation) / block.state_lengths))
    return T


def _features(S: Square, model: Model, key: PRNGKeyArray | None, block: int) -> Square:
    """The Gram matrix of the features of one block, at the model's width; the kernel without a key."""
    if key is None or model.width == INF:
        return kernels.kernel(S, model.activation)
    return streamed(S[None], int(model.width), [jax.random.fold_in(key, 3 * block + 2)], model.activation)[0]


def _normals(key: PRNGKeyArray, label: int, rows: int, dim: int) -> Float64[np.ndarray, "rows dim"]:
    return np.asarray(jax.random.normal(jax.random.fold_in(key, label), (rows, dim)), np.float64) * dim**-0.5


def _unit(X: Float64[np.ndarray, "n dim"], norm: str) -> Float64[np.ndarray, "n dim"]:
    return X / np.linalg.norm(X, axis=1, keepdims=True) if norm == "rms" else X
