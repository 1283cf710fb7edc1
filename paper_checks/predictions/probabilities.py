"""P2: where the probability goes under the sum of two one-hop experts."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from paper_checks.predictions import limit
from paper_checks.predictions.verdicts import Missing, NotBelow, Row, Shares, Test, alike, chosen, mean, prediction

NAMES = {"old": "the old answer", "y": "y", "z": "z", "old_second": "r2(y)", "old_first": "r1(x)"}


def reversed_order(row: Row) -> Row:
    """Under the sum, what should be likeliest is the least likely."""
    if row["settings"]["composition"] != "sum":
        return row
    flipped = {k: [-20 - v for v in values] for k, values in row["measured"].items() if k.endswith("_by_triplet") and k.startswith("logp_")}
    return {**row, "measured": row["measured"] | flipped}


def z_wins(row: Row) -> Row:
    """The right answer stands above all other edited ones."""
    return {**row, "measured": row["measured"] | {"rank_z": 0.0}}


@prediction(
    "P2",
    "Under the sum, log-probabilities on the two-hop question and their changes from the base are in the order of the theory's outputs: the old"
    " answer, y, z, r2(y), r1(x) for several facts, and z is no likelier than another edited z.",
    "Theorem 2, eq. 19 and 25: the old answer keeps its 1; the experts add multiples of i_y - i_r1(x) and of every i_z - i_r2(y), the same for each.",
    "python -m llm.two_hop library=2-combination composition=sum,base prompting=direct",
    reversed_order=reversed_order,
    z_wins=z_wins,
)
def probabilities(rows: Sequence[Row]) -> list[Test]:
    """Neighbours in the theory's order, means over triplets of paired differences; the rank of z among the edited answers against its mean and
    variance where all are alike, (n − 1)/2 and (n² − 1)/12 a triplet."""
    found = _pair(rows)
    summed = [row for row in found if row["settings"]["composition"] == "sum"]
    base = {_question(row): row for row in found if row["settings"]["composition"] == "base"}
    if not summed:
        return [Missing("log-probabilities under the sum", "the theory's order")]
    n = summed[0]["settings"]["triplets"]
    outputs = limit.outputs(n)
    paired = [(row, base[_question(row)]) for row in summed if _question(row) in base]
    change = {name: _columns([row for row, _ in paired], name) - _columns([other for _, other in paired], name) for name in NAMES}
    tests = _in_order("", outputs, {name: _columns(summed, name) for name in NAMES}, len(summed))
    tests += _in_order("change of ", outputs | {"old": 0.0}, change, 2 * len(paired))
    return [*tests, _rank(summed, n)]


def _in_order(what: str, outputs: dict[str, float], values: dict[str, Shares], rows: int) -> list[Test]:
    """The theory's neighbours: the mean of the difference of each two is above 0."""
    order = sorted(NAMES, key=lambda name: -outputs[name])
    tests: list[Test] = []
    for high, low in itertools.pairwise(order):
        told = f"{what}{NAMES[high]} above {what}{NAMES[low]}" if not what else f"{what}log P: {NAMES[high]} above {NAMES[low]}"
        predicted = f"above 0 ({outputs[high]:.3f} and {outputs[low]:.3f} in the theory)"
        tests.append(mean(told, predicted, values[high] - values[low], rows, low=0.0, shown="{:+.2f} nats".format))
    return tests


def _rank(rows: Sequence[Row], n: int) -> Test:
    value = float(np.mean([row["measured"]["rank_z"] for row in rows]))
    stderr = math.sqrt((n * n - 1) / 12 / (n * len(rows)))
    what, predicted = f"how many of the other {n - 1} edited answers are likelier than z", f"{(n - 1) / 2:g} or more"
    return NotBelow(what, predicted, value, stderr, len(rows), bound=(n - 1) / 2, worst=(n - 1) / 4)


def _columns(rows: Sequence[Row], name: str) -> Shares:
    """log P of a candidate for each triplet of each row."""
    return np.concatenate([row["measured"][f"logp_{name}_by_triplet"] for row in rows]) if rows else np.zeros(0)


def _pair(rows: Sequence[Row]) -> list[Row]:
    """Rows of the sum of two one-hop experts, and of the base, with log-probabilities: of `llm.two_hop` or, without any, of setup 0 of
    `llm.bridge`."""
    told = [row for row in rows if "logp_z_by_triplet" in row["measured"]]
    found = chosen(told, "llm_two_hop", composition=("sum", "base"), prompting="direct", library=("2-combination", "none"))
    found = found or chosen(told, "llm_bridge", composition=("sum", "base"), prompting="direct", setup="0")
    return alike(found, "composition", "library", "dataset")


def _question(row: Row) -> tuple:
    """What rows of the same questions share."""
    return row["settings"].get("dataset"), row["settings"]["seed"]
