"""P6: facts written into one MLP layer in closed form flip, and the two-hop fact does not follow."""

import itertools
from collections.abc import Sequence

from lora_reuse.paper_checks.predictions.registered import fits
from lora_reuse.paper_checks.predictions.rows import Row, alike, answered, chosen, own_hops, shares
from lora_reuse.paper_checks.predictions.verdicts import CLAIMS, Test, Within, at_chance, prediction, share

HOPS = ("1", "2")
BESIDE = ("same_relation", "same_entity", "unrelated")
HALF = CLAIMS["P6"].bounds["half"]
MOST = f"more than {HALF:g} (1 in the theory)"


def composes(row: Row) -> Row:
    """Edits after which half of the two-hop questions are answered."""
    return answered(row, lambda i: i % 2 == 1) if row["settings"].get("prompting") == "direct" else row


def leaves_no_trace(row: Row) -> Row:
    """Edits that are not there."""
    return answered(row, lambda i: False) if row["settings"].get("prompting") == "own" else row


def leaks_everywhere(row: Row) -> Row:
    """Edits after which every other answer is another one."""
    m = row["measured"]
    return {**row, "measured": m | {name: [0] * len(values) for name, values in m.items() if name.startswith("kept_")}}


@prediction("P6", composes=composes, leaves_no_trace=leaves_no_trace, leaks_everywhere=leaks_everywhere)
def edit(rows: Sequence[Row]) -> list[Test]:
    """Shares by triplet, averaged over the layers that are written to."""
    found = alike(chosen(rows, "llm_edit"), "depth", "covariance", "library", "composition", "prompting", "dataset")
    pick = lambda **settings: [row for row in found if fits(row, settings)]  # noqa: E731
    tests: list[Test] = []
    for library in HOPS:
        own = pick(prompting="own", library=library, covariance="identity")
        what = f"edits of hop {library}: share flipped at their own questions"
        tests.append(share(what, MOST, shares(own), len(own), Within(low=HALF)))
    for composition in ("sum", "joint"):
        for covariance in ("identity", "rome"):
            fixed = {"library": "2-combination", "composition": composition, "covariance": covariance}
            direct = pick(prompting="direct", **fixed)
            what = f"both hops, {composition}, C = {covariance}: two-hop question, direct"
            tests.append(at_chance(what, direct, own_hops(found, direct) if direct else ""))
    for prompting, told in (
        ("first", "first hop, held-out templates"),
        ("second", "second hop, held-out templates"),
        ("steps", "step by step"),
    ):
        both = pick(prompting=prompting, library="2-combination", composition="sum", covariance="identity")
        tests.append(share(f"both hops, sum: {told}", "", shares(both), len(both)))
    for library, covariance, kind in itertools.product(HOPS, ("identity", "rome"), BESIDE):
        rows_of = pick(prompting="neighbours", library=library, covariance=covariance)
        kept = shares(rows_of, f"kept_{kind}_by_triplet", f"asked_{kind}")
        tests.append(
            share(
                f"edits of hop {library}, C = {covariance}: answers kept, {kind}",
                MOST,
                kept,
                len(rows_of),
                Within(low=HALF),
            )
        )
    return tests
