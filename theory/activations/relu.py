"""max(x, 0): the paper's activation, whose dual kernels are the arc-cosine kernels."""

from typing import Any

import numpy as np
from jaxtyping import Float64

from lora_reuse.theory.activations import Activation, Reals, activation
from lora_reuse.theory.orthant import orthant_moment


@activation
class ReLU(Activation):
    """φ(x) = max(x, 0)."""

    homogeneous = True

    def __call__(self, x: Any) -> Any:
        return x.__array_namespace__().maximum(x, 0.0)

    def derivative(self, x: Reals) -> Reals:
        """1{x > 0}."""
        return (x > 0).astype(float)

    def dual(self, var_u: Reals, cov: Reals, var_v: Reals) -> Reals:
        """The arc-cosine kernel of order 1 (eq. 13-15)."""
        return arc_cosine(var_u, cov, var_v, 1)

    def mean_square(self, var: Reals) -> Reals:
        """Half of the variance, without rounding."""
        return var / 2

    def dual_of_derivative(self, var_u: Reals, cov: Reals, var_v: Reals) -> Reals:
        """The arc-cosine kernel of order 0."""
        return arc_cosine(var_u, cov, var_v, 0)

    def pair_second_moment(self, var_u: Reals, cov: Reals, var_v: Reals) -> Reals:
        """The arc-cosine kernel of order 2."""
        return arc_cosine(var_u, cov, var_v, 2)

    def fourth_moment(
        self, S: Float64[np.ndarray, "*batch n n"], powers: tuple[int, ...]
    ) -> Float64[np.ndarray, "*batch"]:
        """A moment of the positive orthant."""
        return orthant_moment(S, powers)


def arc_cosine(var_u: Reals, cov: Reals, var_v: Reals, order: int) -> Reals:
    """E[(uv)ⁿ 1{u > 0} 1{v > 0}], the arc-cosine kernel of order n = 0, 1 or 2, as `kernels.arc_cosine` has it. Raises
    ValueError for another order."""
    across, theta = angle(var_u, cov, var_v)
    if order == 0:
        return (np.pi - theta) / (2 * np.pi)
    if order == 1:
        return (across + (np.pi - theta) * cov) / (2 * np.pi)
    if order == 2:
        return (3 * across * cov + (np.pi - theta) * (var_u * var_v + 2 * cov**2)) / (2 * np.pi)
    raise ValueError(f"arc_cosine: order {order}; need 0, 1 or 2")


def angle(var_u: Reals, cov: Reals, var_v: Reals) -> tuple[Reals, Reals]:
    """‖h‖‖h'‖ sin θ and the angle θ of two inputs with these squared norms and this inner product."""
    norms = np.sqrt(var_u * var_v)
    across = np.sqrt(np.maximum((norms - cov) * (norms + cov), 0.0))
    return across, np.arctan2(across, cov)
