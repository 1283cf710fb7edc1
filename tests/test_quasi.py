"""Randomised quasi-Monte Carlo of the limit against closed forms, and its error bars."""

import numpy as np
import pytest
from scipy import stats

from lora_reuse.runs.settings import SettingError
from lora_reuse.theory import kernels
from lora_reuse.theory.experiments.kernel_limit import PROMPTS
from lora_reuse.theory.gram import geometry
from lora_reuse.theory.library import draw_scene
from lora_reuse.theory.quasi import limit_gram
from lora_reuse.theory.settings import Model

S = geometry(PROMPTS, Model(), [0])[0]
SIX = geometry(draw_scene(1).prompts, Model(), [0])[0]


@pytest.mark.parametrize("shape", [S, SIX], ids=["four", "six"])
def test_error_bars_hold(shape):
    """t of every entry over 40 seeds: beyond Student's 1e-7 in none of them."""
    worst = stats.t.isf(1e-7 / 2, 7)
    for seed in range(40):
        found = limit_gram(shape, 2**10, seed)
        assert np.abs((found.k - kernels.kernel(shape)) / found.stderr).max() < worst


def test_the_error_falls_faster_than_that_of_sampling():
    k = kernels.kernel(SIX)
    errors = [np.linalg.norm(limit_gram(SIX, nodes).k - k) / np.linalg.norm(k) for nodes in (2**10, 2**18)]
    assert errors[0] / errors[1] > 40  # sampling gains 16
    assert errors[1] < 3e-5


def test_a_wrong_kernel_is_seen():
    found = limit_gram(S, 2**14)
    wrong = kernels.kernel(S) * 1.01
    assert np.abs((found.k - wrong) / found.stderr).max() > stats.t.isf(1e-7 / 2, 7)


def test_any_activation_has_a_limit():
    found = limit_gram(S, 2**12, activation=np.square)
    expected = np.outer(np.diagonal(S), np.diagonal(S)) + 2 * S**2
    np.testing.assert_allclose(found.k, expected, rtol=0.02)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"S": np.eye(7)}, "S: got of rank 7"),
        ({"S": S, "nodes": 1000}, "nodes: got 1000"),
        ({"S": S, "scramblings": 1}, "scramblings: got 1"),
    ],
)
def test_what_it_cannot_do_is_refused(words, said):
    with pytest.raises(SettingError, match=said):
        limit_gram(**words)
