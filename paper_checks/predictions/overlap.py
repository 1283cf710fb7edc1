"""P4: what an expert does to prompts that are not its own."""

import math
from collections.abc import Sequence

import numpy as np

from lora_reuse.paper_checks.predictions import limit
from lora_reuse.paper_checks.predictions.rows import Row, Values, alike, chosen, key, paired
from lora_reuse.paper_checks.predictions.verdicts import CLAIMS, Test, Within, mean, prediction

PAIRS = (
    ("two_hop", "own"),
    ("two_hop", "unrelated"),
    ("same_relation", "unrelated"),
    ("same_entity", "same_relation"),
    ("two_hop", "two_hop_other"),
)
HALF = CLAIMS["P4"].bounds["explained"]
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
    remark=(
        "The hidden states are those of the base, as in the theory, or those with the sum on it, and each has tests of"
        " its own: what is explained on the base's states says nothing of the composed model's."
    ),
    nothing_explained=nothing_explained,
    specific=specific,
)
def overlap(rows: Sequence[Row]) -> list[Test]:
    """Means over modules, templates and triplets of the logarithm of the ratio of norms; R² of that logarithm on the
    kernel's."""
    tests: list[Test] = []
    for state in ("base", "sum"):
        for hop in (1, 2):
            group = alike(chosen(rows, "llm_overlap", state=state, expert=hop), "dataset")
            where = f"expert {hop}, hidden states of the {state}"
            if not group:
                tests.append(Test(where, "the theory's overlaps"))
                continue
            tests += _ratios(group, hop, where) + _explained(group, where)
    return tests


def _ratios(rows: Sequence[Row], hop: int, where: str) -> list[Test]:
    n = rows[0]["settings"]["triplets"]
    measured = {kind: _logs(rows, kind) for kind in limit.KINDS if kind != "own"}
    measured["own"] = {place: np.zeros_like(each) for place, each in measured["two_hop"].items()}
    told_by_first = abs(_half(1, "two_hop", "two_hop_other", n))
    tests: list[Test] = []
    for kind, over in PAIRS:
        half = _half(hop, kind, over, n)
        same = abs(half) < 1e-9  # the theory has no difference
        low = -told_by_first if same else half if half > 0 else -math.inf
        high = told_by_first if same else half if half < 0 else math.inf
        words = " and ".join(
            [f"above {math.exp(low):.2f}"] * (low > -math.inf) + [f"below {math.exp(high):.2f}"] * (high < math.inf)
        )
        told = f"{words} ({math.exp(2 * half):.2f} in the theory)"
        shown = lambda log: f"{math.exp(log):.2f}"  # noqa: E731
        apart = paired(measured[kind], measured[over])
        tests.append(mean(f"{where}: {kind} over {over}", told, apart, len(rows), Within(low, high), shown=shown))
    return tests


def _half(hop: int, kind: str, over: str, facts: int) -> float:
    """Half of the logarithm of the theory's ratio."""
    return math.log(limit.ratio(hop, kind, facts) / limit.ratio(hop, over, facts)) / 2


def _explained(rows: Sequence[Row], where: str) -> list[Test]:
    """R², whose error within a seed is its jackknife over triplets."""
    r2 = {key(row): np.array([row["measured"]["r2_linear"]]) for row in rows}
    least = float(np.mean([row["stderr"]["r2_linear"] ** 2 for row in rows]))
    told = f"more than {HALF:g} (1 for one fact in the theory)"
    tests = [mean(f"{where}: R² of log ratio on log kernel", told, r2, len(rows), Within(low=HALF), least=least)]
    for name, kernel in KERNELS.items():
        other = float(np.mean([row["measured"][f"r2_{name}"] for row in rows]))
        tests.append(Test(f"{where}: R² on {kernel}", "", f"{other:.3f}", len(rows)))
    return tests


def _logs(rows: Sequence[Row], kind: str) -> Values:
    """Mean logarithms of ‖ΔW h(ξ)‖/‖ΔW h(η)‖ by triplet."""
    return {key(row): np.array(row["measured"][f"log_ratio_{kind}_by_triplet"]) for row in rows}
