"""Arrow routing: weights from how much a token resembles each expert's input direction (eq. 28, Ostapenko et al.
2024)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float32
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.compositions import Composition, Library, Options, each_module, generator, kind, rule, same_rank
from torch import Tensor


@rule(static=False, gauge_free=False, alone=True, symmetric=True)
def arrow(library: Library, options: Options) -> Composition:
    """ΔW(x) = (Σ_i w_i A_i)(Σ_i w_i B_i)ᵀ, w = softmax of the scores of x (eq. 28): merged before the product, so it
    has cross terms and depends on the factorisation, like eq. 27. This is mttl's default; PEFT's Arrow is
    `arrow_after`."""
    same_rank(library, "eq. 28 adds their factors column by column")
    return each_module(library, lambda name, updates: routed(name, updates, options, before=True))


@rule(static=False, gauge_free=True, alone=True, symmetric=True)
def arrow_after(library: Library, options: Options) -> Composition:
    """ΔW(x) = Σ_i w_i A_i B_iᵀ with the weights of `arrow`: merged after the product, as PEFT does it."""
    return each_module(library, lambda name, updates: routed(name, updates, options, before=False))


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

    @property
    def shape(self) -> tuple[int, int]:
        return self.out.shape[0], self.into.shape[0]

    def weights(self, x: Float[Tensor, "*batch inputs"]) -> Float32[Tensor, "*batch experts"]:
        """softmax(|x·v_i|/temperature) over the `top_k` largest (0: all), ties with the last of them included; in
        float32 whatever x is. `scores=raw` takes x as it is, as software does, so that large activations make the
        softmax a maximum; `cosine` divides by ‖x‖."""
        x = x.float()
        with torch.autocast(x.device.type, enabled=False):
            scores = (x @ self.prototypes.T).abs()
        if self.scores == "cosine":
            scores = scores / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(
                torch.finfo(torch.float32).tiny
            )
        if 0 < self.top_k < len(self.ranks):
            cut = scores.topk(self.top_k, dim=-1).values[..., -1:]
            scores = scores.masked_fill(scores < cut, -torch.inf)
        return torch.softmax(scores / self.temperature, dim=-1)

    def mix(
        self, x: Float[Tensor, "*batch inputs"], weights: Float32[Tensor, "*batch experts"]
    ) -> Float[Tensor, "*batch outputs"]:
        """The update with given weights: one product with all B_i, the weights on a rank-sized vector, one product with
        all A_i."""
        return self._weighted(x, weights) @ self.out.to(x.dtype).T

    def inner(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch ranks"]:
        """What `out` is multiplied with."""
        return self._weighted(x, self.weights(x))

    def _weighted(self, x: Tensor, weights: Tensor) -> Tensor:
        w = weights.to(x.dtype)
        inner = x @ self.into.to(x.dtype)
        if self.before:
            # Σ_i w_i B_iᵀx is one vector of the rank, so the sum over i of w_i A_i times it is again one product.
            merged = (w.unsqueeze(-1) * inner.unflatten(-1, (len(self.ranks), -1))).sum(dim=-2, keepdim=True)
            return (w.unsqueeze(-1) * merged).flatten(-2)
        if len(set(self.ranks)) == 1:
            return (inner.unflatten(-1, (len(self.ranks), -1)) * w.unsqueeze(-1)).flatten(-2)
        return inner * w.repeat_interleave(
            torch.tensor(self.ranks, device=w.device), dim=-1, output_size=inner.shape[-1]
        )

    def __call__(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        return self.mix(x, self.weights(x))

    def to(self, device: torch.device, dtype: torch.dtype) -> "Routed":
        """Factors in `dtype`, prototypes in float32: bfloat16 scores would choose other experts."""
        return replace(
            self,
            out=self.out.to(device, dtype),
            into=self.into.to(device, dtype),
            prototypes=self.prototypes.to(device),
        )


def routed(name: str, updates: Sequence[LowRank], options: Options, before: bool) -> Routed:
    """The router of module `name`. Prototypes other than the experts' own are controls: `swapped` gives each expert
    those of the next, `random` draws directions."""
    v = torch.stack([update.top_input_direction() for update in updates])
    if options.prototypes == "swapped":
        v = v.roll(-1, dims=0)
    elif options.prototypes == "random":
        v = torch.randn(v.shape, generator=generator(options.seed, "prototypes", name))
        v = v / torch.linalg.vector_norm(v, dim=1, keepdim=True)
    return Routed(
        torch.cat([update.out for update in updates], dim=1),
        torch.cat([update.into for update in updates], dim=1),
        v,
        tuple(update.rank for update in updates),
        before,
        options.temperature,
        options.top_k,
        options.scores,
    )
