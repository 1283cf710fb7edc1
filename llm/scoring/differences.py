"""By how much one rule is better than another: differences of compositions of the same experts, paired over seeds and
questions.

Of several rules the best is held against each other one. Which is best is seen in the same rows, so Holm's correction
is over all pairs of rules of a setting: with the pairs of the best alone, more than 5 % of settings in which all rules
are alike would have one that is said to be better (`tests/llm/test_differences.py`)."""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from lora_reuse.llm.protocols.dials import CONTROLS
from lora_reuse.llm.scoring.intervals import Difference, difference, holm
from lora_reuse.runs.rows import by_setting

Row = Mapping[str, Any]
Shares = dict[int, Float[np.ndarray, " triplets"]]
"""The share of right answers to each triplet (or group of questions that are right or wrong together), by seed."""


class Compared(NamedTuple):
    """The best rule against another: the settings of the best, by how much it is better over so many seeds, and Holm's
    p-value."""

    settings: Mapping[str, Any]
    best: str
    other: str
    seeds: int
    difference: Difference
    p: float


def compared(rows: Sequence[Row]) -> list[Compared]:
    """For each setting with rules that have two seeds or more in common, the best rule against each other one, if it is
    right more often than the best constant answer. Controls (`llm.protocols.settings.CONTROLS`) are no rules. The
    family of the p-values is all pairs of rules of the setting."""
    blocks: dict[str, dict[str, list[Row]]] = {}
    for group in by_setting(rows).values():
        settings = dict(group[0]["settings"])
        rule = settings.pop("composition")
        if rule not in CONTROLS and {"by_triplet", "by_group"} & group[0]["measured"].keys():
            blocks.setdefault(json.dumps(settings | {"seed": 0}), {})[rule] = list(group)
    return [pair for rules in blocks.values() for pair in _best(rules)]


def _best(rules: Mapping[str, Sequence[Row]]) -> list[Compared]:
    shares = {rule: by_seed(group) for rule, group in rules.items()}
    measured = {pair: of for pair in itertools.combinations(sorted(rules), 2) if (of := _paired(shares, *pair))}
    best = max(shares, key=lambda rule: float(np.mean(np.concatenate(list(shares[rule].values())))))
    right, chance = (sum(row["measured"].get(name, 0) for row in rules[best]) for name in ("hits", "constant"))
    if not measured or right <= chance:
        return []
    adjusted = dict(zip(measured, holm([of.p for of in measured.values()]), strict=True))
    settings = {name: value for name, value in rules[best][0]["settings"].items() if name != "seed"}
    return [
        Compared(
            settings,
            best,
            other,
            len(shares[best].keys() & shares[other].keys()),
            of,
            adjusted[min(best, other), max(best, other)],
        )
        for other in rules
        if other != best and (of := _paired(shares, best, other))
    ]


def by_seed(group: Sequence[Row]) -> Shares:
    """The shares of rows that differ in the seed alone."""
    found: Shares = {}
    for row in group:
        measured = row["measured"]
        right = np.array(measured["by_triplet"] if "by_triplet" in measured else measured["by_group"], dtype=float)
        found[row["settings"]["seed"]] = right * len(right) / measured["total"]
    return found


def _paired(shares: Mapping[str, Shares], one: str, other: str) -> Difference | None:
    seeds = sorted(shares[one].keys() & shares[other].keys())
    return difference([shares[one][seed] for seed in seeds], [shares[other][seed] for seed in seeds])
