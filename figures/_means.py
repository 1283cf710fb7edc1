"""How means of a model's logarithms are drawn: the mean over triplets and seeds, its interval over seeds, and a dot a
seed.

Experts are trained anew with each seed, so that a seed is the unit: the interval is Student's t over seeds with the
larger of the errors between and within them, as in `paper_checks.predictions`, and there is none of one seed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas
from jaxtyping import Float
from matplotlib.axes import Axes

from lora_reuse.figures import _shares
from lora_reuse.llm.scoring.intervals import Limits, mean_over_seeds

N = "$N$ = seeds × triplets of a mean"
MEANING = (
    "A large mark is the mean over all seeds; its bar is a 95 % interval over seeds and, within a seed, triplets"
    " (Student's t); a small dot is one seed."
)
handles = _shares.seed_handle


def over_seeds(
    seeds: Sequence[Float[np.ndarray, " triplets"]], scale: Callable = lambda value: value
) -> dict[str, Any]:
    """The mean of the seeds' means, its 95 % interval (NaN for one seed) and the means, each put through `scale`; and
    how many triplets a seed."""
    means, found = np.array([seed.mean() for seed in seeds]), mean_over_seeds(seeds)
    low, high = found.limits() if found else Limits(np.nan, np.nan)
    said = {"seeds": len(means), "triplets": max(map(len, seeds))}
    said |= {"measured": scale(means.mean()), "low": scale(low), "high": scale(high)}
    return said | {"by_seed": " ".join(f"{scale(mean):.6g}" for mean in means)}


def points(axes: Axes, part: pandas.DataFrame, places: Sequence[float], width: float, look: Mapping[str, Any]) -> None:
    """The means at `places` of the x axis."""
    _shares.intervals(axes, part, places, look["color"], of="measured")
    axes.plot(places, part["measured"], **look)
    _shares.dots(axes, part, places, width, look["color"])


def n(part: pandas.DataFrame) -> str:
    """`$N$ = 5 × 20`, seeds and triplets of each."""
    return f"$N$ = {_shares.span(part['seeds'])} × {_shares.span(part['triplets'])}"
