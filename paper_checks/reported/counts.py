"""The paper's percentages that are no whole number of answers, for any size that its test sets may have."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import pandas

from lora_reuse.paper_checks import reported
from lora_reuse.paper_checks.reported.agreement import Cell, Disagreement, place, select
from lora_reuse.paper_checks.reported.rules import Cells, cells
from lora_reuse.runs.settings import SettingError

_OTHER_SIZES = range(90, 121)  # where a size is looked for when the candidates fail


@dataclass(frozen=True)
class Sizes:
    """The test-set sizes n that the percentages k/n of these cells may have, and where those sizes come from."""

    cells: Cells
    candidates: tuple[int, ...]
    source: str


_TWO_HOP = (98, 100, 102), "sizes that the one-decimal cells of R and H, and 100 triplets, suggest"
_GSM_P2 = (100,), "A.4.1: 100 questions"
_MBPP = (257, 500), "the test splits of MBPP, sanitized and full; the paper states no size"

SIZES: tuple[Sizes, ...] = (
    *(Sizes(cells(table), *_TWO_HOP) for table in (1, 2, 7, 8, 9, 10)),
    Sizes(cells(12), _TWO_HOP[0], "the sizes of the other two-hop tables; A.3 states none"),
    *(Sizes(cells(table), *_GSM_P2) for table in (3, 4, 14, 15)),
    Sizes(cells(13, dataset="GSM8K"), (1319,), "the test split of GSM8K"),
    Sizes(cells(13, dataset=("GSM-Symbolic", "GSM-P1")), (500,), "A.4.1: 5 questions of each of 100 seed templates"),
    Sizes(cells(13, dataset="GSM-P2"), *_GSM_P2),
    *(Sizes(cells(table), *_MBPP) for table in (16, 17)),
    Sizes(cells(20), (97,), "A.6: 97 questions"),
)


def counts() -> list[Disagreement]:
    """The percentages that are k/n, rounded or truncated, for none of the candidate sizes n of their table
    (`SIZES`)."""
    tables = reported.tables()
    return [found for sizes in SIZES for cell in select(sizes.cells, tables) for found in _uncounted(cell, sizes)]


def count_options() -> pandas.DataFrame:
    """For each percentage that fits, a row an option: `table`, `row`, `column`, `value`, `k`, `n`, and `how` (rounded,
    truncated or both)."""
    tables = reported.tables()
    found = [
        {name: cell[name] for name in ("table", "row", "column", "value")} | {"k": k, "n": n, "how": how}
        for sizes in SIZES
        for cell in select(sizes.cells, tables)
        for k, n in implied_counts(cell["value"], decimals(cell["value"]), sizes.candidates)
        for how in [printed_as(cell["value"], decimals(cell["value"]), k, n)]
    ]
    return pandas.DataFrame(found)


def implied_counts(percent: str | float, decimals: int, candidates: Iterable[int]) -> list[tuple[int, int]]:
    """Every (k, n), n from `candidates`, such that 100 k / n printed with `decimals` decimals, rounded or truncated, is
    `percent`."""
    step = Fraction(1, 10**decimals)
    target = _exact(percent, step)
    near = {
        n: range(max(0, math.floor((target - step) * n / 100)), min(n, math.ceil((target + step) * n / 100)) + 1)
        for n in candidates
    }
    return [(k, n) for n, whole in near.items() for k in whole if printed_as(percent, decimals, k, n)]


def printed_as(percent: str | float, decimals: int, k: int, n: int) -> str:
    """How 100 k / n becomes `percent`: "rounded" (half up or half even), "truncated", "rounded or truncated", or "" if
    it does not."""
    step = Fraction(1, 10**decimals)
    target, scaled = _exact(percent, step) / step, Fraction(100 * k, n) / step
    ways = {
        "rounded": target in (math.floor(scaled + Fraction(1, 2)), round(scaled)),
        "truncated": target == math.floor(scaled),
    }
    return " or ".join(way for way, fits in ways.items() if fits)


def decimals(value: str) -> int:
    """The number of decimals that `value` is printed with."""
    return len(value.partition(".")[2])


def _exact(percent: str | float, step: Fraction) -> Fraction:
    exact = Fraction(str(percent))
    if exact % step:
        raise SettingError(
            "percent", percent, f"a multiple of {float(step)}", "give the number of decimals it is printed with"
        )
    return exact


def _uncounted(cell: Cell, sizes: Sizes) -> list[Disagreement]:
    value, places = cell["value"], decimals(cell["value"])
    if implied_counts(value, places, sizes.candidates):
        return []
    others = [str(n) for n in _OTHER_SIZES if implied_counts(value, places, [n])]
    why = f"neither rounded nor truncated; sizes from 90 to 120 that give it: {', '.join(others) or 'none'}"
    if value.endswith("0") and places and (shorter := implied_counts(value[:-1], places - 1, sizes.candidates)):
        why += f"; with its last 0 left off it is {' or '.join(f'{k}/{n}' for k, n in shorter)}"
    exact = Fraction(value)
    k, n = min(
        ((round(exact * n / 100), n) for n in sizes.candidates),
        key=lambda option: abs(Fraction(100 * option[0], option[1]) - exact),
    )
    where = f"k/n with n = {' or '.join(map(str, sizes.candidates))} ({sizes.source})"
    return [Disagreement(place(cell), value, where, f"nearest {k}/{n} = {100 * k / n:.3f}", why)]
