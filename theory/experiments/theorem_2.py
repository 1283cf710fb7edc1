"""Theorem 2: the sum of two experts of one fact each, on the prompt that needs both, for every coincidence of the
facts.

The proof ends with "nonzero multiples of i_y − i_{r1(x)} and i_z − i_{r2(y)}, instead of the correct i_z − i_{r2(y)}".
The correct change is i_z − i_{r2(r1(x))}: before the edits the model answers r₂(r₁(x)) on `x r1 r2`, and that is what z
has to replace. The two agree only where r₂(y) = r₂(r₁(x)) (`coincide=r2y=r2r1x`), and there the sum answers z if c₂ >
1/2. With y = z or r₁(x) = r₂(r₁(x)) it does if c₁ + c₂ > 1 (and, in the second, c₂ > c₁): outputs at entities that
coincide add up. Quantities as in `theorem_3`."""

from collections.abc import Callable, Sequence

from lora_reuse.theory.experiments import Result, theorem_3
from lora_reuse.theory.settings import Theorem2


def run(setting: Theorem2, seeds: Sequence[int], advance: Callable[[int], object] | None = None) -> list[Result]:
    """One Result a seed: Theorem 3's measurement for the rule `sum`."""
    return theorem_3.run(setting.as_theorem_3(), seeds, advance)
