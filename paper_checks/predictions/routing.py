"""P5: step by step with the bridge, Arrow sends each hop to its expert, and what it sends to the other one is wrong."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from paper_checks.predictions.verdicts import AtMost, Between, Missing, Row, Shown, Test, alike, chosen, prediction, shares

RULES = ("arrow", "arrow_after")
PROTOTYPES = ("", ":swapped", ":random")


def elsewhere(row: Row) -> Row:
    """A router whose weight is on the wrong expert, where its answers are right as before."""
    flipped = {name: row["measured"][name][::-1] for name in ("hop_1_by_gate", "hop_2_by_gate") if name in row["measured"]}
    return {**row, "measured": row["measured"] | flipped}


@prediction(
    "P5",
    "With the bridge (setup 2), where a hop's answer is predicted more than half of Arrow's weight is on that hop's expert, more often than not; the"
    " share of right hops is higher by more than a half where it is; and with each other's prototypes Arrow answers no more than chance, 1/n.",
    "Eq. 28: weights go by |x·v|, 0.664 on the right expert for a restated question (one fact, unit scale). Proposition 1: a fact flips at 1/2.",
    "python -m llm.bridge setup=2 prompting=steps composition=arrow,arrow_after,arrow:swapped,arrow_after:swapped,arrow:random,arrow_after:random",
    elsewhere=elsewhere,
)
def routing(rows: Sequence[Row]) -> list[Test]:
    """Counts of prompts, by whether the gate is above one half at the answer's first token and by whether the hop is right; those of a
    triplet count as one. Hops right by gate are pooled over prototypes: swapped and random ones are what puts the weight elsewhere."""
    tests: list[Test] = []
    for rule in RULES:
        found = {end: alike(chosen(rows, "llm_bridge", setup="2", prompting="steps", composition=rule + end)) for end in PROTOTYPES}
        for hop in (1, 2):
            tests += _hop(rule, hop, found)
        what, swapped = f"{rule}: right with each other's prototypes", found[":swapped"]
        n = swapped[0]["settings"]["triplets"] if swapped else 0
        tests.append(AtMost(what, f"at most 1/{n}", shares(swapped), 1 / n, len(swapped)) if swapped else Missing(what, "at most 1/n"))
    return tests


def _hop(rule: str, hop: int, found: dict[str, list[Row]]) -> list[Test]:
    own = _counts(found[""], hop)
    what = f"{rule}, hop {hop}: share of answers with the gate on expert {hop}"
    tests: list[Test] = [_share(what, "more than 0.5 (1 in the theory)", own.sum(axis=1), 0.5, len(found[""]))]
    gate = f"gate_{hop}_at_{('first', 'second')[hop - 1]}_answer"
    weights = [row["measured"][gate] for row in found[""] if gate in row["measured"]]
    if weights:
        tests.append(Shown(f"{rule}, hop {hop}: mean weight of expert {hop} there", f"{np.mean(weights):.3f}", len(weights), "0.664"))
    pooled = [row for rows in found.values() for row in rows]
    counts = _counts(pooled, hop) / max(1, sum(map(bool, found.values())))  # a triplet is one trial, under however many prototypes it was asked
    what, told = f"{rule}, hop {hop}: share right with the gate on its expert less that without", "more than 0.5 (1 and 0 in the theory)"
    asked = counts.sum(axis=1)
    if not asked.all():
        return [*tests, Missing(what, told)]
    p = (counts[:, 0] + 0.5) / (asked + 1)  # half a hit and half a miss more, so that all or nothing has an error, too
    stderr = float(np.sqrt((p * (1 - p) / asked).sum()))
    trials = round(float(asked.min()))
    return [
        *tests,
        Between(what, told, float(counts[0, 0] / asked[0] - counts[1, 0] / asked[1]), stderr, trials, len(pooled), low=0.5, shown=_in_range),
    ]


def _share(what: str, told: str, counts: Float64[np.ndarray, "2"], low: float, rows: int) -> Test:
    total = float(counts.sum())
    if not total:
        return Missing(what, told)
    p = (counts[0] + 0.5) / (total + 1)
    return Between(what, told, float(counts[0] / total), float(np.sqrt(p * (1 - p) / total)), round(total), rows, low=low, shown=_in_range)


def _in_range(share: float) -> str:
    return f"{min(max(share, -1.0), 1.0):.3f}"


def _counts(rows: Sequence[Row], hop: int) -> Float64[np.ndarray, "2 2"]:
    """[[right, wrong], [right, wrong]] with the gate on the hop's expert, and without, in triplets."""
    total = np.zeros((2, 2))
    for row in rows:
        if f"hop_{hop}_by_gate" in row["measured"]:
            total += np.array(row["measured"][f"hop_{hop}_by_gate"]) * len(row["measured"]["by_triplet"]) / row["measured"]["total"]
    return total
