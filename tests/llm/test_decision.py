"""The decision: its coefficients against the rows they were fitted on, its regret against libraries made by hand, and
mistakes that are planted in both."""

import dataclasses
import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from lora_reuse.figures import registry
from lora_reuse.figures._placeholders import VERBS, NotMeasured
from lora_reuse.figures.rows import MissingRows
from lora_reuse.llm.data.mixtures import SETUPS
from lora_reuse.llm.forecast import trial
from lora_reuse.llm.forecast.area import area
from lora_reuse.llm.forecast.decision import (
    FILE,
    decide,
    fit,
    frozen,
    logistic,
    may_be_fitted,
    signals_of,
    sure,
)
from lora_reuse.llm.forecast.regret import Library, least_regret, libraries, regrets, share
from lora_reuse.llm.forecast.trial import question_of, trials, unlike_prompts
from lora_reuse.llm.forecast.verdict import Forecast, as_whom
from lora_reuse.runs.rows import load_rows

BEFORE = 3337
"""How many rows there were when the coefficients were frozen; rows are appended only."""


@pytest.fixture(scope="module")
def rows(request) -> list[dict[str, Any]]:
    return load_rows(request.config.rootpath / "results/paper", "llm_forecast")


@pytest.fixture(scope="module")
def bridges(request) -> set[str]:
    found = load_rows(request.config.rootpath / "results/paper", "llm_bridge")
    taught = {name for name, setup in SETUPS.items() if any("-CoT" in kind for kind in setup.first + setup.second)}
    return {
        row["hash"]
        for row in found
        if row["settings"]["setup"] in taught - {"1"} and row["settings"]["prompting"] == "steps"
    }


# The coefficients


def test_the_file_is_what_the_fit_gives(rows, bridges):
    assert fit(rows[:BEFORE], bridges) == frozen()


def test_other_rows_give_other_coefficients(rows, bridges):
    """Planted mistakes: seeds that were not looked at taken for seen ones, answers leaked from them, other labels."""
    before = rows[:BEFORE]

    def changed(row, settings=None, measured=None):
        return row | {"settings": row["settings"] | (settings or {}), "measured": row["measured"] | (measured or {})}

    all_seen = [changed(row, {"seen": True}) for row in before]
    flipped = [changed(row, None, {"hits": row["measured"]["total"] - row["measured"]["hits"]}) for row in before]
    for wrong in (all_seen, flipped):
        assert fit(wrong, bridges) != frozen()


def test_what_came_later_or_is_of_skills_or_of_another_base_is_not_fitted(rows, bridges):
    used = [row for row in rows[:BEFORE] if may_be_fitted(row)]
    assert {(row["settings"]["model"], row["settings"]["seed"]) for row in used} == {("pocket", 0)}
    assert {row["settings"]["prompting"] for row in used} == {"direct", "steps"}
    assert fit(used, bridges) == frozen()


def test_the_coefficients_are_older_than_the_rows_of_skills_that_test_them(request, rows):
    root = request.config.rootpath
    frozen_at = subprocess.run(
        ["git", "-C", str(root), "log", "-1", "--format=%H", "--", str(FILE.resolve())], capture_output=True, text=True
    ).stdout.strip()
    if not frozen_at:
        pytest.skip("a checkout without its history")
    tried = [row for row in rows if (question_of(row) or "").startswith("two skills")]
    for commit in {row["provenance"]["commit"] for row in tried}:
        told = subprocess.run(["git", "-C", str(root), "merge-base", "--is-ancestor", frozen_at, commit])
        assert told.returncode == 0, commit


def test_the_logistic_fit_is_at_the_least_of_its_loss():
    random = np.random.default_rng(0)
    signals = random.normal(size=(400, 2)) * (1.0, 5.0) + (2.0, -1.0)
    worked = random.random(400) < 1 / (1 + np.exp(-(1.0 * signals[:, 0] - 0.4 * signals[:, 1] - 1.0)))
    constant, weights = logistic(signals, worked)
    left = 1 / (1 + np.exp(-(constant + signals @ weights))) - worked
    spread = signals.std(0)
    assert left.sum() == pytest.approx(0, abs=1e-2)
    assert left @ signals / spread + weights * spread == pytest.approx([0, 0], abs=0.05)
    assert weights == pytest.approx([1.0, -0.4], abs=0.35)
    assert logistic(np.zeros((4, 1)), np.array([True, False, True, False]))[1] == pytest.approx([0])


# Signals and decisions


def test_signals_read_no_answers_and_count_a_score_by_its_size(rows):
    row = rows[0]
    other = row | {"measured": row["measured"] | {"hits": 40, "score": -row["measured"]["score"]}}
    np.testing.assert_array_equal(signals_of([row]), signals_of([other]))
    ((said, _),) = signals_of([row | {"measured": row["measured"] | {"score": 0.1, "united": 0.8}}])
    assert said == 0.8


def test_sure_is_against_the_less_sure_adapter():
    assert sure(-0.97, (-0.001, -0.97)) == pytest.approx(1)
    assert sure(-0.5, (-0.001, -0.97)) == 1
    assert sure(-1.2, (-0.001, -0.2)) == pytest.approx(np.exp(-1.0))
    assert sure(-1.2, (-0.001, -0.2, -0.7)) == pytest.approx(np.exp(-0.5))


def forecast(united: float, confidence: float = -0.001, kept=(1.0, 0.5)) -> Forecast:
    whose = dict.fromkeys(as_whom(len(kept)), 0.2)
    return Forecast(whose, 0.0, united, united, 0.0, kept, (1, 1), confidence)


@pytest.mark.parametrize(
    ("scores", "bridged", "routers", "action", "rule"),
    [
        ({"sum": 0.9, "ties": 0.1}, False, (), "merge", "sum"),
        ({"sum": 0.1, "arrow": 0.9}, False, ("arrow",), "route", "arrow"),
        ({"sum": 0.1, "arrow": 0.1}, False, ("arrow",), "train a bridge", "sum"),
        ({"sum": 0.1}, True, (), "do not", "sum"),
    ],
)
def test_what_to_do(scores, bridged, routers, action, rule):
    found = decide({name: forecast(score) for name, score in scores.items()}, (-0.01, -0.001), bridged, routers)
    assert (found.action, found.rule) == (action, rule)
    assert (max(found.each.values()) >= frozen().merge_from) == (action in ("merge", "route"))
    assert found.kept == dict.fromkeys(scores, (1.0, 0.5))
    said = str(found)
    assert said.startswith(f"decision: {action}")
    assert len(said.splitlines()) <= 8
    assert "100% of a's and 50% of b's" in said


def test_a_composition_that_is_not_sure_is_not_taken():
    assert decide({"sum": forecast(0.9, -0.6)}, (-0.01, -0.001), False).action == "train a bridge"
    assert decide({"sum": forecast(0.9, -0.6)}, (-0.01, -0.61), False).action == "merge"


def test_a_decision_on_three_adapters_says_what_is_left_of_each():
    found = decide({"sum": forecast(0.9, kept=(1.0, 0.5, 0.0))}, (-0.01, -0.001, -0.01), False)
    assert "100% of a's, 50% of b's and 0% of c's" in str(found)
    assert "(1: its answers change if any adapter is left out; 0: one adds nothing)" in str(found)


# Regret


def library(*shares: float) -> Library:
    return Library(list(range(len(shares))), np.array(shares))


@pytest.mark.parametrize(
    ("shares", "score", "regret"),
    [
        ((0.9, 0.2), (0.8, 0.1), 0.0),
        ((0.9, 0.2), (0.1, 0.8), 0.7),  # the wrong rule
        ((0.9, 0.2), (0.1, 0.2), 0.9),  # none, where one works
        ((0.3, 0.2), (0.1, 0.2), 0.0),  # none, where none works
        ((0.3, 0.2), (0.1, 0.8), 0.3),  # a promise that is not kept
    ],
)
def test_regret_by_hand(shares, score, regret):
    assert library(*shares).regret(np.array(score), 0.5) == pytest.approx(regret)


def test_the_threshold_is_the_one_of_the_least_regret():
    asked = [library(0.9, 0.0), Library([2, 3], np.array([0.1, 0.0]))]
    score = np.array([0.6, 0.1, 0.4, 0.0])
    assert least_regret(score, asked, (0.1, 0.3, 0.5, 0.9)) == 0.5
    assert regrets(score, asked, 0.3).tolist() == pytest.approx([0.0, 0.4])
    assert regrets(score, asked, 0.9).tolist() == pytest.approx([0.9, 0.0])


# Trials


def planted(seeds=5, pairs=4, noise=0.1) -> list[dict[str, Any]]:
    """Facts of five seeds, the first looked at, and skills of two; half of the pairs have one rule that works, and its
    score tells: chains by a positive one, skills by a negative one."""
    rng, rows = np.random.default_rng(0), []
    cases = itertools.product(range(seeds), range(pairs), ("sum", "ties"), ("direct", "steps", "both", "first"))
    for seed, pair, rule, prompting in cases:
        works = prompting != "direct" and rule == "sum" and pair < pairs / 2
        score = (-1 if prompting == "both" else 1) * (0.9 * works) + noise * float(rng.normal())
        measured = {"hits": 9 * works, "total": 10, "score": score, "hidden": abs(score), "cosine": float(pair)}
        measured |= {"confidence": -0.05 - 0.3 * (not works), "kept": [0.9 * works, 0.0]}
        measured |= {"own_confidence": [-0.01, -0.001]} if seed > 2 else {}
        settings = {"model": "pocket", "seen": seed == 0, "seed": seed, "of": "llm_test", "composition": rule}
        settings |= {"prompting": prompting, "pair": f"{seed} {pair}", "row": f"{rng.integers(2**60):x}"}
        made = {"base_digest": "b", "commit": "c", "command": "a command"}
        rows.append({"hash": settings["row"], "settings": settings, "measured": measured, "provenance": made})
    return rows


def test_no_row_of_the_fit_is_tried_and_skills_only_with_how_sure_the_experts_are():
    rows = planted()
    tried = {one.question: one for one in trials(rows)}
    assert set(tried) == {"two skills, same base", "two-hop, same base"}
    assert {row["settings"]["seed"] for row in tried["two-hop, same base"].rows} == {1, 2, 3, 4}
    assert {row["settings"]["seed"] for row in tried["two skills, same base"].rows} == {3, 4}
    assert not any(may_be_fitted(row) for one in tried.values() for row in one.rows)
    for model, base in (("another", "other bases"), ("smollm2", "SmolLM2")):
        other = [row | {"settings": row["settings"] | {"model": model}} for row in rows]
        assert {one.question for one in trials(rows + other)} == {*tried, f"two skills, {base}", f"two-hop, {base}"}
    both = [row for row in rows if row["settings"]["prompting"] == "both"]
    unlike = unlike_prompts([{"hash": row["settings"]["row"], "settings": {"formats": "new"}} for row in both])
    apart = {one.question: one for one in trials(rows, unlike)}
    assert set(apart) == {"two skills, other forms, same base", "two-hop, same base"}
    moved = {"of": "llm_skill_sets", "model": "smollm2"}
    named = [question_of(both[-1] | {"settings": both[-1]["settings"] | moved | {"seed": seed}}) for seed in (0, 1)]
    assert named == ["two of five skills, mended on, SmolLM2", "two of five skills, SmolLM2"]
    more = {"of": "llm_skill_sets", "prompting": "all"}
    named = [
        question_of(both[-1] | {"settings": both[-1]["settings"] | more | {"model": model, "seed": seed}})
        for model, seed in (("pocket", 2), ("pocket", 3), ("smollm2", 0))
    ]
    assert named == [
        "three or more of five skills, mended on, same base",
        "three or more of five skills, same base",
        "three or more of five skills, SmolLM2",
    ]
    skills = both[-1] | {"settings": both[-1]["settings"] | {"of": "llm_skills"}}
    assert question_of(skills) == "two skills, same base"
    assert question_of(_signed(skills)) == "two skills, after the mends, same base"
    alone = [row for row in rows if not row["settings"]["seen"]]
    assert {name for one in trials(alone) for name in one.lines} == {"decision", "never"}


def _signed(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"measured": row["measured"] | {"united": row["measured"]["score"]}}


def test_planted_mistakes_cost_what_they_should(monkeypatch):
    """With the sign of a coefficient swapped, or a score that counts with its sign, the decision falls behind."""
    right = {one.question: one.lines["decision"] for one in trials(planted())}
    for line in right.values():
        assert line.area.value > 0.95
        assert line.regret < 0.05
        assert line.right == line.taken
        assert line.error < 0.3

    def wrong() -> dict[str, trial.Line]:
        return {one.question: one.lines["decision"] for one in trials(planted())}

    known = frozen()
    swapped = dataclasses.replace(known, united=-known.united)
    with monkeypatch.context() as patch:
        patch.setattr("lora_reuse.llm.forecast.trial.frozen", lambda: swapped)
        assert all(line.regret > right[name].regret + 0.2 for name, line in wrong().items())
    signed = {one.question: one.lines["decision"] for one in trials([_signed(row) for row in planted()])}
    assert signed["two skills, same base"].regret > 0.4
    assert signed["two-hop, same base"].regret < 0.05


def test_a_score_that_reads_the_answers_would_show(rows):
    """Answers of the tried rows change what worked and never the order of the scores."""
    before = planted()
    after = [row | {"measured": row["measured"] | {"hits": 10 - row["measured"]["hits"]}} for row in before]
    after = [old if old["settings"]["seen"] else new for old, new in zip(before, after, strict=True)]
    for one, other in zip(trials(before), trials(after), strict=True):
        for name, line in one.lines.items():
            assert other.lines[name].area.value == pytest.approx(1 - line.area.value), name


def test_never_costs_what_works_and_nothing_else():
    for one in trials(planted()):
        best = [float(each.shares.max()) if each.works else 0.0 for each in one.libraries]
        assert one.lines["never"].regret == pytest.approx(np.mean(best))
        assert one.lines["never"].taken == 0
        saved = one.lines["never"].saved
        assert saved
        assert saved.mean == pytest.approx(one.lines["never"].regret - one.lines["decision"].regret)


def test_equal_regrets_are_no_proof_of_their_value():
    """Where the decision costs nothing in any library, the interval has the width of one library that is off by one."""
    for one in trials(planted(noise=0.0)):
        line = one.lines["decision"]
        assert line.regret == 0
        assert line.regret_limits
        high = stats.t.isf(0.025, one.seeds - 1) / len(one.libraries)
        assert line.regret_limits == pytest.approx((0, min(1, high)))


def test_the_error_of_a_probability_is_its_distance_from_what_worked():
    for one in trials(planted()):
        for line in one.lines.values():
            assert sum(each.rows for each in line.bins) == len(one.rows)
            assert sum(each.worked for each in line.bins) == int((share(one.rows) >= 0.5).sum())
        assert one.lines["never"].error == pytest.approx(np.mean(share(one.rows) >= 0.5))


def test_the_committed_rows_of_other_seeds_are_ranked_and_cost_little(rows):
    """The numbers are in the table; here, that a swapped sign would be seen in them."""
    (found,) = [one for one in trials(rows) if one.question == "two-hop, same base"]
    line = found.lines["decision"]
    worked = share(found.rows) >= 0.5
    assert line.area_limits
    assert line.area_limits.low > area(signals_of(found.rows) @ np.array([-1.0, 1.0]), worked).value
    assert all(line.regret < other.regret for name, other in found.lines.items() if name != "decision")
    assert len(libraries(found.rows)) == len(found.libraries)


def test_the_text_and_the_figures_table_have_the_same_numbers(tmp_path: Path):
    empty = {"schema": 1, "experiment": "llm_forecast", "predicted": {}, "stderr": {}}
    (tmp_path / "llm_forecast.jsonl").write_text("".join(json.dumps(empty | row) + "\n" for row in planted()))
    item = registry.items()["decision"]
    drawn = registry.draw(item, tmp_path, tmp_path / "out")
    assert set(drawn.files) == {"md", "tex", "csv"}
    table = item.module.table(registry.Rows(tmp_path, item.module.NEEDS))
    said = trial.text(planted())
    for one in trials(planted()):
        assert f"{one.question}: {trial.about(one)}" in said
        label = f"{one.question} ({trial.about(one)})"
        for name, line in one.lines.items():
            assert table.loc[(label, "AUC", name)]["percent"] == pytest.approx(100 * line.area.value)
            assert table.loc[(label, "regret, points", name)]["percent"] == pytest.approx(100 * line.regret)
            taken = table.loc[(label, "takes a rule in", name)]
            assert (taken["hits"], taken["total"]) == (line.taken, len(one.libraries))
        line = one.lines["decision"]
        assert VERBS["decided"](tmp_path, ["regret", "decision", *one.question.split()])[0].startswith(
            f"{100 * line.regret:.1f} ["
        )
    with pytest.raises(NotMeasured):
        VERBS["decided"](tmp_path, ["regret", "decision", "three-hop"])
    alone = tmp_path / "alone"
    alone.mkdir()
    of_one = [row for row in planted() if row["settings"]["seed"] < 2]  # the fit's, and another
    (alone / "llm_forecast.jsonl").write_text("".join(json.dumps(empty | row) + "\n" for row in of_one))
    assert VERBS["decided"](alone, ["regret", "decision", "two-hop,", "same", "base"])[0].endswith(" (one seed)")
    assert "nan" not in item.module.caption(table)
    assert "nan" not in said
    with pytest.raises(MissingRows, match=r"make them with `python -m llm\.forecast"):
        item.module.table(registry.Rows(tmp_path / "none", item.module.NEEDS))
