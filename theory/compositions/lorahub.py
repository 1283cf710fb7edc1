"""LoraHub: the weights of eq. 27 found without gradients on a few examples (Huang et al. 2024)."""

import numpy as np
from scipy import optimize

from lora_reuse.runs.settings import SettingError
from lora_reuse.theory.compositions import Context, Library, rule
from lora_reuse.theory.compositions.sums import Gauge, gauged, sum_of
from lora_reuse.theory.edits import LowRank


@rule(span=True, gauge_free=False, basis_free=True, alone=False, smooth=False, draws=True)
def lorahub(library: Library, context: Context, *, gauge: Gauge = "plus") -> LowRank:
    """ΔW = (Σ_i w_i A_i)(Σ_i w_i B_i)ᵀ, w in [−1.5, 1.5]^N of the least squared error on the examples + 0.05 mean|w|,
    by differential evolution (the original uses NGOpt with the same bounds and penalty)."""
    if context.examples is None:
        raise SettingError("examples", "none", "a few examples for lorahub to fit its weights on")
    examples, factors = context.examples, gauged(library, gauge, context.seed)
    outs, intos = [f.out for f in factors], [f.into.T @ examples.features for f in factors]

    def objective(w: np.ndarray) -> float:
        error = sum_of(outs, w) @ sum_of(intos, w) - examples.changes
        return float(np.mean(np.sum(error**2, axis=0)) + 0.05 * np.mean(np.abs(w)))

    found = optimize.differential_evolution(
        objective, [(-1.5, 1.5)] * len(library), rng=context.seed, maxiter=60, popsize=10, polish=False
    )
    return LowRank(sum_of(outs, found.x), sum_of([f.into for f in factors], found.x))
