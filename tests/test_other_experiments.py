"""Specificity, storage and the large library against their closed forms, and planted mistakes that the same comparisons
must reject."""

import dataclasses

import numpy as np
import pytest

from lora_reuse.runs.settings import SettingError
from lora_reuse.theory import kernels
from lora_reuse.theory.experiments import REMAINDER, large_library, specificity, storage
from lora_reuse.theory.kernels import kernel
from lora_reuse.theory.settings import INF, LargeLibrary, Specificity, Storage
from lora_reuse.theory.table import z_score

FALSE_ALARM_Z = 5.3  # one z in 1e7 is beyond it
RULES = ("sum", "average", "uniform", "arrow", "arrow_after")


def rows(experiment, setting, seeds):
    return [result._asdict() for result in experiment.run(setting, seeds)]


def mean(measured, name, which="measured"):
    return float(np.mean([row[which][name] for row in measured]))


def largest_z(measured):
    return max(abs(z) for name in measured[0]["measured"] if (z := z_score(measured, name)) is not None)


def paired_z(measured, name):
    """z of measured − predicted with the error seen over seeds, where none is predicted."""
    difference = np.array([row["measured"][name] - row["predicted"][name] for row in measured])
    return float(difference.mean() / difference.std(ddof=1) * np.sqrt(len(difference)))


# --- specificity


def test_specificity_at_both_limits_has_its_closed_forms():
    (row,) = rows(specificity, Specificity(width=INF), [0])
    half = 0.60900  # ((π − π/3)/2 + √3/2)/π, the kernel at cos θ = 1/2
    expected = {
        **dict.fromkeys(("efficacy_first", "efficacy_second"), 1.0),
        **dict.fromkeys(("leakage_same_relation_first", "leakage_same_relation_second"), half),
        **dict.fromkeys(("leakage_unrelated_first", "leakage_unrelated_second"), 1 / np.pi),
        "two_hop_first": 0.412232,
        "two_hop_second": 0.573048,
        "order_distance": 1 - (np.sqrt(35) + np.pi - np.arccos(1 / 6)) / (6 * np.pi),
        "order_distance_pooled": 0.0,
    }
    for name, value in expected.items():
        assert abs(row["measured"][name] - value) < 2e-5, name
    assert row["measured"] == row["predicted"]
    assert set(row["stderr"].values()) == {0.0}


def test_specificity_of_the_other_rules_and_of_linear_features():
    (total,), (half,), (factors,) = (
        rows(specificity, Specificity(width=INF, composition=c), [0]) for c in ("sum", "average", "uniform")
    )
    for name in specificity.COEFFICIENTS:
        assert abs(half["measured"][name] - total["measured"][name] / 2) < 1e-12
    assert abs(factors["measured"]["efficacy_first"] - (1 + 1 / np.pi) / 4) < 1e-9
    (linear,) = rows(specificity, Specificity(width=INF, activation="linear"), [0])
    assert abs(linear["measured"]["order_distance"] - 5 / 6) < 1e-12
    assert abs(linear["measured"]["leakage_unrelated_first"]) < 1e-12


SPECIFICITY = [
    *(Specificity(width=2**12, composition=rule) for rule in RULES),
    Specificity(width=2**12, activation="linear"),
    Specificity(width=2**12, mask="causal"),
    Specificity(width=2**12, init_scale="variance"),
    Specificity(width=2**12, dim=64),
]


@pytest.mark.parametrize(
    "setting", SPECIFICITY, ids=lambda s: f"{s.composition}-{s.activation}-{s.mask}-{s.init_scale}-{s.dim}"
)
def test_specificity_agrees_with_its_predictions(setting):
    measured = rows(specificity, setting, range(32 if setting.dim == INF else 6))
    assert (
        set(measured[0]["measured"])
        == set(measured[0]["predicted"])
        == {name.removesuffix(REMAINDER) for name in measured[0]["stderr"]}
    )
    assert largest_z(measured) < FALSE_ALARM_Z
    assert all(row["measured"]["order_distance_pooled"] == 0 for row in measured)
    assert all(row["measured"]["order_distance"] > 0.05 for row in measured)


@pytest.mark.parametrize("changes", [{}, {"attention": "softmax"}, {"attention": "softmax", "init_scale": "variance"}])
def test_specificity_at_infinite_width_predicts_the_limit_of_dim(changes):
    (row,) = rows(specificity, Specificity(width=INF, dim=256, **changes), [0])
    has_limit = changes.get("init_scale") != "variance"
    assert ("efficacy_first" in row["predicted"]) == has_limit
    if has_limit:
        assert 0 < abs(row["measured"]["two_hop_first"] - row["predicted"]["two_hop_first"]) < 0.2


def swap_experts(monkeypatch):
    monkeypatch.setattr(
        specificity,
        "COEFFICIENTS",
        specificity.COEFFICIENTS | {"leakage_same_relation_first": (1, specificity.SAME_FIRST)},
    )


def forget_the_average(monkeypatch):
    honest = specificity.compose
    monkeypatch.setattr(specificity, "compose", lambda name, *rest: honest("average", *rest))


def drop_pi_minus_theta(monkeypatch):
    def wrong(S, activation="relu"):
        across, theta = kernels.angle(S)
        return (across + theta * S) / (2 * np.pi) + np.eye(len(S)) * np.diagonal(S) / 2

    monkeypatch.setattr("lora_reuse.theory.error_bars.kernel", wrong)


@pytest.mark.parametrize("mutant", [swap_experts, forget_the_average, drop_pi_minus_theta])
def test_mistakes_in_specificity_are_rejected(monkeypatch, mutant):
    honest = specificity.run(Specificity(width=2**12), range(32))
    mutant(monkeypatch)
    wrong = specificity.run(Specificity(width=2**12), range(1))
    against = [result._replace(predicted=wrong[0].predicted, stderr=wrong[0].stderr)._asdict() for result in honest]
    assert largest_z([result._asdict() for result in honest]) < FALSE_ALARM_Z < largest_z(against)


@pytest.mark.parametrize("dim", [INF, 64])
def test_pooling_that_weighs_positions_would_see_the_order(monkeypatch, dim):
    def positions(prompts, tokens):
        return np.stack([np.bincount(p, weights=1 / np.arange(1, len(p) + 1), minlength=tokens) for p in prompts])

    setting = Specificity(dim=dim)
    assert specificity.order_distance(specificity.pooled_grams(setting, [0])[0]) == 0
    monkeypatch.setattr(specificity, "bags", positions)
    assert specificity.order_distance(specificity.pooled_grams(setting, [0])[0]) > 0.001


# --- storage


def test_relu_stores_what_linear_features_cannot():
    for width in (256, INF):
        measured = {a: rows(storage, Storage(width=width, activation=a), range(8)) for a in ("relu", "linear")}
        assert all(
            row["measured"]["stored_exactly"] == 1 == row["predicted"]["stored_exactly"] for row in measured["relu"]
        )
        assert mean(measured["linear"], "stored_argmax") < 0.9
        assert mean(measured["linear"], "unstored") > 0.5
        for row in measured["linear"]:
            for name in set(row["predicted"]):
                assert abs(row["measured"][name] - row["predicted"][name]) < 1e-9, name


@pytest.mark.parametrize("width", [64, 2**12, INF])
@pytest.mark.parametrize("relations", [2, 3])
def test_disjoint_ranges_are_stored_by_linear_features_up_to_argmax(width, relations):
    measured = rows(storage, Storage(width=width, activation="linear", share="disjoint", relations=relations), range(4))
    assert all(row["measured"]["stored_argmax"] == 1 == row["predicted"]["stored_argmax"] for row in measured)
    assert all(row["measured"]["linear_can_store"] == 1 for row in measured)
    assert all(row["measured"]["stored_exactly"] < 0.1 for row in measured)


def test_with_many_relations_least_squares_is_right_exactly_while_no_answer_is_too_popular():
    setting = Storage(width=256, activation="linear", share="disjoint", relations=5)
    seen = set()
    for seed, row in enumerate(rows(storage, setting, range(16))):
        counts = [np.unique(answers, return_counts=True)[1] for answers in storage.draw_answers(setting, seed)]
        even = max(count.max() - count.min() for count in counts) < setting.entities / (setting.relations - 1)
        assert (row["measured"]["stored_argmax"] == 1) == even
        assert abs(row["measured"]["stored_argmax"] - row["predicted"]["stored_argmax"]) < 1e-9
        assert row["measured"]["linear_can_store"] == 1
        seen.add(bool(even))
    assert seen == {True, False}


def test_least_squares_fails_on_disjoint_ranges_where_one_answer_is_too_popular():
    answers = np.stack([np.zeros(24, int), 8 + np.arange(24) % 8, 16 + np.arange(24) % 8])
    answers[0, 0] = 1  # 23 entities share one answer: more than 24/(3 − 1) above the other
    right = storage.wins(storage.additive_outputs(answers), answers.ravel())
    assert right[0] == 0
    assert right[1:].all()
    assert storage.linear_can_store(answers)


def test_additive_storage_of_two_relations_is_possible_without_a_cycle_and_only_then():
    london, paris = 0, 1
    born, lives = np.array([london, paris, 2]), np.array([paris, paris, london])
    assert storage.linear_can_store(np.stack([born, lives])) == storage.acyclic(born, lives)
    exchange = np.stack([np.array([london, paris, 2]), np.array([paris, london, 2])])
    assert not storage.linear_can_store(exchange)
    assert not storage.acyclic(*exchange)
    seen = set()
    for seed in range(40):
        answers = storage.draw_answers(Storage(entities=6, relations=2), seed)
        seen.add(storage.linear_can_store(answers))
        assert storage.linear_can_store(answers) == storage.acyclic(*answers)
    assert seen == {True, False}


def test_the_interaction_of_features_is_the_kernel_s():
    for activation, value in (("relu", 0.10031), ("linear", 0.0)):
        (limit,) = rows(storage, Storage(width=INF, activation=activation), [0])
        assert abs(limit["measured"]["interaction"] - value) < 1e-5
        measured = rows(storage, Storage(width=2**12, activation=activation), range(8))
        assert abs(mean(measured, "interaction") - value) < 0.01


def test_below_the_rank_the_unstored_share_is_predicted():
    for activation, width in (("relu", 40), ("linear", 16)):
        measured = rows(storage, Storage(width=width, activation=activation), range(12))
        assert abs(mean(measured, "unstored") - mean(measured, "unstored", "predicted")) < 0.03


def test_forgetting_the_popularity_of_answers_is_rejected(monkeypatch):
    def wrong(answers):
        relations, entities = answers.shape
        Y = storage.one_hot(answers.ravel(), entities).reshape(entities, relations, entities)
        return np.repeat(Y.mean(axis=1, keepdims=True), relations, axis=1).reshape(entities, -1)

    monkeypatch.setattr(storage, "additive_outputs", wrong)
    measured = rows(storage, Storage(width=256, activation="linear"), range(4))
    assert max(abs(row["measured"]["stored_argmax"] - row["predicted"]["stored_argmax"]) for row in measured) > 0.02


def test_a_readout_that_reads_rounding_is_rejected(monkeypatch):
    monkeypatch.setattr(storage, "factor", lambda k: storage_coordinates(k).T)
    (row,) = rows(storage, Storage(width=INF, activation="linear"), [0])
    assert abs(row["measured"]["unstored"] - row["predicted"]["unstored"]) > 0.1


def storage_coordinates(k):
    values, vectors = np.linalg.eigh(k)
    return np.sqrt(np.maximum(values, 1e-16 * values[-1]))[:, None] * vectors.T


# --- the large library


@pytest.mark.parametrize("graph", ["disjoint", "shared"])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_runs_on_both_graphs_and_agrees_with_the_kernel(graph, rule):
    measured = rows(large_library, LargeLibrary(width=2**12, graph=graph, composition=rule, facts=4), range(24))
    smooth = [n for n in measured[0]["predicted"] if n.startswith(("coefficient", "mass"))]
    assert bool(smooth) == (not rule.startswith("arrow"))
    for name in smooth:
        assert abs(paired_z(measured, name)) < FALSE_ALARM_Z, name
    (limit,) = rows(large_library, LargeLibrary(width=INF, graph=graph, composition=rule), [0])
    assert {name: limit["measured"][name] for name in limit["predicted"]} == limit["predicted"]


def test_in_disjoint_graphs_the_right_answer_is_tied_with_the_others_of_its_relation():
    for rule in ("sum", "average"):
        (row,) = rows(large_library, LargeLibrary(width=INF, composition=rule), [0])
        assert abs(row["measured"]["coefficient_right"] - row["measured"]["coefficient_rel2"]) < 1e-12
        assert abs(row["measured"]["accuracy_within_rel2"] - 1 / 8) < 1e-12
        assert row["measured"]["accuracy"] == 0
    (total,) = rows(large_library, LargeLibrary(width=INF), [0])
    assert abs(total["measured"]["coefficient_right"] - 0.10888) < 1e-5


@pytest.mark.parametrize("rule", ["sum", "uniform", "arrow"])
def test_in_shared_graphs_the_accuracy_is_at_chance_or_below(rule):
    measured = rows(large_library, LargeLibrary(width=INF, graph="shared", composition=rule), range(64))
    for name, chance in (("accuracy_within_u3", "chance"), ("accuracy_within_rel2", "chance_within_rel2")):
        above = np.array([row["measured"][name] - row["measured"][chance] for row in measured])
        assert above.mean() < FALSE_ALARM_Z * above.std(ddof=1) / 8
    assert mean(measured, "accuracy") < 0.3


def above_chance(setting):
    measured = rows(large_library, setting, range(12))
    return mean(measured, "accuracy_within_rel2") - mean(measured, "chance_within_rel2")


@pytest.mark.parametrize("graph", ["disjoint", "shared"])
def test_facts_in_the_same_order_everywhere_would_seem_to_compose(monkeypatch, graph):
    """The cross terms of eq. 27 pair column j of one expert with column j of another: a chain, if both list their facts
    along it."""
    setting = LargeLibrary(width=INF, graph=graph, composition="uniform")
    assert abs(above_chance(setting)) < 0.15
    honest = large_library.draw_library

    def along_the_chain(setting, seed):
        library = honest(setting, seed)
        orders = [np.arange(setting.facts) for _ in library.orders]
        if graph == "shared":  # Rel2 lists the keys that Rel1 answers; only a bijection can be listed so
            library = dataclasses.replace(
                library,
                experts=[
                    dataclasses.replace(t, answers=t.answers[0] - t.answers[0] % 8 + np.arange(8))
                    for t in library.experts
                ],
            )
            library = dataclasses.replace(
                library, asked=dataclasses.replace(library.asked, answers=library.experts[1].answers)
            )
        return dataclasses.replace(library, orders=orders)

    monkeypatch.setattr(large_library, "draw_library", along_the_chain)
    assert above_chance(setting) > 0.5


def test_a_library_that_knows_the_answer_is_rejected(monkeypatch):
    honest = large_library.draw_library

    def leaks(setting, seed):
        library = honest(setting, seed)
        swapped = dataclasses.replace(
            library.experts[7], u=library.asked.u, answers=library.asked.answers
        )  # Rel3→Rel2 on the asked entities
        return dataclasses.replace(library, experts=[*library.experts[:7], swapped, *library.experts[8:]])

    monkeypatch.setattr(large_library, "draw_library", leaks)
    assert above_chance(LargeLibrary(width=INF)) > 0.5


def test_a_wrong_kernel_is_rejected_by_the_library(monkeypatch):
    monkeypatch.setattr(
        large_library, "kernel", lambda S, activation: kernel(S * (1 - 0.1 * (1 - np.eye(len(S)))), activation)
    )
    measured = rows(large_library, LargeLibrary(width=2**12, facts=4), range(24))
    assert (
        max(abs(paired_z(measured, name)) for name in ("coefficient_right", "coefficient_wrong", "mass_on_u2"))
        > FALSE_ALARM_Z
    )


# --- settings


def test_settings_that_cannot_work_are_refused_in_one_line():
    for make in (
        lambda: Specificity(dim=7),
        lambda: Specificity(width=4),
        lambda: Storage(share="disjoint", entities=4, relations=8),
        lambda: LargeLibrary(width=8),
        lambda: LargeLibrary(dim=8),
        lambda: LargeLibrary(graph="shared", facts=1),
    ):
        with pytest.raises(SettingError) as refused:
            make()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("graph", ["disjoint", "shared"])
def test_the_settings_count_the_prompts_and_their_rank(graph):
    setting = LargeLibrary(graph=graph)
    library = large_library.draw_library(setting, 0)
    S = large_library.grams.geometry(library.prompts, setting, [0])[0]
    prompts, rank = setting.prompts_and_rank()
    assert len(library.prompts) == len(set(library.prompts)) == prompts
    assert np.linalg.matrix_rank(S) <= rank
