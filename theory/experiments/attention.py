"""Is attention close to uniform, as the paper says on its way from eq. 4 to eq. 5? Under one reading of N(0, 1/√d) yes.

On `x r1 r2` the two logits of eq. 4 are (K e_x)·(Q e_{r2}) and (K e_{r1})·(Q e_{r2}). With entries of variance σ² their
mean square is d³σ⁸ exactly (and its relative variance 2(1 + 2/d)³ − 1): 1/d if 1/√d is the standard deviation, d if it
is the variance. Their difference is Gaussian as d grows, so the larger of the two weights is logistic(|Δ|) with Δ ~
N(0, 2d³σ⁸): 1/2 under `std`, 1 (attention to one random token) under `variance`.

At a finite d that spread is multiplied by s, s² the product of three χ²_d/d, with E s = 1 − 3/4d and Var s = 3/2d to
first order. The mean of the larger weight then moves by (E f″ − E f′)·3/4d with f(s) = logistic(s|Δ|), which is its
remainder."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import integrate, special, stats

from lora_reuse.theory.experiments import REMAINDER, Result
from lora_reuse.theory.gram import GEOMETRY, token_images
from lora_reuse.theory.model import entry_std
from lora_reuse.theory.settings import Attention
from lora_reuse.theory.streaming import stream


def run(setting: Attention, seeds: Sequence[int], advance: Callable[[int], object] | None = None) -> list[Result]:
    """One Result a seed: the mean square logit and the larger attention weight."""
    dim = int(setting.dim)
    square = dim**3 * entry_std(dim, setting.init_scale) ** 8
    spread = np.sqrt(2 * square)
    mean, mean_square = (
        2 * integrate.quad(lambda t, p=power: special.expit(spread * t) ** p * stats.norm.pdf(t), 0, 12, limit=200)[0]
        for power in (1, 2)
    )
    moved = 2 * integrate.quad(lambda t: _bend(spread * t) * stats.norm.pdf(t), 0, 12, limit=200)[0] * 0.75 / dim
    predicted = {"logit_mean_square": square, "largest_weight": mean}
    stderr = {
        "logit_mean_square": square * np.sqrt(2 * (1 + 2 / dim) ** 3 - 1),
        "largest_weight": float(np.sqrt(mean_square - mean**2)),
        "largest_weight" + REMAINDER: abs(moved),
    }
    results = []
    for seed in seeds:
        _, logits = token_images(stream(seed, GEOMETRY, dim), 3, dim, setting.init_scale)
        first, second = logits[0, :2, 2]
        measured = {
            "logit_mean_square": float((first**2 + second**2) / 2),
            "largest_weight": float(special.expit(abs(first - second))),
        }
        results.append(Result(measured, dict(predicted), dict(stderr)))
    return results


def _bend(x: float) -> float:
    """f″(1) − f′(1) of f(s) = logistic(s x)."""
    p = special.expit(x)
    return p * (1 - p) * (x**2 * (1 - 2 * p) - x)
