"""When a prediction is supported, when it is refuted, and when its rows cannot tell.

Each prediction is a few tests: a share or a mean that is above or below a bound. A test is

- *refuted* where so much on the wrong side of the bound itself comes with a small probability,
- *supported* where so much on the right side of the bound plus the margin does,
- *undecided* otherwise; one seed decides nothing,
- *void* where what it asks for could not be there: neither expert's own hop is kept, so that wrong answers say nothing
  of composing.

Seeds are the unit (`llm.scoring.intervals`): experts of other seeds vary more than questions. Tests of one prediction
are refuted with Holm's correction, so that a true prediction is refuted on a model at the rate FALSE_REFUTATION. A
prediction is supported if all of its tests are that are not void, and needs no correction for it (Berger 1982,
intersection-union): one of which a part is false by the margin is supported at the rate FALSE_SUPPORT. Simulated with
seeds that differ as those of the pocket model do (`tests/llm/test_intervals.py`), with nine shares at their bounds of 5
or 50 % and 3, 5 or 10 seeds, the rates are 0.6 to 1.5 % and 3.7 to 6.5 %; with triplets pooled 22 to 26 % are refuted
falsely."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from lora_reuse.llm.scoring.intervals import Mean, holm, mean_over_seeds, over_seeds, share_above
from lora_reuse.paper_checks.predictions.registered import Claim, claims
from lora_reuse.paper_checks.predictions.rows import Row, Shares, Values, shares

FALSE_REFUTATION = 0.01
"""How often a prediction that is true of a model is refuted on it."""
FALSE_SUPPORT = 0.05
"""How often one of which a part is false by its margin is supported."""
MARGIN = 0.05
"""How far above chance a share may be for a prediction of chance to be supported: one fact of twenty. At n = 20 chance
and margin are 10 %; the paper calls up to 8.8 % of two experts a failure (Table 1, setup 0). A refutation needs no
margin."""

Verdict = Literal["supported", "refuted", "undecided", "void", "shown"]


@dataclass(frozen=True)
class Test:
    """One comparison of a measurement with what is predicted.

    `p_true` is the probability of a measurement so far on the wrong side if the prediction is just true, `p_false` that
    of one so far on the right side if it is just false by the margin; None without two seeds. Where `predicted` is
    empty nothing is, and the measurement is shown."""

    what: str
    predicted: str = ""
    measured: str = ""
    rows: int = 0
    p_true: float | None = None
    p_false: float | None = None
    void: str = ""


def judged(
    tests: Sequence[Test], refuting: float = FALSE_REFUTATION, supporting: float = FALSE_SUPPORT, family: bool = False
) -> list[Verdict]:
    """The verdict of each test. In a `family` each of its tests is a claim of its own, so that support is corrected
    with Holm, too; void tests and those without rows are counted among those that are corrected for."""
    real = [test for test in tests if test.predicted]
    usable = lambda p, test: 1.0 if p is None or test.void else p  # noqa: E731
    against = holm([usable(test.p_true, test) for test in real])
    towards = [usable(test.p_false, test) for test in real]
    towards = holm(towards) if family else towards
    found: dict[int, Verdict] = {}
    for test, true, false in zip(real, against, towards, strict=True):
        found[id(test)] = (
            "void"
            if test.void
            else "refuted"
            if true <= refuting
            else "supported"
            if false <= supporting
            else "undecided"
        )
    return [found.get(id(test), "shown") for test in tests]


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """Of a prediction: refuted if one of its tests is, supported if all are that are not void."""
    real = [verdict for verdict in verdicts if verdict != "shown"]
    for verdict in ("refuted", "undecided", "supported", "void"):
        if verdict in real:
            return verdict
    return "undecided"


class Within(NamedTuple):
    """What a value is predicted to be: from `low` to `high`; it may be `margin` beyond for the prediction to be
    supported."""

    low: float = -math.inf
    high: float = math.inf
    margin: float = 0.0


ANYWHERE = Within()


def share(what: str, predicted: str, values: Values, rows: int, within: Within = ANYWHERE, void: str = "") -> Test:
    """A share of triplets."""
    seeds = _by_seed(values)
    return share_of(
        what, predicted, [float(each.sum()) for each in seeds], [len(each) for each in seeds], rows, within, void
    )


def at_chance(what: str, rows: Sequence[Row], void: str = "", told: str = "") -> Test:
    """Whether answers are right no more often than once in n edited ones."""
    n = rows[0]["settings"]["triplets"] if rows else None
    predicted = f"at most 1/{n or 'n'} ({told}supported below 1/{n or 'n'} + {MARGIN:g})"
    return share(what, predicted, shares(rows), len(rows), Within(high=1 / n if n else math.inf, margin=MARGIN), void)


def share_of(
    what: str,
    predicted: str,
    hits: Sequence[float],
    asked: Sequence[float],
    rows: int,
    within: Within = ANYWHERE,
    void: str = "",
) -> Test:
    """A share from each seed's hits and questions."""
    total = sum(asked)
    if not rows or not total:
        return Test(what, predicted, void=void)
    counts = np.array(hits, dtype=float), np.array(asked, dtype=float)
    limits = over_seeds(*counts, round(total))
    interval = f" [{100 * limits.low:.1f}, {100 * limits.high:.1f}]" if limits else ""
    said = f"{100 * sum(hits) / total:.1f} %{interval} of {total:.4g}, {_seeds(len(hits))}"
    return Test(
        what, predicted, said, rows, *_against(lambda bound: share_above(*counts, round(total), bound), within), void
    )


def mean(
    what: str,
    predicted: str,
    values: Values,
    rows: int,
    within: Within = ANYWHERE,
    void: str = "",
    floor: bool = False,
    least: float = 0.0,
    shown: Callable[[float], str] = "{:.3f}".format,
) -> Test:
    """A mean of values by triplet. With `floor`, for shares in [0, 1] and their differences, the variance of a triplet
    is at least 1/n of n, as if one of them were off by one; else at least `least`."""
    seeds = _by_seed(values)
    if not rows or not seeds:
        return Test(what, predicted, void=void)
    found = mean_over_seeds(seeds, 1 / sum(map(len, seeds)) if floor else least)
    if found is None:
        return Test(what, predicted, f"{shown(float(seeds[0].mean()))}, {_seeds(1)}", rows, void=void)
    return mean_of(what, predicted, found, rows, within, void, shown)


def mean_of(
    what: str,
    predicted: str,
    found: Mean,
    rows: int,
    within: Within = ANYWHERE,
    void: str = "",
    shown: Callable[[float], str] = "{:.3f}".format,
) -> Test:
    """A mean over seeds."""
    low, high = map(shown, found.limits())
    return Test(
        what,
        predicted,
        f"{shown(found.value)} [{low}, {high}], {_seeds(found.freedom + 1)}",
        rows,
        *_against(found.above, within),
        void,
    )


def _against(above: Callable[[float], float | None], within: Within) -> tuple[float | None, float | None]:
    """`p_true` and `p_false` from the one-sided p-values of a bound or less."""
    true, false = [1.0], [0.0]
    for bound, sign in ((within.low, -1), (within.high, 1)):
        if math.isfinite(bound):
            at, beyond = above(bound), above(bound + sign * within.margin)
            if at is None or beyond is None:
                return None, None
            true.append(at if sign > 0 else 1 - at)
            false.append(1 - beyond if sign > 0 else beyond)
    return min(true), max(false)


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def _by_seed(values: Values) -> list[Shares]:
    """One array a seed, of all people it asks about: what one training run decides varies together."""
    found: dict[Any, list[Shares]] = {}
    for (seed, *_), each in sorted(values.items()):
        found.setdefault(seed, []).append(each)
    return [np.concatenate(each) for each in found.values()]


Compare = Callable[[Sequence[Row]], list[Test]]
Mutant = Callable[[Row], Row]


@dataclass(frozen=True)
class Prediction:
    """What is said of any model: `claim`, registered before its rows; `compare`, which makes its tests from the rows of
    one; `mutants`, which turn rows of which it is true into rows of which it is not; a `remark` on how to read it,
    which is no part of the claim. The tests of `primary` predictions are one family."""

    claim: Claim
    compare: Compare
    mutants: dict[str, Mutant] = field(default_factory=dict)
    remark: str = ""
    primary: bool = False

    @property
    def id(self) -> str:
        return self.claim.id


CLAIMS = claims()
PREDICTIONS: dict[str, Prediction] = {}


def prediction(id: str, remark: str = "", **mutants: Mutant) -> Callable[[Compare], Compare]:
    """Registers the comparison of a claim, with its planted mistakes as keyword arguments."""

    def register(compare: Compare) -> Compare:
        PREDICTIONS[id] = Prediction(CLAIMS[id], compare, mutants, remark)
        return compare

    return register
