"""Rows made as the theory says hold, each planted mistake fails, and rows that are too few cannot tell."""

import json

import numpy as np
import pytest
from scipy import stats

from paper_checks.predictions import __main__, limit, load_predictions, verdicts
from paper_checks.predictions.verdicts import PREDICTIONS, AtMost, Between, NotBelow
from runs.rows import Rows, load_rows
from theory.experiments import many_facts, theorem_3
from theory.settings import INF, ManyFacts, Theorem3

load_predictions()
N, EACH, SEEDS = 20, 2, 5
OUTPUTS = limit.outputs(N)


def row(experiment, seed, measured, stderr=None, **settings):
    settings = {"model": "toy", "split": "test", "seed": seed, "triplets": N, "dataset": "R", **settings}
    provenance = {"base_digest": "0123456789abcdef"}
    return {
        "experiment": experiment,
        "settings": settings,
        "measured": measured,
        "predicted": {},
        "stderr": stderr or {},
        "provenance": provenance,
    }


def counts(right):
    """Every prompt of the first `right` triplets is answered."""
    by_triplet = [EACH * (i < right) for i in range(N)]
    return {"hits": sum(by_triplet), "total": N * EACH, "by_triplet": by_triplet}


def noisy(value, seed, name, sd):
    rng = np.random.default_rng([seed, *name.encode()])
    return (value + sd * rng.standard_normal(N)).tolist()


def two_hop(seed, composition, prompting, right, **extra):
    library = "none" if composition == "base" else "2-combination"
    return row("llm_two_hop", seed, counts(right) | extra, composition=composition, prompting=prompting, library=library)


def log_probs(seed, composition):
    logits = OUTPUTS if composition == "sum" else dict.fromkeys(OUTPUTS, 0.0) | {"old": 1.0}
    told = {f"logp_{name}_by_triplet": noisy(-10 + 4 * value, seed, name + composition, 0.05) for name, value in logits.items()}
    return told | {"rank_z": (N - 1) / 2}


def gated(seed, rule):
    ends = {"": (18, [[36, 2], [0, 2]]), ":swapped": (0, [[0, 0], [1, 39]]), ":random": (3, [[9, 1], [2, 28]])}
    return [
        row(
            "llm_bridge", seed, counts(right) | {"hop_1_by_gate": table, "hop_2_by_gate": table}, setup="2", prompting="steps", composition=rule + end
        )
        for end, (right, table) in ends.items()
    ]


def overlaps(seed, hop, state):
    told = {}
    for kind in limit.KINDS[1:]:
        told[f"log_ratio_{kind}_by_triplet"] = noisy(np.log(limit.ratio(hop, kind, N)), seed, f"{kind}{hop}{state}", 0.05)
    r2 = {"r2_linear": 0.9, "r2_arccos": 0.4, "r2_eq23": 0.99}
    return row("llm_overlap", seed, told | r2, {"r2_linear": 0.03}, expert=hop, state=state, composition="sum")


def edits(seed, depth, covariance):
    fixed = {"depth": depth, "covariance": covariance}
    found = []
    for library, composition in (("1", "sum"), ("2", "sum"), ("2-combination", "sum"), ("2-combination", "joint")):
        settings = fixed | {"library": library, "composition": composition}
        found.append(row("llm_edit", seed, counts(19), prompting="own", **settings))
        kept = {f"kept_{kind}_by_triplet": counts(18)["by_triplet"] for kind in ("same_relation", "same_entity", "unrelated")}
        asked = {f"asked_{kind}": N * EACH for kind in ("same_relation", "same_entity", "unrelated")}
        found.append(row("llm_edit", seed, counts(18) | kept | asked, prompting="neighbours", **settings))
        if library == "2-combination":
            found.append(row("llm_edit", seed, counts(1), prompting="direct", **settings))
            found.append(row("llm_edit", seed, counts(0), prompting="steps", **settings))
    return found


def as_the_theory_says(seeds=SEEDS):
    rows = []
    for seed in range(seeds):
        for composition in ("sum", "base"):
            rows.append(two_hop(seed, composition, "direct", 1 if composition == "sum" else 0, **log_probs(seed, composition)))
        rows += [two_hop(seed, composition, "direct", 0) for composition in ("uniform", "arrow", "random")]
        for prompting in ("first", "second"):
            rows += [two_hop(seed, name, prompting, right) for name, right in (("sum", N), ("average", N // 2), ("uniform", 0))]
        for library, prompting in (("1", "first"), ("2", "second")):
            for w in (0.0, 0.25, 0.375, 0.5, 0.625, 1.0):
                right = N * (w > 0.5)
                rows.append(row("llm_scale", seed, counts(right), library=library, prompting=prompting, scale=w, composition="cat"))
        for rule in ("arrow", "arrow_after"):
            rows += gated(seed, rule)
        rows += [overlaps(seed, hop, state) for hop in (1, 2) for state in ("base", "sum")]
        for depth in (0.0, 1.0):
            for covariance in ("identity", "rome"):
                rows += edits(seed, depth, covariance)
    return rows


def verdict(id, rows):
    tests = PREDICTIONS[id].compare(rows)
    assert tests
    assert all(isinstance(test.what, str) and test.predicted for test in tests)
    return PREDICTIONS[id].verdict(tests)


@pytest.fixture(scope="module")
def rows():
    return as_the_theory_says()


@pytest.mark.parametrize("id", PREDICTIONS)
def test_rows_as_the_theory_says_hold(rows, id):
    off = [test for test in PREDICTIONS[id].compare(rows) if test.verdict(1e-5) == "fails"]
    assert not off
    assert verdict(id, rows) == "holds"


@pytest.mark.parametrize(("id", "mutant"), [(id, mutant) for id, p in PREDICTIONS.items() for mutant in p.mutants])
def test_a_planted_mistake_fails(rows, id, mutant):
    changed = [PREDICTIONS[id].mutants[mutant](one) for one in rows]
    assert verdict(id, changed) == "fails"


@pytest.mark.parametrize("id", PREDICTIONS)
def test_no_rows_and_no_prediction_without_a_planted_mistake(id):
    assert verdict(id, []) == "not enough rows"
    assert PREDICTIONS[id].mutants
    assert PREDICTIONS[id].command.startswith("python -m llm.")
    assert PREDICTIONS[id].compare.__doc__


def test_half_of_a_comparison_is_not_enough(rows):
    without = {
        "P2": lambda r: r["settings"]["composition"] != "base",
        "P3": lambda r: r["settings"].get("scale") != 1.0,
        "P4": lambda r: r["settings"].get("state") != "sum",
        "P5": lambda r: r["settings"]["composition"] != "arrow:swapped",
        "P6": lambda r: r["settings"].get("covariance") != "rome",
    }
    for id, kept in without.items():
        assert verdict(id, [one for one in rows if kept(one)]) == "not enough rows", id
    dev = [{**one, "settings": one["settings"] | {"split": "dev"}} for one in rows]
    assert {verdict(id, dev) for id in PREDICTIONS} == {"not enough rows"}


def test_one_wrong_composition_among_many_fails(rows):
    """No pooling hides it; and what is no composition of two experts is not judged."""
    composes = PREDICTIONS["P1"].mutants["composes"]
    for name, expected in (("arrow", "fails"), ("random", "holds"), ("base", "holds")):
        changed = [composes(one) if one["settings"]["composition"] == name and one["experiment"] == "llm_two_hop" else one for one in rows]
        assert verdict("P1", changed) == expected


def test_other_dials_are_not_more_trials(rows):
    """A second rank asks the same triplets again: it is a test of its own in P1, and is left aside elsewhere."""
    again = [{**one, "settings": one["settings"] | {"rank": 4}} for one in rows if one["settings"]["seed"] == 0]
    for id in ("P2", "P3", "P4", "P5", "P6"):
        before, after = PREDICTIONS[id].compare(rows), PREDICTIONS[id].compare(rows + again)
        assert [test.measured for test in before] == [test.measured for test in after]
    tests = PREDICTIONS["P1"].compare(rows + again)
    assert [test.rows for test in tests] == [SEEDS] * 3 + [1] * 3
    assert "rank=4" in tests[3].what


# The tests that they are made of


def test_at_most_is_exact():
    """A share at the bound fails at most once in 1/α; the smallest number of hits that fails is that of the binomial tail."""
    alpha = 1e-3
    for trials, bound in ((20, 0.05), (100, 0.05), (40, 0.5)):
        fails = [h for h in range(trials + 1) if AtMost("", "", np.arange(trials) < h, bound, 1).verdict(alpha) == "fails"]
        assert stats.binom.sf(fails[0] - 1, trials, bound) <= alpha < stats.binom.sf(fails[0] - 2, trials, bound)
        assert fails == list(range(fails[0], trials + 1))
    assert AtMost("", "", np.zeros(20), 0.05, 1).verdict(alpha) == "holds"
    assert AtMost("", "", np.zeros(3), 0.5, 1).verdict(alpha) == "not enough rows"
    assert AtMost("", "", np.zeros(40), 0.5, 1).verdict(alpha) == "not enough rows"  # half of them would pass, too


def test_between_fails_a_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((4000, 8))
    found = [verdicts.mean("", "", trials, 1, low=0.0).verdict(0.05) for trials in drawn]
    assert found.count("fails") / len(found) == pytest.approx(0.025, abs=4 * (0.025 / 4000) ** 0.5)
    assert found.count("holds") / len(found) == pytest.approx(0.025, abs=4 * (0.025 / 4000) ** 0.5)


def test_between_and_not_below_have_three_outcomes():
    place = lambda value: Between("", "", value, 0.1, 50, 1, low=0.0, high=2.0).verdict(0.05)  # noqa: E731
    assert [place(value) for value in (-1.0, 0.1, 1.0, 1.9, 3.0)] == ["fails", "not enough rows", "holds", "not enough rows", "fails"]
    rank = lambda value, stderr: NotBelow("", "", value, stderr, 1, bound=9.5, worst=4.75).verdict(1e-3)  # noqa: E731
    assert [rank(9.0, 0.6), rank(4.0, 0.6), rank(9.0, 3.0), rank(12.0, 0.6)] == ["holds", "fails", "not enough rows", "holds"]


def test_few_trials_that_are_all_alike_are_not_certain():
    assert verdicts.mean("", "", np.ones(4), 1, floor=True, low=0.5).verdict(1e-4) == "not enough rows"
    assert verdicts.mean("", "", np.ones(100), 1, floor=True, low=0.5).verdict(1e-4) == "holds"


@pytest.mark.parametrize(("hits", "total"), [(0, 20), (1, 20), (7, 40), (40, 40)])
def test_wilson(hits, total):
    interval = stats.binomtest(hits, total).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(verdicts.wilson(hits, total), interval, atol=1e-12)


# The theory's numbers


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


# The command


def test_the_command_writes_what_it_prints(rows, tmp_path, capsys):
    folder = tmp_path / "rows"
    files = {name: Rows(folder, name) for name in sorted({one["experiment"] for one in rows})}
    for one in rows:
        files[one["experiment"]].append(one)
    assert __main__.main([f"rows={folder}", f"out={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("toy (01234567)")] == [f"toy (01234567)  P{i}: holds" for i in range(1, 7)]
    page = (tmp_path / "predictions.md").read_text()
    assert page == __main__.markdown(__main__.compare(load_rows(folder)))
    for i in range(1, 7):
        assert f"[holds](#p{i}-toy--01234567-)" in page
        assert f'<a id="p{i}-toy--01234567-"></a>' in page
    assert json.dumps(page).count("nan") == 0


def test_models_of_one_name_and_other_weights_are_judged_apart(rows):
    other = [{**one, "provenance": {"base_digest": "f" * 16}} for one in rows if one["experiment"] == "llm_two_hop"]
    composes = PREDICTIONS["P1"].mutants["composes"]
    outcomes = {(o.model, o.prediction.id): o.verdict for o in __main__.compare([*rows, *map(composes, other)])}
    assert (outcomes["toy (01234567)", "P1"], outcomes["toy (ffffffff)", "P1"]) == ("holds", "fails")
    assert outcomes["toy (ffffffff)", "P4"] == "not enough rows"


def test_without_rows_the_page_says_how_to_make_some(tmp_path, capsys):
    assert __main__.main([f"rows={tmp_path}", f"out={tmp_path}"]) == 0
    out, page = capsys.readouterr().out, (tmp_path / "predictions.md").read_text()
    for prediction in PREDICTIONS.values():
        assert f"rows: {prediction.command}" in out
        assert f"Rows: `{prediction.command}`" in page


def test_the_command_refuses_in_one_line(tmp_path, capsys):
    assert __main__.main([f"rows={tmp_path / 'nowhere'}"]) == 2
    assert capsys.readouterr().err.startswith("paper_checks.predictions: rows: got")
    assert __main__.main(["row=x"]) == 2
    assert "did you mean 'rows'?" in capsys.readouterr().err
    assert __main__.main(["--help"]) == 0
    assert "predictions.md" in capsys.readouterr().out
