"""Two edits seen by a two-hop prompt in networks of several blocks, as d = m = n grows (beyond the paper, whose model
has one block).

The edits, the prompts and the coefficients are those of `kernel_limit`: what the sum of two adapters adds to `x r1
r2` is c₁(i_y − i_{r1(x)}) + c₂(i_z − i_{r2(y)}), c = T(η, ξ)/T(η, η). T is the Gram matrix of the top features
(`adapted=readout`), or the tangent kernel of one output, when every W is adapted and the update is small
(`adapted=all`). Networks are drawn in full and differentiated by JAX (`theory.networks`).

A prediction is the recursion of `theory.depth` with the term of O(1/n) of the mean, and its error that of the draw of
every matrix, to leading order (`theory.depth_errors`). At width = inf the measurement is the recursion itself."""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from lora_reuse.theory import networks
from lora_reuse.theory.depth import gain
from lora_reuse.theory.depth_errors import Expansion, expansion
from lora_reuse.theory.experiments import Result
from lora_reuse.theory.experiments.kernel_limit import chain, shares
from lora_reuse.theory.gram import NETWORKS, gram
from lora_reuse.theory.settings import INF, Depth, Model
from lora_reuse.theory.streaming import stream


def run(setting: Depth, seeds: Sequence[int], advance: Callable[[int], object] | None = None) -> list[Result]:
    """One Result a seed: the coefficients of one network."""
    if setting.width == INF:
        found = shares(gram(chain(setting.hops), setting.limit, 0))
        return [Result(dict(found), dict(found), dict.fromkeys(found, 0.0)) for _ in seeds]
    predicted, stderr = _law(setting.limit, setting.hops).at(width=setting.width, dim=setting.width)
    results = []
    for seed in seeds:
        results.append(Result(shares(kernel_of(setting, seed)), dict(predicted), dict(stderr)))
        if advance is not None:
            advance(setting.features())
    return results


def kernel_of(setting: Depth, seed: int) -> np.ndarray:
    """T of one network; the same network whatever is adapted."""
    key = stream(seed, NETWORKS, int(setting.width), setting.depth)
    network = networks.draw_network(
        key,
        tokens=2 * setting.hops + 1,
        width=int(setting.width),
        depth=setting.depth,
        gain=gain(setting.activation),
    )
    named = {name: getattr(setting, name) for name in ("mask", "decay", "activation", "norm")}
    found = networks.kernels(chain(setting.hops), network, **named)
    return found.readout + (setting.lower_rate * found.lower if setting.adapted == "all" else 0.0)


@functools.lru_cache(maxsize=64)
def _law(limit: Model, hops: int) -> Expansion:
    return expansion(shares, chain(hops), limit)
