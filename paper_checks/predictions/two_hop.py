"""P1: two one-hop experts, however composed, do not answer the two-hop question."""

import json
from collections.abc import Sequence
from typing import Any

from paper_checks.predictions.verdicts import AtMost, Missing, Row, Test, answered, chosen, prediction, shares

NOT_COMPOSED = ("base", "random", "alone")
EXPERIMENTS = ("llm_two_hop", "llm_bridge", "llm_placement", "llm_methods")


def composes(row: Row) -> Row:
    """A composition that answers half of the questions."""
    return answered(row, lambda i: i % 2 == 1)


@prediction(
    "P1",
    "Asked directly, any composition of two one-hop experts answers the two-hop question no more often than chance among the n edited answers, 1/n.",
    "Theorems 2 and 3, eq. 25: every edited z gets the same multiple on every two-hop prompt, whatever the weights.",
    "python -m llm.two_hop library=2-combination prompting=direct",
    composes=composes,
)
def two_hop(rows: Sequence[Row]) -> list[Test]:
    """One test a composition and experiment, over datasets and seeds."""
    asked = [row for name in EXPERIMENTS for row in chosen(rows, name, prompting="direct") if one_hop_only(row)]
    groups: dict[str, list[Row]] = {}
    for row in asked:
        fixed = {k: v for k, v in row["settings"].items() if k not in ("seed", "dataset")}
        groups.setdefault(json.dumps([row["experiment"], fixed], sort_keys=True), []).append(row)
    dials = dict.fromkeys(name for row in asked for name in row["settings"])
    varying = [name for name in dials if len({str(row["settings"].get(name)) for row in asked}) > 1]
    tests: list[Test] = []
    for group in groups.values():
        settings, n = group[0]["settings"], group[0]["settings"]["triplets"]
        told = [f"{k}={settings[k]}" for k in varying if k in settings and k not in ("seed", "dataset", "composition", "library", "setup")]
        what = " ".join([settings["composition"], f"({group[0]['experiment'].removeprefix('llm_')})", *told])
        tests.append(AtMost(what, f"at most 1/{n}", shares(group), 1 / n, len(group)))
    return tests or [Missing("any composition", "at most 1/n")]


def one_hop_only(row: Row) -> bool:
    """Whether a row is of two experts of one hop each, composed."""
    settings: dict[str, Any] = row["settings"]
    return settings["composition"] not in NOT_COMPOSED and (settings.get("library") == "2-combination" or settings.get("setup") == "0")
