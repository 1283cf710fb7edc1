"""Trained transformers against plain NumPy, kernel regression, the recursion, and planted mistakes."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_reuse.runs.settings import SettingError
from lora_reuse.theory import depth, trained
from lora_reuse.theory.experiments import trained as experiment
from lora_reuse.theory.settings import Model, Trained
from lora_reuse.theory.settings.trained import PLACEMENTS

SMALL: dict[str, Any] = {"width": 16, "entities": 12, "relations": 3, "facts": 2, "pairs": 2, "steps": 20}
RICH = Trained(depth=2, alpha=0.5, rank=8, **SMALL)
LAZY = replace(RICH, depth=1, alpha=1e3, rank=48, width=48)
forward = jax.jit(trained.forward, static_argnames=("entities", "norm"))
PROMPTS = trained.Prompts(jnp.arange(5), jnp.array([12, 13]), jnp.array([13, 14, 12]))


@pytest.fixture
def network(getkey):
    theta = trained.draw_network(getkey(), tokens=15, width=16, depth=2)
    return theta._replace(M=4 * jax.random.normal(getkey(), theta.M.shape))  # attention that is not uniform


def by_hand(network, prompt, norm):
    """The outputs on one prompt, position by position, in float64."""
    E, *blocks = (np.asarray(part, np.float64) for part in network)
    n = E.shape[1]
    unit = lambda x: x / np.sqrt(np.mean(x**2)) if norm == "rms" else x  # noqa: E731
    stream = [E[token] for token in prompt]
    for M, V, U, W in zip(*blocks, strict=True):
        seen, after = [unit(x) for x in stream], []
        for t, x in enumerate(stream):
            weights = np.exp([seen[s] @ M @ seen[t] / n for s in range(t)])
            attended = sum((w * (V @ seen[s]) for s, w in enumerate(weights / weights.sum())), np.zeros(n))
            h = x + attended / np.sqrt(n)
            after.append(h + np.sqrt(2) * W @ np.maximum(U @ unit(h) / np.sqrt(n), 0) / np.sqrt(n))
        stream = after
    return E[:12] @ stream[-1] / np.sqrt(n)


@pytest.mark.parametrize("norm", ["none", "rms"])
def test_answers_are_those_of_plain_numpy(network, norm):
    found = forward(network, PROMPTS, entities=12, norm=norm)
    for a, x in enumerate(PROMPTS.x.tolist()):
        for b, r in enumerate(PROMPTS.r1.tolist()):
            np.testing.assert_allclose(found.one_hop[a, b], by_hand(network, (x, r), norm), rtol=1e-4, atol=1e-4)
            for c, s in enumerate(PROMPTS.r2.tolist()):
                expected = by_hand(network, (x, r, s), norm)
                np.testing.assert_allclose(found.two_hop[a, b, c], expected, rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_differences(network, getkey):
    goal = trained.Answers(jnp.ones((5, 2, 12)), jnp.zeros((5, 2, 3, 12)))
    share = trained.Answers(jnp.full((5, 2, 1), 0.05), jnp.full((5, 2, 3, 1), 0.02))
    start = forward(network, PROMPTS, entities=12, norm="rms")
    moved = jax.tree.map(lambda part: part + 0.1 * jax.random.normal(getkey(), part.shape), network)
    toward = jax.tree.map(lambda part: jax.random.normal(getkey(), part.shape), network)

    @jax.jit
    def loss(t):
        at = jax.tree.map(lambda part, way: part + t * way, moved, toward)
        return trained.base_loss(at, start, PROMPTS, goal, share, jnp.float32(2.0), "rms")

    slope = jax.jit(jax.grad(trained.base_loss), static_argnums=6)
    gradient = slope(moved, start, PROMPTS, goal, share, jnp.float32(2.0), "rms")
    along = sum(float(jnp.vdot(g, way)) for g, way in zip(gradient, toward, strict=True))
    step = jnp.float32(3e-3)
    assert along == pytest.approx(float(loss(step) - loss(-step)) / 6e-3, rel=0.01)


def test_the_recursion_of_one_block_is_that_of_the_paper():
    prompts = [(0, 3), (1, 4), (0, 3, 4)]
    for norm in ("none", "rms"):
        model = Model(width=float("inf"), norm=norm, adapted="all")
        found = trained.tangents(prompts, model)
        np.testing.assert_allclose(found.sum(axis=0), 2 * depth.tangent_kernel(prompts, model))


def test_the_recursion_is_the_limit_of_networks():
    """T(p, q) of one output of wide networks by JAX, each block by itself."""
    words, width = [(0, 3), (1, 4), (0, 3, 4)], 256
    limit = trained.tangents(words, Model(width=float("inf"), depth=2, norm="rms", adapted="all"))

    @jax.jit
    def drawn(key):
        theta = trained.draw_network(key, tokens=5, width=width, depth=2)

        def outputs(W):
            found = trained.forward(
                theta._replace(W=W),
                trained.Prompts(*map(jnp.array, ([0, 1], [3, 4], [4]))),
                entities=3,
                norm="rms",
            )
            return jnp.stack([found.one_hop[0, 0, 2], found.one_hop[1, 1, 2], found.two_hop[0, 0, 0, 2]])

        J = jax.jacrev(outputs)(theta.W)
        return jnp.einsum("plij,qlij->lpq", J, J)

    mean = np.mean([drawn(jax.random.key(seed)) for seed in range(4)], axis=0)
    np.testing.assert_allclose(mean, limit, rtol=0.1, atol=0.1)
    shallow = trained.tangents(words, Model(width=float("inf"), depth=1, norm="rms", adapted="all"))
    assert np.abs(mean[0] - shallow[0]).max() > 0.3  # the gradient through the block above can be missed


@pytest.fixture(autouse=True)
def fewer_steps(monkeypatch):
    monkeypatch.setattr(experiment, "EXPERT_STEPS", 200)


@pytest.fixture
def enough_steps(fewer_steps, monkeypatch):
    monkeypatch.setattr(experiment, "EXPERT_STEPS", 2000)


@pytest.fixture
def lazy(enough_steps):
    return experiment.run(LAZY, range(4))


def test_one_lazy_block_is_kernel_regression(lazy):
    """With its own kernel in every seed, and with the limit on the mean over seeds: within five standard errors, and
    the bias of order one in 48."""
    for result in lazy:
        assert result.measured["linear_error"] < 0.02
        assert result.measured["own_first"] == result.measured["own_second"] == 1
    for name in ("c_first", "c_second", "c_second_elsewhere"):
        values = np.array([result.measured[name] for result in lazy])
        expected = np.mean([result.predicted[name] for result in lazy])
        assert abs(values.mean() - expected) < 5 * values.std(ddof=1) / len(values) ** 0.5 + 1 / 48


def test_a_network_that_does_not_see_the_entity_is_caught(enough_steps):
    """A planted mistake: attention adds nothing, so that all facts of a relation have one key."""
    base = experiment.trained_base(replace(LAZY, placement="all", rank=1), 0)
    blind = base._replace(network=base.network._replace(V=0.0 * base.network.V))
    assert experiment.quantities(LAZY, base, 0)["own_first"] == 1
    assert experiment.quantities(LAZY, blind, 0)["own_first"] < 1


def test_the_same_seed_gives_the_same_bits_whatever_runs_beside_it():
    experiment.trained_base.cache_clear()
    alone = experiment.run(RICH, [1])[0].measured
    experiment.trained_base.cache_clear()
    assert experiment.run(RICH, [0, 1])[1].measured == alone
    assert alone["linear_error"] > 0.1, "nor is a rich expert kernel regression"


def test_experts_change_the_blocks_they_are_in_and_no_others():
    base = experiment.trained_base(replace(RICH, placement="all", rank=1), 0)
    for placement in PLACEMENTS:
        found = experiment.experts(replace(RICH, placement=placement), base, 0)
        for learned, blocks in zip(found, experiment.in_blocks(placement, 2), strict=True):
            update = jnp.einsum("plir,pljr->plij", *learned.expert)
            assert (np.abs(update).max(axis=(0, 2, 3)) > 0).tolist() == blocks.tolist()


def test_an_expert_of_full_rank_sees_every_unit_and_one_of_less_does_so_on_average(network, getkey):
    def seen(rank, draws):
        blocks = jnp.array([1.0, 0.0])
        into = [trained.draw_expert(getkey(), network, rank, blocks).into for _ in range(draws)]
        return np.mean([np.einsum("lir,ljr->lij", B, B) for B in into], axis=0)

    full, part = seen(16, 1), seen(4, 400)
    np.testing.assert_allclose(full, [np.eye(16), np.zeros((16, 16))], atol=1e-5)
    np.testing.assert_allclose(part, full, atol=0.4)
    assert np.abs(seen(4, 1) - full).max() > 0.5


def test_in_the_kernel_regime_no_placement_passes_one_in_n():
    generator = np.random.default_rng(0)
    pair = experiment.draw_pair(generator, generator.integers(12, size=(12, 12)), 3)
    for blocks in (2, 4):
        for placement in PLACEMENTS:
            setting = Trained(depth=blocks, placement=placement)
            assert experiment.kernel_limit(setting, pair)["accuracy_among_new"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"depth": 1, "placement": "both_lower"}, "placement: got both_lower with depth=1; allowed: all"),
        ({"rank": 128}, "rank: got 128; allowed: at most 64"),
        ({"facts": 5}, "facts: got 5 with entities=12; allowed: at most 4"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(wrong, said):
    with pytest.raises(SettingError, match=said):
        Trained(**wrong)
