"""A quantity at a finite width: measured, in closed form, and with its error bar in closed form."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from lora_reuse.theory.experiments import Result
from lora_reuse.theory.table import seeds_in_range, z_score

Seeds = Float64[np.ndarray, " seeds"]


@dataclass(frozen=True)
class Estimate:
    """One quantity of an experiment, with an entry a seed.

    `measured` is what each seed gave. `predicted` is its mean in closed form, at the E and V that the seed drew; NaN
    where there is none. `stderr` is the standard deviation of that one measurement in closed form, to second order in
    1/√m; 0 where nothing varies, NaN where it is not known. `z` is Σ(measured − predicted)/√Σ stderr², standard normal
    where the closed form is right; NaN where there is no error bar, and where so many seeds resolve more than the
    expansion in 1/m holds (`theory.table`)."""

    measured: Seeds
    predicted: Seeds
    stderr: Seeds
    z: float

    @classmethod
    def of(cls, results: Sequence[Result], name: str) -> "Estimate":
        """The quantity `name` of the results of an experiment, one a seed."""
        rows = [result._asdict() for result in results]
        z = z_score(rows, name)
        column = lambda part: np.array([row[part].get(name, np.nan) for row in rows], float)  # noqa: E731
        if z is None or len(rows) > seeds_in_range(rows, name):
            z = np.nan
        return cls(column("measured"), column("predicted"), column("stderr"), z)

    @property
    def mean(self) -> float:
        """The mean of the seeds."""
        return float(self.measured.mean())

    @property
    def closed_form(self) -> float:
        """What the mean of the seeds should be."""
        return float(self.predicted.mean())

    @property
    def error(self) -> float:
        """The standard error of the mean of the seeds, in closed form."""
        return float(np.sqrt(np.sum(self.stderr**2)) / len(self.stderr))

    def __str__(self) -> str:
        """What is known: without an error bar or a closed form, that is left out."""
        error = "" if np.isnan(self.error) else f" ± {self.error:.5f}"
        z = "" if np.isnan(self.z) else f", z = {self.z:+.2f}"
        closed = "" if np.isnan(self.closed_form) else f" (closed form {self.closed_form:.5f}{z})"
        return f"{self.mean:.5f}{error}{closed}"
