"""The hidden states, against eq. 4, 5 and 21 written out prompt by prompt."""

import jax
import numpy as np
import pytest

from lora_reuse.runs.settings import SettingError
from lora_reuse.theory import model as transformer
from lora_reuse.theory.experiments import kernel_limit, many_facts
from lora_reuse.theory.gram import gram
from lora_reuse.theory.library import draw_scene
from lora_reuse.theory.settings import INF, Bridge, KernelLimit, Layers, ManyFacts, Model, base

PROMPTS = [(0,), (0, 3), (1, 3, 4), (2, 4, 4, 3), (0, 1, 2, 3, 4)]


@pytest.fixture
def drawn(getkey):
    with jax.enable_x64(True):
        yield transformer.draw_transformer(getkey(), tokens=5, dim=32, width=48, dtype=np.float64)


def by_hand(model, prompt, attention, mask):
    E, V, K, Q = (np.asarray(a) for a in (model.E, model.V, model.K, model.Q))
    context = prompt if mask == "causal" else prompt[:-1]
    last = E[prompt[-1]]
    scores = np.array([E[t] @ K.T @ Q @ last for t in context])
    weights = (
        np.exp(scores) / np.exp(scores).sum()
        if attention == "softmax"
        else np.ones(len(context)) / max(len(context), 1)
    )
    return last + sum((w * V @ E[t] for w, t in zip(weights, context, strict=True)), np.zeros(32))


@pytest.mark.parametrize("attention", ["uniform", "softmax"])
@pytest.mark.parametrize("mask", ["strict", "causal"])
def test_hidden_states_are_those_of_the_paper(drawn, attention, mask):
    with jax.enable_x64(True):
        states = np.asarray(transformer.hidden(drawn, PROMPTS, Model(dim=32, attention=attention, mask=mask)))
    expected = np.stack([by_hand(drawn, prompt, attention, mask) for prompt in PROMPTS])
    np.testing.assert_allclose(states, expected, atol=1e-13)
    assert not np.allclose(
        states, np.stack([by_hand(drawn, p, attention, "strict" if mask == "causal" else "causal") for p in PROMPTS])
    )


def test_a_one_hop_prompt_under_either_mask_is_that_of_eq_1_and_21(drawn):
    V, e_x, e_r = np.asarray(drawn.V), np.asarray(drawn.E)[0], np.asarray(drawn.E)[3]
    with jax.enable_x64(True):
        strict, causal = (
            np.asarray(transformer.hidden(drawn, [(0, 3)], Model(mask=mask)))[0] for mask in ("strict", "causal")
        )
    np.testing.assert_allclose(strict, V @ e_x + e_r, atol=1e-14)
    # Eq. 21 prints ½(V e_x + (1 + V) e_r), halving the residual too; with the residual of eq. 4 it is not halved.
    np.testing.assert_allclose(causal, (V @ e_x + V @ e_r) / 2 + e_r, atol=1e-14)


def test_another_assumption_on_attention_reaches_all_that_reads_a_prompt(monkeypatch):
    def found():
        spread = many_facts.spread_of_dim(draw_scene(2), ManyFacts())
        (row,) = kernel_limit.run(KernelLimit(width=INF, dim=64), [0])
        models = (Model(width=INF), Model(width=INF, dim=64), Model(width=2**8, dim=64, attention="softmax"))
        grams = [gram(PROMPTS[1:], model, 0) for model in models]
        explicit = gram(PROMPTS[1:], Model(width=2**8, dim=64), 0, explicit=True)
        return [spread, row.stderr["c_first"], *(G[0, 1] / G[0, 0] for G in (*grams, explicit))]

    honest, before = transformer.coefficients, found()
    monkeypatch.setattr(transformer, "coefficients", lambda *a, **named: (0.5 * honest(*a, **named)[0], honest(*a)[1]))
    assert min(abs(np.divide(found(), before) - 1)) > 0.01


@pytest.mark.parametrize("make", [Bridge, Layers, lambda **named: Model(depth=2, **named)])
def test_it_is_refused_where_attention_is_another(monkeypatch, make):
    """A setting that is new is one that is not known to be about something else."""
    assert make(activation="erf")
    monkeypatch.setattr(base, "ELSEWHERE", [name for name in base.ELSEWHERE if name != "activation"])
    with pytest.raises(SettingError, match=r"activation: got erf; allowed: relu: .* attention"):
        make(activation="erf")


@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_features(drawn, activation):
    with jax.enable_x64(True):
        states = transformer.hidden(drawn, PROMPTS)
        phi = np.asarray(transformer.features(drawn, states, activation=activation))
    raw = np.asarray(drawn.U) @ np.asarray(states).T
    np.testing.assert_allclose(phi, np.maximum(raw, 0) if activation == "relu" else raw, atol=1e-14)


@pytest.mark.parametrize(("init_scale", "power"), [("std", -0.5), ("variance", -0.25)])
def test_entries_have_the_spread_of_their_reading(getkey, init_scale, power):
    E = transformer.draw_transformer(getkey(), tokens=400, dim=256, width=1, init_scale=init_scale).E
    n = E.size
    assert abs(np.std(E) / 256**power - 1) < 5 / np.sqrt(2 * n)  # a right program fails once in 1e6
