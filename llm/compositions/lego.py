"""LoRA-LEGO: the ranks of all experts sorted into as many clusters as the merged adapter has ranks (Zhao et al. 2024,
arXiv 2409.16167)."""

from typing import Annotated

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lora_reuse.llm.adapters.lowrank import LowRank, triangle
from lora_reuse.llm.compositions import Composition, Library, Seed, each_module, generator, rule
from lora_reuse.runs.settings import Whole

RESTARTS, STEPS = 4, 100
MergedRank = Annotated[int, Whole(0, 10**5), "rank of the result; 0: the largest among the experts"]


@rule(static=True, gauge_free=False, alone=True, symmetric=False)
def lego(library: Library, *, merged_rank: MergedRank = 0, seed: Seed = 0) -> Composition:
    """ΔW = Σ_c a_c b_cᵀ over clusters c of the units (a, b) = (column of A_i, the same column of B_i), i = 1 … N, by
    k-means on (a, b) into `merged_rank` clusters (0: the largest rank among the experts).

    The paper weights cluster centres by a "dual reweighting" whose formulas could not be checked here. This one is: the
    mean of the members, scaled so that ‖(a_c, b_c)‖ is the mean of their norms, as averaging directions that differ
    would shrink it; nothing on the output. Equal experts so give back one of them. Units know no sign: (−a, −b) is
    another point than (a, b), though it is the same update."""
    return each_module(library, lambda name, updates: _clustered(updates, merged_rank, generator(seed, "lego", name)))


def _clustered(updates: list[LowRank], rank: int, random: torch.Generator) -> LowRank:
    outputs = updates[0].shape[0]
    units = torch.cat([torch.cat([update.out.T, update.into.T], dim=1) for update in updates])
    count = rank or max(update.rank for update in updates)
    # The columns of R, as many numbers as there are units, are as far from one another as those of Q R.
    places = triangle(units.T).T
    labels = k_means(places, min(count, len(units)), random)
    centres = []
    for label in labels.unique():
        members = units[labels == label]
        mean = members.mean(dim=0)
        norm = torch.linalg.vector_norm(mean)
        wanted = torch.linalg.vector_norm(members, dim=1).mean()
        centres.append(mean * (wanted / norm if norm > 0 else 0.0))
    out, into = torch.stack(centres).T.tensor_split([outputs])
    return LowRank(out.contiguous(), into.contiguous())


def k_means(points: Float[Tensor, "points features"], count: int, random: torch.Generator) -> Int64[Tensor, " points"]:
    """Lloyd's algorithm from k-means++ starts, the best of `RESTARTS`: a label for each point. Fewer labels than
    `count` when points coincide."""
    runs = [_lloyd(points, _spread_start(points, count, random)) for _ in range(RESTARTS)]
    return min(runs, key=lambda run: run[0])[1]


def _spread_start(points: Tensor, count: int, random: torch.Generator) -> Tensor:
    """k-means++: each further centre is a point drawn with probability proportional to its squared distance from those
    there are."""
    chosen = [int(torch.randint(len(points), (1,), generator=random))]
    far = torch.full((len(points),), torch.inf, dtype=points.dtype)
    for _ in range(count - 1):
        far = torch.minimum(far, _squared_distances(points, points[chosen[-1:]])[:, 0])
        if far.sum() == 0:
            break
        chosen.append(int(torch.multinomial(far, 1, generator=random)))
    return points[chosen]


def _lloyd(points: Tensor, centres: Tensor) -> tuple[float, Tensor]:
    labels = torch.full((len(points),), -1)
    for _ in range(STEPS):
        before, labels = labels, _squared_distances(points, centres).argmin(dim=1)
        if torch.equal(before, labels):
            break
        centres = torch.stack(
            [points[labels == c].mean(dim=0) if (labels == c).any() else centre for c, centre in enumerate(centres)]
        )
    return float(_squared_distances(points, centres).amin(dim=1).sum()), labels


def _squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    return torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist") ** 2
