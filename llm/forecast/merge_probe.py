"""MergeProbe, a rival of the forecast: will two adapters merge, from the first few percent of their training (Tang et
al. 2026, arXiv 2606.19549)?

Its authors say what they measure: how the updates and their gradients align across tasks, and how much they disturb
shared representations. The formulas here are ours, since theirs were not at hand. When `SHARE` of the training is done,
with ΔW_i the update of expert i, G_i = ∂L_i/∂W the gradient of its own loss there, and h(x) what a module sees where a
token of an answer is predicted,

    updates    ⟨ΔW_1, ΔW_2⟩/(‖ΔW_1‖ ‖ΔW_2‖)
    gradients  ⟨G_1, G_2⟩/(‖G_1‖ ‖G_2‖)
    disturbs   mean ‖h_i(x) − h(x)‖/‖h(x)‖ over the modules, both experts i and the examples x of the other

What they are worth together is fitted: a logistic function, by the rows that the decision was fitted on. They judge a
pair of experts and know of no rule, so that the lookup says which of a pair's rules comes first."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from lora_reuse.llm.forecast.area import area
from lora_reuse.llm.forecast.decision import logistic
from lora_reuse.llm.forecast.ranking import KINDS, forecast_of, lookup
from lora_reuse.llm.forecast.regret import WORKED, Row, Score, share
from lora_reuse.runs.rows import load_rows

EXPERIMENT = "llm_merge_probe"
SHARE = 0.03
"""Of the steps: "the first few percent of training"."""
SIGNALS = ("updates", "gradients", "disturbs")
TIE = 1e-6
"""What the lookup adds to the probability of a pair, so that it orders the pair's rules and no pairs."""


def beside(forecasts: Sequence[Row], probes: Sequence[Row]) -> list[Row]:
    """The rows of `llm_forecast` with the signals of their pair of experts, where `llm_merge_probe` has them."""
    known = {row["settings"]["pair"]: {name: row["measured"][name] for name in SIGNALS} for row in probes}
    return [{**row, "measured": {**row["measured"], **known.get(row["settings"]["pair"], {})}} for row in forecasts]


def forecasts(folder: Path) -> list[Row]:
    """The rows of `llm_forecast` in a folder, beside the signals that are there."""
    return beside(load_rows(folder, "llm_forecast"), load_rows(folder, EXPERIMENT))


def has_signals(rows: Sequence[Row]) -> bool:
    """Whether there are rows, all with the signals."""
    return bool(rows) and all(name in row["measured"] for row in rows for name in SIGNALS)


def fitted(rows: Sequence[Row], looked_up: Callable[[Row], float]) -> Callable[[Sequence[Row]], Score]:
    """The probability that a composition of a row's pair works, as the logistic function of the signals that fits these
    rows, and next to nothing for the rank of its rule."""
    constant, weights = logistic(_signals(rows), share(rows) >= WORKED)

    def scores(some: Sequence[Row]) -> Score:
        ties = TIE * np.array([looked_up(row) for row in some])
        return 1 / (1 + np.exp(-(constant + _signals(some) @ weights))) + ties

    return scores


def own_hops(rows: Sequence[Row]) -> tuple[dict[str, float], int]:
    """How well MergeProbe ranks compositions by whether an expert's own hop is still answered, which is what it is for,
    and how the forecast's share of prompts that keep their answer does: the areas over rows of the seeds that were not
    looked at, of those with signals, with weights by those that were; and how many rows there are."""
    own = [row for row in rows if row["settings"]["prompting"] in KINDS["keeps"] and has_signals([row])]
    fit, tried = ([row for row in own if row["settings"]["seen"] == seen] for seen in (True, False))
    looked_up = lookup(fit)
    if not looked_up or not tried:
        return {}, 0
    scores = {"forecast": np.array([forecast_of(row)[0] for row in tried]), "MergeProbe": fitted(fit, looked_up)(tried)}
    return {name: area(score, share(tried) >= WORKED).value for name, score in scores.items()}, len(tried)


def _signals(rows: Sequence[Row]) -> Float[np.ndarray, "rows signals"]:
    return np.array([[row["measured"][name] for name in SIGNALS] for row in rows], dtype=float)
