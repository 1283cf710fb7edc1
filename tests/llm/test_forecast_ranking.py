"""How good forecasts are: the ranking of rows against planted mistakes, and the areas and their intervals against
what they should be."""

import itertools
import json
import subprocess
from typing import Any

import numpy as np
import pytest

from lora_reuse.figures import registry, tables
from lora_reuse.figures.rows import MissingRows
from lora_reuse.llm.forecast.area import Clusters, area, difference, limits, stderr
from lora_reuse.llm.forecast.ranking import DRAWS, IN_VIEW, KINDS, PREDICTORS, forecast_of, lookup, rankings
from lora_reuse.llm.forecast.ranking_text import ranking
from lora_reuse.llm.scoring.intervals import Difference, holm, wilson
from lora_reuse.runs.rows import load_rows


def planted(seeds=5, pairs=4, noise=0.2, seed=0) -> list[dict[str, Any]]:
    """Rows whose score says, with noise, what worked. Half of the pairs of experts work, under one rule each; seed 0
    was looked at."""
    rng = np.random.default_rng(seed)
    rows = []
    for s, i, rule, prompting in itertools.product(
        range(seeds), range(pairs), ("sum", "arrow", "ties"), ("direct", "steps", "first")
    ):
        works = prompting != "direct" and rule == ("sum", "arrow")[i % 2] and i < pairs / 2
        score = float(works) + noise * float(rng.normal())
        measured = {
            "hits": 9 * works + int(rng.integers(2)) * (rule == "sum"),
            "total": 10,
            "score": score,
            "hidden": score / 2,
        }
        measured |= {
            "confidence": float(rng.normal()),
            "called": score > 0.5,
            "cosine": float(i),
            "kept": [score, -score],
        }
        settings = {
            "prompting": prompting,
            "seen": s == 0,
            "pair": f"{s} {i}",
            "row": f"{rng.integers(2**60):x}",
            "seed": s,
            "composition": rule,
        }
        made = {"base_digest": "b", "commit": IN_VIEW["keeps"][0] if s == 1 else "c", "command": "a command"}
        rows.append(
            {
                "hash": settings["row"],
                "settings": settings | {"model": "pocket"},
                "measured": measured,
                "provenance": made,
            }
        )
    return rows


@pytest.fixture
def few_draws(monkeypatch):
    """Random scores are not what most tests are about."""
    monkeypatch.setattr("lora_reuse.llm.forecast.ranking.DRAWS", 5)


def found_in(rows, kind="composes", seen=False):
    (found,) = [one for one in rankings(rows) if (one.kind, one.seen) == (kind, seen)]
    return found


def test_the_table_of_rows_with_a_known_answer(few_draws):
    said = ranking(planted())
    lines = said.splitlines()
    heads = [line for line in lines if line.startswith(("composes: ", "keeps: "))]
    assert [("seeds that were not looked at" in head, "rule worked in" in head) for head in heads] == [
        (True, True),
        (False, True),
    ] * 2
    assert (
        "96 rows of seeds that were not looked at while the forecast was written, of 16 pairs of experts from 4 seeds "
        "on 1 base." in heads[0]
    )
    assert "8 rows worked, so that the call never is right for 92 % of the rows." in heads[0]
    assert "None of the 48 rows asked 'direct' worked." in heads[0]
    assert "A rule worked in 8 libraries; asked in the same way, these have 24 rows." in heads[0]
    assert (
        "12 rows had been forecast when the reading of this kind was chosen. Among the 36 others, of 12 pairs of "
        "experts, its AUC is" in heads[2]
    )
    for name in PREDICTORS:
        shown = [line for line in lines if line.split("  ")[0] == name]
        assert len(shown) == 2 * (2 if name == "lookup" else 4)
    assert not any("nan" in line for line in lines)


def test_the_areas_are_among_all_rows_and_among_those_of_libraries_where_a_rule_worked(few_draws):
    found = found_in(planted(noise=0.5))
    scores = np.array([row["measured"]["score"] for row in found.rows])
    line = found.lines["forecast"]
    good = {
        (row["settings"]["pair"], row["settings"]["prompting"])
        for row, works in zip(found.rows, found.worked, strict=True)
        if works
    }
    inside = np.array([(row["settings"]["pair"], row["settings"]["prompting"]) in good for row in found.rows])
    assert inside.sum() == 24
    for among, part in ((line.everywhere, np.ones(len(scores), dtype=bool)), (line.where_one_worked, inside)):
        yes, no = scores[part & found.worked], scores[part & ~found.worked]
        assert among.area.value == pytest.approx(np.mean([(a > b) + (a == b) / 2 for a in yes for b in no]))
    labels, inner = (
        Clusters(*(list(np.array(names)[part]) for names in found.clusters))
        for part in (np.ones(len(scores), dtype=bool), inside)
    )
    compared = [
        (one.ahead, difference(first.area, one.area, clusters))
        for (first, *others), clusters in zip(
            zip(*(one[:2] for one in found.lines.values()), strict=True), (labels, inner), strict=True
        )
        for one in others
    ]
    assert len(compared) == 2 * (len(PREDICTORS) - 1)
    singles = [single for _, single in compared if single]
    assert [ahead for ahead, _ in compared if ahead] == [
        single._replace(p=p) for single, p in zip(singles, holm([single.p for single in singles]), strict=True)
    ]


def test_calls_stand_beside_never(few_draws):
    """Never is right as often as rows fail, and its balanced accuracy is a half; that of the calls is the mean of both
    shares."""
    found = found_in(planted(noise=0.5))
    called = np.array([row["measured"]["called"] for row in found.rows])
    forecast_, never = found.lines["forecast"], found.lines["never"]
    assert never.right
    assert never.right[:2] == (int((~found.worked).sum()), len(found.rows))
    assert never.balanced
    assert never.balanced.area.value == 0.5
    assert forecast_.right
    assert forecast_.right[0] == int((called == found.worked).sum())
    assert forecast_.balanced
    assert forecast_.balanced.area.value == pytest.approx(
        (called[found.worked].mean() + (~called[~found.worked]).mean()) / 2
    )


def test_a_hop_is_kept_as_its_own_expert_is():
    measured = {"kept": [0.2, 0.5], "score": 0.9, "called": True}
    said = {p: forecast_of({"settings": {"prompting": p}, "measured": measured}) for p in ("direct", "first", "second")}
    assert said == {"direct": (0.9, True), "first": (0.2, False), "second": (0.5, True)}


def test_a_lookup_is_the_mean_of_seen_rows_of_a_rule_asked_in_the_same_way():
    def one(rule, prompting, hits, of="llm_skills"):
        settings = {"composition": rule, "prompting": prompting, "of": of}
        return {"settings": settings, "measured": {"hits": hits, "total": 10}}

    facts = [one("sum", "steps", 2), one("sum", "steps", 4), one("arrow", "steps", 9), one("sum", "direct", 1)]
    found = lookup(facts)
    assert found
    wanted = {
        ("sum", "steps"): 0.3,
        ("arrow", "steps"): 0.9,
        ("sum", "direct"): 0.1,
        ("ties", "steps"): 0.5,
        ("ties", "both"): 0.4,
    }
    assert {key: found(one(*key, 0)) for key in wanted} == pytest.approx(wanted)
    assert lookup([]) is None
    found = lookup([*facts, one("sum", "both", 8), one("sum", "both", 2, of="llm_skill_sets")])
    assert found
    assert [found(one("sum", "both", 0, of)) for of in ("llm_skills", "llm_skill_sets")] == [0.8, 0.2]


def test_a_score_that_is_the_lookup_has_its_area_and_is_not_ahead(few_draws):
    """The forecast of planted rows knows the rule alone."""
    rows = planted()
    looked_up = lookup(
        [row for row in rows if row["settings"]["seen"] and row["settings"]["prompting"] in KINDS["composes"]]
    )
    assert looked_up
    for row in rows:
        row["measured"]["score"] = looked_up(row)
    line = found_in(rows).lines
    for one, other in zip(line["forecast"][:2], line["lookup"][:2], strict=True):
        assert one.area.value == other.area.value > 0.5
        assert other.ahead == Difference(0.0, 0.0, 0.0, 1.0)


def test_a_lookup_knows_nothing_of_the_rows_that_it_ranks(few_draws):
    """Answers of other seeds change what worked, never the lookup's order."""
    rows = planted()
    before = found_in(rows)
    for row in rows:
        if not row["settings"]["seen"]:
            row["measured"]["hits"] = 10 - row["measured"]["hits"]
    after = found_in(rows)
    assert after.lines["lookup"].everywhere.area.value == pytest.approx(
        1 - before.lines["lookup"].everywhere.area.value
    )
    assert "lookup" not in found_in(rows, seen=True).lines


def test_random_scores_average_a_half():
    """The standard deviation of one random area is that of Mann and Whitney's U; a mean over draws off by four of its
    own fails once in 16 000."""
    found = found_in(planted())
    yes, no = int(found.worked.sum()), int((~found.worked).sum())
    spread = np.sqrt((yes + no + 1) / (12 * yes * no))
    among = found.lines["random"].everywhere
    assert abs(among.area.value - 0.5) < 4 * spread / np.sqrt(DRAWS)
    assert among.limits
    assert among.limits == pytest.approx((0.5 - 1.96 * spread, 0.5 + 1.96 * spread), abs=0.07)  # 3.5 standard errors
    assert found.covered > 0.93


def columns(rows):
    worked = np.array([row["measured"]["hits"] >= 5 for row in rows])
    labels = Clusters([str(row["settings"]["seed"]) for row in rows], [row["settings"]["pair"] for row in rows])
    return np.array([row["measured"]["score"] for row in rows]), worked, labels


def test_planted_mistakes_show_in_the_area():
    """A score of the other sign, of the wrong rows, or blind to what worked falls below the interval of the right
    one."""
    score, worked, labels = columns(planted(noise=0.4))
    right = area(score, worked)
    interval = limits(right, labels)
    assert interval
    assert interval.low <= right.value <= interval.high
    assert right.value > 0.9
    for wrong in (-score, np.roll(score, 1), np.zeros_like(score), np.random.default_rng(3).random(len(score))):
        assert area(wrong, worked).value < interval.low
    constant = area(np.zeros_like(score), worked)
    assert constant.value == 0.5
    assert limits(constant, labels) is None
    assert np.isnan(area(score, np.ones_like(worked)).value)
    assert limits(area(score, np.ones_like(worked)), labels) is None


def test_the_area_is_the_share_of_pairs_in_order():
    score, worked, _ = columns(planted(noise=1.0))
    score = np.round(score, 1)  # with ties
    pairs = [(a > b) + (a == b) / 2 for a in score[worked] for b in score[~worked]]
    found = area(score, worked)
    assert found.value == pytest.approx(np.mean(pairs))
    assert found.influence.sum() == pytest.approx(0, abs=1e-12)


def test_the_influence_of_a_row_is_what_the_area_loses_without_it():
    score, worked, _ = columns(planted(noise=1.0))
    found, kept = area(score, worked), ~np.eye(len(score), dtype=bool)
    lost = np.array([found.value - area(score[rest], worked[rest]).value for rest in kept])
    size = np.where(worked, worked.sum(), (~worked).sum())
    np.testing.assert_allclose(lost * (size - 1), found.influence * size, atol=1e-9)


def test_without_clusters_the_standard_error_is_delongs():
    score, worked, _ = columns(planted(noise=1.0))
    order = np.greater.outer(score[worked], score[~worked]) + 0.5 * np.equal.outer(score[worked], score[~worked])
    expected = order.mean(1).var(ddof=1) / worked.sum() + order.mean(0).var(ddof=1) / (~worked).sum()
    alone = list(map(str, range(len(score))))
    assert stderr(area(score, worked).influence, worked, Clusters(alone, alone)) == pytest.approx(
        np.sqrt(expected), rel=0.03
    )


def test_the_standard_error_is_that_of_the_clusters_that_vary_most():
    """Sums of the influence over clusters, G/(G − 1) of their squares: 3/2 · (0.3² + 0.1² + 0.2²) over seeds, 6/5 · 0.1
    over rows."""
    influence, worked = np.array([0.2, 0.1, 0.1, -0.2, -0.1, -0.1]), np.array([True, False] * 3)
    seeds, alone = list("aabbcc"), list("abcdef")
    expected = np.sqrt(3 / 2 * (0.3**2 + 0.1**2 + 0.2**2))
    assert stderr(influence, worked, Clusters(seeds, alone)) == pytest.approx(expected)
    assert stderr(influence, worked, Clusters(list("aabbab"), seeds)) == pytest.approx(expected)
    assert np.isnan(stderr(influence, worked, Clusters(list("aaaaaa"), seeds)))


def test_one_seed_has_no_interval_and_unlike_constants_no_p():
    score, worked, labels = columns(planted(noise=0.4))
    found, other = area(score, worked), area(-score, worked)
    one = Clusters(["0"] * len(score), labels.pair)
    assert limits(found, one) is None
    assert difference(found, other, one) is None
    only = Clusters([seed if works else "0" for seed, works in zip(labels.seed, worked, strict=True)], labels.pair)
    assert limits(found, only) is None  # all that did not work is of one seed
    perfect = area(worked.astype(float), worked)
    assert limits(perfect, labels) == wilson(5, 5, freedom=4.0)
    assert difference(perfect, area(np.zeros_like(score), worked), labels) is None
    ahead = difference(found, other, labels)
    assert ahead
    assert ahead.mean == pytest.approx(found.value - other.value)
    assert ahead.p < 0.001


SEEDS, PAIRS, ROWS = 4, 14, 12
"""As many seeds as the committed rows have, and about as many pairs and rows of each."""


def cohort(generator, shift):
    """A score and what worked, with parts in common within a seed (`shift` standard deviations of the score's noise)
    and within a pair of experts; over many seeds their correlation is 0.8 and half of the rows work."""
    seed, pair = np.repeat(np.arange(SEEDS), PAIRS * ROWS), np.repeat(np.arange(SEEDS * PAIRS), ROWS)
    normal = generator.normal
    latent = (normal(size=len(seed)) + normal(size=SEEDS * PAIRS)[pair]) / np.sqrt(2)
    noise = normal(size=len(seed)) + shift * normal(size=SEEDS)[seed] + normal(size=SEEDS * PAIRS)[pair]
    return (
        0.8 * latent + 0.6 * noise / np.sqrt(2 + shift**2),
        latent > 0,
        Clusters(list(map(str, seed)), list(map(str, pair))),
    )


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.0])
def test_intervals_hold_the_area_as_often_as_they_say_and_pooled_rows_do_not(shift):
    """400 cohorts: a coverage of 0.95 has a standard error of 0.011, so 0.92 is passed by mistake in 0.3 % of runs at
    most. Limits that take rows for independent are the planted mistake."""
    generator = np.random.default_rng(int(10 * shift))
    latent = generator.normal(size=(2, 10**6))
    truth = area(0.8 * latent[0] + 0.6 * latent[1], latent[0] > 0).value
    held, pooled, widths = [], [], []
    for _ in range(400):
        score, worked, labels = cohort(generator, shift)
        found, alone = area(score, worked), list(map(str, range(len(score))))
        over_seeds, independent = limits(found, labels), limits(found, Clusters(alone, alone))
        assert over_seeds
        assert independent
        held.append(over_seeds.low <= truth <= over_seeds.high)
        pooled.append(independent.low <= truth <= independent.high)
        widths.append((independent.high - independent.low) / (over_seeds.high - over_seeds.low))
    assert np.mean(held) > 0.92
    assert np.mean(pooled) < 0.85
    assert max(widths) < 1


def test_scores_that_are_alike_are_rarely_told_apart():
    """Of six pairs of scores of one law the least p-value after Holm's correction is below 0.05 in 5 % of 150 cohorts
    at most; more than 0.11 would come by chance in 0.2 % of runs. Pooled rows are the planted mistake."""
    generator = np.random.default_rng(1)

    def blurred(score):
        return score + generator.normal(size=len(score)) + np.repeat(generator.normal(size=SEEDS), PAIRS * ROWS)

    found, pooled = [], []
    for _ in range(150):
        score, worked, labels = cohort(generator, 0.5)
        alone = Clusters(*[list(map(str, range(len(score))))] * 2)
        pairs = [[area(blurred(score), worked) for _ in range(2)] for _ in range(6)]
        for told, clusters in ((found, labels), (pooled, alone)):
            told.append(
                min(holm([one.p for first, second in pairs if (one := difference(first, second, clusters))])) < 0.05
            )
    assert np.mean(found) < 0.11
    assert np.mean(pooled) > 0.5


def test_the_rows_that_were_in_view_are_those_before_the_reading_was_chosen(request):
    """Whether a hop is kept was read anew in commit ad708a8: rows of other commits than those listed descend from
    it."""
    root = request.config.rootpath
    rows = [
        row
        for row in load_rows(root / "results/paper", "llm_forecast")
        if row["settings"]["prompting"] in KINDS["keeps"]
    ]
    for commit in {row["provenance"]["commit"] for row in rows}:
        told = subprocess.run(
            ["git", "-C", str(root), "merge-base", "--is-ancestor", "ad708a8", commit], capture_output=True
        )
        if told.returncode > 1:
            pytest.skip("a checkout without its history")
        assert (told.returncode == 1) == (commit in IN_VIEW["keeps"])


EMPTY = {"schema": 1, "experiment": "llm_forecast", "predicted": {}, "stderr": {}}


def test_the_figures_table_has_the_numbers_of_the_ranking(tmp_path, few_draws):
    rows = planted()
    (tmp_path / "llm_forecast.jsonl").write_text("".join(json.dumps(EMPTY | row) + "\n" for row in rows))
    item = registry.items()["forecast"]
    drawn = registry.draw(item, tmp_path, tmp_path / "out")
    assert set(drawn.files) == {"md", "tex", "csv"}
    table = item.module.table(registry.Rows(tmp_path, item.module.NEEDS))
    for kind, question in (("composes", "two-hop"), ("keeps", "own hop")):
        found = found_in(rows, kind)
        for name, line in found.lines.items():
            for where, among in (("all", line.everywhere), ("where a rule worked", line.where_one_worked)):
                cell = table.loc[(question, "AUC", name, where)]
                assert cell["percent"] == pytest.approx(100 * among.area.value)
                if among.ahead:
                    assert table.loc[(question, "forecast ahead", name, where)]["percent"] == pytest.approx(
                        100 * among.ahead.mean
                    )
    said = item.module.caption(table)
    assert "nan" not in said
    assert "the forecast is ahead of" in said
    assert "None of the 48 rows asked 'direct' worked." in said
    assert tables.markdown(table, said).count("\n|") > len(table) / 2
    with pytest.raises(MissingRows, match=r"make them with `python -m llm\.forecast"):
        item.module.table(registry.Rows(tmp_path / "none", item.module.NEEDS))
