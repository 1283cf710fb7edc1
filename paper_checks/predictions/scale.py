"""P3: edited facts flip at half of their adapter, and weights below it keep none."""

from collections.abc import Sequence

from paper_checks.predictions.verdicts import AtMost, Missing, Row, Shares, Test, alike, answered, chosen, mean, prediction, shares

BELOW, ABOVE = 0.375, 0.625
"""The weights of `llm.scale` next to 1/2, where the theory has no fact and every fact flipped."""
HOPS = {"1": "first", "2": "second"}


def never_flips(row: Row) -> Row:
    """Facts that answer at any weight, the smallest too."""
    return answered(row, lambda i: True)


@prediction(
    "P3",
    "An expert's own facts flip near w = 1/2: at w = 3/8 less than half of those it answers at w = 1 are answered, at w = 5/8 more. The average of"
    " two is at the edge, a quarter of the facts or more below the sum, as much above uniform (1/4 each), which keeps none (at most chance, 1/n).",
    "Proposition 1, eq. 27: on its own prompt an expert moves the old answer to 1 - w and the new one to w.",
    "python -m llm.scale library=1,2 prompting=first,second && python -m llm.two_hop library=2-combination composition=sum,average,uniform"
    " prompting=first,second",
    never_flips=never_flips,
)
def scale(rows: Sequence[Row]) -> list[Test]:
    """Shares of the facts of both hops, paired by triplet."""
    return [*_flips(rows), *_kept(rows)]


def _flips(rows: Sequence[Row]) -> list[Test]:
    tests: list[Test] = []
    for library, prompting in HOPS.items():
        found = alike(chosen(rows, "llm_scale", library=library, prompting=prompting), "scale")
        for w, limits, word in ((BELOW, {"high": 0.0}, "less"), (ABOVE, {"low": 0.0}, "more")):
            (some, whole), count = _paired(found, "scale", (w, 1.0))
            what = f"{prompting} hop, expert {library} alone: share right at w = {w} less half of that at w = 1"
            tests.append(mean(what, f"{word} than 0 ({-0.5 if w < 0.5 else 0.5:+.3f} in the theory)", some - whole / 2, count, floor=True, **limits))
    return tests


def _kept(rows: Sequence[Row]) -> list[Test]:
    found = chosen(rows, "llm_two_hop", library="2-combination", prompting=("first", "second"), composition=("sum", "average", "uniform"))
    found = found or chosen(rows, "llm_bridge", setup="0", prompting=("first", "second"), composition=("sum", "average", "uniform"))
    tests: list[Test] = []
    for prompting in HOPS.values():
        group = alike([row for row in found if row["settings"]["prompting"] == prompting], "composition", "dataset")
        for more, less, told in (("sum", "average", "1 and 1/2"), ("average", "uniform", "1/2 and 0")):
            (high, low), count = _paired(group, "composition", (more, less))
            what = f"{prompting} hop kept by {more} less kept by {less}"
            tests.append(mean(what, f"more than 0.25 ({told} in the theory)", high - low, count, floor=True, low=0.25))
        uniform = [row for row in group if row["settings"]["composition"] == "uniform"]
        what = f"{prompting} hop kept by uniform"
        if uniform:
            n = uniform[0]["settings"]["triplets"]
            tests.append(AtMost(what, f"at most 1/{n} (0 in the theory)", shares(uniform), 1 / n, len(uniform)))
        else:
            tests.append(Missing(what, "at most 1/n (0 in the theory)"))
    return tests


def _paired(rows: Sequence[Row], name: str, values: tuple) -> tuple[list[Shares], int]:
    """Shares by triplet at two values of a setting, of the datasets and seeds that have both, and how many rows they are."""
    by_value: list[dict[tuple, Row]] = [{} for _ in values]
    for row in rows:
        if row["settings"][name] in values:
            key = (row["settings"]["seed"], row["settings"].get("dataset"))
            by_value[values.index(row["settings"][name])][key] = row
    both = [key for key in by_value[0] if key in by_value[1]]
    return [shares([group[key] for key in both]) for group in by_value], 2 * len(both)
