"""P10 and P11: whom composition reaches, of people whom a share of pretrainings chained and of those whom none did."""

from collections.abc import Callable, Sequence

import numpy as np

from lora_reuse.llm.protocols.controls import ENOUGH
from lora_reuse.paper_checks.predictions.registered import fits
from lora_reuse.paper_checks.predictions.rows import Row, Values, alike
from lora_reuse.paper_checks.predictions.verdicts import CLAIMS, Test, Within, mean, prediction, share

SHARES = (0.25, 0.5, 0.75)
"""The exposures at which some people were chained and others were not."""
DIRECT, STEPS = CLAIMS["P10"].bounds, CLAIMS["P11"].bounds


def reached(row: Row) -> Row:
    """Every other person is answered, chained or not."""
    return _answered(row, lambda i: i % 2 == 1)


def not_reached(row: Row) -> Row:
    """Step by step too, the chained alone are answered."""
    return _answered(row, lambda i: False) if row["settings"].get("people") == "never" else row


def _answered(row: Row, right: Callable[[int], bool]) -> Row:
    m = row["measured"]
    if "known_by_group" not in m:
        return row
    hits = [size * right(i) for i, size in enumerate(m["group_sizes"])]
    known = sum(one for one, yes in zip(hits, m["known_by_group"], strict=True) if yes)
    return {**row, "measured": m | {"by_group": hits, "hits": sum(hits), "hits_known": known}}


@prediction(
    "P10",
    remark=(
        "A model here is the family of pretrainings, whose seeds are the unit; only people of whom a model answers both"
        " hops in every wording are counted."
    ),
    reached=reached,
)
def directly(rows: Sequence[Row]) -> list[Test]:
    """Of the known whom nobody chained, the share of right answers less that of dealt places, at each exposure; beside
    it the share of the chained."""
    tests = []
    for exposure in SHARES:
        never, chained = (of(rows, exposure, people, "direct") for people in ("never", "chained"))
        beyond = {place: each - _dealt(never, place) for place, each in right(never).items()}
        tests.append(
            mean(
                f"{exposure:.0%} chained, the others asked directly: right answers less those of dealt places",
                f"at most {100 * DIRECT['at_most']:g} points (supported below {100 * DIRECT['margin']:g})",
                beyond,
                len(never),
                Within(high=DIRECT["at_most"], margin=DIRECT["margin"]),
                void(never, chained),
                floor=True,
                shown=lambda value: f"{100 * value:+.1f}",
            )
        )
        tests.append(
            share(f"{exposure:.0%} chained, these asked directly: right answers", "", right(chained), len(chained))
        )
    return tests


@prediction("P11", not_reached=not_reached)
def step_by_step(rows: Sequence[Row]) -> list[Test]:
    """Of the known whom nobody chained, the share of right answers in steps, at each exposure; beside it the share of
    the chained."""
    tests = []
    for exposure in SHARES:
        never, chained = (of(rows, exposure, people, "steps") for people in ("never", "chained"))
        for found, people, predicted, within in (
            (never, "the others", f"{100 * STEPS['more_than']:g} % or more", Within(low=STEPS["more_than"])),
            (chained, "these", "", Within()),
        ):
            what = f"{exposure:.0%} chained, {people} asked step by step: right answers"
            lost = void(never, chained) if predicted else ""
            tests.append(share(what, predicted, right(found), len(found), within, lost))
    return tests


def of(rows: Sequence[Row], exposure: float, people: str, prompting: str) -> list[Row]:
    """The rows of models of an exposure, about these people, asked in this way."""
    wanted = {"people": people, "prompting": prompting}
    return alike(
        [row for row in rows if fits(row, wanted) and row["provenance"]["pocket"].get("exposure", 0.0) == exposure],
        "model",
    )


def right(rows: Sequence[Row]) -> Values:
    """The share of right answers to each known person, by pretraining seed."""
    found: Values = {}
    for row in rows:
        m = row["measured"]
        known = np.array(m["known_by_group"], dtype=bool)
        if known.any():
            found[_place(row)] = (np.array(m["by_group"]) / np.array(m["group_sizes"]))[known]
    return found


def _place(row: Row) -> tuple:
    return row["provenance"]["pocket"]["seed"], row["settings"]["seed"], row["provenance"]["base_digest"]


def _dealt(rows: Sequence[Row], place: tuple) -> float:
    (m,) = (row["measured"] for row in rows if _place(row) == place)
    return m["permuted_known"] / m["known"]


def void(never: Sequence[Row], chained: Sequence[Row]) -> str:
    """Why answers about the others say nothing: the chained are not answered either, or hops are not known."""
    for rows, people in ((never, "others"), (chained, "chained")):
        known, asked = (sum(row["measured"][name] for row in rows) for name in ("known", "total"))
        if asked and known < ENOUGH * asked:
            return f"both hops are known of {100 * known / asked:.0f} % of the {people}"
    hits, known = (sum(row["measured"][name] for row in chained) for name in ("hits_known", "known"))
    return f"the chained are answered in {100 * hits / known:.0f} %" if known and hits < ENOUGH * known else ""
