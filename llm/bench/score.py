"""What rows say of a rule: how much of the way from the floor to the ceiling it goes, over libraries and seeds.

Of a library l and a seed s, with the share of right answers of the rule, and the floor's and the ceiling's means over
the seeds:

    gained_ls = (rule_ls − floor_ls) / (ceiling_l − floor_l)
    score = mean over l, s of gained_ls

over the libraries whose ceiling is right in half of its answers (`ENOUGH`) and in more than the floor: in others
nothing is to be gained. A rule that answers what the ceilings answer (`llm.bench.libraries`) has a score of 1, one that
answers what its floors answer has 0.

Libraries are fixed and seeds are drawn, so the interval is Student's t of the seeds' scores, with S − 1 degrees of
freedom. The error is that between seeds, and that within them (between triplets, library by library) where it is
larger, as in `llm.scoring.intervals.mean_over_seeds`. The room between floor and ceiling is taken as it is.

A difference of two rules is over the libraries in which both have something to gain. Both sides have the same ceilings.
Floors are the same but in `facts`, where the floor is the rule itself with an expert on wrong places."""

import itertools
import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from lora_reuse.llm.bench.libraries import LIBRARIES, Cell, Cells, Library, cells, libraries
from lora_reuse.llm.protocols.controls import ENOUGH
from lora_reuse.llm.protocols.dials import CONTROLS
from lora_reuse.llm.scoring.differences import by_seed
from lora_reuse.llm.scoring.intervals import Limits, Mean, holm
from lora_reuse.runs.grid import hash_of

SCORE = "the mean over libraries of (rule - floor)/(ceiling - floor)"
"""It in words."""

Row = Mapping[str, Any]
Known = Mapping[str, Row]
"""Rows by their hashes."""
Triplets = Float[np.ndarray, " triplets"]


def rows_of(cell: Cell, seeds: Sequence[int], known: Known) -> list[Row]:
    """The rows of a cell that are there, by seed."""
    hashes = (hash_of(cell.protocol.experiment, (cell.point, seed)) for seed in seeds)
    return [known[key] for key in hashes if key in known]


class Gained(NamedTuple):
    """Of a library: what each seed's triplets gained, and the room between floor and ceiling."""

    by_seed: list[Triplets]
    room: float

    @property
    def mean(self) -> float:
        return fmean(float(values.mean()) for values in self.by_seed)


class InLibrary(NamedTuple):
    """The rows of a rule in a library, of every seed; those of its own questions may be fewer."""

    library: Library
    asked: list[Row]
    floor: list[Row]
    ceiling: list[Row]
    own: list[list[Row]]

    @property
    def room(self) -> float:
        """Between floor and ceiling; 0 where the ceiling is too low to say anything."""
        return share(self.ceiling) - share(self.floor) if share(self.ceiling) >= ENOUGH else 0.0

    def gained(self) -> Gained:
        """The rule's shares above the floor's, in units of the room."""
        asked, floor = by_seed(self.asked), by_seed(self.floor)
        return Gained([(asked[seed] - floor[seed]) / self.room for seed in sorted(asked)], self.room)

    def kept(self) -> float | None:
        """The share of the experts' own questions that are right under the rule; None where no row says it."""
        shares = [share(rows, own.mark) for own, rows in zip(self.library.own, self.own, strict=True) if rows]
        return fmean(shares) if shares else None


def share(rows: Sequence[Row], mark: str = "hits") -> float:
    """The share of answers that have a mark."""
    return sum(row["measured"].get(mark, 0) for row in rows) / sum(row["measured"]["total"] for row in rows)


def in_library(library: Library, found: Cells, seeds: Sequence[int], known: Known) -> InLibrary | None:
    """The rows of a rule's cells; None where one of a seed is not there."""
    asked, floor, ceiling = (rows_of(one, seeds, known) for one in (found.asked, found.floor, found.ceiling))
    if min(map(len, (asked, floor, ceiling))) < len(seeds):
        return None
    return InLibrary(library, asked, floor, ceiling, [rows_of(one, seeds, known) for one in found.own])


def measured(rule: str, model: str, seeds: Sequence[int], known: Known) -> list[InLibrary] | None:
    """A rule in every library of a base; None where rows of a seed are missing."""
    parts = []
    for library in libraries(model):
        found = cells(library, rule, model)
        part = in_library(library, found, seeds, known) if found else None
        if part is None:
            return None
        parts.append(part)
    return parts


class Score(NamedTuple):
    """A mean over libraries and seeds, its limits (None for one seed), and the score of each seed."""

    value: float
    mean: Mean | None
    by_seed: Float[np.ndarray, " seeds"]

    @property
    def limits(self) -> Limits | None:
        """95 %. A rule can be worse than the floor and better than the ceiling, so nothing is cut."""
        return self.mean.limits() if self.mean else None


def score(gained: Sequence[Gained]) -> Score:
    """The mean of what the libraries gained. Raises ValueError for no library."""
    if not gained:
        raise ValueError("a score needs a library")
    seeds = np.array([[values.mean() for values in one.by_seed] for one in gained]).mean(axis=0)
    mean = None
    if len(seeds) > 1:
        within = 0.0
        for one in gained:
            every = np.concatenate(one.by_seed)
            least = 1 / (len(every) * one.room**2)  # as if one triplet of them were off by one
            within += max(float(every.var()), least) / len(every) / len(gained) ** 2
        error = math.sqrt(max(float(seeds.var(ddof=1)) / len(seeds), within))
        mean = Mean(float(seeds.mean()), error, len(seeds) - 1)
    return Score(float(seeds.mean()), mean, seeds)


def scored(parts: Sequence[InLibrary]) -> list[InLibrary]:
    """The libraries in which something is to be gained."""
    return [part for part in parts if part.room > 0]


class Against(NamedTuple):
    """A rule against another: how many seeds both have, the other's score over the libraries in which both have
    something to gain, the difference (rule − other) and Holm's p-value over all others."""

    other: str
    seeds: int
    score: float
    difference: Mean
    p: float


def against(rule: str, others: Sequence[str], model: str, seeds: Sequence[int], known: Known) -> list[Against]:
    """The rule against each other one that has rows of two of its seeds or more, the best first."""
    found: list[tuple[str, int, float, Mean]] = []
    for other in others:
        common = [seed for seed in seeds if measured(other, model, [seed], known)]
        ours, theirs = measured(rule, model, common, known), measured(other, model, common, known)
        if len(common) < 2 or not ours or not theirs:
            continue
        both = [(p.gained(), q.gained()) for p, q in zip(ours, theirs, strict=True) if p.room > 0 and q.room > 0]
        if not both:
            continue
        pairs = [
            Gained([a - b for a, b in zip(p.by_seed, q.by_seed, strict=True)], min(p.room, q.room)) for p, q in both
        ]
        difference = score(pairs).mean
        if difference:
            found.append((other, len(common), score([q for _, q in both]).value, difference))
    adjusted = holm([p_value(difference) for *_, difference in found]) if found else []
    made = [Against(*one, p) for one, p in zip(found, adjusted, strict=True)]
    return sorted(made, key=lambda one: -one.score)


def p_value(difference: Mean) -> float:
    """Two-sided, of no difference."""
    return 2 * float(stats.t.sf(abs(difference.value) / difference.error, difference.freedom))


def rules_of(known: Known) -> list[str]:
    """The rules that rows name, controls and single experts left out."""
    asked = {f"llm_{library.asked.protocol}" for library in LIBRARIES}
    named = (row["settings"].get("composition") for row in known.values() if row["experiment"] in asked)
    return [name for name in dict.fromkeys(named) if name and name not in (*CONTROLS, "alone")]


def agreement(table: Float[np.ndarray, "rules rankings"]) -> list[float]:
    """Kendall's τ_b of every two rankings of rules by their scores, as by two seeds or by two bases; none where a
    ranking tells no rule from another, or there are fewer than three rules."""
    if len(table) < 3:
        return []
    pairs = itertools.combinations(range(table.shape[1]), 2)
    kendall: Any = stats.kendalltau  # whose stubs give its result no names
    found = (float(kendall(table[:, a], table[:, b]).statistic) for a, b in pairs)
    return [tau for tau in found if not math.isnan(tau)]
