"""The table that a command prints: seeds are pooled, hops stand apart, the paper's number stands beside its cell."""

import pytest

from lora_reuse.llm.protocols.by_name import protocol_of
from lora_reuse.llm.protocols.table import table


def row(by_triplet, settings, **counts):
    base = {"model": "a/Qwen2.5-7B-Instruct", "layers": "mlp", "prompting": "steps", "seed": 0}
    hits = {"hits": sum(by_triplet), "total": 2 * len(by_triplet), "by_triplet": by_triplet, "lenient": sum(by_triplet)}
    predicted = {"at_most": counts.pop("at_most")} if "at_most" in counts else {}
    return {"settings": base | settings, "measured": hits | counts, "predicted": predicted}


def cells(protocol, rows):
    """The table as a list of {column: cell}, by where the columns begin."""
    head, *lines = table(protocol_of(f"llm_{protocol}"), rows).partition("\n\n")[0].splitlines()
    names = ["hits/total", "share [95 %]", "control", "lenient", "B", "C|B", "form", "z/other", "paper", "theory"]
    starts = {name: head.index(f"  {name}") + 2 for name in names if f"  {name}" in head + "  "}
    ends = dict(zip(starts, [*list(starts.values())[1:], None], strict=True))
    return [{name: line[start : ends[name]].strip() for name, start in starts.items()} for line in lines]


def test_seeds_are_pooled_and_hops_shown_apart():
    steps = {"bridge_right": 6, "gold_right_given_bridge": 3, "template": 8}
    rows = [
        row([2, 2, 0, 0], {"dataset": "F", "library": "2-combination", "composition": "arrow", "seed": seed}, **steps)
        for seed in (0, 1)
    ]
    (line,) = cells("two_hop", rows)
    assert line["hits/total"] == "8/16"
    assert line["share [95 %]"].startswith("50 % [")
    low, high = (int(part) for part in line["share [95 %]"].removeprefix("50 % [").removesuffix("]").split(","))
    assert 10 <= low <= 25
    assert 75 <= high <= 90
    assert (line["lenient"], line["B"], line["C|B"], line["form"], line["paper"]) == (
        "8",
        "75 %",
        "50 %",
        "100 %",
        "0 %",
    )
    assert "theory" not in line


def test_direct_answers_have_log_probabilities_and_the_bound():
    direct = {"dataset": "F", "library": "2-combination", "composition": "sum", "prompting": "direct"}
    with_them = row([0, 1], direct, logp_z=-3.0, logp_other=-5.5, at_most=2.0)
    (line,) = cells("two_hop", [with_them])
    assert (line["z/other"], line["theory"]) == ("+2.50", "<= 50 %")
    (line,) = cells(
        "two_hop", [with_them, row([1, 1], direct | {"seed": 1}, at_most=2.0)]
    )  # the second run with log_probs=false
    assert line["hits/total"] == "3/8"
    assert "z/other" not in line


THEIRS = [
    ("two_hop", {"dataset": "F", "library": "3-combination", "composition": "arrow"}, "65 %"),
    (
        "two_hop",
        {"dataset": "F", "library": "3-combination", "composition": "arrow", "model": "my/finetune"},
        "19 %",
    ),  # the 3B model's
    ("two_hop", {"dataset": "F", "library": "3-combination", "composition": "arrow", "model": "pocket"}, "19 %"),
    ("two_hop", {"dataset": "F", "library": "oracle", "composition": "alone"}, "100 %"),
    ("two_hop", {"dataset": "F", "library": "oracle", "composition": "alone", "prompting": "direct"}, "100 %"),
    ("two_hop", {"dataset": "F", "library": "oracle", "composition": "alone", "prompting": "first"}, ""),
    ("two_hop", {"dataset": "F", "library": "3-combination", "composition": "arrow", "prompting": "direct"}, ""),
    ("two_hop", {"dataset": "F", "library": "3-combination", "composition": "ties"}, ""),
    ("two_hop", {"dataset": "F", "library": "none", "composition": "base"}, ""),
    ("two_hop", {"dataset": "F", "library": "3-combination", "composition": "arrow", "layers": "attention"}, ""),
    (
        "two_hop",
        {
            "dataset": "F",
            "library": "3-combination",
            "composition": "arrow",
            "layers": "attention",
            "model": "Qwen2.5-14B-Instruct",
        },
        "39 %",
    ),
    ("bridge", {"setup": "2", "composition": "arrow"}, "85.3 %"),
    ("bridge", {"setup": "2", "composition": "uniform", "model": "Qwen/Qwen2.5-3B-Instruct/"}, "3.9 %"),
    ("bridge", {"setup": "1", "composition": "arrow"}, "6.9 %"),
    ("bridge", {"setup": "2", "composition": "average"}, ""),
    ("bridge", {"setup": "3", "composition": "arrow", "layers": "both"}, ""),
    ("placement", {"setup": "2", "composition": "arrow", "layers": "both"}, "93.1 %"),
    ("placement", {"setup": "1", "composition": "uniform", "layers": "attention", "model": "other"}, "0 %"),
    ("placement", {"setup": "0", "composition": "arrow", "layers": "attention"}, ""),
    ("scale", {"dataset": "R", "library": "2-combination", "composition": "cat"}, ""),
]


@pytest.mark.parametrize(("protocol", "settings", "number"), THEIRS)
def test_the_papers_number_stands_beside_the_same_cell(protocol, settings, number):
    (line,) = cells(protocol, [row([1, 0], settings)])
    assert line.get("paper", "") == number


def test_numbers_are_sorted_as_numbers():
    rows = [row([rank, 0], {"setup": "2", "composition": "arrow", "rank": rank}) for rank in (16, 2, 4)]
    assert [line["hits/total"] for line in cells("bridge", rows)] == ["2/4", "4/4", "16/4"]


def test_a_dial_may_hold_a_number_a_list_and_words():
    """Lines stand in an order whatever a dial holds, and a list that was written as a tuple is the same list."""
    given = [0.5, [0.5, 0.5], "0-1=1:0/rest=0:1", [1.0, 0.0], 0.25]
    rows = [
        row([2, 0], {"dataset": "F", "library": "pair", "composition": "cat", "weights": weights}) for weights in given
    ]
    assert len(cells("two_hop", rows)) == len(given)
