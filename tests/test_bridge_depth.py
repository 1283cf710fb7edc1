"""Step by step in several blocks: the prompts of `theory.experiments.bridge` in the recursions of `theory.depth`."""

import re
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import optimize

from lora_reuse.theory import depth, networks
from lora_reuse.theory.experiments import bridge
from lora_reuse.theory.experiments.bridge import planned, run
from lora_reuse.theory.gram import geometry
from lora_reuse.theory.settings import INF, Bridge
from tests.test_depth import NORMS

PAGE = (Path(__file__).parents[1] / "docs" / "theory.md").read_text()
STEPS = ((0, 3), (4,), (1, 3, 2))
PROMPTS = [STEPS, (*STEPS[:2], (1, 3)), ((0, 3), (2, 4)), ((2, 4),)]
LIMIT = Bridge(width=INF, facts=2)


@pytest.mark.parametrize("mask", ["strict", "causal"])
@pytest.mark.parametrize("locality", [0.0, 0.3, 1.0])
def test_one_block_is_the_paper_s(locality, mask):
    plan = planned(replace(LIMIT, locality=locality, mask=mask, setup=2))
    positions = depth.prefixes(plan.prompts)
    asked = [positions.index(prompt) for prompt in plan.prompts]
    (block,) = depth.blocks(positions, plan.setting)
    np.testing.assert_allclose(block.S[np.ix_(asked, asked)], bridge.limit_of_dim(plan), atol=1e-15)


def test_attention_of_every_position_over_segments():
    positions = depth.prefixes([STEPS])
    assert positions == [((0,),), ((0, 3),), (*STEPS[:2],), *((*STEPS[:2], STEPS[2][: t + 1]) for t in range(3))]
    np.testing.assert_allclose(
        depth.attention(positions, "strict", locality=0.4),
        [
            [0, 0, 0, 0, 0, 0],
            [1, 0, 0, 0, 0, 0],
            [0.5, 0.5, 0, 0, 0, 0],
            [1 / 3, 1 / 3, 1 / 3, 0, 0, 0],
            [0.2, 0.2, 0.2, 0.4, 0, 0],
            [0.2, 0.2, 0.2, 0.2, 0.2, 0],
        ],
    )
    causal = depth.attention(positions, "causal", locality=0.4)
    np.testing.assert_allclose(causal.sum(axis=1), 1.0)
    np.testing.assert_allclose(causal[2], [0.3, 0.3, 0.4, 0, 0, 0])


def coefficients(kernels):
    """The multiple of the answer of `STEPS` on every other prompt: of the readout kernel, of the tangent kernel."""
    readout, lower = np.asarray(kernels)
    return np.stack([T[1:, 0] / T[0, 0] for T in (readout, readout + lower)])


@pytest.mark.parametrize("mask", ["strict", "causal"])
def test_networks_drawn_in_full_have_both_kernels(mask):
    setting = Bridge(width=INF, depth=2, adapted="all", norm="rms", locality=0.3, mask=mask)
    named = {name: getattr(setting, name) for name in ("mask", "activation", "norm", "locality")}
    draws, size, found = 96, 384, []
    for seed in range(draws):
        network = networks.draw_network(jax.random.key(seed), tokens=5, width=size, depth=2, gain=2.0)
        found.append(coefficients(networks.kernels(PROMPTS, network, **named)))
    error = np.std(found, axis=0, ddof=1) / draws**0.5

    def worst(locality):
        limit = replace(setting, locality=locality)
        readout = depth.tangent_kernel(PROMPTS, replace(limit, lower_rate=0.0))
        both = depth.tangent_kernel(PROMPTS, limit)
        off = np.abs(np.mean(found, axis=0) - coefficients([readout, both - readout]))
        return (off / (5 * error + 2 / size)).max()

    assert worst(0.3) < 1 < worst(0.8)  # the second: a recursion that reads other segments less than the networks do


def test_full_locality_is_the_stored_key_where_a_segment_can_attend_to_itself():
    prompts = [((0, 3), (2, 4)), ((2, 4),)]
    for mask, alike in (("causal", True), ("strict", False)):
        S = geometry(prompts, replace(LIMIT, depth=3, locality=1.0, mask=mask), [0])[0]
        assert np.allclose(S[0], S[1]) == alike
        experts = planned(replace(LIMIT, depth=3, locality=1.0, mask=mask, setup=7)).stored
        plan = planned(replace(LIMIT, depth=3, locality=1.0, mask=mask, setup=7))
        assert [len(plan.distinct(stored)) for stored in experts] == ([6, 6] if alike else [8, 8])


@pytest.mark.parametrize("dim", [INF, 1024])
def test_finite_width_has_the_kernel_of_its_own_states(dim):
    setting = Bridge(width=2**12, dim=dim, depth=3, norm="rms", facts=1)
    results = run(setting, range(8))
    for name in ("c_hop_1", "c_hop_2"):
        z = [(r.measured[name] - r.predicted[name]) / r.stderr[name] for r in results]
        assert np.abs(z).max() < 5
        assert 0.3 < np.std(z) < 2
    limit = run(replace(setting, width=INF, dim=INF), [0])[0].measured
    assert len({r.predicted["c_hop_1"] for r in results}) == 8  # the states of each draw
    assert np.mean([r.measured["c_hop_2"] for r in results]) == pytest.approx(limit["c_hop_2"], abs=0.05)


@pytest.mark.parametrize("adapted", ["readout", "all"])
def test_the_direct_answer_stays_out_of_reach(adapted):
    for locality in (0.0, 0.5, 1.0):
        setting = replace(LIMIT, depth=4, adapted=adapted, norm="rms", mask="causal", locality=locality)
        (result,) = run(setting, [0])
        assert result.measured["two_hop_direct"] == 0
        assert result.measured == result.predicted
    assert result.measured["two_hop_step_by_step"] == 1


def test_the_page_has_the_locality_that_a_second_hop_takes():
    section = PAGE.split("*Step by step.*")[1].split("So depth makes")[0]
    rows = re.findall(r"^\| (readout|every \$W\$), (no norm|RMSNorm) \|[^|]*\|(.*)\|$", section, re.MULTILINE)
    assert len(rows) == 4
    for adapted, norm, cells in rows:
        before = 0.0
        for blocks, cell in zip((1, 2, 4, 8), cells.split("|"), strict=True):
            setting = Bridge(width=INF, facts=8, depth=blocks, norm=NORMS[norm], mask="causal")
            setting = replace(setting, adapted="readout" if adapted == "readout" else "all")

            def excess(locality, setting=setting):
                return run(replace(setting, locality=locality), [0])[0].measured["c_hop_2"] - 0.5

            near = float(cell)
            flips = optimize.root_scalar(excess, bracket=(near - 0.01, near + 0.01), xtol=1e-5).root
            assert cell.strip() == f"{flips:.3f}"
            assert before < near
            before = near
