"""Every rule, by its name, in the checks that fit what it promises; and the numbers of single rules."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lora_reuse.paper_checks.setup import C_FIRST, C_SECOND
from lora_reuse.runs.settings import SettingError
from lora_reuse.theory.compositions import RULES, Context, compose
from lora_reuse.theory.compositions.arrow import Routed, prototypes
from lora_reuse.theory.compositions.cat import fitted_weights
from lora_reuse.theory.compositions.sparse import merge_ties
from lora_reuse.theory.edits import LowRank, min_norm_edit
from lora_reuse.theory.experiments import many_facts, scale, theorem_3
from lora_reuse.theory.gram import coordinates
from lora_reuse.theory.library import draw_scene, prepared, wins
from lora_reuse.theory.settings import COMPOSITIONS, INF, ManyFacts, Scale, Theorem3, settled
from lora_reuse.theory.settings.composed import RULES as DECLARED
from lora_reuse.theory.table import z_score

SCENE = draw_scene(1)
FEATURES = prepared(SCENE.prompts, Theorem3(width=2**12), [0], basis_free=False)[0]
FALSE_ALARM_Z = 5.3  # one z in 1e7


def context(features, data="two_hop", width=np.inf, seed=0):
    return SCENE.context(features, data, width, seed)


def change(name, library, features=FEATURES, width=np.inf, seed=0, **dials):
    return compose(name, library, context(features, width=width, seed=seed), **dials) @ features


def turned(expert, factor):
    """(A, B) → (A M, B M⁻¹) with M a number: the same ΔW."""
    return LowRank(factor * expert.out, expert.into / factor)


def test_the_settings_offer_every_rule():
    assert set(COMPOSITIONS) == set(RULES) == set(DECLARED)


@pytest.mark.parametrize("name", RULES)
def test_what_is_read_from_the_source_is_what_is_imported(name):
    plain = [
        {dial: (it.kind.allowed, it.default, it.doc) for dial, it in of[name].dials.items()} for of in (DECLARED, RULES)
    ]
    assert plain[0] == plain[1]
    assert DECLARED[name].promises.items() <= vars(RULES[name]).items()


@pytest.mark.parametrize("name", RULES)
def test_span(name):
    """The change on every prompt is a combination of the experts' answer differences, exactly where the rule says
    so."""
    dials: dict[str, Any] = {"density": 0.05} if "density" in RULES[name].dials else {}
    out = change(name, SCENE.experts(FEATURES), width=2**12, **dials)
    D = SCENE.differences
    residual = np.linalg.norm(out - D @ np.linalg.lstsq(D, out, rcond=None)[0])
    if RULES[name].span:
        assert residual < 1e-9
    else:
        assert residual > 1e-9 or name in ("ties", "knots")  # for one fact these trim both rows of a difference alike


@pytest.mark.parametrize("name", RULES)
def test_gauge(name):
    """(A, B) → (−3 A, −B/3) for one expert changes nothing in ΔW: rules that promise it give the same, the others do
    not."""
    first, second = SCENE.experts(FEATURES)
    before, after = change(name, [first, second]), change(name, [first, turned(second, -3)])
    assert np.allclose(before, after, atol=1e-9) == RULES[name].gauge_free


@pytest.mark.parametrize("name", [n for n, r in RULES.items() if r.alone])
def test_one_expert_alone_is_returned_unchanged(name):
    (first, _) = SCENE.experts(FEATURES)
    np.testing.assert_allclose(change(name, [first]), first @ FEATURES, atol=1e-9)


@pytest.mark.parametrize("name", RULES)
def test_an_expert_that_changes_nothing_is_none(name):
    """As where the edited answer is the old one (`coincide=y=r1x`); the oracle does not look at experts."""
    first, second = SCENE.experts(FEATURES)
    nothing = 0.0 * first
    one = change(name, [nothing, second])
    assert np.isfinite(one).all()
    assert name == "oracle" or np.abs(one).max() > 0.05
    assert name == "oracle" or not change(name, [nothing, 0.0 * second]).any()


def test_beside_an_expert_that_changes_nothing_slerp_is_the_other():
    first, second = SCENE.experts(FEATURES)
    np.testing.assert_allclose(change("slerp", [0.0 * first, second]), second @ FEATURES, atol=1e-12)


@pytest.mark.parametrize("name", [n for n, r in RULES.items() if r.basis_free and n != "lorahub"])
def test_rules_free_of_the_basis_need_the_gram_matrix_only(name):
    phi = coordinates(FEATURES.T @ FEATURES)
    np.testing.assert_allclose(change(name, SCENE.experts(FEATURES)), change(name, SCENE.experts(phi), phi), atol=1e-9)


@pytest.mark.parametrize("name", RULES)
def test_finite_width_goes_to_infinite_width(name):
    """The composed coefficients at width 2^14 against width = inf: within 5.3 predicted errors where there are some,
    else within 0.05."""
    setting = Theorem3(width=2**14, composition=name)
    rows = [result._asdict() for result in theorem_3.run(setting, range(8))]
    for key in ("c_first", "c_second", "c_first_other_entity", "c_second_other_entity", "margin_old_over_new"):
        z = z_score(rows, key)
        if RULES[name].smooth and z is not None:
            assert abs(z) < FALSE_ALARM_Z
        assert abs(np.mean([row["measured"][key] - row["predicted"][key] for row in rows])) < 0.05


@pytest.mark.parametrize("name", ["sum", "linear", "uniform", "arrow", "arrow_after", "random"])
def test_the_delta_methods_errors_are_those_of_the_draws(name):
    rows = [result._asdict() for result in theorem_3.run(Theorem3(width=2**12, composition=name), range(128))]
    for key in ("c_first", "c_second", "margin_old_over_new"):
        single = np.array([z_score([row], key) for row in rows], float)
        assert abs(single.std() - 1) < 5 / np.sqrt(256)


def test_linear_merging_depends_on_the_sign_of_the_factors():
    experts = SCENE.experts(FEATURES)
    D = SCENE.differences
    t = FEATURES[:, SCENE.two_hop]
    phi = coordinates_at_the_limit()
    for gauge, expected in (("plus", (0.985, 0.985)), ("minus", (-0.161, 0.161))):
        update = compose("linear", SCENE.experts(phi), context(phi), gauge=gauge)
        np.testing.assert_allclose(
            np.linalg.lstsq(D, update @ phi[:, SCENE.two_hop], rcond=None)[0][:, 0], expected, atol=1e-3
        )
    half = compose("linear", experts, context(FEATURES), weights=(0.5, 0.5)) @ t
    np.testing.assert_allclose(compose("uniform", experts, context(FEATURES)) @ t, half, atol=1e-12)


def coordinates_at_the_limit():
    return prepared(SCENE.prompts, Theorem3(width=INF), [0], basis_free=True)[0]


def test_cat_weights_are_of_least_error_and_differ_with_the_examples():
    experts = SCENE.experts(FEATURES)
    found = {}
    for data in ("two_hop", "held_out", "one_hop"):
        given = context(FEATURES, data=data)
        assert given.examples is not None
        alpha = fitted_weights(experts, given)

        def error(a, given=given.examples):
            out = a[0] * (experts[0] @ given.features) + a[1] * (experts[1] @ given.features)
            return np.sum((out - given.changes) ** 2)

        assert all(
            error(alpha + step) >= error(alpha) - 1e-12 for step in np.random.default_rng(0).standard_normal((20, 2))
        )
        found[data] = tuple(np.round(alpha, 6))
    assert len(set(found.values())) == 3
    np.testing.assert_allclose(found["held_out"], 0, atol=1e-9)  # the answer of another entity should stay


def test_cat_takes_weights_where_they_are_not_fitted_and_there_alone():
    given = Theorem3(width=INF, composition="cat", fit="given", weight_second=4.0)
    (at_one,), (at_four,) = (theorem_3.run(setting, [0]) for setting in (replace(given, weight_second=1.0), given))
    assert abs(at_four.measured["c_second"] / at_one.measured["c_second"] - 4) < 1e-9
    for fit in ("free", "softmax"):
        assert theorem_3.run(replace(given, fit=fit, weight_second=1.0), [0])
        with pytest.raises(SettingError, match=f"weights: got .1.0, 4.0. with fit={fit}; .*add fit=given"):
            theorem_3.run(replace(given, fit=fit), [0])


def test_cat_on_the_simplex_stays_there_and_is_best_there():
    experts, given = SCENE.experts(FEATURES), context(FEATURES)
    assert given.examples is not None
    alpha = fitted_weights(experts, given, "softmax")
    assert abs(alpha.sum() - 1) < 1e-12
    parts = np.stack([(e @ given.examples.features).ravel() for e in experts], axis=1)
    errors = [np.sum((parts @ [a, 1 - a] - given.examples.changes.ravel()) ** 2) for a in np.linspace(0, 1, 2001)]
    assert np.sum((parts @ alpha - given.examples.changes.ravel()) ** 2) < min(errors) + 1e-3


def routed(experts, width=np.inf, **dials):
    update = compose("arrow", experts, context(FEATURES, width=width), **dials)
    assert isinstance(update, Routed)
    return update


def test_arrow_prototypes_are_the_keys_and_raw_scores_saturate():
    experts = SCENE.experts(FEATURES)
    v = prototypes(experts)
    for row, prompts in zip(v, (SCENE.first, SCENE.second), strict=True):
        key = FEATURES[:, prompts][:, 0]
        assert abs(abs(row @ key) - np.linalg.norm(key)) < 1e-9
    t = FEATURES[:, SCENE.two_hop]
    shares = [routed(experts, width, scores="raw").weights(t)[1, 0] for width in (1e2, 1e3, 1e4, np.inf)]
    assert shares == sorted(shares)
    assert 0.75 < shares[0] < 0.9
    assert shares[-1] == 1  # the anchor's 0.83, 0.994, 1 − 1e-7 within the noise of 2^12 features
    top = routed(experts, top_k=1).weights(t)
    np.testing.assert_allclose(top[:, 0], [0, 1])


@pytest.mark.parametrize(("mask", "length"), [("strict", 1.0), ("causal", 0.75**0.5)])
def test_arrow_scores_are_the_papers_times_the_length_of_a_key(mask, length):
    """That is 1 under the mask of eq. 4, and not under that of eq. 21."""
    (phi,) = prepared(SCENE.prompts, Theorem3(width=INF, mask=mask), [0], basis_free=True)
    G, keys = phi.T @ phi, [SCENE.first.start, SCENE.second.start]
    np.testing.assert_allclose(np.diagonal(G)[keys], length**2, atol=1e-12)
    papers = np.abs(G[keys] / np.diagonal(G)[keys][:, None])
    np.testing.assert_allclose(np.abs(prototypes(SCENE.experts(phi)) @ phi), length * papers, atol=1e-9)


def test_arrow_weights_do_not_depend_on_the_sign_of_a_prototype():
    first, second = SCENE.experts(FEATURES)
    a = compose("arrow_after", [first, second], context(FEATURES)) @ FEATURES
    b = compose("arrow_after", [turned(first, -1), second], context(FEATURES)) @ FEATURES
    np.testing.assert_allclose(a, b, atol=1e-10)


def test_ties_by_hand():
    a, b = np.array([[3.0, -1.0, 0.1, 2.0]]), np.array([[1.0, 2.0, -0.2, -3.0]])
    np.testing.assert_allclose(merge_ties([a, b], 1.0), [[2.0, 2.0, -0.2, -3.0]])
    np.testing.assert_allclose(merge_ties([a, b], 0.5), [[3.0, 2.0, 0.0, -3.0]])


def test_ties_without_common_outputs_is_the_sum_of_the_trimmed():
    experts = SCENE.experts(FEATURES)
    np.testing.assert_allclose(change("ties", experts, density=1.0), change("sum", experts), atol=1e-12)
    np.testing.assert_allclose(change("knots", experts, density=1.0), change("sum", experts), atol=1e-9)


def test_dare_is_unbiased_and_noisy():
    experts = SCENE.experts(FEATURES)
    drawn = np.stack(
        [change("dare", experts, density=0.5, seed=s, width=2**12)[:, SCENE.two_hop.start] for s in range(60)]
    )
    goal = change("sum", experts)[:, SCENE.two_hop.start]
    assert np.abs(drawn.mean(axis=0) - goal).max() < 5 * drawn.std(axis=0).max() / np.sqrt(60)
    assert drawn.std(axis=0).max() > 1e-3


def test_at_both_limits_the_oracle_answers_and_nothing_else_does():
    (row,) = [r.measured for r in theorem_3.run(Theorem3(width=INF, composition="oracle"), [0])]
    assert row["wins_z"] == 1
    assert abs(row["exact_output_error"]) < 1e-9
    for name in sorted(set(RULES) - {"oracle"}):
        (row,) = [r.measured for r in theorem_3.run(Theorem3(width=INF, composition=name), [0])]
        assert row["exact_output_error"] > 0.5
        assert row["wins_z"] == 0


@pytest.mark.parametrize("name", ["tsv", "iso_c", "wudi", "slerp"])
def test_rules_on_singular_vectors_do_not_tell_facts_apart_either(name):
    (result,) = many_facts.run(ManyFacts(width=INF, facts=8, composition=name), [0])
    assert result.measured["coefficient_second_spread"] < 1e-9
    assert result.measured["accuracy"] <= 1 / 8


@pytest.mark.parametrize("facts", [1, 2, 3, 8])
def test_the_second_expert_adds_the_same_multiple_of_every_difference(facts):
    (result,) = many_facts.run(ManyFacts(width=INF, facts=facts), [0])
    assert result.measured["coefficient_second_spread"] < 1e-12
    expected = many_facts.closed_form(0.573035717, 1.0, 0.608997781, facts)
    assert abs(result.measured["coefficient_second"] - expected) < 1e-6
    without_inverse = 0.573035717  # the inverse Gram matrix dropped
    assert facts == 1 or abs(result.measured["coefficient_second"] - without_inverse) > 0.1


@pytest.mark.parametrize("mask", ["strict", "causal"])
def test_the_spread_at_finite_dim_is_the_predicted_one(mask):
    """Root mean square over 100 worlds against the first-order closed form: relative error of a root mean square, and
    O(d^(-1/2)) beyond."""
    results = many_facts.run(ManyFacts(width=INF, dim=2**12, facts=4, mask=mask), range(100))
    spread = np.sqrt(np.mean([r.measured["coefficient_second_spread"] ** 2 for r in results]))
    expected = results[0].predicted["coefficient_second_spread"]
    assert abs(spread / expected - 1) < 0.15
    assert abs(spread / (2 * expected) - 1) > 0.4  # d^(-1/2) with d four times too small


def test_many_facts_at_finite_width():
    rows = [r._asdict() for r in many_facts.run(ManyFacts(width=2**13, facts=4), range(32))]
    z = z_score(rows, "coefficient_second")
    assert z is not None
    assert abs(z) < FALSE_ALARM_Z
    single = np.array([z_score([row], "coefficient_second") for row in rows], float)
    assert abs(single.std() - 1) < 5 / np.sqrt(64)


@pytest.mark.parametrize("facts", [2, 4])
def test_no_weights_beat_one_in_n(facts):
    (result,) = many_facts.run(ManyFacts(width=INF, facts=facts, composition="best"), [0])
    assert result.measured["accuracy"] == result.predicted["ceiling"] == 1 / facts
    assert (
        many_facts.run(ManyFacts(width=INF, facts=1, composition="best"), [0])[0].measured["accuracy"] == 1
    )  # one fact is no test


def test_the_search_finds_weights_that_work_where_there_are_some():
    scene = draw_scene(3)
    helpful = 0.2 * (scene.one_hot(scene.edits.z) - scene.one_hot(scene.edits.r2r1x))
    assert many_facts.best_accuracy(scene, [np.zeros_like(helpful), helpful]) == 1


def test_linear_merging_of_factors_aligned_fact_by_fact_composes():
    """The exception to Theorem 3: (A₂ column j)(B₁ column j)ᵀ pairs x_j with z_j if both experts' factors are ordered
    by fact."""
    accuracy = {}
    for gauge in ("plus", "minus", "random"):
        setting = ManyFacts(width=INF, facts=8, composition="linear", gauge=gauge, weight_first=1.0, weight_second=4.0)
        accuracy[gauge] = np.mean([r.measured["accuracy"] for r in many_facts.run(setting, range(24))])
    assert accuracy["plus"] == 1
    assert accuracy["minus"] == 0
    assert abs(accuracy["random"] - 1 / 8) < 5 * np.sqrt(1 / 8 * 7 / 8 / (24 * 8)) * 1.5


@pytest.mark.parametrize(("w", "accuracy"), [(0.49, 0.0), (0.5, 0.5), (0.51, 1.0)])
@pytest.mark.parametrize("experts", [1, 2])
@pytest.mark.parametrize("width", [2**10, INF])
def test_one_hop_facts_flip_at_one_half(w, accuracy, experts, width):
    for result in scale.run(Scale(width=width, scale=w, facts=3, experts=experts), range(3)):
        assert result.measured["one_hop_accuracy"] == accuracy


@pytest.mark.parametrize(("w", "accuracy"), [(1.74, 0.0), (1.75, 1.0)])
def test_a_composed_fact_flips_at_the_inverse_of_its_coefficient(w, accuracy):
    (result,) = scale.run(Scale(width=INF, scale=w, facts=1), [0])
    assert result.measured["two_hop_accuracy"] == accuracy


def test_ties_are_shared():
    np.testing.assert_allclose(wins(np.array([[1.0, 0.0], [1.0, 2.0], [0.5, 2.0]]), np.array([0, 1])), [0.5, 0.5])


@pytest.mark.parametrize(
    ("name", "library", "message"),
    [
        ("summ", "both", "composition: got 'summ'"),
        ("sum", "none", "library: got no expert"),
        ("linear", "ranks", "library: got ranks"),
        ("cat", "bare", "examples: got none"),
        ("lorahub", "bare", "examples: got none"),
        ("random", "bare", "unrelated_keys: got 0"),
        ("oracle", "bare", "composed: got none"),
        ("linear", "weights", "weights: got 3"),
        (
            "cat",
            "weights",
            "weights: got (1.0, 1.0, 1.0) with fit=free; allowed: none: cat then fits its own; add fit=given",
        ),
        ("sum", "weights", "weights: got (1.0, 1.0, 1.0); allowed: no dial with sum; sum does not read it"),
    ],
)
def test_mistakes_are_one_line(name, library, message):
    experts = SCENE.experts(FEATURES)
    dials = {"weights": (1.0, 1.0, 1.0)} if library == "weights" else {}
    experts = {"none": [], "ranks": [experts[0], experts[0] + experts[1]]}.get(library, experts)
    with pytest.raises(SettingError) as error:
        compose(name, experts, Context(), **dials)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_rule_that_looks_at_single_weights_is_refused_where_it_cannot_run():
    with pytest.raises(SettingError, match="width: got 32768 with composition=ties; allowed: up to 16384"):
        theorem_3.run(Theorem3(width=2**15, composition="ties"), [0])


def test_a_dial_that_no_rule_reads_is_refused():
    points = [Theorem3(composition=name, density=0.3) for name in ("ties", "sum")]
    assert settled(points, {"density": (0.3,)}) == points  # every row says the density
    for name, value, rules in (
        ("density", 0.3, "ties,dare,knots,core_space".split(",")),
        ("weight_first", 2.0, ["cat", "svd", "linear"]),
    ):
        with pytest.raises(SettingError, match=rf"^{name}: got {value}; allowed: .* composition={','.join(rules)}$"):
            settled([Theorem3(composition="sum", **{name: value})], {name: (value,)})


@pytest.mark.parametrize("facts", [1, 4])
def test_wudi_is_the_joint_edit(facts):
    """Eq. 23 on the facts of both experts at once: each one-hop prompt gets its whole change, which the sum misses."""
    scene = draw_scene(facts)
    (phi,) = prepared(scene.prompts, ManyFacts(width=INF, facts=facts), [0], basis_free=True)
    experts, keys = scene.experts(phi), np.hstack([phi[:, scene.first], phi[:, scene.second]])
    joint = min_norm_edit(keys, scene.differences) @ phi
    np.testing.assert_allclose(compose("wudi", experts) @ phi, joint, atol=1e-9)
    assert np.abs(compose("sum", experts) @ phi - joint).max() > 0.1


def test_rules_on_singular_vectors_are_powers_of_the_gram_matrix_of_the_keys():
    """Sum, TSV and the joint edit are G^0, G^(-1/2) and G^(-1) on (c₁, c₂); Iso-C has the mean singular value."""
    c, rho = np.array([C_FIRST, C_SECOND]), 1 / np.pi
    halves = [(1 + rho) ** -0.5 / 2, (1 - rho) ** -0.5 / 2]
    root = np.array([[halves[0] + halves[1], halves[0] - halves[1]], [halves[0] - halves[1], halves[0] + halves[1]]])
    expected = {
        "sum": c,
        "tsv": root @ c,
        "wudi": root @ root @ c,
        "iso_c": (np.sqrt(1 + rho) + np.sqrt(1 - rho)) / 2 * root @ c,
        "slerp": c / np.sqrt(2),
        "svd": np.full(2, c.mean()),
    }
    for name, coefficients in expected.items():
        (row,) = [r.measured for r in theorem_3.run(Theorem3(width=INF, composition=name), [0])]
        np.testing.assert_allclose([row["c_first"], row["c_second"]], coefficients, atol=1e-6)
        assert row["span_residual"] < 1e-9
        assert row["margin_old_over_new"] > 0.4
