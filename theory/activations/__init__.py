"""The MLP's nonlinearity φ: one class a file, which `activation=` knows by the file's name.

A class says what φ and φ' are, and four expectations over jointly Gaussian preactivations (u, v) of mean 0: they give
the infinite width, the derivatives of it, and the error bars of every finite width. To add an activation, write the
class in a module of its own in this package, and put `@activation` over it. Every check of `tests/test_activations.py`
is then run on it by name.

Only `__call__` is given JAX arrays (where features are drawn) as well as NumPy's: `x.__array_namespace__().sin(x)` is
the sine of both. The variances of preactivations count where φ is not homogeneous: the variance of u·h is σ²‖h‖² with
σ² = `input_variance`, and ‖h‖² = 2 on a one-hop prompt as d → ∞."""

import importlib
import math
import pkgutil
from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeVar

import numpy as np
from jaxtyping import Float64

Reals = Float64[np.ndarray, "..."]


class Activation(ABC):
    """φ, and its moments under Gaussian preactivations."""

    homogeneous: ClassVar[bool] = False
    """Whether φ(ax) is a power of a > 0 times φ(x). Then `input_variance` cancels in every ratio of the paper."""

    @abstractmethod
    def __call__(self, x: Any) -> Any:
        """φ(x), entry by entry, of a NumPy array or of a JAX one."""

    @abstractmethod
    def derivative(self, x: Reals) -> Reals:
        """φ'(x), entry by entry."""

    @abstractmethod
    def dual(self, var_u: Reals, cov: Reals, var_v: Reals) -> Reals:
        """E[φ(u)φ(v)], the dual kernel, for variances and a covariance that broadcast."""

    @abstractmethod
    def dual_of_derivative(self, var_u: Reals, cov: Reals, var_v: Reals) -> Reals:
        """E[φ'(u)φ'(v)]. It is ∂E[φ(u)φ(v)]/∂cov (Price's theorem)."""

    @abstractmethod
    def fourth_moment(
        self, S: Float64[np.ndarray, "*batch n n"], powers: tuple[int, ...]
    ) -> Float64[np.ndarray, "*batch"]:
        """E[Π_i φ_i^{a_i}] of n ≤ 4 preactivations with covariance S, linearly independent, the powers a adding up to
        four."""

    def rank(self, dim: int | float) -> int | float:
        """How many prompts of hidden states in so many dimensions can have linearly independent features, at most:
        any number, unless φ is a polynomial."""
        return math.inf

    def mean_square(self, var: Reals) -> Reals:
        """E[φ(u)²]."""
        return self.dual(var, var, var)

    def pair_second_moment(self, var_u: Reals, cov: Reals, var_v: Reals) -> Reals:
        """E[φ(u)²φ(v)²], each distinct pair once."""
        triples = np.stack([a.ravel() for a in np.broadcast_arrays(var_u, cov, var_v)], axis=1)
        distinct, back = np.unique(triples, axis=0, return_inverse=True)
        S = distinct[:, [[0, 1], [1, 2]]]
        return self.fourth_moment(S, (2, 2))[back].reshape(np.shape(cov))


def repeated(S: Float64[np.ndarray, "*batch n n"], powers: tuple[int, ...]) -> Float64[np.ndarray, "*batch 4 4"]:
    """The covariance of four preactivations, each of S as often as its power says."""
    which = np.repeat(np.arange(len(powers)), powers)
    return S[..., which, :][..., which]


ACTIVATIONS: dict[str, Activation] = {}
Enrolled = TypeVar("Enrolled", bound=Activation)


def activation(cls: type[Enrolled]) -> type[Enrolled]:
    """Enrols a class under the name of its file. Raises TypeError for a second class there."""
    name = cls.__module__.rpartition(".")[2]
    if name in ACTIVATIONS:
        raise TypeError(f"{name}: {cls.__name__} is a second activation in this file; give it a file of its own")
    ACTIVATIONS[name] = cls()
    return cls


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
