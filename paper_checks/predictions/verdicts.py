"""When a prediction holds, when it fails, and when its rows are too few to say.

The trial is the triplet: its prompts ask for the same people, and are right or wrong together. Each test of a prediction fails a true one at
most once in 1/α tries, α = FALSE_FAILURE over the number of tests, so that all of them together do at most once in a thousand.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import Float64
from scipy import stats

FALSE_FAILURE = 1e-3
"""How often a prediction that is true of a model fails on it, at most."""
Row = Mapping[str, Any]
Verdict = Literal["holds", "fails", "not enough rows"]
Shares = Float64[np.ndarray, " trials"]


class Test(Protocol):
    """One comparison of a measurement with what the theory allows."""

    @property
    def what(self) -> str: ...
    @property
    def predicted(self) -> str: ...
    @property
    def measured(self) -> str: ...
    @property
    def rows(self) -> int: ...
    def verdict(self, alpha: float) -> Verdict: ...


@dataclass(frozen=True)
class AtMost:
    """Of independent trials in [0, 1], the mean is at most `bound`: one-sided and exact, the hits rounded up to whole trials.

    It fails where so many hits come with probability α or less at the bound itself. Where not even every second trial hit would, the rows are
    too few for the prediction to fail, and it does not hold either.
    """

    what: str
    predicted: str
    trials: Shares
    bound: float
    rows: int

    @property
    def measured(self) -> str:
        total, hits = len(self.trials), float(self.trials.sum())
        low, high = (100 * end for end in wilson(hits, total))
        return f"{hits:g} of {total} ({100 * hits / total:.1f} %; {low:.1f} to {high:.1f})" if total else ""

    def verdict(self, alpha: float) -> Verdict:
        """Within what `bound` allows, or not."""
        tail = lambda hits: float(stats.binom.sf(math.ceil(hits - 1e-9) - 1, len(self.trials), self.bound))  # noqa: E731
        if len(self.trials) and tail(float(self.trials.sum())) <= alpha:
            return "fails"
        return "holds" if len(self.trials) and tail(len(self.trials) / 2) <= alpha else "not enough rows"


@dataclass(frozen=True)
class Between:
    """A mean over trials lies between `low` and `high`: it holds if its whole interval does (Student's t at level α), fails if none of it does."""

    what: str
    predicted: str
    value: float
    stderr: float
    trials: int
    rows: int
    low: float = -math.inf
    high: float = math.inf
    shown: Callable[[float], str] = "{:.3f}".format

    @property
    def measured(self) -> str:
        if self.trials < 2:
            return ""
        half = self.stderr * float(stats.t.isf(0.025, self.trials - 1))
        return f"{self.shown(self.value)} ({self.shown(self.value - half)} to {self.shown(self.value + half)})"

    def verdict(self, alpha: float) -> Verdict:
        """Where the interval lies."""
        if self.trials < 2:
            return "not enough rows"
        half = self.stderr * float(stats.t.isf(alpha / 2, self.trials - 1))
        if self.low < self.value - half and self.value + half < self.high:
            return "holds"
        return "fails" if self.value + half < self.low or self.value - half > self.high else "not enough rows"


@dataclass(frozen=True)
class NotBelow:
    """A mean is not below `bound`, with a standard error known from the bound: it fails where it is below by more than chance allows. Where
    even `worst` would not be, the rows are too few for the prediction to fail, and it does not hold either."""

    what: str
    predicted: str
    value: float
    stderr: float
    rows: int
    bound: float
    worst: float

    @property
    def measured(self) -> str:
        half = self.stderr * float(stats.norm.isf(0.025))
        return f"{self.value:.2f} ({self.value - half:.2f} to {self.value + half:.2f})"

    def verdict(self, alpha: float) -> Verdict:
        """Whether chance allows it."""
        least = self.bound - self.stderr * float(stats.norm.isf(alpha))
        return "fails" if self.value < least else "holds" if self.worst < least else "not enough rows"


@dataclass(frozen=True)
class Shown:
    """A measurement without a prediction, beside those that have one."""

    what: str
    measured: str
    rows: int
    predicted: str = "nothing"

    def verdict(self, alpha: float) -> Verdict:
        """Nothing was predicted, so nothing fails."""
        return "holds"


@dataclass(frozen=True)
class Missing:
    """A comparison for which there is no row."""

    what: str
    predicted: str
    measured: str = ""
    rows: int = 0

    def verdict(self, alpha: float) -> Verdict:
        """Nothing to compare."""
        return "not enough rows"


def mean(what: str, predicted: str, trials: Shares, rows: int, floor: bool = False, **limits: Any) -> Between | Missing:
    """`Between` of the mean of trials. With `floor`, for shares in [0, 1] and their differences, the standard deviation of a trial is taken to
    be at least 1/√n: as if one of them were off by one."""
    if not rows or not len(trials):
        return Missing(what, predicted)
    spread = float(trials.std(ddof=1)) if len(trials) > 1 else math.inf
    if floor:
        spread = max(spread, len(trials) ** -0.5)
    return Between(what, predicted, float(trials.mean()), spread / math.sqrt(len(trials)), len(trials), rows, **limits)


def wilson(hits: float, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval, for shares of trials that need not be whole."""
    if not total:
        return 0.0, 1.0
    z, p = float(stats.norm.isf((1 - confidence) / 2)), hits / total
    centre, spread = p + z * z / (2 * total), z * math.sqrt(max(p * (1 - p), 0.0) / total + z * z / (4 * total * total))
    return max(0.0, (centre - spread) / (1 + z * z / total)), min(1.0, (centre + spread) / (1 + z * z / total))


def shares(rows: Sequence[Row]) -> Shares:
    """The share of its prompts that is right, for each triplet of each row (a row is a seed)."""
    each = [np.array(row["measured"]["by_triplet"], dtype=float) * len(row["measured"]["by_triplet"]) / row["measured"]["total"] for row in rows]
    return np.concatenate(each) if each else np.zeros(0)


def answered(row: Row, right: Callable[[int], bool]) -> Row:
    """A planted mistake: the row with every prompt of the triplets i with right(i) answered, and no other; a row without answers as it is."""
    m = row["measured"]
    if "by_triplet" not in m:
        return row
    each = m["total"] // len(m["by_triplet"])
    return {**row, "measured": {**m, "by_triplet": [each * right(i) for i in range(len(m["by_triplet"]))]}}


def chosen(rows: Sequence[Row], experiment: str | None = None, **settings: Any) -> list[Row]:
    """The rows of an experiment with these settings, of held-out test templates, in order of their seeds; a tuple allows several values."""
    found = []
    for row in rows:
        has = row["settings"] | {"split": row["settings"].get("split", "test")}
        wanted = {"split": "test"} | settings
        fits = all(has.get(name) in value if isinstance(value, tuple) else has.get(name) == value for name, value in wanted.items())
        if fits and (experiment is None or row["experiment"] == experiment):
            found.append(row)
    return sorted(found, key=lambda row: row["settings"]["seed"])


def alike(rows: Sequence[Row], *vary: str) -> list[Row]:
    """The rows that differ in nothing but these settings and the seed, of most of them: other dials ask the same triplets again."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        fixed = {name: value for name, value in row["settings"].items() if name not in ("seed", *vary)}
        groups.setdefault(json.dumps(fixed, sort_keys=True), []).append(row)
    return max(groups.values(), key=len, default=[])


Compare = Callable[[Sequence[Row]], list[Test]]
Mutant = Callable[[Row], Row]


@dataclass(frozen=True)
class Prediction:
    """What the theory says of any model: `compare` makes its tests from the rows of one; `command` makes the rows; `mutants` turn rows of which
    it holds into rows of which it must not."""

    id: str
    statement: str
    reason: str
    command: str
    compare: Compare
    mutants: dict[str, Mutant] = field(default_factory=dict)

    def verdict(self, tests: Sequence[Test]) -> Verdict:
        """fails if one of its tests does, holds if all do."""
        found = {test.verdict(FALSE_FAILURE / len(tests)) for test in tests}
        return "fails" if "fails" in found else "not enough rows" if "not enough rows" in found or not found else "holds"


PREDICTIONS: dict[str, Prediction] = {}


def prediction(id: str, statement: str, reason: str, command: str, **mutants: Mutant) -> Callable[[Compare], Compare]:
    """Registers a comparison under its id, with its planted mistakes as keyword arguments."""

    def register(compare: Compare) -> Compare:
        PREDICTIONS[id] = Prediction(id, statement, reason, command, compare, mutants)
        return compare

    return register
