"""What the figures of the theory share: the setting they are about, means over seeds, and the closed form at d = m =
∞."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas

from lora_reuse.figures.rows import Rows
from lora_reuse.llm.scoring.intervals import quantile
from lora_reuse.theory import kernels
from lora_reuse.theory.limit import limit_geometry
from lora_reuse.theory.settings import EXPERIMENTS

COVERAGE = 0.95


def rows_of(rows: Rows, experiment: str, *axes: str, **fixed: Any) -> pandas.DataFrame:
    """Rows in which `axes` (and the seed) may be anything and all other settings are `fixed`, or their defaults, which
    a row may leave out. Raises MissingRows."""
    fields = [f for f in dataclasses.fields(EXPERIMENTS[experiment]) if f.name not in {*axes, *fixed}]
    said = {f.name: f.default for f in fields if not f.metadata["omitted"]}
    table = rows.select(experiment, **said | fixed)
    for name, default in ((f.name, f.default) for f in fields if f.metadata["omitted"]):
        column = table.get(f"settings.{name}")
        table = table if column is None else table[column.isna() | (column == default)]
    return table


def over_seeds(table: pandas.DataFrame, axes: Sequence[str], names: Sequence[str]) -> pandas.DataFrame:
    """One line a quantity in `names` and value of `axes` that has it: `measured`, its mean over the `seeds` seeds that
    have it, with a 95 % interval `low` to `high` (Student's t; absent for one seed); `spread`, the standard deviation
    over seeds; `predicted`; `stderr`, the predicted standard deviation of a single seed (absent where there is none);
    `row`, the hash of the first."""
    columns = [f"settings.{axis}" for axis in axes]
    lines = []
    for name in names:
        for values, group in table.dropna(subset=f"measured.{name}").groupby(columns, sort=True):
            measured = group[f"measured.{name}"]
            n, spread = len(measured), measured.std(ddof=1)
            half = quantile(COVERAGE, n - 1) * spread / np.sqrt(n) if n > 1 else np.nan
            line = {"quantity": name, **dict(zip(axes, values, strict=True)), "seeds": n, "measured": measured.mean()}
            line |= {"low": line["measured"] - half, "high": line["measured"] + half, "spread": spread}
            line |= {
                kind: group[f"{kind}.{name}"].mean() if f"{kind}.{name}" in group else np.nan
                for kind in ("predicted", "stderr")
            }
            lines.append(line | {"row": group["hash"].iloc[0]})
    return pandas.DataFrame(lines)


def bars(part: pandas.DataFrame) -> np.ndarray:
    """The interval as matplotlib's `yerr` and `xerr` want it."""
    return np.array([part["measured"] - part["low"], part["high"] - part["measured"]])


def seeds(table: pandas.DataFrame) -> str:
    """`$N$ = 8 to 32 seeds a point`, for a figure's note."""
    least, most = int(table["seeds"].min()), int(table["seeds"].max())
    return f"$N$ = {most if least == most else f'{least} to {most}'} seed{'s' * (most > 1)} a point"


@functools.cache
def coefficients(activation: str = "relu", input_variance: float = 1.0) -> tuple[float, float, float]:
    """c₁ = k(η₁, ξ)/k(η₁, η₁), c₂ = k(η₂, ξ)/k(η₂, η₂) (eq. 19) and ρ = k(η₂, η₂′)/k(η₂, η₂), η₂′ another key of the
    same relation, at d = m = ∞: 0.412, 0.573 and 0.609 for the ReLU."""
    # Prompts x r1, y r2, x r1 r2, u r2 over the tokens x, y, u, r1, r2, as `theory.model.coefficients` has them; that
    # module imports jax.
    attended = np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0.5, 0, 0, 0.5, 0], [0, 0, 1, 0, 0]])
    residual = np.eye(5)[[3, 4, 4, 4]]
    k = kernels.kernel(input_variance * limit_geometry(attended, residual), activation)
    first, second, another = (float(kernels.coefficient(k, *pair)) for pair in ((0, 2), (1, 2), (1, 3)))
    return first, second, another
