"""x Φ(x), the Gaussian error linear unit: a ReLU whose gate is blurred by noise."""

from typing import Any

import numpy as np
import scipy.special
from jaxtyping import Float64

from lora_reuse.theory.activations import Activation, Reals, activation, repeated
from lora_reuse.theory.orthant import given_zero, orthant_probability


@activation
class GELU(Activation):
    """φ(x) = x Φ(x) = E[x 1{x + ε > 0}] with ε ~ N(0, 1), Φ the normal distribution function, exactly and not by tanh.
    So expectations of products are moments of x on the orthant y = x + ε > 0, each factor with a noise of its own.

    Source: Tsuchida, Pearce, van der Heide, Roosta and Gallagher, *Avoiding kernel fixed points: computing with ELU and
    GELU infinite networks*, AAAI 2021, for the kernel."""

    def __call__(self, x: Any) -> Any:
        if isinstance(x, np.ndarray):
            return x * scipy.special.ndtr(x)
        from jax.nn import gelu  # here, because kernels need no jax

        return gelu(x, approximate=False)

    def dual(self, var_u: Reals, cov: Reals, var_v: Reals) -> Reals:
        """With a = ‖h‖², b = ‖h'‖², c = h·h' and D = (1 + a)(1 + b) − c²,

        c (1/4 + arcsin(c/√((1 + a)(1 + b)))/2π) + (ab + c² (1/(1 + a) + 1/(1 + b) − 1))/(2π√D)."""
        both, D, slope = self._parts(var_u, cov, var_v)
        return cov * both + (var_u * var_v + cov**2 * slope) / (2 * np.pi * np.sqrt(D))

    def dual_of_derivative(self, var_u: Reals, cov: Reals, var_v: Reals) -> Reals:
        """The derivative of the above in c."""
        both, D, slope = self._parts(var_u, cov, var_v)
        return both + cov * (1 + 2 * slope + (var_u * var_v + cov**2 * slope) / D) / (2 * np.pi * np.sqrt(D))

    @staticmethod
    def _parts(var_u: Reals, cov: Reals, var_v: Reals) -> tuple[Reals, Reals, Reals]:
        """P(y > 0) of two gates, D, and the factor of c²."""
        product = (1 + var_u) * (1 + var_v)
        both = 0.25 + np.arcsin(cov / np.sqrt(product)) / (2 * np.pi)
        return both, product - cov**2, 1 / (1 + var_u) + 1 / (1 + var_v) - 1

    def fourth_moment(
        self, S: Float64[np.ndarray, "*batch n n"], powers: tuple[int, ...]
    ) -> Float64[np.ndarray, "*batch"]:
        """By Stein's identity, which takes one x away at a time."""
        x = repeated(S, powers)
        return _gated_moment(np.block([[x, x], [x, x + np.eye(4)]]), (0, 1, 2, 3), (4, 5, 6, 7))


def _gated_moment(
    S: Float64[np.ndarray, "*batch n n"], x: tuple[int, ...], y: tuple[int, ...]
) -> Float64[np.ndarray, "*batch"]:
    """E[Π_{i∈x} v_i Π_{j∈y} 1{v_j > 0}] for v ~ N(0, S): with i the first of x, Σ_{k∈x} S_ik E[without v_i v_k] +
    Σ_{j∈y} S_ij N(0; S_jj) E[without v_i and j | v_j = 0]."""
    if not x:
        return orthant_probability(S[..., y, :][..., y])
    i, *others = x
    total = np.zeros(S.shape[:-2])
    for k in others:
        total = total + S[..., i, k] * _gated_moment(S, tuple(o for o in others if o != k), y)
    for j in y:
        given, density = given_zero(S, j)
        total = total + S[..., i, j] * density * _gated_moment(given, tuple(others), tuple(o for o in y if o != j))
    return np.asarray(total)
