"""Step-by-step prompts: the transcript's attention, the flip against its closed form, every setup, and planted
mistakes."""

import numpy as np
import pytest

from lora_reuse.runs.settings import SettingError
from lora_reuse.theory import model as transformer
from lora_reuse.theory import restated
from lora_reuse.theory.experiments import bridge
from lora_reuse.theory.settings import INF, Bridge
from lora_reuse.theory.sweep import main
from lora_reuse.theory.table import z_score

FALSE_ALARM_Z = 5.3  # one z in 1e7 is beyond it


def result(**settings):
    (one,) = bridge.run(Bridge(**({"width": INF, "facts": 1} | settings)), [0])
    return one


def measured(**settings):
    return result(**settings).measured


def pipeline_flip(hop, **settings):
    """Where the measured c crosses 1/2, by bisection on the locality."""
    low, high = 0.0, 1.0
    while high - low > 1e-8:
        middle = (low + high) / 2
        low, high = (low, middle) if measured(locality=middle, **settings)[f"c_hop_{hop}"] > 0.5 else (middle, high)
    return low


def test_a_prompt_of_one_segment_is_the_models_own():
    prompts = [(0, 3), (0, 3, 4), (1, 3, 0, 4)]
    for mask in ("strict", "causal"):
        ours = bridge.coefficients([(prompt,) for prompt in prompts], 5, 0.3, mask)
        for a, b in zip(ours, transformer.coefficients(prompts, 5, mask=mask), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-15)


def test_attention_over_segments():
    attended, residual = bridge.coefficients([((4, 4), (0, 2, 3), (0, 2))], 5, 0.6)
    np.testing.assert_allclose(attended, [[0.6 + 0.4 / 5, 0, 0.4 / 5, 0.4 / 5, 0.8 / 5]])
    np.testing.assert_array_equal(residual, [[0, 0, 1, 0, 0]])
    causal, _ = bridge.coefficients([((4, 4), (0, 2, 3), (0, 2))], 5, 0.6, "causal")
    np.testing.assert_allclose(causal, [[0.3 + 0.4 / 5, 0, 0.3 + 0.4 / 5, 0.4 / 5, 0.8 / 5]])


def test_the_transcript_of_a_fact():
    plan = bridge.planned(Bridge(facts=1, filler=2))
    (one,), (two,), (kept,) = (plan.asked[name] for name in ("step_1", "step_2", "kept"))
    (first,), (second,), (direct,) = (plan.asked[name] for name in ("F1", "F2", "F12"))
    filler = one.prompt[0]
    assert len(set(filler)) == 2
    assert min(filler) == plan.entities + 4
    assert one == (((filler, *direct.prompt, *first.prompt)), first.old, first.new)
    assert two.prompt == (filler, *direct.prompt, (*first.prompt[0], first.new), *second.prompt)
    assert kept.prompt[-2:] == ((*first.prompt[0], first.old), (first.old, second.prompt[0][1]))
    assert (two.old, two.new, kept.old, kept.new) == (second.old, second.new, direct.old, direct.new)


@pytest.mark.parametrize("facts", [1, 8])
@pytest.mark.parametrize("filler", [0, 16])
def test_full_locality_is_the_stored_key(facts, filler):
    row = measured(facts=facts, filler=filler, locality=1.0)
    assert [row[name] for name in ("hop_1", "hop_2", "two_hop_step_by_step", "two_hop_direct")] == [1, 1, 1, 0]
    np.testing.assert_allclose([row["c_hop_1"], row["c_hop_2"]], 1)


def test_uniform_attention_fails_with_many_facts_and_not_with_one():
    many, one = measured(facts=8, locality=0.0), measured(facts=1, locality=0.0)
    assert many["hop_1"] == many["hop_2"] == many["two_hop_step_by_step"] == 0
    assert one["hop_1"] == one["hop_2"] == one["two_hop_step_by_step"] == 1


def test_one_fact_never_falls_below_its_shared_relation():
    limit = (np.sin(np.pi / 4) + 3 * np.pi / 4 * np.cos(np.pi / 4)) / np.sqrt(2) / np.pi
    values = [
        restated.own_coefficient(x, f, hop) for x in np.linspace(0, 1, 21) for f in (0, 8, 64, 10**6) for hop in (1, 2)
    ]
    assert limit < min(values) < limit + 1e-5


@pytest.mark.parametrize("composition", ["sum", "average"])
@pytest.mark.parametrize("facts", [1, 8])
def test_direct_prompts_fail_throughout_and_the_average_never_passes_its_edge(composition, facts):
    for locality in (0.0, 0.3, 0.6, 0.9, 0.999, 1.0):
        row = measured(composition=composition, facts=facts, locality=locality)
        assert row["two_hop_direct"] == 0
        if composition == "average":
            edge = 0.5 if locality == 1 else 0
            assert row["hop_1"] == row["hop_2"] == edge
            assert row["two_hop_step_by_step"] == edge / 2
            assert max(row["c_hop_1"], row["c_hop_2"]) < 0.5 + 1e-9


FLIPS = [
    {"facts": 1, "init_scale": "variance", "filler": 0},
    {"facts": 1, "init_scale": "variance", "filler": 16},
    {"facts": 8, "filler": 0},
    {"facts": 8, "filler": 16},
]


@pytest.mark.parametrize("hop", [1, 2])
@pytest.mark.parametrize("settings", FLIPS, ids=str)
def test_the_flip_is_at_the_threshold(settings, hop):
    expected = restated.threshold(settings["filler"], hop, settings["facts"], settings.get("init_scale", "std"))
    assert 0.1 < expected < 0.5
    assert abs(pipeline_flip(hop, **settings) - expected) < 1e-6
    assert measured(locality=expected - 1e-5, **settings)[f"hop_{hop}"] == 0
    assert measured(locality=expected + 1e-5, **settings)[f"hop_{hop}"] == 1


@pytest.mark.parametrize("facts", [1, 2, 8])
def test_the_closed_form_is_the_measured_coefficient(facts):
    for scale in ("std", "variance"):
        for locality in (0.0, 0.37, 0.81):
            row = measured(facts=facts, filler=5, locality=locality, init_scale=scale)
            closed = [restated.own_coefficient(locality, 5, hop, facts, scale) for hop in (1, 2)]
            np.testing.assert_allclose([row["c_hop_1"], row["c_hop_2"]], closed, rtol=1e-9)


def swap_shares(monkeypatch):
    honest = restated.overlaps
    monkeypatch.setattr(restated, "overlaps", lambda locality, *rest: honest(1 - locality, *rest))


def forget_the_repeated_tokens(monkeypatch):
    honest = restated.overlaps

    def wrong(locality, filler, hop, init_scale="std"):
        S = honest(locality, filler, hop, init_scale)
        S[2, 2] -= ((1 - locality) / (filler + 6)) ** 2 * 4 * (hop == 2)
        return S

    monkeypatch.setattr(restated, "overlaps", wrong)


def count_the_current_segment_as_earlier(monkeypatch):
    honest = restated.overlaps
    monkeypatch.setattr(restated, "overlaps", lambda locality, filler, *rest: honest(locality, filler + 2, *rest))


@pytest.mark.parametrize("mutant", [swap_shares, forget_the_repeated_tokens, count_the_current_segment_as_earlier])
def test_planted_mistakes_move_the_threshold(monkeypatch, mutant):
    settings = {"facts": 1, "init_scale": "variance", "filler": 4}
    mutant(monkeypatch)
    assert abs(pipeline_flip(2, **settings) - restated.threshold(4, 2, 1, "variance")) > 1e-4


def test_thresholds_at_the_edges():
    assert restated.threshold(0, 1) == restated.threshold(64, 2) == 0
    assert restated.threshold(0, 1, 8, weight=0.5) == restated.threshold(7, 2, weight=0.5) == 1
    assert restated.threshold(0, 2, weight=0.49) == INF
    rising = [
        restated.threshold(filler, hop, facts)
        for facts in (8, 32, INF)
        for filler, hop in ((0, 1), (0, 2), (64, 1), (64, 2))
    ]
    assert all(np.diff(np.reshape(rising, (3, 4)), axis=0).ravel() > 0)
    assert all(np.diff(np.reshape(rising, (3, 4)), axis=1).ravel() > 0)
    for filler in (0, 64):
        for hop in (1, 2):
            for facts in (1, 8, INF):
                for scale in ("std", "variance"):
                    c = [restated.own_coefficient(x, filler, hop, facts, scale) for x in np.linspace(0, 1, 101)]
                    assert min(np.diff(c)) > 0


@pytest.mark.parametrize("arguments", [(0, 3), (-1, 1), (0, 1, 0)])
def test_the_closed_form_refuses_what_it_does_not_know(arguments):
    with pytest.raises(SettingError):
        restated.threshold(*arguments)


@pytest.mark.parametrize("settings", [{}, {"dim": 256}, {"composition": "average"}, {"composition": "arrow"}], ids=str)
def test_finite_width_agrees_with_the_kernel(settings):
    results = [
        r._asdict()
        for r in bridge.run(
            Bridge(width=2**14, facts=1, locality=0.4, **settings), range(12 if "dim" not in settings else 2)
        )
    ]
    for name in ("c_hop_1", "c_hop_2"):
        z = z_score(results, name)
        assert z is not None
        assert abs(z) < FALSE_ALARM_Z
    for row in results:
        row["predicted"]["c_hop_1"] += 0.05
    assert abs(z_score(results, "c_hop_1") or 0) > FALSE_ALARM_Z


def test_no_error_is_claimed_where_none_is_known():
    for settings in ({"locality": 1.0}, {"facts": 2}, {"setup": 6}, {"composition": "arrow", "scores": "raw"}):
        row = result(width=2**10, **settings)
        assert row.stderr == {}
        assert set(row.predicted) == set(row.measured)
    exact = result(facts=2)
    assert exact.measured == exact.predicted
    assert set(exact.stderr.values()) == {0.0}


def test_the_geometry_that_is_drawn_tends_to_the_limit():
    far, near = (bridge.run(Bridge(width=INF, dim=dim, facts=2, locality=0.3), range(4)) for dim in (2**8, 2**16))
    errors = [
        np.sqrt(np.mean([(r.measured["c_hop_2"] - r.predicted["c_hop_2"]) ** 2 for r in part])) for part in (far, near)
    ]
    assert errors[1] < 0.02 < 0.5
    assert errors[0] / errors[1] > 4


@pytest.mark.parametrize("locality", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("setup", [2, 3, 4, 5, 6, 7, 8])
def test_every_setup_stores_what_it_says(setup, locality):
    setting = Bridge(width=INF, facts=2, setup=setup, locality=locality)
    plan = bridge.planned(setting)
    G = bridge.kernel(bridge.geometry(plan, 0))
    phi = bridge.grams.coordinates(G)
    for expert, stored in zip(plan.experts(phi), plan.stored, strict=True):
        np.testing.assert_allclose(expert @ phi[:, plan.columns(stored)], plan.differences(stored), atol=1e-7)
    asked = {
        entity
        for part in plan.asked.values()
        for q in part
        for entity in (q.old, q.new, *(t for s in q.prompt for t in s if t < plan.entities))
    }
    bridged = [q for part in plan.stored for q in part[2:]]
    assert not asked & {entity for q in bridged for entity in (q.old, q.new)}
    row = bridge.quantities(plan, G)
    assert all(0 <= row[name] <= 1 for name in ("hop_1", "hop_2", "two_hop_step_by_step", "two_hop_direct"))
    assert row["two_hop_direct"] == 0
    distinct = [len(plan.distinct(stored)) for stored in plan.stored]
    assert (distinct[0] == distinct[1]) == (setup not in (4, 5))
    assert (distinct != [len(stored) for stored in plan.stored]) == (locality == 1 and setup not in (3, 6))


@pytest.mark.parametrize("facts", [1, 8])
@pytest.mark.parametrize("locality", [0.0, 0.4, 0.8])
def test_stored_bridge_data_alone_never_helps_a_sum(facts, locality):
    without = measured(facts=facts, locality=locality)
    for setup in range(2, 9):
        row = measured(facts=facts, locality=locality, setup=setup)
        assert all(value <= without[name] + 1e-9 for name, value in row.items())
        assert row["c_hop_1"] + row["c_hop_2"] < without["c_hop_1"] + without["c_hop_2"] - 1e-3


@pytest.mark.parametrize("composition", ["uniform", "arrow", "arrow_after"])
def test_every_rule_runs(composition):
    for setup in (0, 2, 7, 8):
        assert measured(composition=composition, facts=2, setup=setup)["two_hop_direct"] <= 0.5
    measured(composition="arrow_after", facts=2, setup=4)


@pytest.mark.parametrize(
    "settings",
    [
        {"setup": 1},
        {"setup": 4, "composition": "arrow"},
        {"setup": 5, "composition": "uniform"},
        {"attention": "softmax", "dim": 64},
        {"width": 4},
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(SettingError):
        Bridge(**settings)


@pytest.mark.parametrize("settings", [{"activation": "linear", "facts": 4, "setup": 2}], ids=str)
def test_prompts_that_cannot_all_be_stored_are_refused(settings):
    with pytest.raises(SettingError, match=r"^setup: got [^\n]* linearly independent; raise width= or dim=$"):
        measured(**settings)


def test_the_command_prints_a_table(tmp_path, capsys):
    assert main(["experiment=bridge", "width=inf", "facts=1", "composition=sum", "seeds=1", f"out={tmp_path}"]) == 0
    assert "two_hop_step_by_step" in capsys.readouterr().out
    assert main(["experiment=bridge", "setup=1", "dry_run=true", f"out={tmp_path}"]) == 2
