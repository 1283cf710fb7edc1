"""Several blocks: the recursions against one block, against networks differentiated by JAX, and their error bars."""

import re
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from lora_reuse.runs.settings import SettingError
from lora_reuse.theory import depth, depth_errors, networks
from lora_reuse.theory.experiments import depth as experiment
from lora_reuse.theory.experiments import many_facts, scale, theorem_2, theorem_3
from lora_reuse.theory.experiments.kernel_limit import PROMPTS, shares
from lora_reuse.theory.gram import feature_keys, geometry, gram, kernel
from lora_reuse.theory.settings import (
    INF,
    Capacity,
    Depth,
    KernelLimit,
    ManyFacts,
    Model,
    Scale,
    Theorem2,
    Theorem3,
)
from lora_reuse.theory.streaming import streamed

POSITIONS = depth.prefixes(PROMPTS)
ASKED = np.ix_(*[[POSITIONS.index(prompt) for prompt in PROMPTS]] * 2)
NETWORKS = 300
MEAN = stats.norm.isf(1e-6 / 4)
LOW, HIGH = stats.chi2.ppf([1e-6 / 4, 1 - 1e-6 / 4], NETWORKS) * [1 / 1.12, 1.12]
PAGE = (Path(__file__).parents[1] / "docs" / "theory.md").read_text()
NORMS = {"no norm": "none", "RMSNorm": "rms"}
PROTOTYPE = {  # c₁ and c₂ by the number of blocks, of a prototype written before this code
    "readout": {1: (0.412, 0.573), 2: (0.528, 0.526), 3: (0.621, 0.559), 4: (0.703, 0.617), 8: (0.984, 0.897)},
    "all": {1: (0.412, 0.573), 2: (0.465, 0.462), 3: (0.500, 0.430), 4: (0.524, 0.423), 8: (0.579, 0.450)},
}


@pytest.mark.parametrize("mask", ["strict", "causal"])
def test_one_block_has_the_bits_of_the_paper_s_model(mask):
    model = Model(width=2**12, mask=mask)
    S = depth.blocks(POSITIONS, model)[0].S[ASKED]
    assert S.tobytes() == geometry(PROMPTS, model, [0])[0].tobytes()
    streams = streamed(S[None], 2**12, feature_keys(model, [3]))[0]
    assert streams.tobytes() == gram(PROMPTS, model, 3).tobytes()
    limit = Model(width=INF, mask=mask)
    tangent = gram(PROMPTS, Model(width=INF, mask=mask, adapted="all"), 0)
    assert tangent.tobytes() == gram(PROMPTS, limit, 0).tobytes()


@pytest.mark.parametrize(
    ("run", "setting"),
    [
        (theorem_2.run, lambda **more: Theorem2(width=INF, **more)),
        (theorem_3.run, lambda **more: Theorem3(width=INF, composition="arrow", **more)),
        (many_facts.run, lambda **more: ManyFacts(width=INF, facts=3, **more)),
        (scale.run, lambda **more: Scale(width=INF, facts=2, **more)),
    ],
)
def test_experiments_have_the_same_bits_at_one_block_whatever_is_adapted(run, setting):
    assert run(setting(adapted="all"), [0]) == run(setting(), [0])


@pytest.mark.parametrize("adapted", PROTOTYPE)
def test_the_recursions_give_the_numbers_of_the_prototype(adapted):
    for blocks, values in PROTOTYPE[adapted].items():
        (result,) = theorem_2.run(Theorem2(width=INF, depth=blocks, adapted=adapted), [0])
        assert (round(result.measured["c_first"], 3), round(result.measured["c_second"], 3)) == values


@pytest.mark.parametrize("norm", ["none", "rms"])
def test_gradients_contracted_are_the_jacobians_materialised(norm, getkey):
    with jax.enable_x64(True):
        network = networks.draw_network(getkey(), tokens=5, width=12, depth=3, gain=2.0, dtype=np.float64)
        found = networks.kernels(PROMPTS, network, mask="strict", activation="relu", norm=norm)
        last = jnp.array([prefix[-1] for prefix in POSITIONS])
        A = jnp.asarray(depth.attention(POSITIONS))

        def outputs(W):
            none = jnp.zeros((2, len(POSITIONS), 12))
            values, _ = networks.forward(network._replace(W=W), none, last, A, norm=norm)
            return values[np.array([POSITIONS.index(prompt) for prompt in PROMPTS])]

        J = np.asarray(jax.jacrev(outputs)(network.W)).reshape(4, -1)
    np.testing.assert_allclose(found.lower, 2 / 12 * J @ J.T, rtol=1e-10)


def off(law, setting, seeds, names=("c_first", "c_second")):
    """√N times the mean of the z-scores of networks, and √(2N) times what their variance has beyond one."""
    mean, stderr = law.at(width=setting.width, dim=setting.width)
    found = [shares(experiment.kernel_of(setting, seed)) for seed in seeds]
    z = np.array([[(values[name] - mean[name]) / stderr[name] for name in names] for values in found])
    return np.sqrt(len(z)) * z.mean(axis=0), np.mean(z**2, axis=0) * len(z)


CASES = [
    Depth(width=192, depth=2, adapted="readout"),
    Depth(width=192, depth=3, adapted="all", norm="rms", lower_rate=100.0),
    Depth(width=192, depth=2, adapted="all", mask="causal", lower_rate=100.0),
    Depth(width=192, depth=2, adapted="all", activation="erf", lower_rate=100.0),
]


@pytest.mark.parametrize("setting", CASES, ids=lambda s: f"{s.adapted}-{s.norm}-{s.mask}-{s.activation}")
def test_networks_follow_the_recursion_within_its_error_bars(setting):
    """Of 300 networks: means that fail once in 1e6 if right, variances within χ²'s 1e-6 and what second order adds."""
    law = depth_errors.expansion(shares, PROMPTS, setting.limit)
    mean, squares = off(law, setting, range(NETWORKS))
    assert np.abs(mean).max() < MEAN
    assert squares.min() > LOW
    assert squares.max() < HIGH


def test_a_wrong_recursion_or_error_bar_is_seen(monkeypatch):
    setting = CASES[2]
    honest = depth_errors.expansion(shares, PROMPTS, setting.limit)
    silent = {size: dict.fromkeys(values, 0.0) for size, values in honest.variance.items()}
    for size in ("width", "dim"):  # the noise of U alone, then that of E, V and W alone
        alone = honest._replace(variance=silent | {size: honest.variance[size]})
        assert off(alone, setting, range(NETWORKS))[1].max() > HIGH
    monkeypatch.setattr(depth, "derivative_kernel", lambda S, activation: np.full_like(S, 0.5))
    wrong = depth_errors.expansion(shares, PROMPTS, setting.limit)
    assert np.abs(off(wrong, setting, range(NETWORKS))[0]).max() > MEAN


def test_streamed_blocks_have_the_law_of_networks():
    """The Gram provider at finite d and m, whose draws are projected, under the same error bars."""
    model, seeds = Model(width=192, dim=192, depth=2, norm="rms"), 60
    mean, stderr = depth_errors.expansion(shares, PROMPTS, replace(model, width=INF, dim=INF)).at(width=192, dim=192)
    found = [shares(G) for G in gram(PROMPTS, model, range(seeds))]
    z = np.array([[(values[name] - mean[name]) / stderr[name] for name in mean] for values in found])
    assert np.abs(np.sqrt(seeds) * z.mean(axis=0)).max() < stats.norm.isf(1e-6 / 8)
    low, high = stats.chi2.ppf([1e-6 / 8, 1 - 1e-6 / 8], seeds) * [1 / 1.12, 1.12]
    assert low < np.sum(z**2, axis=0).min()
    assert np.sum(z**2, axis=0).max() < high


@pytest.mark.parametrize(("width", "dim"), [(64, INF), (INF, 64)])
def test_a_size_that_is_infinite_draws_nothing(width, dim):
    one, same, other = (gram(PROMPTS, Model(width=width, dim=dim, depth=2), seed) for seed in (0, 0, 1))
    assert one.tobytes() == same.tobytes()
    assert not np.allclose(one, other)


def test_predictions_at_a_finite_width_are_of_the_states_that_were_drawn():
    results = theorem_2.run(Theorem2(width=2**12, depth=3), range(4))
    z = [(r.measured[n] - r.predicted[n]) / r.stderr[n] for r in results for n in ("c_first", "c_second")]
    assert np.abs(z).max() < 5
    assert len({r.predicted["c_first"] for r in results}) == 4


def test_deep_limits_are_those_of_the_closed_arguments():
    """Without a norm ‖h^L‖² of a key is (L + 1) 2^(L−1) under a strict mask; with one, positions one and two keep the
    cosine that solves ρ = κ(ρ)/√2."""
    key, first = POSITIONS.index((0, 3)), POSITIONS.index((0,))
    for blocks in (1, 5, 40):
        found = depth.blocks(POSITIONS, Model(width=INF, depth=blocks))[-1]
        assert found.state[key, key] == pytest.approx((blocks + 1) * 2.0 ** (blocks - 1))
    cosines = [
        depth.blocks(POSITIONS, Model(width=INF, depth=blocks, norm="rms"))[-1].S[first, key] for blocks in (16, 64)
    ]
    assert cosines[0] < cosines[1] < 0.372646
    assert cosines[1] == pytest.approx(0.372646, abs=0.05)


def test_without_a_norm_multiples_come_together_and_grow_under_a_strict_mask_alone():
    """At L = 64 both are √(L/8) to 7 % under a strict mask, and one to 3 % under an ordinary one."""
    found = {
        mask: [
            [
                theorem_2.run(Theorem2(width=INF, depth=L, mask=mask), [0])[0].measured[f"c_{n}"]
                for n in ("first", "second")
            ]
            for L in (16, 64)
        ]
        for mask in ("strict", "causal")
    }
    np.testing.assert_allclose(found["strict"][1], 8**0.5, rtol=0.07)
    np.testing.assert_allclose(found["causal"][1], 1.0, atol=0.03)
    for near, far in found.values():
        assert np.ptp(far) < np.ptp(near) / 4


def test_the_page_of_the_theory_has_these_numbers():
    rows = re.findall(
        r"^\| (readout|every \$W\$), (no norm|RMSNorm) \|[^|]*\|(.*)\|$", PAGE.split("*Step by step.*")[0], re.MULTILINE
    )
    assert len(rows) == 4
    for adapted, norm, cells in rows:
        for blocks, cell in zip((1, 2, 4, 8, 32), cells.split("|"), strict=True):
            all_or_one = "readout" if adapted == "readout" else "all"
            setting = Theorem2(width=INF, depth=blocks, adapted=all_or_one, norm=NORMS[norm])
            values = theorem_2.run(setting, [0])[0].measured
            assert cell.strip() == f"{values['c_first']:.3f}, {values['c_second']:.3f}"


def test_the_page_has_the_fixed_point_of_rms_norm():
    def kappa(rho):
        return (np.sqrt(1 - rho**2) + (np.pi - np.arccos(rho)) * rho) / np.pi

    beside = optimize.root_scalar(lambda rho: kappa(rho) / np.sqrt(2) - rho, bracket=(0, 1)).root
    share = (1 + beside) / 2
    rho = optimize.root_scalar(lambda rho: (kappa(rho) + share) / np.sqrt(2 * (1 + share)) - rho, bracket=(0, 1)).root
    deep = theorem_2.run(Theorem2(width=INF, depth=64, norm="rms"), [0])[0].measured["c_second"]
    for number in (f"= {beside:.3f}$", f"= {rho:.3f}, ", f"= {kappa(rho):.3f} .", f"$c_2$ is {deep:.2f} at 64 blocks"):
        assert number in PAGE


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Model(depth=2, attention="softmax", dim=64), "depth: got 2 with attention=softmax"),
        (lambda: Model(norm="rms", init_scale="variance"), "norm: got rms with attention=uniform, init_scale=variance"),
        (lambda: Model(adapted="all"), "adapted: got all with width=4096"),
        (lambda: Model(depth=2, lower_rate=0.5), "lower_rate: got 0.5 with adapted=readout"),
        (lambda: KernelLimit(depth=2), "depth: got 2; allowed: 1 in this experiment"),
        (lambda: Capacity(norm="rms"), "norm: got rms; allowed: none"),
        (lambda: Theorem3(width=INF, depth=2, adapted="all", composition="ties"), "composition: got ties"),
        (lambda: Depth(width=2**13, depth=8), "width: got 8192 with depth=8"),
        (lambda: gram(PROMPTS, Model(width=64, dim=64, depth=2), 0, explicit=True), "explicit: got true with depth=2"),
    ],
)
def test_what_is_not_defined_is_refused(make, said):
    with pytest.raises(SettingError, match=said):
        make()


def test_the_kernel_is_that_of_what_is_adapted():
    for adapted in ("readout", "all"):
        model = Model(width=INF, depth=2, adapted=adapted)
        found = kernel(PROMPTS, model)
        np.testing.assert_array_equal(found.k, gram(PROMPTS, model, 0))
        assert not found.stderr.any()


def test_a_linear_model_has_the_kernel_of_its_inputs():
    found = depth.blocks(POSITIONS, Model(width=INF, depth=2, activation="linear"))
    np.testing.assert_allclose(found[1].stream, 2 * found[0].state)


def test_networks_of_one_seed_are_the_same_whatever_is_adapted():
    one, other = (
        experiment.kernel_of(Depth(width=64, depth=2, adapted=adapted, lower_rate=rate), 0)
        for adapted, rate in (("readout", 1.0), ("all", 0.0))
    )
    np.testing.assert_array_equal(one, other)
