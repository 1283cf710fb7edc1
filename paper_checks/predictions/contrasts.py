"""C0 to C4, the primary contrasts, P7 to P9 and P12: each test of them is declared in its claim's file, and is a share,
or a share less another one. Experts are of rank 16 in the MLP of every layer where a claim says nothing else.

Both held-out splits are asked where there are rows of both; a triplet is then right in the share of all its prompts.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lora_reuse.paper_checks.predictions.registered import Claim, fits
from lora_reuse.paper_checks.predictions.rows import (
    Row,
    Shares,
    Values,
    alike,
    answered,
    key,
    own_hops,
    paired,
    shares,
    unkept,
)
from lora_reuse.paper_checks.predictions.verdicts import (
    ANYWHERE,
    CLAIMS,
    PREDICTIONS,
    Mutant,
    Prediction,
    Test,
    Within,
    mean,
    share,
)

SPLITS = "split"
USUAL: Mapping[str, Any] = {"layers": "mlp", "rank": 16}


def compare(claim: Claim, rows: Sequence[Row]) -> list[Test]:
    """The tests of a claim, from the rows of one model: a test's `rows` are of those of the claim, and `less` of those
    of the test."""
    about = claim.content["rows"][0]
    return [_test(dict(declared) | {"rows": about | declared["rows"]}, rows) for declared in claim.tests]


def _test(declared: Mapping[str, Any], rows: Sequence[Row]) -> Test:
    kept, less = declared.get("where") == "both hops kept", declared.get("less")
    found, other = _rows(rows, declared["rows"]), []
    values = _where_kept(found) if kept else shares(found)
    if less == "deal":
        values = paired(values, _dealt(found, kept, values))
    elif less:
        other = _rows(rows, declared["rows"] | less)
        values = paired(values, shares(other))
    void = "" if not found else _hops(rows, found) or (_hops(rows, other) if other else "")
    predicted, within = _predicted(declared)
    count = len(found) + len(other)
    if less:
        return mean(
            declared["what"],
            predicted,
            values,
            count,
            within,
            void,
            floor=True,
            shown=lambda value: f"{100 * value:+.1f}",
        )
    return share(declared["what"], predicted, values, count, within, void)


def _predicted(declared: Mapping[str, Any]) -> tuple[str, Within]:
    if "more_than" in declared:
        return f"{100 * declared['more_than']:g} points or more", Within(low=declared["more_than"])
    if "at_most" in declared:
        bound, margin = declared["at_most"], declared["margin"]
        return f"at most {100 * bound:g} points (supported below {100 * (bound + margin):g})", Within(
            high=bound, margin=margin
        )
    return "", ANYWHERE


def _rows(rows: Sequence[Row], settings: Mapping[str, Any]) -> list[Row]:
    """The rows with these settings and others alike, of both held-out splits."""
    return alike([row for row in rows if fits(row, {**USUAL, **settings})], SPLITS)


def _where_kept(rows: Sequence[Row]) -> Values:
    """The share of right answers among those with both hops kept, of the triplets that have any."""
    total = lambda name: _summed(rows, name)  # noqa: E731
    hits, kept = total("hits_both_kept_by_triplet"), total("both_kept_by_triplet")
    return {place: hits[place][kept[place] > 0] / kept[place][kept[place] > 0] for place in kept if kept[place].any()}


def _dealt(rows: Sequence[Row], kept: bool, values: Values) -> Values:
    """The share that would be right if the right places were dealt anew, for each triplet the same."""
    dealt, asked = ("permuted_both_kept", "both_kept") if kept else ("permuted", "total")
    hits, total = _summed(rows, dealt), _summed(rows, asked)
    return {place: np.full(len(each), float(hits[place] / total[place])) for place, each in values.items()}


def _summed(rows: Sequence[Row], name: str) -> dict[tuple, Shares]:
    """A measurement, by seed and people, over splits."""
    found: dict[tuple, Shares] = {}
    for row in rows:
        found[key(row)] = found.get(key(row), 0) + np.array(row["measured"][name], dtype=float)
    return found


def _hops(rows: Sequence[Row], found: Sequence[Row]) -> str:
    """Why these rows say nothing of composing: a hop is not kept, in the same row or in those that ask for it."""
    if "first_kept" in found[0]["measured"]:
        asked = [
            [{"measured": {"hits": row["measured"][name], "total": row["measured"]["total"]}} for row in found]
            for name in ("first_kept", "second_kept")
        ]
        return unkept(found, *asked)
    return own_hops([row for row in rows if row["experiment"] == found[0]["experiment"]], found, SPLITS)


def composes(row: Row) -> Row:
    """A composition that answers every other two-hop question, whatever it would say by chance."""
    row = answered(row, lambda i: i % 2 == 1)
    m = row["measured"]
    if "both_kept_by_triplet" not in m:
        return row
    hits = [min(right, kept) for right, kept in zip(m["by_triplet"], m["both_kept_by_triplet"], strict=True)]
    return {**row, "measured": m | {"hits_both_kept_by_triplet": hits, "hits_both_kept": sum(hits)}}


def no_difference(row: Row) -> Row:
    """Step by step every setup and rule answers half of the questions."""
    return answered(row, lambda i: i % 2 == 1) if row["settings"].get("prompting") == "steps" else row


def the_other_way_round(row: Row) -> Row:
    """Expert 2 below expert 1 does what expert 1 below expert 2 is said to do."""
    layers = row["settings"].get("layers", "")
    return {**row, "settings": row["settings"] | {"layers": "/".join(reversed(layers.split("/")))}}


def drawn_for_compiled(row: Row) -> Row:
    """A bridge drawn at random does what a compiled one is said to do."""
    return _exchanged(row, "choice", "compiled", "random")


def apart_for_chained(row: Row) -> Row:
    """Relations that pretraining never chained do what those are said to do that it did."""
    return _exchanged(row, "relations", "chained", "apart")


def _exchanged(row: Row, name: str, one: str, other: str) -> Row:
    value = row["settings"].get(name)
    return {**row, "settings": row["settings"] | {name: {one: other, other: one}[value]}} if value else row


PRIMARY: dict[str, Mutant] = {
    "C0": composes,
    "C1": no_difference,
    "C2": no_difference,
    "C3": no_difference,
    "C4": composes,
}
OTHERS: dict[str, Mutant] = {
    "P7": the_other_way_round,
    "P8": composes,
    "P9": drawn_for_compiled,
    "P12": apart_for_chained,
}
for _id, _mutant in (PRIMARY | OTHERS).items():
    PREDICTIONS[_id] = Prediction(
        CLAIMS[_id], functools.partial(compare, CLAIMS[_id]), {_mutant.__name__: _mutant}, primary=_id in PRIMARY
    )
