"""More than two hops: the multiples against eq. 13 by hand, today's numbers at two hops, and planted mistakes."""

import re

import numpy as np
import pytest

from lora_reuse.paper_checks.assumptions import multiples, summed
from lora_reuse.paper_checks.setup import paper_kernel
from lora_reuse.runs.grid import settings_of
from lora_reuse.runs.settings import SettingError
from lora_reuse.theory.experiments import depth, kernel_limit, theorem_2
from lora_reuse.theory.gram import gram
from lora_reuse.theory.settings import INF, Depth, KernelLimit, Model, Theorem2
from lora_reuse.theory.table import z_score
from tests.drawn_figures import ROOT

PAPER = [(0, 3), (1, 4), (0, 3, 4), (2, 3, 4)]  # x r1, y r2, x r1 r2, u r1 r2
PLACES = {"c_first": (0, 2), "c_second": (1, 2), "c_first_other_entity": (0, 3), "c_second_other_entity": (1, 3)}


@pytest.mark.parametrize("setting", [KernelLimit(width=2**10), KernelLimit(width=2**10, dim=64, mask="causal")])
def test_two_hops_have_the_bits_of_the_paper_s_prompts(setting):
    (result,) = kernel_limit.run(setting, [3])
    G = gram(PAPER, setting, 3)
    for name, (edited, asked) in PLACES.items():
        assert result.measured[name] == G[edited, asked] / G[edited, edited]
    assert kernel_limit.chain() == PAPER
    assert "hops" not in settings_of((setting, 0))


def test_two_hops_are_theorem_2():
    (limit,) = theorem_2.run(Theorem2(width=INF), [0])
    np.testing.assert_allclose(summed(2).ravel(), [limit.measured["c_first"], limit.measured["c_second"]])
    np.testing.assert_allclose(multiples(2), [0.4122, 0.5730], atol=1e-4)


@pytest.mark.parametrize("hops", [2, 3, 4])
def test_multiples_are_those_of_eq_13(hops):
    (result,) = kernel_limit.run(KernelLimit(width=INF, hops=hops), [0])
    found = [result.measured[f"c_{name}"] for name in kernel_limit.ORDINALS[:hops]]
    np.testing.assert_allclose(found, multiples(hops))
    others = [result.measured[f"c_{name}_other_entity"] for name in kernel_limit.ORDINALS[:hops]]
    # Another entity's prompt shares the last relation alone: there all other experts are like those of the middle.
    np.testing.assert_allclose(others, [found[1] if hops > 2 else others[0]] * (hops - 1) + [found[-1]])


def test_the_page_has_the_multiples_and_their_limit():
    endless = [paper_kernel(2**0.5, 1.0, dot) for dot in (0.0, 0.0, 1.0)]
    columns = [(first, middle[:1], last) for first, *middle, last in (*map(multiples, (2, 3, 4)), endless)]
    page = (ROOT / "docs" / "theory.md").read_text()
    for i, words in enumerate(("first expert", "an expert between", "last expert")):
        cells = [f"{np.ravel(column[i])[0]:.4f}" if np.size(column[i]) else "" for column in columns]
        assert re.sub(" +", " ", f"| {words} | {' | '.join(cells)} |") in page


@pytest.mark.parametrize(
    "setting", [KernelLimit(width=2**12, hops=4), KernelLimit(width=INF, dim=4096, hops=3)], ids=["width", "dim"]
)
def test_finite_sizes_agree_with_their_error_bars(setting):
    rows = [result._asdict() for result in kernel_limit.run(setting, range(40))]
    names = list(kernel_limit.pairs(setting.hops))
    assert max(abs(z_score(rows, name) or np.inf) for name in names) < 5.3
    single = np.array([[z_score([row], name) for row in rows] for name in names], float)
    assert np.abs(single.std(axis=1) - 1).max() < 5 / np.sqrt(80)
    for row in rows:  # planted: the multiples of a prompt with one hop more
        row["predicted"] |= dict(zip(names, multiples(4 if setting.hops == 3 else 3), strict=False))
    assert max(abs(z_score(rows, name) or 0.0) for name in names) > 5.3


def test_the_order_of_earlier_relations_is_seen_by_two_blocks_alone():
    one, two = (gram(["x r1 r2 r3", "x r2 r1 r3"], Model(width=INF, depth=blocks), 0) for blocks in (1, 2))
    np.testing.assert_allclose(one, one[0, 0])
    assert two[0, 1] < 0.99 * two[0, 0]
    drawn = gram(["x r1 r2 r3", "x r2 r1 r3"], Model(width=64, dim=16), 0)
    np.testing.assert_allclose(drawn, drawn[0, 0], rtol=1e-5)


def test_networks_of_several_blocks_have_hops_too():
    (one,) = depth.run(Depth(width=INF, depth=1, hops=3), [0])
    np.testing.assert_allclose([one.measured[f"c_{n}"] for n in kernel_limit.ORDINALS[:3]], multiples(3))
    rows = [result._asdict() for result in depth.run(Depth(width=96, depth=2, hops=3), range(16))]
    assert max(abs(z_score(rows, name) or np.inf) for name in rows[0]["measured"]) < 5.3
    single = np.array([[z_score([row], name) for row in rows] for name in ("c_first", "c_second", "c_third")], float)
    assert 0.5 < single.std() < 1.5


def test_hops_are_refused_where_they_are_not_defined():
    with pytest.raises(SettingError, match=r"^hops: got 5; allowed: a whole number from 2 to 4"):
        KernelLimit(hops=5)
    with pytest.raises(SettingError, match=r"^dim: got 4; allowed: at least 5"):
        KernelLimit(hops=3, dim=4)
