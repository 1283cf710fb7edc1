"""P2: where the probability goes under the sum of two one-hop experts."""

import itertools
from collections.abc import Sequence

import numpy as np

from lora_reuse.paper_checks.predictions import limit
from lora_reuse.paper_checks.predictions.rows import Row, Values, alike, chosen, key, own_hops, paired
from lora_reuse.paper_checks.predictions.verdicts import Test, Within, mean, prediction

NAMES = {"old": "the old answer", "y": "y", "z": "z", "old_second": "r2(y)", "old_first": "r1(x)"}


def reversed_order(row: Row) -> Row:
    """Under the sum, what should be likeliest is the least likely."""
    if row["settings"]["composition"] != "sum":
        return row
    flipped = {
        k: [-20 - v for v in values]
        for k, values in row["measured"].items()
        if k.endswith("_by_triplet") and k.startswith("logp_")
    }
    return {**row, "measured": row["measured"] | flipped}


def z_wins(row: Row) -> Row:
    """The right answer stands above all other edited ones."""
    return {**row, "measured": row["measured"] | {"rank_z": 0.0}}


@prediction("P2", reversed_order=reversed_order, z_wins=z_wins)
def probabilities(rows: Sequence[Row]) -> list[Test]:
    """Neighbours in the theory's order, means over triplets of paired differences; the rank of z among the edited
    answers against its mean where all are alike, (n − 1)/2. People of whom the sum does not keep both hops are left
    out."""
    found = _pair(rows)
    every = [row for row in found if row["settings"]["composition"] == "sum"]
    lost = {
        people: own_hops(rows, [row for row in every if key(row)[1] == people])
        for people in dict.fromkeys(key(row)[1] for row in every)
    }
    summed = [row for row in every if not lost[key(row)[1]]]
    base = [row for row in found if row["settings"]["composition"] == "base"]
    if not summed:
        return [Test("log-probabilities under the sum", "the theory's order")]
    n = summed[0]["settings"]["triplets"]
    outputs = limit.outputs(n)
    values = {name: _columns(summed, name) for name in NAMES}
    change = {name: paired(values[name], _columns(base, name)) for name in NAMES}
    tests = _in_order("", outputs, values, len(summed))
    tests += _in_order("change of ", outputs | {"old": 0.0}, change, 2 * len(change["old"]))
    return [*tests, _rank(summed, n), *(Test(f"left out: {people}", "", why) for people, why in lost.items() if why)]


def _in_order(what: str, outputs: dict[str, float], values: dict[str, Values], rows: int) -> list[Test]:
    """The theory's neighbours: the mean of the difference of each two is above 0."""
    order = sorted(NAMES, key=lambda name: -outputs[name])
    tests: list[Test] = []
    for high, low in itertools.pairwise(order):
        told = f"{NAMES[high]} above {NAMES[low]}" if not what else f"{what}log P: {NAMES[high]} above {NAMES[low]}"
        predicted = f"above 0 nats ({outputs[high]:.3f} and {outputs[low]:.3f} in the theory)"
        tests.append(
            mean(told, predicted, paired(values[high], values[low]), rows, Within(low=0.0), shown="{:+.2f}".format)
        )
    return tests


def _rank(rows: Sequence[Row], n: int) -> Test:
    """Where all are alike the rank of a triplet has variance (n² − 1)/12. The margin is half-way to a z that is the
    likeliest."""
    what, predicted = (
        f"how many of the other {n - 1} edited answers are likelier than z",
        f"{(n - 1) / 2:g} or more (supported above {(n - 1) / 4:g})",
    )
    ranks = {key(row): np.array([row["measured"]["rank_z"]]) for row in rows}
    return mean(
        what,
        predicted,
        ranks,
        len(rows),
        Within(low=(n - 1) / 2, margin=(n - 1) / 4),
        least=(n * n - 1) / 12 / n,
        shown="{:.2f}".format,
    )


def _columns(rows: Sequence[Row], name: str) -> Values:
    """log P of a candidate for each triplet of each row."""
    return {key(row): np.array(row["measured"][f"logp_{name}_by_triplet"]) for row in rows}


def _pair(rows: Sequence[Row]) -> list[Row]:
    """Rows of the sum of two one-hop experts, and of the base, with log-probabilities: of `llm.two_hop` or, without
    any, of setup 0 of `llm.bridge`."""
    told = [row for row in rows if "logp_z_by_triplet" in row["measured"]]
    found = chosen(
        told, "llm_two_hop", composition=("sum", "base"), prompting="direct", library=("2-combination", "none")
    )
    found = found or chosen(told, "llm_bridge", composition=("sum", "base"), prompting="direct", setup="0")
    return alike(found, "composition", "library", "dataset")
