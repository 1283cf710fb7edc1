"""The merges of PEFT's `add_weighted_adapter`, by their names there; its `cat` is `cat` here.

They equal PEFT's where the experts have one α/r, which PEFT spreads over both factors and which is in A here: the
entries that are kept and the cross terms are the same up to it. PEFT's weights are on ΔW, so a factor gets their root
(the sign is on B). Here a share of entries is rounded to the nearest count, there down; PEFT takes one adapter alone as
it is; its masks are drawn from torch's global state, here from `seed`. `ties` and `linear` differ: PEFT's `ties` is
`ties` with `trim=module` and weights 1, and its `linear` with weights w is `linear` with √w.

Those in `_svd` work on ΔW, and but for `svd` form it, of one module at a time and some rows of it after others: 3
outputs × inputs numbers, however many experts. They look at every entry of every ΔW, of which an expert of a 7 B model
has 6.5 thousand million. Of what they merge, the singular vectors that are wanted are computed, and not all
(`llm.adapters.nearest`). `core_space` and `knots` are TIES on ΔW in a small basis."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lora_reuse.llm.adapters.lowrank import LowRank, padded
from lora_reuse.llm.adapters.nearest import nearest
from lora_reuse.llm.compositions import Composition, Library, Seed, Weighting, each_module, generator, rule, weights_for
from lora_reuse.llm.compositions.lego import MergedRank
from lora_reuse.llm.compositions.sparse import Density, smallest_of
from lora_reuse.llm.compositions.sums import concatenated

Matrix = Float[Tensor, "rows columns"]
Prune = Callable[[Iterable[Matrix], tuple[object, ...]], Callable[[Matrix], Matrix]]
"""From the blocks of a matrix and words that name it: what is kept of each block, one after the other."""
ENTRIES = 2**18
"""Of a block of ΔW: a processor's cache holds them."""
FORMING = ("ties_svd", "magnitude_prune_svd", "dare_linear_svd", "dare_ties_svd")
"""The rules that look at every entry of every ΔW."""
SECONDS = 3e-8
"""Of a core, that they take at least for an entry of the ΔW of two experts, on modules of a 7 B model."""


def how_long(entries: int) -> str:
    """What merging ΔW of so many entries takes by one of these rules; "" below ten seconds."""
    seconds = SECONDS * entries
    if seconds < 10:
        return ""
    low, high = (f"{s / 60:.0f} min" if s >= 90 else f"{s:.0f} s" for s in (seconds, 2 * seconds))
    return f"{entries:.2g} entries, {low} to {high} of a core; knots and core_space are TIES without forming ΔW"


@rule(static=True, gauge_free=True, alone=True, symmetric=True)
def svd(library: Library, *, weights: Weighting = None, merged_rank: MergedRank = 0) -> Composition:
    """ΔW = the nearest matrix of rank `merged_rank` (0: the largest among the experts) to Σ_i w_i ΔW_i, w_i = 1 unless
    given: PEFT's `svd`, whose 0 is the largest rank of all modules. Its truncated SVD is that of a core between the Q
    of the factors, in O((outputs + inputs) R² + R³) operations, R the sum of the ranks; no ΔW is formed."""

    def merge(name: str, updates: Sequence[LowRank]) -> LowRank:
        left, values, right = concatenated(updates, weights_for(weights, name, len(updates), 1.0)).core_svd()
        rank = merged_rank or max(update.rank for update in updates)
        return LowRank(left[:, :rank] * values[:rank], right[:, :rank])

    return each_module(library, merge)


@rule(static=True, gauge_free=False, alone=False, symmetric=True)
def magnitude_prune(library: Library, *, weights: Weighting = None, density: Density = 0.2) -> Composition:
    """ΔW = (Σ_i √w_i Â_i)(Σ_i √w_i B̂_i)ᵀ, Â and B̂ the `density` share of largest entries of each factor of each module,
    w_i = 1 unless given."""
    return _on_factors(library, weights, _largest(density), elect=False)


@rule(static=True, gauge_free=False, alone=False, symmetric=False)
def dare_linear(library: Library, *, weights: Weighting = None, density: Density = 0.2, seed: Seed = 0) -> Composition:
    """ΔW = (Σ_i √w_i Ã_i)(Σ_i √w_i B̃_i)ᵀ: each entry of a factor is dropped with probability 1 − `density` and else
    divided by it, w_i = 1 unless given. With weights 1 it is `dare` with `then=linear`."""
    return _on_factors(library, weights, _at_random(density, seed), elect=False)


@rule(static=True, gauge_free=False, alone=False, symmetric=False)
def dare_ties(library: Library, *, weights: Weighting = None, density: Density = 0.2, seed: Seed = 0) -> Composition:
    """`dare_linear` with, for each entry of a factor, a sign elected by the sum and the mean of the entries that have
    it in place of the sum. With weights 1 it is `dare` with `then=ties`."""
    return _on_factors(library, weights, _at_random(density, seed), elect=True)


@rule(static=True, gauge_free=True, alone=False, symmetric=True)
def ties_svd(
    library: Library, *, weights: Weighting = None, density: Density = 0.2, merged_rank: MergedRank = 0
) -> Composition:
    """TIES on the whole ΔW_i of each module (trim to the `density` share of largest entries, elect a sign for each
    entry by the sum, average the w_i ΔW_i that have it), then its nearest matrix of rank `merged_rank` (0: the largest
    among the experts). It forms ΔW."""
    return _on_updates(library, weights, merged_rank, _largest(density), elect=True)


@rule(static=True, gauge_free=True, alone=False, symmetric=True)
def magnitude_prune_svd(
    library: Library, *, weights: Weighting = None, density: Density = 0.2, merged_rank: MergedRank = 0
) -> Composition:
    """The nearest matrix of rank `merged_rank` to Σ_i w_i ΔŴ_i, each ΔŴ_i the `density` share of largest entries of
    ΔW_i. It forms ΔW."""
    return _on_updates(library, weights, merged_rank, _largest(density), elect=False)


@rule(static=True, gauge_free=True, alone=False, symmetric=False)
def dare_linear_svd(
    library: Library,
    *,
    weights: Weighting = None,
    density: Density = 0.2,
    merged_rank: MergedRank = 0,
    seed: Seed = 0,
) -> Composition:
    """The nearest matrix of rank `merged_rank` to Σ_i w_i ΔW̃_i, each entry of ΔW_i dropped with probability 1 −
    `density` and else divided by it: DARE on ΔW, as the original has it. It forms ΔW."""
    return _on_updates(library, weights, merged_rank, _at_random(density, seed), elect=False)


@rule(static=True, gauge_free=True, alone=False, symmetric=False)
def dare_ties_svd(
    library: Library,
    *,
    weights: Weighting = None,
    density: Density = 0.2,
    merged_rank: MergedRank = 0,
    seed: Seed = 0,
) -> Composition:
    """`dare_linear_svd` with, for each entry, a sign elected by the sum and the mean of the entries that have it in
    place of the sum. It forms ΔW."""
    return _on_updates(library, weights, merged_rank, _at_random(density, seed), elect=True)


def _on_factors(library: Library, weights: Weighting, prune: Prune, elect: bool) -> Composition:
    """Both factors merged entry by entry. One of lower rank is pruned as it is, and then gets columns of zeros."""

    def merge(name: str, updates: Sequence[LowRank]) -> LowRank:
        w = torch.tensor(weights_for(weights, name, len(updates), 1.0))
        kept = [
            LowRank(prune([out], (name, i, "out"))(out), prune([into], (name, i, "into"))(into))
            for i, (out, into) in enumerate(updates)
        ]
        out, into = map(torch.stack, zip(*padded(kept), strict=True))
        return LowRank(_merged(out, w.abs().sqrt(), elect), _merged(into, w.sign() * w.abs().sqrt(), elect))

    return each_module(library, merge)


def _on_updates(library: Library, weights: Weighting, merged_rank: int, prune: Prune, elect: bool) -> Composition:
    """The updates merged entry by entry, some rows after others, then the nearest matrix of a low rank."""

    def merge(name: str, updates: Sequence[LowRank]) -> LowRank:
        w = torch.tensor(weights_for(weights, name, len(updates), 1.0))
        kept = [map(prune(_rows(update), (name, i)), _rows(update)) for i, update in enumerate(updates)]
        merged = torch.cat([_merged(torch.stack(rows), w, elect) for rows in zip(*kept, strict=True)])
        ranks = [update.rank for update in updates]
        return nearest(merged, merged_rank or max(ranks), sum(ranks))

    return each_module(library, merge)


def _rows(update: LowRank) -> Iterator[Matrix]:
    """ΔW in blocks of rows."""
    for out in update.out.split(max(ENTRIES // update.shape[1], 1)):
        yield LowRank(out, update.into).dense()


def _merged(stack: Float[Tensor, "experts rows columns"], weights: Float[Tensor, " experts"], elect: bool) -> Matrix:
    """The weighted sum of the experts' entries, or the mean of those that have the sign of their unweighted sum."""
    weighted = weights[:, None, None] * stack
    if not elect:
        return weighted.sum(dim=0)
    agree = (stack.sign() == stack.sum(dim=0).sign()) & (stack != 0)
    return torch.where(agree, weighted, 0.0).sum(dim=0) / agree.sum(dim=0).clamp_min(1)


def _largest(density: int | float) -> Prune:
    def prune(blocks: Iterable[Matrix], _: tuple[object, ...]) -> Callable[[Matrix], Matrix]:
        entries = torch.cat([rows.abs().flatten() for rows in blocks])
        if not len(entries):  # of an expert that leaves the module as it is
            return lambda rows: rows
        cut = smallest_of(entries, density)
        return lambda rows: torch.where(rows.abs() >= cut, rows, 0.0)

    return prune


def _at_random(density: int | float, seed: int) -> Prune:
    """The masks of `dare`: one a matrix, of its own."""

    def prune(_: Iterable[Matrix], words: tuple[object, ...]) -> Callable[[Matrix], Matrix]:
        random = generator(seed, "dare", *words)
        return lambda rows: torch.where(torch.rand(rows.shape, generator=random) < density, rows / density, 0.0)

    return prune
