import hashlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_reuse.runs.settings import SettingError
from lora_reuse.theory import gram as g
from lora_reuse.theory import kernels
from lora_reuse.theory import model as transformer
from lora_reuse.theory.gaussian import factor
from lora_reuse.theory.limit import geometry_stderr, limit_geometry
from lora_reuse.theory.settings import INF, KernelLimit, Model
from lora_reuse.theory.streaming import block_size, features, stream, streamed

X, Y, U, R1, R2 = range(5)
ROOT = Path(__file__).parents[1]
PROMPTS = [(X, R1), (Y, R2), (X, R1, R2), (U, R1, R2)]
WORLD = [(x, 6 + r) for x in range(6) for r in range(2)] + [
    (x, 6 + r, 6 + s) for x in range(6) for r in range(2) for s in range(2)
]


def positive_qr(A):
    Q, R = np.linalg.qr(A)
    signs = np.sign(np.diagonal(R))
    return Q * signs, R * signs[:, None]


def test_projected_with_z_from_u_gives_the_numbers_of_the_explicit_model(getkey):
    with jax.enable_x64(True):
        model = transformer.draw_transformer(getkey(), tokens=5, dim=40, width=64, dtype=np.float64)
        states = transformer.hidden(model, PROMPTS)
        explicit = np.asarray(transformer.features(model, states))
    H = np.asarray(states)
    Q, R = positive_qr(H.T)
    L = factor(H @ H.T)
    np.testing.assert_allclose(L, R.T, atol=1e-12)
    Z = np.asarray(model.U) @ Q
    np.testing.assert_allclose(np.maximum(L @ Z.T, 0).T, explicit, atol=1e-12)
    # and V: V Eᵀ = (V Q) R with Eᵀ = Q R, the draw that `token_images` makes
    Q, R = np.linalg.qr(np.asarray(model.E).T)
    np.testing.assert_allclose(np.asarray(model.V) @ Q @ R, np.asarray(model.V) @ np.asarray(model.E).T, atol=1e-12)


def test_a_fresh_z_gives_the_law_of_the_explicit_model():
    """Both providers against the kernel of the hidden states they drew: mean and spread of c, each failing once in 1e6
    if right."""
    seeds, width, dim = range(300), 512, 24
    model = KernelLimit(width=width, dim=dim)
    S = g.geometry(PROMPTS, model, seeds)
    projected = streamed(S, width, g.feature_keys(model, seeds))

    @jax.jit
    @jax.vmap
    def explicit(key):
        drawn = transformer.draw_transformer(key, tokens=5, dim=dim, width=width)
        states = transformer.hidden(drawn, PROMPTS)
        return states, transformer.features(drawn, states)

    H, phi = (np.asarray(a, np.float64) for a in explicit(jnp.stack([stream(seed, 99) for seed in seeds])))
    drawn = (phi.swapaxes(-1, -2) @ phi / width * dim, H @ H.swapaxes(-1, -2))
    for grams, states in ((projected, S), drawn):
        z = []
        for G, k, M in zip(grams, kernels.kernel(states), kernels.fourth_moments(states), strict=True):
            c, error = kernels.coefficient(G, 1, 2), kernels.coefficient_stderr(M, k, 1, 2)
            z.append((c - kernels.coefficient(k, 1, 2)) * np.sqrt(width) / error)
        assert abs(np.mean(z)) < 5 / np.sqrt(len(z)) + 0.1  # 0.1: the O(1/m) bias of a ratio at m = 512
        assert abs(np.std(z) - 1) < 5 / np.sqrt(2 * len(z)) + 0.03


def test_the_explicit_provider_is_the_features_of_the_full_model():
    model = Model(width=300, dim=20)
    G = g.gram(PROMPTS, model, [3, 4], explicit=True)
    assert G.shape == (2, 4, 4)
    assert np.linalg.norm(G - g.gram(PROMPTS, Model(width=INF, dim=INF), [0])[0]) < 1.5
    with pytest.raises(SettingError, match="explicit"):
        g.gram(PROMPTS, Model(width=300), [0], explicit=True)


@pytest.mark.parametrize("width", [1, 100, 2**14, 2**14 + 1, 3 * 2**14 - 5])
@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_streaming_adds_up_the_very_features_that_can_be_kept(width, activation):
    model = Model(width=width, activation=activation)
    S = g.geometry(PROMPTS, model, [5])
    key = g.feature_keys(model, [5])
    phi = features(S[0], width, key[0], activation)
    assert phi.shape == (width, 4)
    np.testing.assert_allclose(streamed(S, width, key, activation)[0], phi.T @ phi / width, rtol=3e-6)


def test_no_block_is_ever_drawn_twice():
    most = block_size(200) << 32
    S = np.eye(200)[None]
    with pytest.raises(SettingError, match=f"width: got {most + 1}; allowed: up to {most} with 200 prompts"):
        streamed(S, most + 1, g.feature_keys(Model(width=64), [0]))


def test_seeds_together_or_alone_give_the_same_bits():
    model = KernelLimit(width=40_000, dim=16)
    together = g.gram(PROMPTS, model, [1, 2, 3])
    for i, seed in enumerate([1, 2, 3]):
        assert np.array_equal(together[i], g.gram(PROMPTS, model, [seed])[0])
    assert not np.array_equal(together[0], together[1])


def bits() -> list[str]:
    """Of four prompts, and of a world of them."""
    every = itertools.product((PROMPTS, WORLD), (300, 150_000), (64, INF))
    found = [g.gram(prompts, KernelLimit(width=width, dim=dim), range(3)) for prompts, width, dim in every]
    return [hashlib.sha256(G.tobytes()).hexdigest() for G in found]


def test_two_and_eight_devices_give_the_same_bits():
    assert jax.device_count() == 2
    code = "import jax; from tests.test_gram import bits; print(jax.device_count(), *bits())"
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    here = bits()
    assert done.stdout.split() == ["8", *here]
    assert len(set(here)) == 8


def test_compilations_go_with_shapes_not_with_settings():
    g.gram(PROMPTS, KernelLimit(width=777, dim=32), range(2))
    jax.clear_caches()
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: (
            compiled.append(event) if event == "/jax/core/compile/backend_compile_duration" else None
        )
    )
    try:
        g.gram(PROMPTS, KernelLimit(width=300, dim=32), range(2))
        first = len(compiled)
        for width in (17, 5000, 70_000, 2**20):
            for seeds in (range(3), range(100, 117)):
                for mask in ("strict", "causal"):
                    g.gram(PROMPTS, KernelLimit(width=width, dim=32, mask=mask), seeds)
        assert 0 < first < 30
        assert len(compiled) == first
    finally:
        jax.monitoring.clear_event_listeners()


matrices = st.integers(1, 6).flatmap(
    lambda rank: st.lists(st.lists(st.integers(-3, 3), min_size=rank, max_size=rank), min_size=1, max_size=8).map(
        lambda a: np.array(a, float)
    )
)


@given(matrices)
def test_factor_has_the_rank_of_the_hidden_states(H):
    S = H @ H.T
    L = factor(S)
    np.testing.assert_allclose(L @ L.T, S, atol=1e-9)
    assert L.shape[1] == max(np.linalg.matrix_rank(H), 1)


def test_coordinates_have_the_same_inner_products():
    G = g.gram(WORLD, Model(width=20), [0])[0]  # rank 20 of 36
    phi = g.coordinates(G)
    np.testing.assert_allclose(phi.T @ phi, G, atol=1e-7)  # float32 blocks leave G indefinite by that much


@pytest.mark.parametrize("wrong", [[[1.0, 2.0], [2.0, 1.0]], [[1.0, 0.5], [0.4, 1.0]], [[-1.0, 0.0], [0.0, -2.0]]])
def test_what_is_no_gram_matrix_has_no_coordinates(wrong):
    for G in (np.array(wrong), np.stack([np.eye(2), wrong])):
        with pytest.raises(
            SettingError, match=r"^G: got a matrix [\d.]+ away from .*; allowed: a Gram matrix: symmetric"
        ):
            g.coordinates(G)


def test_a_large_dim_approaches_the_limit_at_its_closed_form_rate():
    """c at d = 1024 against d = ∞, 400 seeds: mean and spread; each fails once in 1e6 if right. 0.2: the O(1/d) bias of
    c."""
    attended, residual = transformer.coefficients(PROMPTS, 5)
    limit = kernels.kernel(limit_geometry(attended, residual))
    k = g.gram(PROMPTS, KernelLimit(width=INF, dim=1024), range(400))
    for pair in ((0, 2), (1, 2), (0, 3), (1, 3)):
        z = (
            (kernels.coefficient(k, *pair) - kernels.coefficient(limit, *pair))
            * 32
            / geometry_stderr(attended, residual, *pair)
        )
        assert abs(z.mean()) < 5 / 20 + 0.2
        assert abs(z.std() - 1) < 5 / np.sqrt(800)
        swapped = (kernels.coefficient(k, *pair) - kernels.coefficient(limit, 1 - pair[0], pair[1])) * 32
        assert abs(swapped.mean()) > 2


def test_softmax_attention_is_uniform_in_the_limit_under_std_only():
    uniform = g.geometry(PROMPTS, Model(dim=4096), range(20))
    softmax = g.geometry(PROMPTS, Model(dim=4096, attention="softmax"), range(20))
    assert 0 < np.abs(uniform - softmax).max() < 0.15
    variance = [
        g.geometry(PROMPTS, Model(dim=4096, attention=a, init_scale="variance"), range(20))
        for a in ("uniform", "softmax")
    ]
    assert np.abs(variance[0] - variance[1]).max() / np.abs(variance[0]).max() > 0.3


def test_a_one_token_prompt_has_no_limit_under_variance():
    with pytest.raises(SettingError, match="init_scale: got variance with a one-token prompt"):
        g.geometry([(0,), (0, 1)], Model(init_scale="variance"), [0])


def test_streams_of_different_purposes_differ():
    words = {
        hashlib.sha256(np.asarray(jax.random.key_data(stream(*labels))).tobytes()).digest()
        for labels in ((0,), (1,), (0, 0), (0, 1), (0, 2**32), (0, 0, 0))
    }
    assert len(words) == 6
