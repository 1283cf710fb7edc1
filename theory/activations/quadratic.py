"""The square: the simplest nonlinearity whose features are products of two tokens, with polynomial moments."""

import itertools
from typing import Any

import numpy as np
from jaxtyping import Float64

from lora_reuse.theory.activations import Activation, Reals, activation, repeated


@activation
class Quadratic(Activation):
    """φ(x) = x²."""

    homogeneous = True

    def __call__(self, x: Any) -> Any:
        return x**2

    def rank(self, dim: int | float) -> int | float:
        """Products of two entries, d(d + 1)/2."""
        return dim * (dim + 1) / 2

    def derivative(self, x: Reals) -> Reals:
        """2x."""
        return 2 * x

    def dual(self, var_u: Reals, cov: Reals, var_v: Reals) -> Reals:
        """‖h‖²‖h'‖² + 2(h·h')² (Isserlis)."""
        return var_u * var_v + 2 * cov**2

    def dual_of_derivative(self, var_u: Reals, cov: Reals, var_v: Reals) -> Reals:
        """4 h·h'."""
        return 4 * cov

    def pair_second_moment(self, var_u: Reals, cov: Reals, var_v: Reals) -> Reals:
        """9 ‖h‖⁴‖h'‖⁴ + 72 ‖h‖²‖h'‖²(h·h')² + 24 (h·h')⁴."""
        return 9 * (var_u * var_v) ** 2 + 72 * var_u * var_v * cov**2 + 24 * cov**4

    def fourth_moment(
        self, S: Float64[np.ndarray, "*batch n n"], powers: tuple[int, ...]
    ) -> Float64[np.ndarray, "*batch"]:
        """E[x_i² x_j² x_k² x_l²] = Σ_π 2^(4 − cycles of π) Π_a S_{a π(a)} over the 24 permutations π of the four
        factors (Isserlis: of the 105 pairings of eight x, 2^(4 − cycles) follow one permutation)."""
        F = repeated(S, powers)
        orders = itertools.permutations(range(4))
        terms = [2.0 ** (4 - _cycles(order)) * F[..., range(4), order].prod(-1) for order in orders]
        return np.asarray(sum(terms))


def _cycles(order: tuple[int, ...]) -> int:
    left, cycles = set(range(len(order))), 0
    while left:
        at, cycles = left.pop(), cycles + 1
        while (at := order[at]) in left:
            left.remove(at)
    return cycles
