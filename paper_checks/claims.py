"""The registry: what the paper claims, where, what was found, and the planted mistakes that each check must reject."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Verdict = Literal["confirmed", "confirmed with constants", "conditional", "corrected"]

# |z| beyond this happens to a right program once in 1e7 comparisons; no claim makes more than ten of a
# measurement with an error, so each fails falsely below 1e-6.
Z_LIMIT = 5.33


@dataclass(frozen=True)
class Evidence:
    """One comparison: a measurement against a prediction, with a standard error or, for an identity, without. The error
    is predicted, or estimated from as many rows as it has `degrees` of freedom and one. `tolerance` is what rounding
    does, or what the prediction leaves out."""

    what: str
    measured: float
    predicted: float
    stderr: float | None = None
    tolerance: float = 1e-9
    degrees: float = math.inf

    @property
    def holds(self) -> bool:
        """Within the tolerance and, where there is one, Z_LIMIT standard errors; of an estimated one as many as
        Student's t passes as rarely."""
        allowed = self.tolerance if self.stderr is None else self.tolerance + self.limit * self.stderr
        return abs(self.measured - self.predicted) <= allowed

    @property
    def limit(self) -> float:
        """Standard errors that a right program passes as rarely as a normal law passes Z_LIMIT."""
        from scipy import stats  # half a second, which the command's help does without

        return Z_LIMIT if math.isinf(self.degrees) else float(stats.t.isf(stats.norm.sf(Z_LIMIT), self.degrees))

    @property
    def shown(self) -> float:
        """The measurement; of an identity without what is finer than a thousandth of its tolerance, which differs
        between processors."""
        return (
            self.measured
            if self.stderr is not None
            else round(self.measured, 3 - math.floor(math.log10(self.tolerance))) + 0.0
        )

    @property
    def error(self) -> str:
        """± the standard error, and the tolerance of an identity or of a prediction that leaves something out."""
        tolerance = f"(to {self.tolerance:.0e})" if self.stderr is None or self.tolerance > 1e-9 else ""
        return tolerance if self.stderr is None else f"± {self.stderr:.2g} {tolerance}".rstrip()


Mutant = Callable[[], AbstractContextManager]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper as a check: `measure` gives the evidence, `verdict` and `says` what it amounts to, `mutants`
    must break it."""

    id: str
    where: str
    statement: str
    verdict: Verdict
    says: str
    measure: Callable[[], list[Evidence]]
    mutants: dict[str, Mutant] = field(default_factory=dict)


CLAIMS: dict[str, Claim] = {}


def claim(
    where: str, statement: str, verdict: Verdict = "confirmed", says: str = "", **mutants: Mutant
) -> Callable[[Callable[[], list[Evidence]]], Callable[[], list[Evidence]]]:
    """Registers a function that measures, under its own name, with its planted mistakes as keyword arguments."""

    def register(measure: Callable[[], list[Evidence]]) -> Callable[[], list[Evidence]]:
        CLAIMS[measure.__name__] = Claim(measure.__name__, where, statement, verdict, says, measure, mutants)
        return measure

    return register


def from_rows(what: str, results: list, name: str, predicted: float | None = None) -> Evidence:
    """The mean over seeds of one measured quantity of an experiment and its standard error, against `predicted` (the
    experiment's own prediction if None)."""
    n = len(results)
    stderr = [result.stderr[name] for result in results] if all(name in result.stderr for result in results) else None
    return Evidence(
        what,
        sum(result.measured[name] for result in results) / n,
        sum(result.predicted[name] for result in results) / n if predicted is None else predicted,
        None if stderr is None else sum(s**2 for s in stderr) ** 0.5 / n,
    )


def of_seeds(what: str, values: Sequence[float], predicted: float, tolerance: float = 1e-9) -> Evidence:
    """The mean of one value a seed, with the standard error that their spread says."""
    found, degrees = np.asarray(values), len(values) - 1
    error = float(found.std(ddof=1) / math.sqrt(len(found)))
    return Evidence(what, float(found.mean()), predicted, error, tolerance, degrees)


FALSE_FAILURE = 1e-6
"""How often a right program may fail a claim, at most."""


def false_failure(evidence: list[Evidence]) -> float:
    """How often a right program fails these comparisons: the Bonferroni sum over those with a standard error,
    predicted or estimated; identities never fail."""
    return math.erfc(Z_LIMIT / math.sqrt(2)) * sum(e.stderr is not None for e in evidence)


def rejected(checked: Claim, mutant: str) -> bool:
    """Whether the check fails, as it must, under one of its planted mistakes."""
    with checked.mutants[mutant]():
        try:
            return not all(evidence.holds for evidence in checked.measure())
        except (ValueError, ArithmeticError, AssertionError):
            return True
