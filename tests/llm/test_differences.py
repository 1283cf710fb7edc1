"""Which rule is better: by hand, in the table, and how often a difference is found where there is none."""

import itertools
import json
from typing import Any

import numpy as np
import pytest

from lora_reuse.llm import bridge, compare
from lora_reuse.llm.protocols.table import table
from lora_reuse.llm.scoring.differences import compared
from lora_reuse.llm.scoring.intervals import difference, holm
from tests.rows_of_models import row

STEPS: dict[str, Any] = {"setup": "2", "prompting": "steps"}
RIGHT = {
    "arrow": ([2, 2, 2, 1], [2, 2, 1, 2], [2, 2, 2, 2]),
    "sum": ([1, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 2]),
    "uniform": ([0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]),
}


def rows(right=RIGHT, **settings):
    made = [
        row("llm_bridge", of, seed=seed, composition=rule, **STEPS | settings)
        for rule, seeds in right.items()
        for seed, of in enumerate(seeds)
    ]
    for one in made:
        one["measured"] |= {"constant": 2, "lenient": one["measured"]["hits"]}
    return made


def test_the_best_rule_is_held_against_each_other_one():
    """By hand: arrow is right in 7, 7 and 8 of 8, the sum in 4, 3 and 5, uniform in 0, 1 and 0."""
    found = {pair.other: pair for pair in compared(rows())}
    assert list(found) == ["sum", "uniform"]
    assert {pair.best for pair in found.values()} == {"arrow"}
    assert [pair.seeds for pair in found.values()] == [3, 3]
    assert found["sum"].difference.mean == pytest.approx((3 + 4 + 3) / 24)
    assert found["uniform"].difference.mean == pytest.approx((7 + 6 + 8) / 24)
    assert found["sum"].settings["setup"] == "2"


def test_p_is_corrected_for_all_pairs_of_rules():
    shares = {rule: [np.array(of) / 2 for of in seeds] for rule, seeds in RIGHT.items()}
    pairs = [("arrow", "sum"), ("arrow", "uniform"), ("sum", "uniform")]
    measured = [difference(shares[one], shares[other]) for one, other in pairs]
    adjusted = holm([of.p for of in measured if of])
    assert [pair.p for pair in compared(rows())] == pytest.approx(adjusted[:2])
    assert [pair.difference for pair in compared(rows())] == measured[:2]


def test_only_seeds_that_both_have_are_compared_and_one_is_none():
    few = rows({**RIGHT, "sum": RIGHT["sum"][:2], "uniform": RIGHT["uniform"][:1]})
    (pair,) = compared(few)
    assert (pair.best, pair.other, pair.seeds) == ("arrow", "sum", 2)
    assert pair.difference.mean == pytest.approx((3 + 4) / 16)
    assert compared(rows({rule: seeds[:1] for rule, seeds in RIGHT.items()})) == []


def test_seeds_are_paired_by_their_number_and_not_by_their_place():
    backwards = sorted(
        rows(),
        key=lambda one: (
            one["settings"]["composition"],
            -one["settings"]["seed"] if one["settings"]["composition"] == "sum" else 0,
        ),
    )
    assert {pair.other: pair.difference for pair in compared(backwards)} == {
        pair.other: pair.difference for pair in compared(rows())
    }


def test_controls_are_no_rules_and_other_settings_no_competitors():
    others = rows({"random": RIGHT["arrow"], "base": RIGHT["arrow"], "arrow:swapped": RIGHT["arrow"]})
    assert compared(rows() + others) == compared(rows())
    assert compared(rows({"arrow": RIGHT["arrow"]}) + rows({"sum": RIGHT["sum"]}, rank=4)) == []


def at_gains(right):
    """Rows of rules, some at gains of their own; as on disk, without a gain at its default."""
    made = [one for (rule, gain), seeds in right.items() for one in rows({rule: seeds}, gain=gain)]
    for one in made:
        if one["settings"]["gain"] == 1.0:
            del one["settings"]["gain"]
    return made


def test_a_rule_at_another_value_of_its_dial_is_another_rule():
    tuned = {("sum", 1.0): RIGHT["sum"], ("tsv", 1.0): RIGHT["uniform"], ("tsv", 2.0): RIGHT["arrow"]}
    found = compared(at_gains(tuned))
    assert [(pair.best, pair.other) for pair in found] == [("tsv gain=2.0", "sum"), ("tsv gain=2.0", "tsv")]
    renamed = compared(rows({"arrow": RIGHT["arrow"], "sum": RIGHT["sum"], "uniform": RIGHT["uniform"]}))
    assert [pair.p for pair in found] == [pair.p for pair in renamed]
    first, *_, last = table(bridge.PROTOCOL, at_gains(tuned)).split("\n\n")
    assert [line.split()[:4] for line in last.splitlines()[2:]] == [
        ["tsv", "gain=2.0", "sum", "3"],
        ["tsv", "gain=2.0", "tsv", "3"],
    ]
    assert last.splitlines()[1].split()[0] == "best"
    head, *lines = (line.split()[:3] for line in first.splitlines())
    assert head == ["composition", "gain", "seeds"]
    assert sorted(lines) == [["sum", "3", "12/24"], ["tsv", "2.0", "3"], ["tsv", "default", "3"]]


def test_a_dial_that_a_rule_does_not_read_makes_no_other_rule_of_it():
    """Rows of every rule say a temperature, and of every composition how one would learn."""
    cold = rows({"arrow": RIGHT["uniform"], "sum": RIGHT["sum"]}, temperature=0.25, learn_rate=0.1)
    warm = rows({"arrow": RIGHT["arrow"], "sum": RIGHT["sum"]}, temperature=0.5, learn_rate=0.2)
    pairs = [(pair.best, pair.other) for pair in compared(cold + warm)]
    assert pairs == [("arrow temperature=0.5", "arrow temperature=0.25"), ("arrow temperature=0.5", "sum")]
    learned = rows({"cat:own": RIGHT["sum"]}, learn_rate=0.1) + rows({"cat:own": RIGHT["arrow"]}, learn_rate=0.2)
    assert [(pair.best, pair.other) for pair in compared(learned)] == [
        ("cat:own learn_rate=0.2", "cat:own learn_rate=0.1")
    ]
    weighed = rows({"linear": (*RIGHT["arrow"], *RIGHT["sum"])})
    for i, one in enumerate(weighed):
        one["settings"] |= {"weights": [0.3, 0.7] if i < 3 else [1, 1], "seed": i % 3}
    assert [pair.other for pair in compared(weighed)] == ["linear weights=[1, 1]"]


def test_a_rule_that_is_not_here_may_have_any_dial():
    gone = rows({"gone@12345678": RIGHT["sum"]}, gain=1.0) + rows({"gone@12345678": RIGHT["arrow"]}, gain=2.0)
    assert [pair.best for pair in compared(gone)] == ["gone@12345678 gain=2.0"]


def test_settings_are_alike_in_any_order_and_rows_without_a_rule_are_left_out():
    turned = rows()
    for one in turned:
        if one["settings"]["composition"] == "sum":
            one["settings"] = dict(reversed(one["settings"].items()))
    other = rows({"sum": RIGHT["sum"]})
    for one in other:
        del one["settings"]["composition"]
    assert compared(turned + other) == compared(rows())


def test_the_best_is_better_over_the_seeds_that_both_have():
    """The sum is right more often in its five seeds, and less often in the three that both have."""
    of = lambda *hits: tuple([2] * h + [0] * (4 - h) for h in hits)  # noqa: E731
    (pair,) = compared(rows({"sum": of(1, 1, 1, 4, 4), "average": of(2, 2, 1)}))
    assert (pair.best, pair.other, pair.seeds) == ("average", "sum", 3)
    assert pair.difference.mean == pytest.approx(2 / 12)
    three = {"sum": of(1, 1, 1, 4, 4), "average": of(2, 2, 1), "uniform": of(4)}
    assert [(pair.best, pair.other) for pair in compared(rows(three))] == [("average", "sum")]


def test_where_no_rule_is_ahead_of_all_the_one_that_is_least_behind_is_the_best():
    """Each pair has seeds of its own. Over these the sum is ahead of the average by 1/4, the average of TIES by 2/4,
    and TIES of the sum by 1."""
    of = lambda *hits: [[2] * h + [0] * (4 - h) for h in hits]  # noqa: E731
    right = {
        "sum": dict(zip(range(4), of(2, 2, 0, 0), strict=True)),
        "average": dict(zip((0, 1, 4, 5), of(1, 1, 3, 3), strict=True)),
        "ties": dict(zip(range(2, 6), of(4, 4, 1, 1), strict=True)),
    }
    made = rows({rule: tuple(seeds.values()) for rule, seeds in right.items()})
    for one, seed in zip(made, itertools.chain.from_iterable(right.values()), strict=True):
        one["settings"]["seed"] = seed
    found = {pair.other: pair.difference.mean for pair in compared(made)}
    assert {pair.best for pair in compared(made)} == {"average"}
    assert found == pytest.approx({"sum": -0.25, "ties": 0.5})


def test_rules_that_are_not_better_than_a_constant_answer_are_not_compared():
    assert compared(rows({"arrow": ([2, 0, 0, 0], [1, 0, 1, 0]), "sum": ([0, 0, 0, 0], [0, 0, 0, 0])})) == []
    assert compared(rows({"arrow": ([2, 1, 0, 0], [1, 0, 1, 0]), "sum": ([0, 0, 0, 0], [0, 0, 0, 0])})) != []


def test_the_table_says_by_how_much_the_best_is_better():
    _, *_, last = table(bridge.PROTOCOL, rows()).split("\n\n")
    title, head, *lines = last.splitlines()
    assert "An interval is that of its difference alone; p is Holm's, over all pairs of rules" in title
    assert head.split() == ["best", "against", "seeds", "points", "[95", "%]", "p"]
    assert [line.split()[:4] for line in lines] == [["arrow", "sum", "3", "+42"], ["arrow", "uniform", "3", "+88"]]
    assert "Differences" not in table(bridge.PROTOCOL, rows({"arrow": RIGHT["arrow"]}))


def test_where_rules_are_alike_one_is_said_to_be_better_in_5_percent_of_settings_at_most():
    """Nine rules and ten seeds that differ, and no rule is better. More than 11 findings in 100 settings, at 5 %, have
    probability 0.4 %; a correction for the pairs with the best alone, as if it had been named before, makes more."""
    rng, found, naive = np.random.default_rng(0), 0, 0
    for _ in range(100):
        shares = np.clip(0.5 + 0.3 * rng.standard_normal((9, 10)), 0, 1)
        pairs = compared(
            rows(
                {
                    f"rule {i}": tuple(rng.binomial(2, share, 20).tolist() for share in line)
                    for i, line in enumerate(shares)
                }
            )
        )
        found += min(pair.p for pair in pairs) < 0.05
        naive += min(holm([pair.difference.p for pair in pairs])) < 0.05
    assert found <= 11 < naive


def test_a_bootstrap_over_questions_finds_what_is_not_there():
    """Of two rules that are alike, whose experts differ by ten points between three seeds: five percent of 300 is 15,
    and more than 25 have a probability below one percent."""
    rng, ours, bootstrap = np.random.default_rng(0), 0, 0
    for _ in range(300):
        right = np.clip(0.5 + 0.1 * rng.standard_normal((2, 3, 1)), 0, 1)
        first, second = rng.binomial(1, right, (2, 3, 40)).astype(float)
        found = difference(list(first), list(second))
        assert found is not None
        ours += found.p < 0.05
        items = (first - second).ravel()
        low, high = np.quantile(items[rng.integers(0, 120, (200, 120))].mean(axis=1), [0.025, 0.975])
        bootstrap += not low <= 0 <= high
    assert ours <= 25
    assert bootstrap > 40


def written(folder, made):
    """The rows as the file that a protocol writes."""
    for i, one in enumerate(made):
        one["hash"] = f"{i:016x}"
    (folder / "llm_bridge.jsonl").write_text("".join(json.dumps(one) + "\n" for one in made))
    return [f"rows={folder}"]


def test_the_command_compares_the_rows_that_are_named(tmp_path, capsys):
    words = written(tmp_path, rows() + rows(setup="4"))
    assert compare.main([*words, "experiment=bridge", "where=setup:2+prompting:steps"]) == 0
    title, _, head, *lines = capsys.readouterr().out.splitlines()
    assert (title, head.split()[0]) == ("bridge", "best")
    assert [line.split()[:4] for line in lines] == [["arrow", "sum", "3", "+42"], ["arrow", "uniform", "3", "+88"]]
    assert compare.main([*words, "composition=sum,uniform"]) == 0
    lines = capsys.readouterr().out.splitlines()[3:]
    assert [line.split()[:5] for line in lines] == [[setup, "sum", "uniform", "3", "+46"] for setup in "24"]


def test_of_two_rules_nothing_is_corrected(tmp_path, capsys):
    words = written(tmp_path, rows())
    assert compare.main([*words, "composition=arrow,sum"]) == 0
    shares = {rule: [np.array(of) / 2 for of in seeds] for rule, seeds in RIGHT.items()}
    plain = difference(shares["arrow"], shares["sum"])
    assert plain is not None
    assert capsys.readouterr().out.split()[-1] == f"{plain.p:.3f}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["experiment=bridg"], "experiment: got bridg; allowed: protocols with rows in "),
        (["experiment=bridge", "where=setup:3"], "where: got setup:3; allowed: 2"),
        (["experiment=bridge", "where=step:3"], "where: got step:3; allowed: "),
        (["experiment=bridge", "composition=arow"], "composition: got arow; allowed: arrow, sum, uniform"),
        (["experiment=bridge", "composition=arrow"], "allowed: two rules or more that were asked the same"),
        (["rows=nowhere"], "rows: got nowhere; allowed: a folder with rows"),
    ],
)
def test_a_mistake_is_one_line(words, said, tmp_path, capsys):
    here = written(tmp_path, rows())
    assert compare.main([*({} if words[0].startswith("rows=") else here), *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_questions_in_groups_are_compared_too():
    grouped = rows()
    for one in grouped:
        one["measured"]["by_group"] = one["measured"].pop("by_triplet")
    assert compared(grouped) == compared(rows())
