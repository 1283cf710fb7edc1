"""The error function, which saturates: a sign blurred by noise, and so a kernel of arcsines."""

from typing import Any

import numpy as np
import scipy.special
from jaxtyping import Float64

from lora_reuse.theory.activations import Activation, Reals, activation, repeated
from lora_reuse.theory.orthant import orthant_probability


@activation
class Erf(Activation):
    """φ(x) = erf(x) = E sign(x + ε) with ε ~ N(0, 1/2). So expectations of products are those of signs of Gaussians of
    covariance S + I/2, each factor with a noise of its own.

    Source: Williams, *Computing with infinite networks*, NeurIPS 1996, for the kernel."""

    def __call__(self, x: Any) -> Any:
        if isinstance(x, np.ndarray):
            return scipy.special.erf(x)
        from jax.scipy.special import erf  # here, because kernels need no jax

        return erf(x)

    def derivative(self, x: Reals) -> Reals:
        """(2/√π) exp(−x²)."""
        return 2 / np.sqrt(np.pi) * np.exp(-(x**2))

    def dual(self, var_u: Reals, cov: Reals, var_v: Reals) -> Reals:
        """(2/π) arcsin(2 h·h'/√((1 + 2‖h‖²)(1 + 2‖h'‖²)))."""
        return 2 / np.pi * np.arcsin(2 * cov / np.sqrt((1 + 2 * var_u) * (1 + 2 * var_v)))

    def dual_of_derivative(self, var_u: Reals, cov: Reals, var_v: Reals) -> Reals:
        """(4/π)/√((1 + 2‖h‖²)(1 + 2‖h'‖²) − 4(h·h')²)."""
        return 4 / np.pi / np.sqrt((1 + 2 * var_u) * (1 + 2 * var_v) - 4 * cov**2)

    def fourth_moment(
        self, S: Float64[np.ndarray, "*batch n n"], powers: tuple[int, ...]
    ) -> Float64[np.ndarray, "*batch"]:
        """16 P(y > 0) − 1 − (2/π) Σ_{a<b} arcsin ρ_ab for y ~ N(0, S + I/2): what the product of four signs leaves once
        the products of two are known."""
        noisy = repeated(S, powers) + np.eye(4) / 2
        scale = np.sqrt(np.diagonal(noisy, axis1=-2, axis2=-1))
        above = np.triu_indices(4, 1)
        arcsines = np.arcsin((noisy / (scale[..., :, None] * scale[..., None, :]))[..., *above]).sum(-1)
        return np.asarray(16 * orthant_probability(noisy) - 1 - 2 / np.pi * arcsines)
