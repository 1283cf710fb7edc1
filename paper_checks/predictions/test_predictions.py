"""Rows made as the theory says support each prediction, each planted mistake refutes it, and rows that are too few
cannot tell."""

import numpy as np
import pytest

from lora_reuse.paper_checks.predictions import limit, load_predictions, outcomes
from lora_reuse.paper_checks.predictions.as_predicted import SEEDS, as_the_theory_says, row
from lora_reuse.paper_checks.predictions.rows import answered
from lora_reuse.paper_checks.predictions.verdicts import PREDICTIONS, together
from lora_reuse.theory.experiments import many_facts, theorem_3
from lora_reuse.theory.settings import INF, ManyFacts, Theorem3

load_predictions()


def judged_of(id, rows):
    """The tests of a prediction, which sees the rows of its claim alone, and their verdicts; primary contrasts are one
    family."""
    tests = {other: p.compare(p.claim.rows(rows)) for other, p in PREDICTIONS.items() if other == id or p.primary}
    assert all(tests.values())
    return tests[id], outcomes.judged_together(tests)[id]


def verdict(id, rows):
    return together(judged_of(id, rows)[1])


@pytest.fixture(scope="module")
def rows():
    return as_the_theory_says()


@pytest.mark.parametrize("id", PREDICTIONS)
def test_rows_as_predicted_support_it(rows, id):
    tests, found = judged_of(id, rows)
    assert [test for test, each in zip(tests, found, strict=True) if each in ("refuted", "undecided")] == []
    assert verdict(id, rows) == "supported"


@pytest.mark.parametrize(("id", "mutant"), [(id, mutant) for id, p in PREDICTIONS.items() for mutant in p.mutants])
def test_a_planted_mistake_refutes_it(rows, id, mutant):
    changed = [PREDICTIONS[id].mutants[mutant](one) for one in rows]
    assert verdict(id, changed) == "refuted"


@pytest.mark.parametrize("id", PREDICTIONS)
def test_no_rows_and_one_seed_decide_nothing_and_no_prediction_is_without_a_planted_mistake(rows, id):
    assert verdict(id, []) == "undecided"
    assert verdict(id, [one for one in rows if one["settings"]["seed"] == 0]) == "undecided"
    prediction = PREDICTIONS[id]
    assert prediction.mutants
    assert prediction.claim.command.startswith("python -m llm.")


def test_half_of_a_comparison_decides_nothing(rows):
    without = {
        "P2": lambda r: r["settings"]["composition"] != "base",
        "P3": lambda r: r["settings"].get("scale") != 1.0,
        "P4": lambda r: r["settings"].get("state") != "sum",
        "P5": lambda r: r["settings"]["composition"] != "arrow:swapped",
        "P6": lambda r: r["settings"].get("covariance") != "rome",
        "P7": lambda r: r["settings"].get("layers") != "upper/lower",
        "P8": lambda r: r["settings"].get("names") != "real",
        "P9": lambda r: r["settings"].get("choice") != "random",
        "P10": lambda r: r["provenance"].get("pocket", {}).get("exposure") != 0.5,
        "P11": lambda r: r["provenance"].get("pocket", {}).get("exposure") != 0.25,
        "P12": lambda r: r["settings"].get("relations") != "apart",
        "C0": lambda r: r["settings"]["triplets"] != 5,
        "C1": lambda r: r["settings"].get("setup") != "0",
        "C3": lambda r: r["settings"].get("setup") != "5",
    }
    for id, kept in without.items():
        assert verdict(id, [one for one in rows if kept(one)]) == "undecided", id
    dev = [{**one, "settings": one["settings"] | {"split": "dev"}} for one in rows]
    of_test_alone = [id for id, each in PREDICTIONS.items() if not each.claim.tests and id not in ("P10", "P11")]
    assert {verdict(id, dev) for id in of_test_alone} == {"undecided"}


def test_one_wrong_composition_among_many_refutes(rows):
    """No pooling hides it; and what is no composition of two experts is not judged."""
    composes = PREDICTIONS["P1"].mutants["composes"]
    for name, expected in (("arrow", "refuted"), ("random", "supported"), ("base", "supported")):
        changed = [
            composes(one) if one["settings"]["composition"] == name and one["experiment"] == "llm_two_hop" else one
            for one in rows
        ]
        assert verdict("P1", changed) == expected


def test_a_composition_that_loses_a_hop_is_void_whatever_it_answers(rows):
    """Uniform keeps nothing in these rows, so that its zeros say nothing; a lost hop takes the arrow's verdict away,
    too."""
    said = dict(zip((test.what for test in judged_of("P1", rows)[0]), judged_of("P1", rows)[1], strict=True))
    assert said == {
        "sum (two_hop) dataset=R": "supported",
        "arrow (two_hop) dataset=R": "supported",
        "uniform (two_hop) dataset=R": "void",
    }
    loses = lambda one: one["settings"]["composition"] == "arrow" and one["settings"].get("prompting") == "second"  # noqa: E731
    lost = [answered(one, lambda i: i < 9) if loses(one) else one for one in rows]
    assert [test.void for test in judged_of("P1", lost)[0]] == [
        "",
        "the first hop is kept in 0 %",
        "the second hop is kept in 45 %",
    ]
    unasked = [one for one in rows if not loses(one)]
    assert [test.void for test in judged_of("P1", unasked)[0]][2] == "the second hop was not asked"
    assert verdict("P1", lost) == "supported"  # by the sum alone
    right = [
        PREDICTIONS["P1"].mutants["composes"](one) if one["settings"].get("composition") == "arrow" else one
        for one in lost
    ]
    assert verdict("P1", right) == "refuted"  # right answers need no control
    for id in ("C0", "C1", "C4"):
        nothing_kept = [
            {**one, "measured": one["measured"] | {"first_kept": 0}}
            if one["experiment"] == "llm_latent"
            else answered(one, lambda i: False)
            for one in rows
            if one["settings"].get("prompting") in ("direct", "first", "second", "steps")
        ]
        assert verdict(id, nothing_kept) == "void"


def test_other_dials_are_not_more_trials(rows):
    """A second rank asks the same triplets again: it is a test of its own in P1, and is left aside elsewhere."""
    again = [{**one, "settings": one["settings"] | {"rank": 4}} for one in rows if one["settings"]["seed"] == 0]
    for id in PREDICTIONS:
        if id != "P1":
            assert [test.measured for test in judged_of(id, rows)[0]] == [
                test.measured for test in judged_of(id, rows + again)[0]
            ]
    tests, found = judged_of("P1", rows + again)
    assert [test.rows for test in tests] == [SEEDS] * 3 + [1] * 3
    assert found[3:] == ["shown"] * 3
    assert "rank=4" in tests[3].what


def test_both_held_out_splits_are_one_trial_a_triplet(rows):
    """Rows of the dev templates are averaged in; they are not triplets more."""
    test_only = [one for one in rows if one["settings"]["split"] == "test"]
    both, one = (judged_of("C0", group)[0][0] for group in (rows, test_only))
    assert both.p_true == pytest.approx(one.p_true)
    assert both.rows == 2 * one.rows


def test_right_answers_less_those_of_dealt_places_by_hand():
    """Two seeds of four triplets and two prompts. Of all 8 answers 2 are right and 1 would be by chance; of the 4 with
    both hops kept, of the first two triplets, 2 and 1."""
    measured = {"hits": 2, "total": 8, "by_triplet": [2, 0, 0, 0], "permuted": 1.0, "first_kept": 8, "second_kept": 8}
    measured |= {
        "both_kept": 4,
        "permuted_both_kept": 1.0,
        "both_kept_by_triplet": [2, 2, 0, 0],
        "hits_both_kept_by_triplet": [2, 0, 0, 0],
    }
    about = {"library": "2-combination", "second": "right", "composition": "sum", "prompting": "direct", "triplets": 20}
    rows = [row("llm_latent", seed, measured, **about) for seed in (0, 1)]
    assert [test.measured.split(" ")[0] for test in judged_of("C0", rows)[0] if test.measured][:2] == ["+12.5", "25.0"]
    assert [test.measured.split(" ")[0] for test in judged_of("C4", rows)[0]] == ["+25.0", "50.0"]


@pytest.mark.parametrize("n", [1, 2, 8])
def test_the_limit_is_that_of_the_experiments(n):
    measured = many_facts.run(ManyFacts(width=INF, facts=n, composition="sum"), [0])[0].measured
    assert limit.outputs(n)["z"] == pytest.approx(measured["coefficient_second"], abs=1e-12)
    if n == 1:
        single = theorem_3.run(Theorem3(width=INF, composition="sum"), [0])[0].measured
        assert limit.outputs(1)["y"] == pytest.approx(single["c_first"], abs=1e-12)
        assert limit.ratio(2, "two_hop", 1) == pytest.approx(single["c_second"], abs=1e-12)
        assert limit.ratio(1, "unrelated", 1) == pytest.approx(1 / np.pi)
    for hop in (1, 2):
        assert limit.ratio(hop, "own", n) == pytest.approx(1.0)
