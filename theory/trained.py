"""A transformer of the blocks of `theory.depth` with every matrix trained, and LoRA experts in some of its blocks.

The stream of a position starts with √n e_t, and vectors have coordinates of order one. With n̂ RMSNorm, or none,

    h = x + Σ_s a_s V_l n̂(x_s)/√n,      x ← h + √g W_l φ(U_l n̂(h)/√n)/√n,      g = 1/E φ(z)²,

where a is the softmax of n̂(x_s)ᵀ M_l n̂(x)/n over the earlier positions. The output for an entity is e·x/√n at the last
position, so embeddings are tied, and what any block writes along an entity's embedding is an answer. That is the
readout of `theory.blocks`; `theory.depth` reads the top MLP alone. Entries of E, V, U and W start as N(0, 1), the NTK
parametrisation, and M as zero: attention is uniform at first, as in eq. 5.

The answer is α(f(θ) − f(θ₀)), and the loss is the mean square error over α² (Chizat, Oyallon and Bach 2019,
arXiv:1812.07956). The larger α, the less the weights have to move: as α → ∞ training is linear in them, with the
tangent kernel of θ₀, and small α is rich (Kumar et al. 2024, arXiv:2310.06110, for grokking).

An expert adds √g A_l B_lᵀ to √g W_l in its blocks, A from zero and B from orthogonal columns. It is trained by gradient
descent to change the answers on its own prompts to the new ones. At large α that is the least A under which they
change, which `Learned.linear` has from the network's own gradients."""

import functools
from collections.abc import Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float64, Int, PRNGKeyArray

from lora_reuse.theory.activations import ACTIVATIONS
from lora_reuse.theory.depth import blocks, gain, prefixes, steps
from lora_reuse.theory.facts import Prompt
from lora_reuse.theory.kernels import derivative_kernel, kernel
from lora_reuse.theory.settings import Model

RATE, DECAY = 2e-2, 0.1
"""Of AdamW, at α ≤ 1. Beyond, both fall like 1/α, as does how far the weights have to go."""
EXPERT_STEPS = 3000
G = gain("relu") ** 0.5


class Network(NamedTuple):
    """Every matrix that is trained."""

    E: Float[Array, "tokens n"]
    M: Float[Array, "blocks n n"]
    V: Float[Array, "blocks n n"]
    U: Float[Array, "blocks n n"]
    W: Float[Array, "blocks n n"]


class Expert(NamedTuple):
    """ΔW = out · intoᵀ in every block; zero in those that an expert is not in."""

    out: Float[Array, "*pairs blocks n rank"]
    into: Float[Array, "*pairs blocks n rank"]


class Prompts(NamedTuple):
    """Every `x r1` and `x r1 r2` of some entities x, relations r1 and relations r2; relations are tokens."""

    x: Int[Array, " entities"]
    r1: Int[Array, " first"]
    r2: Int[Array, " second"]


class Answers(NamedTuple):
    """A value for every entity, on every prompt."""

    one_hop: Float[Array, "entities first outputs"]
    two_hop: Float[Array, "entities first second outputs"]


def draw_network(key: PRNGKeyArray, *, tokens: int, width: int, depth: int) -> Network:
    """θ₀."""
    square = (depth, width, width)
    E, V, U, W = (
        jax.random.normal(k, shape)
        for k, shape in zip(jax.random.split(key, 4), ((tokens, width), square, square, square), strict=True)
    )
    return Network(E, jnp.zeros(square), V, U, W)


def forward(network: Network, prompts: Prompts, *, entities: int, norm: str) -> Answers:
    """f on all prompts. A state depends on its prefix alone, so those of `x` and of `x r1` are computed once."""
    n = network.E.shape[1]
    a, b, c = (len(part) for part in prompts)
    first = network.E[prompts.x]
    second = jnp.broadcast_to(network.E[prompts.r1][None], (a, b, n))
    third = jnp.broadcast_to(network.E[prompts.r2][None, None], (a, b, c, n))
    for M, V, U, W in zip(*network[1:], strict=True):
        x1, x2, x3 = (_unit(x, norm) for x in (first, second, third))
        asks = x3 @ M.T / n
        logits = jnp.einsum("xan,xabn->xab", x2, asks) - jnp.einsum("xn,xabn->xab", x1, asks)
        near = jax.nn.sigmoid(logits)[..., None]
        seen1, seen2 = (x1 @ V.T / n**0.5)[:, None], x2 @ V.T / n**0.5
        second = second + seen1
        third = third + (1 - near) * seen1[:, :, None] + near * seen2[:, :, None]
        rows = jnp.concatenate([x.reshape(-1, n) for x in (first, second, third)])
        rows = rows + G * ACTIVATIONS["relu"](_unit(rows, norm) @ U.T / n**0.5) @ W.T / n**0.5
        parts = jnp.split(rows, [a, a + a * b])
        first, second, third = (x.reshape(old.shape) for x, old in zip(parts, (first, second, third), strict=True))
    readout = network.E[:entities].T / n**0.5
    return Answers(second @ readout, third @ readout)


def _unit(x: Float[Array, "*rows n"], norm: str) -> Float[Array, "*rows n"]:
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-9) if norm == "rms" else x


def with_expert(network: Network, expert: Expert) -> Network:
    """The network with an expert merged into it."""
    return network._replace(W=network.W + jnp.einsum("lir,ljr->lij", expert.out, expert.into))


def base_loss(
    network: Network,
    start: Answers,
    prompts: Prompts,
    goal: Answers,
    share: Answers,
    alpha: Float[Array, ""],
    norm: str,
) -> Float[Array, ""]:
    """Σ_p share_p ‖α(f(p) − f₀(p)) − goal_p‖²/α² over one-hop and two-hop prompts."""
    found = forward(network, prompts, entities=goal.one_hop.shape[-1], norm=norm)
    one_hop, two_hop = (
        jnp.sum(s * (alpha * (f - f0) - y) ** 2) for f, f0, y, s in zip(found, start, goal, share, strict=True)
    )
    return (one_hop + two_hop) / alpha**2


@functools.partial(jax.jit, static_argnames=("steps", "norm"))
def train_base(
    network: Network, prompts: Prompts, goal: Answers, share: Answers, alpha: Float[Array, ""], *, steps: int, norm: str
) -> Network:
    """AdamW on all facts at once, its rate falling to zero over the last fifth of the steps."""
    start = forward(network, prompts, entities=goal.one_hop.shape[-1], norm=norm)
    slower = 1 / jnp.maximum(alpha, 1.0)

    def rule(rate: Float[Array, ""]) -> optax.GradientTransformation:
        return optax.adamw(rate, b2=0.98, weight_decay=DECAY * slower)  # pyright: ignore[reportArgumentType]

    def step(carry: tuple[Network, optax.OptState], fraction: Float[Array, ""]):
        network, state = carry
        gradient = jax.grad(base_loss)(network, start, prompts, goal, share, alpha, norm)
        updates, state = rule(RATE * slower * jnp.minimum(1.0, 5 * fraction)).update(gradient, state, network)
        return (cast(Network, optax.apply_updates(network, updates)), state), None

    with jax.numpy_dtype_promotion("standard"):  # optax raises decays to the power of an integer count
        carry = (network, rule(jnp.ones(())).init(network))
        return jax.lax.scan(step, carry, jnp.linspace(1.0, 0.0, steps))[0][0]


class Task(NamedTuple):
    """What an expert is trained on: prompts `x r`, and how the answers on them are to change."""

    x: Int[Array, " facts"]
    r: Int[Array, ""]
    change: Float[Array, "facts entities"]

    @property
    def prompts(self) -> Prompts:
        return Prompts(self.x, self.r[None], self.x[:0])


def draw_expert(key: PRNGKeyArray, network: Network, rank: int, blocks: Float[Array, " blocks"]) -> Expert:
    """An expert before it is trained, in the blocks that have a one. The mean of B Bᵀ over draws is the identity."""
    L, n, _ = network.W.shape
    into = jnp.linalg.qr(jax.random.normal(key, (L, n, rank)))[0] * (n / rank) ** 0.5
    return Expert(jnp.zeros((L, n, rank)), into * blocks[:, None, None])


class Learned(NamedTuple):
    """A trained expert, and what its linearisation changes on the asked prompts: the tangent kernel of its `out`."""

    expert: Expert
    linear: Float[Array, "*pairs asked entities"]


@functools.partial(jax.jit, static_argnames=("norm", "steps"))
def train_experts(
    network: Network, experts: Expert, tasks: Task, asked: Prompts, alpha: Float[Array, ""], *, norm: str, steps: int
) -> Learned:
    """`train_expert` for each of many, which have an axis in front."""
    one = functools.partial(train_expert, norm=norm, steps=steps)
    return jax.vmap(one, in_axes=(None, 0, 0, 0, None))(network, experts, tasks, asked, alpha)


def train_expert(
    network: Network, expert: Expert, task: Task, asked: Prompts, alpha: Float[Array, ""], *, norm: str, steps: int
) -> Learned:
    """Gradient descent on ‖α(f(θ + ΔW) − f(θ)) − change‖²/α². The rate is a twentieth of what is stable at the start,
    where the curvature is that of the tangent kernel: it grows where training is rich."""
    entities = task.change.shape[1]

    def answers(expert: Expert, prompts: Prompts, hops: int) -> Float[Array, "prompts entities"]:
        return forward(with_expert(network, expert), prompts, entities=entities, norm=norm)[hops - 1].reshape(
            -1, entities
        )

    before = answers(expert, task.prompts, 1)

    def loss(expert: Expert) -> Float[Array, ""]:
        return jnp.sum((alpha * (answers(expert, task.prompts, 1) - before) - task.change) ** 2) / alpha**2

    def jacobian(prompts: Prompts, hops: int) -> Float[Array, "outputs parameters"]:
        found = jax.jacrev(lambda out: answers(expert._replace(out=out), prompts, hops).ravel())(expert.out)
        return found.reshape(found.shape[0], -1)

    own, other = jacobian(task.prompts, 1), jacobian(asked, 2)
    T = jnp.matmul(own, own.T, precision="highest")
    largest = jnp.linalg.eigvalsh(T)[-1]
    weights = jnp.linalg.lstsq(T, task.change.ravel())[0]
    linear = jnp.matmul(other, own.T @ weights, precision="highest").reshape(-1, entities)
    rule = optax.sgd(1 / (20 * largest))  # pyright: ignore[reportArgumentType]

    def step(carry: tuple[Expert, optax.OptState], _: None):
        expert, state = carry
        updates, state = rule.update(jax.grad(loss)(expert), state, expert)
        return (cast(Expert, optax.apply_updates(expert, updates)), state), None

    (expert, _), _ = jax.lax.scan(step, (expert, rule.init(expert)), None, length=steps)
    return Learned(expert, linear)


def tangents(prompts: Sequence[Prompt], model: Model) -> Float64[np.ndarray, "blocks prompts prompts"]:
    """What the W of each block adds to the tangent kernel of one output at θ₀, as d, m → ∞.

    The recursion of `theory.depth.tangent_kernel`, with the gradient that starts at the stream above the last block,
    where it is e, and not at the top MLP. Their sum is the tangent kernel under LoRA on every W. One block has that of
    `theory.depth`, times g.

    Args:
        prompts: token sequences.
        model: its depth, mask, decay, norm and activation are read.
    """
    positions = prefixes(prompts)
    found, step, g = blocks(positions, model), steps(prompts, model), gain(model.activation)
    of_prompt = (step.prompt == np.arange(len(prompts))[:, None]).astype(float)
    B = np.outer(step.last, step.last).astype(float)
    added = []
    for block in reversed(found):
        added.append(g * of_prompt @ (B * step.spread(kernel(block.S, model.activation))) @ of_prompt.T)
        slopes = step.spread(derivative_kernel(block.S, model.activation) / block.state_lengths)
        B = B * (1 + g * slopes)
        B = B + step.A.T @ B @ step.A / step.spread(block.stream_lengths)
    return np.stack(added[::-1])
