"""Several heads and rotary positions: today's numbers without them, eq. 4 by hand with them, and error bars."""

import numpy as np
import pytest

from lora_reuse.paper_checks.setup import paper_kernel
from lora_reuse.runs.grid import settings_of
from lora_reuse.runs.settings import SettingError
from lora_reuse.theory import gram, model
from lora_reuse.theory.experiments import kernel_limit, many_facts, theorem_2
from lora_reuse.theory.settings import INF, Bridge, KernelLimit, Layers, ManyFacts, Model, Theorem2
from lora_reuse.theory.streaming import stream
from lora_reuse.theory.table import z_score

PROMPTS = [(0,), (0, 3), (1, 3, 4), (2, 4, 4, 3)]
WORDS = ["x", "x r1", "y r1 r2", "u r2 r2 r1"]
LIMIT = 5.3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mask", ["strict", "causal"])
def test_one_head_without_positions_has_the_bits_of_today(mask, dtype):
    """The sum of eq. 4 over one head, token by token, in the order of before; networks drawn in full have float32."""
    (E, VE), logits = gram.token_images(stream(0), 5, 16, "std")
    assert logits.shape == (1, 5, 5)
    logits = logits.astype(dtype)
    attended, _ = model.coefficients(PROMPTS, 5, mask=mask, decay=0.3, logits=logits[None])
    for row, prompt in zip(attended, PROMPTS, strict=True):
        context = list(prompt if mask == "causal" else prompt[:-1])
        picked = logits[0][context, prompt[-1]]
        weights = np.exp(picked - picked.max(initial=-np.inf)) * 0.3 ** np.arange(len(context) - 1, -1, -1, dtype=float)
        expected = np.zeros(5)
        np.add.at(expected, context, weights / weights.sum())
        assert row.tobytes() == expected.tobytes()
    assert not {"heads", "positions"} & settings_of((KernelLimit(mask=mask, dim=64, attention="softmax"), 0)).keys()
    again, _ = gram.token_images(stream(0), 5, 16, "std", head=1)
    assert again[0].tobytes() == E.tobytes()
    assert not np.allclose(again[1], VE)


@pytest.mark.parametrize("mask", ["strict", "causal"])
def test_hidden_states_are_those_of_heads_with_turned_keys(mask):
    """Position by position: keys and queries turned by where they stand, not by their distance."""
    generator, heads, decay, d = np.random.default_rng(0), 3, 0.6, 6
    K, Q = generator.normal(size=(2, heads, d, 5))
    logits = np.stack([[k.T @ model.turned(q, s) for s in range(4)] for k, q in zip(K, Q, strict=True)])
    attended, _ = model.coefficients(PROMPTS, 5, mask=mask, decay=decay, heads=heads, logits=logits)
    for row, prompt in zip(attended.reshape(-1, heads, 5) * np.sqrt(heads), PROMPTS, strict=True):
        count = len(prompt) - (mask == "strict")
        for head in range(heads):
            last = model.turned(Q[head], len(prompt) - 1)[:, prompt[-1]]
            bias = np.log(decay) * 2 ** (-8 * head / heads) * np.arange(count - 1, -1, -1)
            found = np.array([model.turned(K[head], s)[:, prompt[s]] @ last for s in range(count)]) + bias
            by_hand = np.zeros(5)
            np.add.at(by_hand, list(prompt[:count]), np.exp(found) / np.exp(found).sum())
            np.testing.assert_allclose(row[head], by_hand, atol=1e-12)
    rotation = model.turned(np.eye(d), 1)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(d), atol=1e-15)
    np.testing.assert_allclose(rotation[0], [np.cos(1), 0, 0, -np.sin(1), 0, 0], atol=1e-15)
    assert np.abs(logits[:, 1] - logits[:, 0]).max() > 0.1, "turning by one token can be missed"


def test_heads_that_attend_alike_change_nothing_and_others_have_the_mean_of_their_overlaps():
    one, alike = (gram.gram(WORDS, Model(width=INF, heads=heads), 0) for heads in (1, 4))
    np.testing.assert_allclose(one, alike, rtol=1e-12)
    decay, heads = 0.05, 2
    a = np.array([d / (1 + d) for d in (decay, decay ** (1 / 16))])
    norm = float((1 + np.mean(a**2 + (1 - a) ** 2)) ** 0.5)
    by_hand = [paper_kernel(2**0.5, norm, dot) for dot in (a.mean(), 1.0)]
    values = theorem_2.run(Theorem2(width=INF, decay=decay, heads=heads), [0])[0].measured
    assert [values["c_first"], values["c_second"]] == pytest.approx(by_hand, abs=1e-12)
    assert abs(theorem_2.run(Theorem2(width=INF, decay=decay), [0])[0].measured["c_first"] - by_hand[0]) > 0.01


@pytest.mark.parametrize("heads", [2, 5])
def test_no_heads_lift_a_composed_answer(heads):
    for decay in (0.05, 20.0):
        assert theorem_2.run(Theorem2(width=INF, decay=decay, heads=heads), [0])[0].measured["wins_old"] == 1
        setting = ManyFacts(width=INF, facts=4, composition="best", decay=decay, heads=heads)
        assert many_facts.run(setting, [0])[0].measured["accuracy"] == pytest.approx(1 / 4, abs=1e-12)


@pytest.mark.parametrize(
    "setting",
    [
        KernelLimit(width=2**12, dim=64, heads=2, attention="softmax", positions="rotary"),
        KernelLimit(width=INF, dim=4096, heads=3, decay=0.05),
    ],
)
def test_finite_sizes_agree_with_their_error_bars(setting):
    """At a finite width about the kernel of the states that were drawn, at a finite dim about the limit."""
    rows = [result._asdict() for result in kernel_limit.run(setting, range(60))]
    names = list(kernel_limit.COEFFICIENTS)
    assert max(abs(z_score(rows, name) or np.inf) for name in names) < LIMIT
    single = np.array([[z_score([row], name) for row in rows] for name in names], float)
    assert np.abs(single.std(axis=1) - 1).max() < LIMIT / np.sqrt(120)
    if setting.dim == 4096:  # planted: the multiples of one head
        one = kernel_limit.run(KernelLimit(width=INF, dim=4096, decay=setting.decay), [0])[0].predicted
        assert max(abs(z_score([row | {"predicted": one} for row in rows], name) or 0.0) for name in names) > LIMIT


def test_rotary_attention_tends_to_uniform_attention():
    """What attention is off 1/2 falls like d^(−1/2), as it does without positions, and by as much."""

    def off(dim, distances):
        drawn = [gram.token_images(stream(seed), 3, dim, "std", distances=distances)[1][None] for seed in range(200)]
        found = [model.coefficients([(0, 1, 2)], 3, logits=logits)[0][0, 0] for logits in drawn]
        return np.sqrt(np.mean((np.array(found) - 0.5) ** 2))

    for distances in (1, 3):
        assert off(64, distances) / off(1024, distances) == pytest.approx(4, rel=0.35)
    assert off(256, 3) / off(256, 1) == pytest.approx(1, rel=0.3)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Model(positions="rotary"), "positions: got rotary with attention=uniform"),
        (lambda: Model(positions="rotary", attention="softmax", dim=63), "positions: got rotary with .*dim=63"),
        (
            lambda: Model(heads=2, depth=2),
            "heads: got 2; allowed: 1: beside depth=2 attention has mask= and decay= alone",
        ),
        (lambda: Bridge(heads=2), "heads: got 2; allowed: 1: the locality"),
        (lambda: Layers(heads=2), "heads: got 2; allowed: 1: attend="),
        (lambda: gram.gram(WORDS, Model(dim=8, width=8, heads=2), 0, explicit=True), "explicit: got true with heads=2"),
    ],
)
def test_what_is_not_defined_is_refused_in_one_line(make, said):
    with pytest.raises(SettingError, match=said):
        make()
