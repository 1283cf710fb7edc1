"""How much attention a restated one-hop question must give to itself before its answer flips: the closed form behind
`theory.experiments.bridge`, at d = m = ∞ with a strict mask (beyond the paper).

Under `sum`, all entities being distinct, only fact i's own difference touches both outputs that compete: the old
answer has 1 − c, the new one c, so the answer flips at c = 1/2 exactly, whatever the other expert adds elsewhere. n
= 1 never fails: the last token alone carries e_{r1}, so c ≥ (1/√2)(sin π/4 + (3π/4) cos π/4)/π = 0.534 at every λ
and every prompt length, and the threshold is 0. It is positive for n = 1 where V e outgrows e (init_scale=variance),
and for several facts (hop 2 from n = 2 on, hop 1 from 3): they share the part e_{r1} of their keys, and only the
attended part tells them apart."""

import numpy as np
from jaxtyping import Float64
from scipy import optimize

from lora_reuse.runs.settings import SettingError
from lora_reuse.theory.kernels import kernel
from lora_reuse.theory.settings import INF


def overlaps(locality: float, filler: int, hop: int, init_scale: str = "std") -> Float64[np.ndarray, "3 3"]:
    """S of a fact's stored key η, another fact's key η′ of the same expert, and the fact's restated prompt h_λ, at d =
    ∞, strict mask.

    With N tokens before the last segment (filler + 3 for hop 1: x r1 r2; filler + 6 for hop 2: x r1 r2 x r1 y), of
    which the fact's subject is one, and with Q = Σ_t (times t occurs among them)² (filler + 3; filler + 10, x and r1
    occurring twice), ρ = 1 the residual's part (ρ = 0 for init_scale=variance):  η·η = ρ + 1,  η·η′ = ρ,  h_λ·η = ρ + λ
    + (1 − λ)/N,  h_λ·η′ = ρ, ‖h_λ‖² = ρ + λ² + 2 λ (1 − λ)/N + (1 − λ)² Q/N²."""
    if hop not in (1, 2):
        raise SettingError("hop", hop, "1 or 2")
    if filler < 0:
        raise SettingError("filler", filler, "0 or more tokens")
    N, Q = (filler + 3, filler + 3) if hop == 1 else (filler + 6, filler + 10)
    rho = 1.0 if init_scale == "std" else 0.0
    far = (1 - locality) / N
    own = rho + locality + far
    square = rho + locality**2 + 2 * locality * far + far**2 * Q
    return np.array([[rho + 1, rho, own], [rho, rho + 1, rho], [own, rho, square]])


def own_coefficient(locality: float, filler: int, hop: int, facts: int | float = 1, init_scale: str = "std") -> float:
    """c(λ) under `sum` at d = m = ∞ for n facts, n = inf included: with a = k(η, η), b = k(η, η′), p = k(η, h_λ), q =
    k(η′, h_λ), c = (p − b s)/(a − b), s = (p + (n − 1) q)/(a + (n − 1) b). For n = 1 it is p/a, as n → ∞ it is (p −
    q)/(a − b).

    (The inverse of (a − b) I + b J, J all ones, is (I − b J/(a + (n − 1) b))/(a − b).)
    """
    if not facts >= 1:
        raise SettingError("facts", facts, "1 or more")
    k = kernel(overlaps(locality, filler, hop, init_scale))
    a, b, p, q = k[0, 0], k[0, 1], k[0, 2], k[1, 2]
    s = (p / facts + (1 - 1 / facts) * q) / (a / facts + (1 - 1 / facts) * b)
    return float((p - b * s) / (a - b))


def threshold(filler: int, hop: int, facts: int | float = 1, init_scale: str = "std", weight: float = 1.0) -> float:
    """λ*, the locality at which weight · c reaches 1/2 and the restated prompt's answer flips, at d = m = ∞: weight 1
    for `sum`, 1/2 for `average`; 0 where it is flipped at every λ, and inf where it never is.

    Included: the fact's own expert with all its n facts, in closed form. The other expert adds nothing to the outputs
    of the old and the new answer, so λ* is exact for the contest of those two; that no third answer wins at c = 1/2 is
    left to the measurement."""

    def excess(locality: float) -> float:
        return weight * own_coefficient(locality, filler, hop, facts, init_scale) - 0.5

    if excess(0.0) >= 0:
        return 0.0
    if excess(1.0) <= 1e-12:
        return 1.0 if excess(1.0) > -1e-12 else INF
    return float(optimize.root_scalar(excess, bracket=(0.0, 1.0), xtol=1e-14).root)
