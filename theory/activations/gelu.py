"""x Φ(x), the Gaussian error linear unit: a ReLU whose gate is blurred by noise."""

import functools
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

    def derivative(self, x: Reals) -> Reals:
        """Φ(x) + x exp(−x²/2)/√(2π)."""
        return scipy.special.ndtr(x) + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)

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
        """By Stein's identity, which takes one x away at a time. For v = (x, y) ~ N(0, S'), with i the first of the x
        left, E[Π_{k∈x} v_k Π_{j∈y} 1{v_j > 0}] = Σ_{k∈x} S'_ik E[without v_i v_k] + Σ_{j∈y} S'_ij N(0; S'_jj)
        E[without v_i and j | v_j = 0]."""
        x = repeated(S, powers)
        both = np.block([[x, x], [x, x + np.eye(4)]])

        @functools.cache
        def given(y: tuple[int, ...]) -> Reals:
            """The covariance given that the gates that are not in y are at 0."""
            closed = [j for j in range(4, 8) if j not in y]
            return given_zero(given(tuple(sorted((*y, closed[0])))), closed[0]) if closed else both

        @functools.cache
        def moment(x: tuple[int, ...], y: tuple[int, ...]) -> Reals:
            C = given(y)
            if not x:
                return orthant_probability(C[..., y, :][..., y])
            i, *others = x
            total = np.zeros(S.shape[:-2])
            for k in others:
                total = total + C[..., i, k] * moment(tuple(o for o in others if o != k), y)
            for j in y:
                rest = moment(tuple(others), tuple(o for o in y if o != j))
                total = total + C[..., i, j] / np.sqrt(2 * np.pi * C[..., j, j]) * rest
            return np.asarray(total)

        return moment((0, 1, 2, 3), (4, 5, 6, 7))
