"""Each experiment against its predictions, and planted mistakes that the same comparison must reject."""

import importlib

import numpy as np
import pytest

from lora_reuse.theory import error_bars, kernels
from lora_reuse.theory import model as transformer
from lora_reuse.theory.experiments import attention, capacity, kernel_limit, proposition_1, theorem_3
from lora_reuse.theory.limit import limit_geometry
from lora_reuse.theory.settings import INF, Attention, Capacity, KernelLimit, Proposition1, Theorem3
from lora_reuse.theory.table import log_log_slope, table, z_score

COEFFICIENTS = list(kernel_limit.COEFFICIENTS)
FALSE_ALARM_Z = 5.3  # one z in 1e7 is beyond it: under 1e-6 for the handful that a test looks at


def rows(experiment, setting, seeds):
    module = (
        importlib.import_module(f"lora_reuse.theory.experiments.{experiment}")
        if isinstance(experiment, str)
        else experiment
    )
    return [result._asdict() for result in module.run(setting, seeds)]


def zs(experiment, setting, seeds, names):
    measured = rows(experiment, setting, seeds)
    return {name: z_score(measured, name) for name in names}


SETTINGS = [
    KernelLimit(width=2**12),
    KernelLimit(width=2**12, dim=64),
    KernelLimit(width=2**12, init_scale="variance"),
    KernelLimit(width=2**12, dim=64, attention="softmax"),
    KernelLimit(width=2**12, mask="causal"),
    KernelLimit(width=2**12, activation="linear"),
    KernelLimit(width=2**12, activation="gelu", dim=64),
    KernelLimit(width=2**12, activation="erf", input_variance=4.0),
    KernelLimit(width=2**14, activation="quadratic"),
    KernelLimit(width=INF, dim=4096),
    KernelLimit(width=INF, dim=4096, mask="causal"),
]


@pytest.mark.parametrize(
    "setting", SETTINGS, ids=lambda s: f"{s.width}-{s.dim}-{s.init_scale}-{s.attention}-{s.mask}-{s.activation}"
)
def test_kernel_limit_agrees_with_its_predictions(setting):
    measured = rows(kernel_limit, setting, range(64))
    names = COEFFICIENTS if setting.width == INF else [*COEFFICIENTS, "kernel_relative_rms"]
    for name in names:
        z = z_score(measured, name)
        assert z is not None
        assert abs(z) < FALSE_ALARM_Z, name
        single = np.array([z_score([row], name) for row in measured], float)
        assert abs(single.std() - 1) < 5 / np.sqrt(128) * (1.5 if name == "kernel_relative_rms" else 1), name


def swap_edits(monkeypatch):
    honest = kernel_limit._limit_of_width

    def wrong(setting, S):
        order = [1, 0, 2, 3]
        return honest(setting, S[np.ix_(order, order)].copy())

    monkeypatch.setattr(kernel_limit, "_limit_of_width", wrong)


def drop_pi_minus_theta(monkeypatch):
    def wrong(S, activation="relu"):
        across, theta = kernels.angle(S)
        return (across + theta * S) / (2 * np.pi) + np.eye(len(S)) * np.diagonal(S) / 2

    monkeypatch.setattr(kernels, "kernel", wrong)
    monkeypatch.setattr(error_bars, "kernel", wrong)


def attend_fully(monkeypatch):
    honest = transformer.coefficients

    def wrong(prompts, tokens, **options):
        attended, residual = honest(prompts, tokens, **options)
        return np.sign(attended), residual

    monkeypatch.setattr(kernel_limit, "geometry", lambda p, m, s: np.stack([limit_geometry(*wrong(p, 5))] * len(s)))


def understate_errors(monkeypatch):
    honest = error_bars.expansion

    def wrong(*arguments):
        found = honest(*arguments)
        return found._replace(stderr={name: error / 10 for name, error in found.stderr.items()})

    monkeypatch.setattr(kernel_limit, "expansion", wrong)


@pytest.mark.parametrize("mutant", [swap_edits, drop_pi_minus_theta, attend_fully, understate_errors])
def test_planted_mistakes_are_rejected(monkeypatch, mutant):
    mutant(monkeypatch)
    kernel_limit._unit_width_distance.cache_clear()
    try:
        measured = rows(kernel_limit, KernelLimit(width=2**12), range(64))
    finally:
        kernel_limit._unit_width_distance.cache_clear()
    beyond = [name for name in COEFFICIENTS if abs(z_score(measured, name) or 0) > FALSE_ALARM_Z]
    wide = [
        name
        for name in COEFFICIENTS
        if np.std([z_score([row], name) or 0.0 for row in measured]) > 1 + 5 / np.sqrt(128)
    ]
    assert beyond or wide


def test_the_error_falls_as_the_root_of_the_width():
    groups = []
    for width in (2**8, 2**11, 2**14):
        measured = rows(kernel_limit, KernelLimit(width=width), range(64))
        groups.append([row | {"settings": {"width": width}} for row in measured])
    slope, half = log_log_slope(groups, "kernel_relative_rms")
    assert half < 0.05
    assert abs(slope + 0.5) < FALSE_ALARM_Z / 1.96 * half
    shallow = [
        [
            row
            | {
                "measured": {
                    "kernel_relative_rms": row["measured"]["kernel_relative_rms"] * group[0]["settings"]["width"] ** 0.1
                }
            }
            for row in group
        ]
        for group in groups
    ]
    assert abs(log_log_slope(shallow, "kernel_relative_rms")[0] + 0.5) > 0.09


def test_at_both_limits_the_measurement_is_the_prediction():
    (row,) = rows(kernel_limit, KernelLimit(width=INF), [0])
    assert row["measured"] == row["predicted"]
    assert set(row["stderr"].values()) == {0.0}


def test_where_no_error_is_known_none_is_claimed():
    (row,) = rows(kernel_limit, KernelLimit(width=INF, dim=64, attention="softmax"), [0])
    assert set(row["stderr"]) == {"kernel_relative_rms"}


@pytest.mark.parametrize("setting", [KernelLimit, Theorem3])
def test_where_attention_saturates_and_prompts_become_one_there_is_the_kernel_without_errors(setting):
    measured = rows(
        {KernelLimit: kernel_limit, Theorem3: theorem_3}[setting],
        setting(width=2**10, dim=2**10, attention="softmax", init_scale="variance"),
        range(8),
    )
    assert {"c_first" in row["stderr"] for row in measured} == {True, False}
    for row in measured:
        values = [*row["measured"].values(), *row["predicted"].values(), *row["stderr"].values()]
        assert np.isfinite(values).all()
        assert abs(row["measured"]["c_first"] - row["predicted"]["c_first"]) < 6 * 2**-5
        if setting is KernelLimit:
            z = z_score([row], "kernel_relative_rms")
            assert z is not None
            assert abs(z) < FALSE_ALARM_Z


def test_proposition_1_agrees_with_its_predictions():
    setting = Proposition1(width=2**12)
    measured = rows(proposition_1, setting, range(24))
    for name in ("leakage_same_relation", "leakage_same_entity", "leakage_unrelated", "norm_neighbour_key"):
        z = z_score(measured, name)
        assert z is not None
        assert abs(z) < FALSE_ALARM_Z
    for row in measured:
        assert abs(row["measured"]["efficacy"] - 1) < 1e-9
        assert row["measured"]["trained_relative_error"] < 1e-3
        assert abs(row["measured"]["lora_alignment"] / row["predicted"]["lora_alignment"] - 1) < 0.02
        assert row["measured"]["norm_rome"] > row["measured"]["norm_neighbour_key"] > 1
    rome = np.mean([row["measured"]["norm_rome"] / row["predicted"]["norm_rome"] for row in measured])
    assert abs(rome - 1) < 0.05
    limits = rows(proposition_1, Proposition1(width=INF, train=False), [0])[0]["predicted"]
    np.testing.assert_allclose(
        [limits["leakage_same_relation"], limits["leakage_unrelated"]], [0.60900, 1 / np.pi], atol=1e-5
    )


def test_proposition_1_agrees_at_a_finite_dim_too():
    """At any dim the hidden states of the four prompts are linearly dependent."""
    measured = rows(proposition_1, Proposition1(width=2**12, dim=64, train=False), range(24))
    for name in ("leakage_same_relation", "leakage_same_entity", "leakage_unrelated", "norm_neighbour_key"):
        z = z_score(measured, name)
        assert z is not None
        assert abs(z) < FALSE_ALARM_Z, name


def test_proposition_1_at_infinite_width_is_its_own_limit():
    (row,) = rows(proposition_1, Proposition1(width=INF, train=False), [0])
    for name, value in row["predicted"].items():
        assert abs(row["measured"][name] - value) < 1e-9


def test_capacity_has_its_threshold_at_the_number_of_prompts():
    below, above = (rows(capacity, Capacity(width=width), range(6)) for width in (90, 120))
    assert np.mean([row["measured"]["stored_exactly"] for row in below]) < 0.05
    assert all(row["measured"]["stored_exactly"] == 1 == row["predicted"]["stored_exactly"] for row in above)
    assert all(row["measured"]["unstored"] > 0.01 for row in below)
    (kernel,) = rows(capacity, Capacity(width=INF), [0])
    assert kernel["measured"]["stored_exactly"] == 1


def test_attention_is_uniform_under_std_and_one_token_under_variance():
    for scale, weight in (("std", 0.5), ("variance", 1.0)):
        setting = Attention(dim=4096, init_scale=scale)
        for name, z in zs(attention, setting, range(200), ["logit_mean_square", "largest_weight"]).items():
            assert z is not None
            assert abs(z) < FALSE_ALARM_Z, name
        (row, *_) = rows(attention, setting, [0])
        assert abs(row["predicted"]["largest_weight"] - weight) < 0.01


@pytest.mark.parametrize("scale", ["std", "variance"])
def test_what_a_small_dim_takes_from_the_larger_weight_is_its_remainder(scale):
    """A chain of three Gaussian matrices on a vector multiplies a Gaussian by the root of three χ²_d/d."""
    (row,) = rows(attention, Attention(dim=16, init_scale=scale), [0])
    draw = np.random.default_rng(0)
    lengths = np.sqrt(np.prod(draw.chisquare(16, (3, 10**6)) / 16, axis=0))
    gap = np.sqrt(2 * row["predicted"]["logit_mean_square"]) * lengths * np.abs(draw.standard_normal(10**6))
    taken = row["predicted"]["largest_weight"] - np.mean(1 / (1 + np.exp(-gap)))
    assert abs(row["stderr"]["largest_weight remainder"] / taken - 1) < 0.15
    small = [
        row | {"settings": {"dim": dim}} for dim in (2, 4) for row in rows(attention, Attention(dim=dim), range(400))
    ]
    assert "DISAGREES" not in table(small)


def test_a_kernel_of_low_rank_stores_no_more_than_its_rank():
    """At width = inf as at any width: what is beyond the rank is rounding, and must not be read as a direction."""
    (exact,) = rows(capacity, Capacity(width=INF, activation="linear"), [0])
    (wide,) = rows(capacity, Capacity(width=4096, activation="linear"), [0])
    assert abs(exact["measured"]["unstored"] - wide["measured"]["unstored"]) < 1e-9
    assert abs(exact["measured"]["unstored"] - exact["predicted"]["unstored"]) < 1e-9
