"""No nonlinearity: the comparison with Nichani et al. in A.1.2."""

from typing import Any

import numpy as np
from jaxtyping import Float64

from lora_reuse.theory.activations import Activation, Reals, activation, repeated


@activation
class Linear(Activation):
    """φ(x) = x."""

    homogeneous = True

    def __call__(self, x: Any) -> Any:
        return x

    def rank(self, dim: int | float) -> int | float:
        """The hidden states' own."""
        return dim

    def derivative(self, x: Reals) -> Reals:
        """1."""
        return np.ones_like(x)

    def dual(self, var_u: Reals, cov: Reals, var_v: Reals) -> Reals:
        """The inner product of the inputs."""
        return np.array(cov)

    def dual_of_derivative(self, var_u: Reals, cov: Reals, var_v: Reals) -> Reals:
        """One."""
        return np.ones_like(cov)

    def pair_second_moment(self, var_u: Reals, cov: Reals, var_v: Reals) -> Reals:
        """‖h‖²‖h'‖² + 2(h·h')² (Isserlis)."""
        return var_u * var_v + 2 * cov**2

    def fourth_moment(
        self, S: Float64[np.ndarray, "*batch n n"], powers: tuple[int, ...]
    ) -> Float64[np.ndarray, "*batch"]:
        """S_ij S_kl + S_ik S_jl + S_il S_jk (Isserlis)."""
        F = repeated(S, powers)
        return np.asarray(F[..., 0, 1] * F[..., 2, 3] + F[..., 0, 2] * F[..., 1, 3] + F[..., 0, 3] * F[..., 1, 2])
