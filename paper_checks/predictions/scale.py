"""P3: edited facts flip at half of their adapter, and weights below it keep none."""

import math
from collections.abc import Sequence

from lora_reuse.paper_checks.predictions.rows import Row, alike, answered, chosen, paired, shares
from lora_reuse.paper_checks.predictions.verdicts import CLAIMS, Test, Within, at_chance, mean, prediction

BOUNDS = CLAIMS["P3"].bounds
"""`below` and `above` are the weights of `llm.scale` next to 1/2, where the theory has no fact and every fact
flipped."""
HOPS = {"1": "first", "2": "second"}


def never_flips(row: Row) -> Row:
    """Facts that answer at any weight, the smallest too."""
    return answered(row, lambda i: True)


@prediction("P3", never_flips=never_flips)
def scale(rows: Sequence[Row]) -> list[Test]:
    """Shares of the facts of both hops, paired by triplet."""
    return [*_flips(rows), *_kept(rows)]


def _flips(rows: Sequence[Row]) -> list[Test]:
    tests: list[Test] = []
    for library, prompting in HOPS.items():
        found = alike(chosen(rows, "llm_scale", library=library, prompting=prompting), "scale")
        at = lambda w, found=found: [row for row in found if row["settings"]["scale"] == w]  # noqa: E731
        whole = {place: each / 2 for place, each in shares(at(1.0)).items()}
        for w, word, low, high in ((BOUNDS["below"], "less", -math.inf, 0.0), (BOUNDS["above"], "more", 0.0, math.inf)):
            some = paired(shares(at(w)), whole)
            what = f"{prompting} hop, expert {library} alone: share right at w = {w} less half of that at w = 1"
            predicted = f"{word} than 0 ({-0.5 if w < 0.5 else 0.5:+.3f} in the theory)"
            tests.append(mean(what, predicted, some, 2 * len(some), Within(low, high), floor=True))
    return tests


def _kept(rows: Sequence[Row]) -> list[Test]:
    asked = {"prompting": ("first", "second"), "composition": ("sum", "average", "uniform")}
    found = chosen(rows, "llm_two_hop", library="2-combination", **asked) or chosen(
        rows, "llm_bridge", setup="0", **asked
    )
    tests: list[Test] = []
    for prompting in HOPS.values():
        group = alike([row for row in found if row["settings"]["prompting"] == prompting], "composition", "dataset")
        kept = {
            name: shares([row for row in group if row["settings"]["composition"] == name])
            for name in ("sum", "average", "uniform")
        }
        for more, less, told in (("sum", "average", "1 and 1/2"), ("average", "uniform", "1/2 and 0")):
            apart = paired(kept[more], kept[less])
            what, predicted = (
                f"{prompting} hop kept by {more} less kept by {less}",
                f"more than {BOUNDS['apart']:g} ({told} in the theory)",
            )
            tests.append(mean(what, predicted, apart, 2 * len(apart), Within(low=BOUNDS["apart"]), floor=True))
        uniform = [row for row in group if row["settings"]["composition"] == "uniform"]
        tests.append(at_chance(f"{prompting} hop kept by uniform", uniform, told="0 in the theory; "))
    return tests
