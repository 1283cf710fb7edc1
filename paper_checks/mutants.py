"""Planted mistakes: each is a context in which `theory` computes something subtly wrong."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np

from lora_reuse import theory
from lora_reuse.theory import compositions, depth, edits, error_bars, kernels, library, limit, model
from lora_reuse.theory.activations import ACTIVATIONS, Activation
from lora_reuse.theory.compositions import sums
from lora_reuse.theory.edits import LowRank
from lora_reuse.theory.experiments import depth as networks_of_depth
from lora_reuse.theory.experiments import kernel_limit


@contextmanager
def replaced(honest: Any, new: Any) -> Iterator[None]:
    """A function replaced by `new` in every module of `theory` that knows it, and caches of what it computed emptied
    around it."""
    modules = [module for name, module in sys.modules.items() if name.startswith(theory.__name__)]
    with ExitStack() as stack:
        for module, name in [(it, name) for it in modules for name, known in vars(it).items() if known is honest]:
            stack.enter_context(patch.object(module, name, new))
        _forget()
        try:
            yield
        finally:
            _forget()


def _forget() -> None:
    kernel_limit._unit_width_distance.cache_clear()
    error_bars._moments.cache_clear()
    error_bars._features.cache_clear()
    networks_of_depth._law.cache_clear()


def kernel_without_pi_minus_theta() -> AbstractContextManager:
    """θ in place of (π − θ) in eq. 13."""

    def wrong(S: np.ndarray, activation: str = "relu") -> np.ndarray:
        across, theta = kernels.angle(S)
        k = (across + theta * S) / (2 * np.pi)
        np.einsum("...ii->...i", k)[...] = np.einsum("...ii->...i", S) / 2
        return k

    return replaced(kernels.kernel, wrong)


def attention_weight_one() -> AbstractContextManager:
    """Attention weight 1 for 1/2: the context is summed, not averaged, in the predicted geometry."""
    honest = limit.limit_geometry

    def wrong(attended: np.ndarray, residual: np.ndarray, init_scale: str = "std") -> np.ndarray:
        return honest(np.sign(attended), residual, init_scale)

    return replaced(honest, wrong)


def deep_attention_weight_one() -> AbstractContextManager:
    """Attention weight 1 on every position of the context, in every block."""
    honest = depth.attention
    return replaced(honest, lambda positions, *options: np.sign(honest(positions, *options)))


def mlp_of_one_variance() -> AbstractContextManager:
    """W of variance 1/d for g/d: every MLP adds a vector that is too short."""
    return replaced(depth.gain, lambda activation: 1.0)


def slopes_ignored() -> AbstractContextManager:
    """Gradients that pass every unit of an MLP, as if none were ever off."""
    return replaced(kernels.derivative_kernel, lambda S, activation: np.ones_like(S))


@contextmanager
def activation_replaced(name: str, by: Activation) -> Iterator[None]:
    """One activation computing another."""
    with patch.dict(ACTIVATIONS, {name: by}):
        _forget()
        try:
            yield
        finally:
            _forget()


def edits_swapped() -> AbstractContextManager:
    """η₁ and η₂ swapped in every coefficient that is measured or predicted from the swapped Gram matrix."""
    honest = kernels.coefficient
    return replaced(honest, lambda G, edited, asked: honest(G, 1 - edited if edited < 2 else edited, asked))


def inverse_gram_dropped() -> AbstractContextManager:
    """Eq. 23 without its inverse: a sum of rank-one edits, blind to the overlap of their keys."""

    def wrong(keys: np.ndarray, residuals: np.ndarray, C: np.ndarray | None = None) -> LowRank:
        return LowRank(residuals, keys / np.sum(keys**2, axis=0))

    return replaced(edits.min_norm_edit, wrong)


def norm_not_squared() -> AbstractContextManager:
    """Proposition 1 divided by ‖φ‖ for ‖φ‖²."""

    def wrong(keys: np.ndarray, residuals: np.ndarray, C: np.ndarray | None = None) -> LowRank:
        return LowRank(residuals, keys / np.linalg.norm(keys, axis=0))

    return replaced(edits.min_norm_edit, wrong)


def rule_replaced(name: str, by: str) -> AbstractContextManager:
    """One composition rule computing another."""
    return patch.dict(compositions.RULES, {name: compositions.RULES[by]})


def rule_scaled(name: str, factor: float) -> AbstractContextManager:
    """A composition rule that multiplies its update by a factor."""
    honest = compositions.RULES[name]

    class Scaled:
        def __init__(self, update: Any):
            self.update = update

        def __matmul__(self, features: np.ndarray) -> np.ndarray:
            return factor * (self.update @ features)

    wrong = replace(honest, rule=lambda library, context, **dials: Scaled(honest.rule(library, context, **dials)))
    return patch.dict(compositions.RULES, {name: wrong})


def square_root_weights() -> AbstractContextManager:
    """√w for w in eq. 27, as PEFT's `linear` has it."""
    honest = sums.weights_for
    return patch.object(sums, "weights_for", lambda library, weights: np.sqrt(np.abs(honest(library, weights))))


def variance_reading() -> AbstractContextManager:
    """N(0, 1/√d) read as a variance where the standard deviation was meant."""
    return replaced(model.entry_std, lambda dim, init_scale: dim**-0.25)


def replaced_in(module: Any, name: str, new: Any) -> AbstractContextManager:
    """`name` replaced in one module alone."""
    return patch.object(module, name, new)


def ridge_readout(keys: np.ndarray, Y: np.ndarray) -> LowRank:
    """A readout that does not interpolate: ridge in place of the minimum norm."""
    scale = np.trace(keys.T @ keys) / keys.shape[1]
    return LowRank(Y, np.linalg.solve(keys.T @ keys + 0.01 * scale * np.eye(keys.shape[1]), keys.T).T)


def edit_scaled(factor: float) -> Any:
    """min_norm_edit that overshoots its residuals."""
    honest = edits.min_norm_edit
    return lambda keys, residuals, C=None: factor * honest(keys, residuals, C)


def scene_with(a: str, b: str) -> Any:
    """Scenes in which two entities of every edit coincide."""
    honest = library.draw_scene
    return lambda facts=1, coincide=(): honest(facts, [*coincide, (a, b)])


_HONEST_SCENE = library.draw_scene


def scene_of_the_first_coincidence(facts: int = 1, coincide: Any = ()) -> library.Scene:
    """Scenes that have the first coincidence alone of those that are asked for."""
    return _HONEST_SCENE(facts, coincide[:1])


def scene_with_two_hop_keys(facts: int = 1, coincide: Any = ()) -> library.Scene:
    """Scenes whose second expert is trained on the composed prompts themselves: an expert that has seen the test."""
    honest = _HONEST_SCENE(facts, coincide)
    return replace(honest, second=honest.two_hop)


_HONEST_COEFFICIENTS = model.coefficients


def context_summed(prompts: Any, tokens: int, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Attention weight 1 on every context token, in what is measured and in what is predicted from it."""
    attended, residual = _HONEST_COEFFICIENTS(prompts, tokens, **options)
    return np.sign(attended), residual
