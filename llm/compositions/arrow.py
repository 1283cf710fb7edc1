"""Arrow routing: weights from how much a token resembles each expert's input direction (eq. 28, Ostapenko et al.
2024)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from lora_reuse.llm.adapters.lowrank import Inputs, LowRank, padded, times
from lora_reuse.llm.compositions import Composition, Library, Seed, each_module, generator, kind, rule
from lora_reuse.runs.settings import Number, Whole

Temperature = Annotated[int | float, Number(1e-6, 1e6), "logits are divided by it"]
TopK = Annotated[int, Whole(0, 1000), "experts that a token goes to; 0: all"]
Scores = Annotated[Literal["raw", "cosine"], "logits from activations as they are, or normalised"]
Prototypes = Annotated[
    Literal["own", "swapped", "random"],
    "directions that tokens are compared with; those not the experts' own are controls",
]


@rule(static=False, gauge_free=False, alone=True, symmetric=True)
def arrow(
    library: Library,
    *,
    temperature: Temperature = 1.0,
    top_k: TopK = 0,
    scores: Scores = "raw",
    prototypes: Prototypes = "own",
    seed: Seed = 0,
) -> Composition:
    """ΔW(x) = (Σ_i w_i A_i)(Σ_i w_i B_i)ᵀ, w = softmax of the scores of x (eq. 28): merged before the product, so it
    has cross terms and depends on the factorisation, like eq. 27. This is mttl's default; PEFT's Arrow is
    `arrow_after`. A factor of lower rank gets columns of zeros; an expert that does not change a module has weight 0
    there."""
    return _routed(library, True, temperature, top_k, scores, prototypes, seed)


@rule(static=False, gauge_free=True, alone=True, symmetric=True)
def arrow_after(
    library: Library,
    *,
    temperature: Temperature = 1.0,
    top_k: TopK = 0,
    scores: Scores = "raw",
    prototypes: Prototypes = "own",
    seed: Seed = 0,
) -> Composition:
    """ΔW(x) = Σ_i w_i A_i B_iᵀ with the weights of `arrow`: merged after the product, as PEFT does it. An expert that
    does not change a module has weight 0 there."""
    return _routed(library, False, temperature, top_k, scores, prototypes, seed)


@kind
@dataclass(frozen=True)
class Routed:
    """The experts of one module side by side, stacked once. `ranks` says which columns are whose."""

    out: Float[Tensor, "outputs ranks"]
    into: Float[Tensor, "inputs ranks"]
    prototypes: Float32[Tensor, "experts inputs"]
    ranks: tuple[int, ...]
    before: bool
    temperature: int | float = 1.0
    top_k: int = 0
    scores: str = "raw"
    absent: tuple[int, ...] = ()
    """The experts that do not change this module."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.out.shape[0], self.into.shape[0]

    def weights(self, x: Inputs) -> Float32[Tensor, "*batch experts"]:
        """softmax(|x·v_i|/temperature) over the `top_k` largest (0: all), ties with the last of them included; in
        float32 whatever x is. `scores=raw` takes x as it is, as software does, so that large activations make the
        softmax a maximum; `cosine` divides by ‖x‖."""
        x = x.float() if x.is_floating_point() else x
        with torch.autocast(x.device.type, enabled=False):
            scores = times(x, self.prototypes.T).abs()
        if self.absent:
            scores = scores.index_fill(-1, torch.tensor(self.absent, device=scores.device), -torch.inf)
        if self.scores == "cosine" and x.is_floating_point():  # a token's one-hot vector is of length 1
            scores = scores / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(
                torch.finfo(torch.float32).tiny
            )
        if 0 < self.top_k < len(self.ranks):
            cut = scores.topk(self.top_k, dim=-1).values[..., -1:]
            scores = scores.masked_fill(scores < cut, -torch.inf)
        return torch.softmax(scores / self.temperature, dim=-1)

    def mix(self, x: Inputs, weights: Float32[Tensor, "*batch experts"]) -> Float[Tensor, "*batch outputs"]:
        """The update with given weights: one product with all B_i, the weights on a rank-sized vector, one product with
        all A_i."""
        inner = self._weighted(x, weights)
        return inner @ self.out.to(inner.dtype).T

    def inner(self, x: Inputs) -> Float[Tensor, "*batch ranks"]:
        """What `out` is multiplied with."""
        return self._weighted(x, self.weights(x))

    def _weighted(self, x: Tensor, weights: Tensor) -> Tensor:
        inner = times(x, self.into)
        w = weights.to(inner.dtype)
        if self.before:
            # Σ_i w_i B_iᵀx is one vector of the rank, so the sum over i of w_i A_i times it is again one product.
            merged = (w.unsqueeze(-1) * inner.unflatten(-1, (len(self.ranks), -1))).sum(dim=-2, keepdim=True)
            return (w.unsqueeze(-1) * merged).flatten(-2)
        if len(set(self.ranks)) == 1:
            return (inner.unflatten(-1, (len(self.ranks), -1)) * w.unsqueeze(-1)).flatten(-2)
        return inner * w.repeat_interleave(
            torch.tensor(self.ranks, device=w.device), dim=-1, output_size=inner.shape[-1]
        )

    def __call__(self, x: Inputs) -> Float[Tensor, "*batch outputs"]:
        return self.mix(x, self.weights(x))

    def to(self, device: torch.device, dtype: torch.dtype) -> "Routed":
        """Factors in `dtype`, prototypes in float32: bfloat16 scores would choose other experts."""
        return replace(
            self,
            out=self.out.to(device, dtype),
            into=self.into.to(device, dtype),
            prototypes=self.prototypes.to(device),
        )


def _routed(
    library: Library, before: bool, temperature: int | float, top_k: int, scores: str, prototypes: str, seed: int
) -> Composition:
    """A router in every module. Prototypes other than the experts' own are controls: `swapped` gives each expert those
    of the next that changes the module, `random` draws directions."""

    def router(name: str, updates: Sequence[LowRank]) -> Routed:
        v = torch.stack([update.top_input_direction() for update in updates])
        absent = tuple(i for i, update in enumerate(updates) if update.rank == 0)
        if prototypes == "swapped":
            there = [i for i in range(len(v)) if i not in absent]
            v[there] = v[there].roll(-1, dims=0)
        elif prototypes == "random":
            v = torch.randn(v.shape, generator=generator(seed, "prototypes", name))
            v = v / torch.linalg.vector_norm(v, dim=1, keepdim=True)
        updates = padded(updates) if before else updates
        out, into = (torch.cat([update[factor] for update in updates], dim=1) for factor in (0, 1))
        ranks = tuple(update.rank for update in updates)
        return Routed(out, into, v, ranks, before, temperature, top_k, scores, absent)

    return each_module(library, router)
