"""The theory's numbers that the predictions use: two experts of n facts each (eq. 23) at d = m = ∞, matrices with
standard deviation 1/√d."""

import functools

import numpy as np
from jaxtyping import Float64

from lora_reuse.theory.kernels import kernel
from lora_reuse.theory.limit import limit_geometry
from lora_reuse.theory.model import coefficients

KINDS = ("own", "two_hop", "two_hop_other", "same_relation", "same_entity", "unrelated")
"""The prompts beside an edited one: x_1 r1 (y_1 r2), x_1 r1 r2, u r1 r2, u r1 (u r2), x_1 q (y_1 q), u q."""


@functools.cache
def acted(hop: int, facts: int) -> dict[str, Float64[np.ndarray, " facts"]]:
    """What expert `hop` adds to each kind of prompt: G⁻¹ k(η, ξ), the multiple of each of its facts' answer differences
    (its own is first)."""
    n = facts
    other, r1, r2, q = 2 * n, 2 * n + 1, 2 * n + 2, 2 * n + 3
    relation, subject = (r1, 0) if hop == 1 else (r2, n)
    keys = [(subject + j, relation) for j in range(n)]
    asked = [(subject, relation), (0, r1, r2), (other, r1, r2), (other, relation), (subject, q), (other, q)]
    k = kernel(limit_geometry(*coefficients([*keys, *asked], 2 * n + 4)))
    added = np.linalg.solve(k[:n, :n], k[:n, n:])
    return dict(zip(KINDS, added.T, strict=True))


def ratio(hop: int, kind: str, facts: int) -> float:
    """‖ΔW φ(ξ)‖/‖ΔW φ(η)‖ for answer differences that are orthogonal and alike: k(η, ξ)/k(η, η) of one fact."""
    return float(np.linalg.norm(acted(hop, facts)[kind]))


def outputs(facts: int) -> dict[str, float]:
    """The outputs under the sum on x_1 r1 r2: the old answer, y, z, another edited z, r₂(y) and r₁(x), by the names of
    the rows' columns."""
    first, second = (acted(hop, facts)["two_hop"] for hop in (1, 2))
    found = {"old": 1.0, "y": first[0], "z": second[0], "old_second": -second[0], "old_first": -first[0]}
    return {name: float(value) for name, value in found.items()} | ({"other": float(second[1])} if facts > 1 else {})
