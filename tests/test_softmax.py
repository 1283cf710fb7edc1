"""A softmax over outputs: the least change that leads by a margin, against an optimiser that knows no formula."""

import numpy as np
import pytest
from scipy import optimize

from lora_reuse.theory.edits import leading_change


def by_optimiser(answers, margin):
    """min ‖w‖² so that i_0 + w has its entry 1 above every other entry by the margin."""
    old = np.eye(answers)[0]
    others = [i for i in range(answers) if i != 1]
    ahead = {"type": "ineq", "fun": lambda w: (old + w)[1] - (old + w)[others] - margin}
    found = optimize.minimize(lambda w: w @ w, np.zeros(answers), jac=lambda w: 2 * w, constraints=[ahead], tol=1e-12)
    assert found.success
    return found.x


@pytest.mark.parametrize("answers", [2, 3, 7])
@pytest.mark.parametrize("margin", [0.0, 0.4, 1.0, 1.7, 6.0])
def test_it_is_the_least_change_with_that_margin(answers, margin):
    np.testing.assert_allclose(leading_change(answers, 0, 1, margin), by_optimiser(answers, margin), atol=1e-6)


def test_a_margin_of_one_is_the_paper_s_difference():
    np.testing.assert_array_equal(leading_change(5, 2, 4, 1.0), np.eye(5)[4] - np.eye(5)[2])


def test_a_negative_margin_is_refused():
    with pytest.raises(ValueError, match=r"margin -1\.0; need at least 0"):
        leading_change(5, 2, 4, -1.0)
