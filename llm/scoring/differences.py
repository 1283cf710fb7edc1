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

from lora_reuse.llm.protocols.dials import CONTROLS, IN_ROWS, reads
from lora_reuse.llm.scoring.intervals import Difference, difference, holm
from lora_reuse.runs.settings import short
from lora_reuse.runs.table import varying

Row = Mapping[str, Any]
Shares = dict[int, Float[np.ndarray, " triplets"]]
"""The share of right answers to each triplet (or group of questions that are right or wrong together), by seed."""


class Compared(NamedTuple):
    """The best rule against another: the settings that all rules were asked with, by how much the best is better over
    so many seeds, and Holm's p-value."""

    settings: Mapping[str, Any]
    best: str
    other: str
    seeds: int
    difference: Difference
    p: float


Rules = dict[str, dict[int, Row]]
"""The rows by seed of a composition and its dials, as JSON. Two values of a dial that it reads are two rules."""


def compared(rows: Sequence[Row]) -> list[Compared]:
    """For each setting with rules that have two seeds or more in common, the best rule against each other one, if it is
    right more often than the best constant answer. A rule is a composition with its dials, called `ties density=0.5`
    where the rows of a setting differ in that dial. Controls (`llm.protocols.settings.CONTROLS`) are no rules. The
    family of the p-values is all pairs of rules of the setting."""
    blocks: dict[str, Rules] = {}
    for row in rows:
        settings = row["settings"]
        rule = settings.get("composition")
        if rule in (None, *CONTROLS) or not {"by_triplet", "by_group"} & row["measured"].keys():
            continue
        asked, made_by = asked_of(settings), rule_of(settings)
        block = blocks.setdefault(json.dumps(asked, sort_keys=True), {})
        block.setdefault(made_by, {}).setdefault(settings["seed"], row)
    return [pair for asked, rules in blocks.items() for pair in _best(json.loads(asked), named(rules))]


def asked_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a row but for its seed, its composition and what compositions read."""
    return {name: of for name, of in settings.items() if name not in {"seed", "composition", *IN_ROWS}}


def rule_of(settings: Mapping[str, Any]) -> str:
    """The composition of a row and the dials that it reads, as a key of `named`."""
    rule = settings["composition"]
    return json.dumps([rule, {name: settings[name] for name in sorted(reads(rule) & settings.keys())}])


def named(rules: Rules) -> dict[str, list[Row]]:
    """The rows of rules by their names: the composition, with the dials in which the rows differ."""
    varied = varying([list(found.values()) for found in rules.values()])
    named = {}
    for key, found in rules.items():
        rule, dials = json.loads(key)
        said = [f"{dial}={short(of)}" for dial, of in dials.items() if dial in varied]
        named[" ".join([rule, *said])] = list(found.values())
    return named


def _best(settings: Mapping[str, Any], rules: Mapping[str, Sequence[Row]]) -> list[Compared]:
    """Of the rules that share seeds with the most others, the best is the one that is ahead of each of these, in the
    mean over the seeds that both have. Where rules have unlike seeds there may be none such; then it is the one that
    is least behind."""
    shares = {rule: by_seed(group) for rule, group in rules.items()}
    found = {pair: of for pair in itertools.permutations(rules, 2) if (of := _paired(shares, *pair))}
    ahead = {rule: [of.mean for (one, _), of in found.items() if one == rule] for rule in rules}
    best = max(rules, key=lambda rule: (len(ahead[rule]), min(ahead[rule], default=0)))
    right, chance = (sum(row["measured"].get(name, 0) for row in rules[best]) for name in ("hits", "constant"))
    if not found or right <= chance:
        return []
    family = [pair for pair in itertools.combinations(rules, 2) if pair in found]
    p = dict(zip(map(frozenset, family), holm([found[pair].p for pair in family]), strict=True))
    return [
        Compared(
            settings, best, other, len(shares[best].keys() & shares[other].keys()), of, p[frozenset((best, other))]
        )
        for (one, other), of in found.items()
        if one == best
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
