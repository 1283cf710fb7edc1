"""P4: what an expert does to prompts that are not its own."""

import math
from collections.abc import Sequence

import numpy as np

from paper_checks.predictions import limit
from paper_checks.predictions.verdicts import Between, Missing, Row, Shares, Shown, Test, alike, chosen, mean, prediction

PAIRS = (("two_hop", "own"), ("two_hop", "unrelated"), ("same_relation", "unrelated"), ("same_entity", "same_relation"), ("two_hop", "two_hop_other"))
HALF = 0.5
KERNELS = {"arccos": "the arc-cosine kernel", "eq23": "eq. 23 on the keys of all its facts"}


def nothing_explained(row: Row) -> Row:
    """Overlaps that have nothing to do with the kernel."""
    return {**row, "measured": row["measured"] | {"r2_linear": 0.05}}


def specific(row: Row) -> Row:
    """Updates that act on the two-hop question less than on unrelated ones."""
    unrelated = row["measured"].get("log_ratio_unrelated_by_triplet", ())
    return {**row, "measured": row["measured"] | {"log_ratio_two_hop_by_triplet": [value - 2 for value in unrelated]}}


@prediction(
    "P4",
    "How much an expert's update acts, at the answer, on a two-hop question over its own, on that over an unrelated one, on another person's question"
    " of its relation over an unrelated one, on its person's other questions over another's, on a two-hop question about its person over another's:"
    " each is nearer to the theory than to 1, on a logarithmic scale. The kernel of a module's own inputs, k(h, h')/k(h, h), explains more than half"
    " of the spread of the logarithm over prompts and layers.",
    "Theorem 2, eq. 19, 20 and 23: the update acts in proportion to the overlap of keys, and by nothing else. The second expert cannot tell whose"
    " two-hop question it is: there the ratio is within half of what the first expert tells.",
    "python -m llm.overlap",
    nothing_explained=nothing_explained,
    specific=specific,
)
def overlap(rows: Sequence[Row]) -> list[Test]:
    """Means over modules, templates and triplets of the logarithm of the ratio of norms; R² with its jackknife error over triplets."""
    tests: list[Test] = []
    for state in ("base", "sum"):
        for hop in (1, 2):
            group = alike(chosen(rows, "llm_overlap", state=state, expert=hop), "dataset")
            where = f"expert {hop}, hidden states of the {state}"
            if not group:
                tests.append(Missing(where, "the theory's overlaps"))
                continue
            tests += _ratios(group, hop, where) + _explained(group, where)
    return tests


def _ratios(rows: Sequence[Row], hop: int, where: str) -> list[Test]:
    n = rows[0]["settings"]["triplets"]
    measured = {kind: _logs(rows, kind) for kind in limit.KINDS if kind != "own"}
    measured["own"] = np.zeros_like(measured["two_hop"])
    told_by_first = abs(_half(1, "two_hop", "two_hop_other", n))
    tests: list[Test] = []
    for kind, over in PAIRS:
        half = _half(hop, kind, over, n)
        same = abs(half) < 1e-9  # the theory has no difference
        low = -told_by_first if same else half if half > 0 else -math.inf
        high = told_by_first if same else half if half < 0 else math.inf
        words = " and ".join([f"above {math.exp(low):.2f}"] * (low > -math.inf) + [f"below {math.exp(high):.2f}"] * (high < math.inf))
        told = f"{words} ({math.exp(2 * half):.2f} in the theory)"
        shown = lambda log: f"{math.exp(log):.2f}"  # noqa: E731
        tests.append(mean(f"{where}: {kind} over {over}", told, measured[kind] - measured[over], len(rows), low=low, high=high, shown=shown))
    return tests


def _half(hop: int, kind: str, over: str, facts: int) -> float:
    """Half of the logarithm of the theory's ratio."""
    return math.log(limit.ratio(hop, kind, facts) / limit.ratio(hop, over, facts)) / 2


def _explained(rows: Sequence[Row], where: str) -> list[Test]:
    value = float(np.mean([row["measured"]["r2_linear"] for row in rows]))
    stderr = math.sqrt(sum(row["stderr"]["r2_linear"] ** 2 for row in rows)) / len(rows)
    trials = sum(row["settings"]["triplets"] for row in rows)
    told = f"more than {HALF:g} (1 for one fact in the theory)"
    tests: list[Test] = [Between(f"{where}: R² of log ratio on log kernel", told, value, stderr, trials, len(rows), low=HALF)]
    for name, kernel in KERNELS.items():
        other = float(np.mean([row["measured"][f"r2_{name}"] for row in rows]))
        tests.append(Shown(f"{where}: R² on {kernel}", f"{other:.3f}", len(rows)))
    return tests


def _logs(rows: Sequence[Row], kind: str) -> Shares:
    """Mean logarithms of ‖ΔW h(ξ)‖/‖ΔW h(η)‖ by triplet."""
    return np.concatenate([row["measured"][f"log_ratio_{kind}_by_triplet"] for row in rows])
