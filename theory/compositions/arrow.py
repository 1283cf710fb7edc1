"""Arrow routing: weights from how much the features resemble each expert's input direction (eq. 28, Ostapenko et al.
2024)."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float64

from lora_reuse.runs.settings import Number, Whole
from lora_reuse.theory.compositions import Context, Features, Library, Outputs, rule
from lora_reuse.theory.compositions.sums import Gauge, gauged

Scores = Annotated[Literal["kernel", "raw", "cosine"], "|phi.v| at unit scale, as software has it, or over |phi|"]
Temperature = Annotated[float, Number(1e-6, 1e6), "of the softmax"]
TopK = Annotated[int, Whole(0, 2), "experts kept (0: all)"]


@rule(span=True, gauge_free=False, basis_free=True, alone=True, smooth=True)
def arrow(
    library: Library,
    context: Context,
    *,
    gauge: Gauge = "plus",
    scores: Scores = "kernel",
    temperature: Temperature = 1.0,
    top_k: TopK = 0,
) -> "Routed":
    """ΔW(φ) = (Σ_i w_i A_i)(Σ_i w_i B_i)ᵀ, w = softmax of the scores of φ (eq. 28): merged before the product, so it
    has cross terms and depends on the factorisation, like eq. 27."""
    factors = gauged(library, gauge, context.seed)
    return Routed(factors, prototypes(library), context.width, scores, temperature, top_k, before=True)


@rule(span=True, gauge_free=True, basis_free=True, alone=True, smooth=True)
def arrow_after(
    library: Library, context: Context, *, scores: Scores = "kernel", temperature: Temperature = 1.0, top_k: TopK = 0
) -> "Routed":
    """ΔW(φ) = Σ_i w_i A_i B_iᵀ with the weights of `arrow`: merged after the product, as PEFT does it."""
    return Routed(list(library), prototypes(library), context.width, scores, temperature, top_k, before=False)


def prototypes(library: Library) -> Float64[np.ndarray, "experts features"]:
    """The top right singular vector of each ΔW: for Proposition 1, the key φ(Uη) at unit length."""
    rows = []
    for expert in library:
        q, r = np.linalg.qr(expert.into)
        rows.append(q @ np.linalg.svd(np.linalg.qr(expert.out).R @ r.T)[2][0])
    return np.stack(rows)


@dataclass(frozen=True)
class Routed:
    """An update whose weights depend on the features."""

    library: Library
    prototypes: Float64[np.ndarray, "experts features"]
    width: int | float
    scores: str
    temperature: float
    top_k: int
    before: bool

    def weights(self, features: Features) -> Float64[np.ndarray, "experts prompts"]:
        """softmax(|φ·v_i|/temperature) over the `top_k` largest (0: all). The features here have m⁻¹ᐟ² in them:
        `scores=kernel` uses them as they are, `raw` takes it out, as software does, so that logits grow like √m and the
        softmax becomes a maximum, and `cosine` divides by ‖φ‖.

        As v_i has unit length, as in Arrow, `kernel` is |k(η, ξ)|/√k(η, η) of one fact. The paper's |k(η, ξ)/k(η, η)|
        is the same where k(η, η) is 1: for ReLU features at d = m = ∞ under mask=strict. Under mask=causal it is 3/4
        there, and the paper's scores are 2/√3 of these."""
        scores = np.abs(self.prototypes @ features)
        if self.scores == "cosine":
            scores = scores / np.linalg.norm(features, axis=0)
        if self.scores == "raw":
            scale = np.sqrt(self.width)
            if np.isinf(scale):
                best = np.isclose(scores, scores.max(axis=0), rtol=1e-9)
                return best / best.sum(axis=0)
            scores = scores * scale
        kept = self.top_k or len(self.library)
        cut = np.sort(scores, axis=0)[-min(kept, len(scores))]
        logits = np.where(scores >= cut, scores / self.temperature, -np.inf)
        weights = np.exp(logits - logits.max(axis=0))
        return weights / weights.sum(axis=0)

    def __matmul__(self, features: Features) -> Outputs:
        w = self.weights(features)
        inner = np.stack([expert.into.T @ features for expert in self.library])
        out = np.stack([expert.out for expert in self.library])
        if self.before:
            return np.einsum("ip,ior,rp->op", w, out, np.einsum("ip,irp->rp", w, inner))
        return np.einsum("ip,ior,irp->op", w, out, inner)
