"""Two edits seen by a two-hop prompt, as the random features become their kernel (eq. 13-15 and 19).

The edits are r̃₁(x) = y, stored under the prompt `x r1`, and r̃₂(y) = z, under `y r2`. On `x r1 r2` their sum adds
c₁(i_y − i_{r1(x)}) + c₂(i_z − i_{r2(y)}) with c₁ = G(η₁, ξ)/G(η₁, η₁), c₂ = G(η₂, ξ)/G(η₂, η₂); on `u r1 r2`, another
entity's prompt, the same two differences appear with coefficients of their own.

With `hops=k` (beyond the paper, whose k is 2) there are k edits, each of the answer to the one before, and the prompt
is `x r1 … rk`: `c_first` to `c_fourth`.

A prediction is the limit one step on. At a finite width it is that of the kernel of the hidden states actually drawn (m
→ ∞ at these E and V) with the term of O(1/m) of the mean over U, and its error is that of the draw of U
(`theory.error_bars`), absent where two prompts have become one because attention saturates. At width = inf and a finite
dim it is the d → ∞ limit, with the error in the draw of E and V to first order, where that is known in closed form
(std, uniform attention, ReLU). At dim = width = inf it is the value itself."""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float64

from lora_reuse.theory import distance, kernels
from lora_reuse.theory.error_bars import dependent, expansion
from lora_reuse.theory.experiments import REMAINDER, Result, Values
from lora_reuse.theory.facts import Prompt
from lora_reuse.theory.gaussian import quadrature_features
from lora_reuse.theory.gram import geometry, gram
from lora_reuse.theory.limit import geometry_stderr
from lora_reuse.theory.model import coefficients_of
from lora_reuse.theory.settings import INF, KernelLimit, at_infinite_dim

ORDINALS = ("first", "second", "third", "fourth")


def chain(hops: int = 2) -> list[Prompt]:
    """The prompts of the edits, `a_{i−1} r_i` for the edit r̃_i(a_{i−1}) = a_i, then `x r1 … rk` with x = a_0, then
    another entity's.

    Examples:
        >>> chain(2)  # x r1, y r2, x r1 r2, u r1 r2 with x, y, u, r1, r2 = 0 … 4
        [(0, 3), (1, 4), (0, 3, 4), (2, 3, 4)]
    """
    relations = tuple(range(hops + 1, 2 * hops + 1))
    return [*((i, r) for i, r in enumerate(relations)), (0, *relations), (hops, *relations)]


def pairs(hops: int = 2) -> dict[str, tuple[int, int]]:
    """The edited and the asked prompt of each coefficient, as places in `chain`."""
    asked = {"": hops, "_other_entity": hops + 1}
    return {f"c_{ORDINALS[i]}{whose}": (i, prompt) for whose, prompt in asked.items() for i in range(hops)}


PROMPTS, COEFFICIENTS = chain(), pairs()


def run(setting: KernelLimit, seeds: Sequence[int], advance: Callable[[int], object] | None = None) -> list[Result]:
    """Measures ‖G − k‖/‖k‖ over the prompts of `chain` and the coefficients of `pairs`; one Result a seed."""
    prompts = chain(setting.hops)
    measured = gram(prompts, setting, seeds, advance=advance)
    results = []
    for S, G in zip(geometry(prompts, setting, seeds), measured, strict=True):
        k = kernels.kernel(S, setting.activation)
        values = {"kernel_relative_rms": float(np.linalg.norm(G - k) / np.linalg.norm(k))} | shares(G)
        results.append(
            Result(values, *(_limit_of_dim(setting, k) if setting.width == INF else _limit_of_width(setting, S)))
        )
    return results


def shares(G: Float64[np.ndarray, "n n"]) -> Values:
    """The coefficients, from the Gram matrix of a chain."""
    return {name: float(kernels.coefficient(G, *pair)) for name, pair in pairs(len(G) - 2).items()}


def _limit_of_width(setting: KernelLimit, S: Float64[np.ndarray, "n n"]) -> tuple[Values, Values]:
    found = expansion(shares, S, setting.width, setting.activation)
    mean, error = _distance(S.tobytes(), setting.activation, float(setting.width))
    return {"kernel_relative_rms": mean} | found.mean, error | found.errors()


def _distance(S_bytes: bytes, activation: str, width: float) -> tuple[float, Values]:
    """Mean, standard deviation and remainder of the relative RMS error. Its mean square E‖G − k‖² is exact at every
    width."""
    mean, spread, bias = _unit_width_distance(S_bytes, activation)
    shift, root = bias / width, width**-0.5
    error = max(mean**2 + spread**2 - (mean + shift) ** 2, 0.0) ** 0.5
    return (mean + shift) * root, {
        "kernel_relative_rms": error * root,
        "kernel_relative_rms" + REMAINDER: shift**2 / mean * root,
    }


@functools.lru_cache(maxsize=4096)
def _unit_width_distance(S_bytes: bytes, activation: str) -> tuple[float, float, float]:
    """√m times the mean and spread of the relative RMS error of a Gaussian G − k, m^(3/2) times what the mean gains;
    for every width."""
    S = np.frombuffer(S_bytes)
    S = S.reshape(2 * (math.isqrt(S.size),))
    k, phi = kernels.kernel(S, activation), quadrature_features(S, activation, nodes=2**12)
    pairs = np.einsum("ui,uj->uij", phi, phi)
    # Where the closed form of fourth moments ends quadrature has three digits of them.
    M = np.einsum("uij,ukl->ijkl", pairs, pairs) * len(phi) if dependent(S) else kernels.fourth_moments(S, activation)
    return *distance.relative_rms_law(M, k), distance.relative_rms_bias(phi * len(phi) ** 0.5, k)


def _limit_of_dim(setting: KernelLimit, k: Float64[np.ndarray, "n n"]) -> tuple[Values, Values]:
    predicted, stderr = {"kernel_relative_rms": 0.0}, {"kernel_relative_rms": 0.0}
    limit = at_infinite_dim(setting)
    if limit is None:
        return predicted, stderr
    prompts, named = chain(setting.hops), pairs(setting.hops)
    if setting.dim != INF:
        k = kernels.kernel(geometry(prompts, limit, [0])[0], setting.activation)
    predicted |= shares(k)
    if setting.dim == INF:
        stderr |= dict.fromkeys(named, 0.0)
    elif (setting.init_scale, setting.attention, setting.activation) == ("std", "uniform", "relu"):
        attended, residual = coefficients_of(setting, prompts, 2 * setting.hops + 1)
        root = setting.dim**-0.5
        stderr |= {name: geometry_stderr(attended, residual, *pair) * root for name, pair in named.items()}
    return predicted, stderr
