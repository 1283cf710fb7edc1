"""The error bars of networks of several blocks at finite d and m, in closed form.

Each random matrix adds to Gram matrices a noise of mean zero that, to leading order, is independent of all others. For
entries pq and rs, with Wishart(P) = P_pr P_qs + P_ps P_qr for d-vectors whose Gram matrix is P, and Added(K, P) =
Wishart(P) + K_pr P_qs + K_ps P_qr + K_qr P_ps + K_qs P_pr where they are added to given vectors of Gram matrix K:

| matrix | adds to | covariance |
|---|---|---|
| E | K⁰ | Wishart(K⁰)/d |
| V_l | that of h^l | Added(K^{l−1}, A K̂ Aᵀ)/d |
| U_l | k(S^l), of the features | (E[φ_p φ_q φ_r φ_s] − k_pq k_rs)/m |
| W_l | K^l | Added(that of h^l, g k(S^l))/d |

The gradients of `theory.depth.tangent_kernel` go through the transposes, which are fresh matrices to leading order.
With B that of the gradient at x^l and b = W_lᵀ of it, N(0, g B) in every unit:

| matrix | adds to | covariance |
|---|---|---|
| U_l, at its units | D = g B E[φ'φ'] | (E[φ'_p φ'_q φ'_r φ'_s] E[b_p b_q b_r b_s] − D_pq D_rs)/m |
| U_l, both | k(S^l) and D | (E[φ_p φ_q φ'_r φ'_s] g B_rs − k_pq D_rs)/m |
| U_lᵀ | that at h^l | Added(B, D)/d |
| V_lᵀ | that at x^{l−1} | Added(that at h^l, P)/d, P = Aᵀ of it A |

Along axes w_a of these covariances a quantity F of the kernel has, as in `theory.error_bars`, the mean F + ½ Σ_a
∂²F/∂w_a² and the variance Σ_a (∂F/∂w_a)², each to leading order in 1/d and 1/m."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int

from lora_reuse.theory import kernels
from lora_reuse.theory.activations import ACTIVATIONS
from lora_reuse.theory.depth import Noise, Place, Square, blocks, gain, gradients, prefixes, steps, tangent_kernel
from lora_reuse.theory.experiments import Values
from lora_reuse.theory.facts import Prompt
from lora_reuse.theory.gaussian import quadrature_nodes
from lora_reuse.theory.settings import INF, Model

Entries = Float64[np.ndarray, "entries entries"]
_STEP = 1e-3  # of a numerical derivative along an axis at d = m = 1


class Expansion(NamedTuple):
    """Quantities at d = m = ∞, and what each has beside: its bias times a size, and its variance times it, of the
    noise that falls with the width and of that which falls with the dimension."""

    limit: Values
    bias: dict[str, Values]
    variance: dict[str, Values]

    def at(self, *, width: int | float, dim: int | float) -> tuple[Values, Values]:
        """Means to O(1/m + 1/d), and standard deviations to leading order."""
        size = {"width": width, "dim": dim}
        mean = {name: v + sum(self.bias[s][name] / size[s] for s in size) for name, v in self.limit.items()}
        return mean, {name: sum(self.variance[s][name] / size[s] for s in size) ** 0.5 for name in self.limit}


def expansion(
    quantities: Callable[[Square], Mapping[str, float]], prompts: Sequence[Prompt], model: Model
) -> Expansion:
    """The law of quantities of the kernel, over draws of every matrix.

    Args:
        quantities: a function of the Gram matrix of the prompts, [n n].
        prompts: n token sequences.
        model: its depth, mask, decay, norm, activation, adapted and lower_rate are read.

    Returns:
        The expansion, which has means and standard deviations at any sizes.
    """
    adapted = model if model.adapted == "all" else replace(model, width=INF, dim=INF, adapted="all", lower_rate=0.0)
    names = list(quantities(np.eye(len(prompts))))

    def F(noise: Noise) -> Float64[np.ndarray, "axes quantities"]:
        kernels_of_axes = tangent_kernel(prompts, adapted, noise).reshape(-1, len(prompts), len(prompts))
        return np.array([[*quantities(T).values()] for T in kernels_of_axes])

    (centre,) = F({})
    bias, variance = ({size: np.zeros(len(names)) for size in ("width", "dim")} for _ in range(2))
    for size, noise in _noises(prompts, model):
        up, down = (F({place: sign * _STEP * axes for place, axes in noise.items()}) for sign in (1, -1))
        bias[size] += ((up - 2 * centre + down) / _STEP**2 / 2).sum(axis=0)
        variance[size] += (((up - down) / (2 * _STEP)) ** 2).sum(axis=0)
    named = lambda values: dict(zip(names, map(float, values), strict=True))  # noqa: E731
    return Expansion(named(centre), *({s: named(v) for s, v in part.items()} for part in (bias, variance)))


def _noises(prompts: Sequence[Prompt], model: Model) -> Iterator[tuple[str, Noise]]:
    """The axes of the noise of every matrix at d = m = 1, [axes n n], with the size it falls with."""
    found, step, g = blocks(prefixes(prompts), model), steps(prompts, model), gain(model.activation)
    down = gradients(found, step, model) if model.adapted == "all" else {}
    n = len(found[0].S)
    of_dim: dict[Place, Entries] = {("E", 0): _wishart(found[0].stream)}
    for l, block in enumerate(found, start=1):  # noqa: E741
        of_dim["V", l] = _added(block.stream, block.attended)
        if l < model.depth:
            of_dim["W", l] = _added(block.state, g * kernels.kernel(block.S, model.activation))
        if l in down:
            below = down[l].stream + down[l].through
            of_dim["U back", l] = _added(down[l].stream, down[l].through)
            of_dim["V back", l] = _added(below, step.A.T @ below @ step.A / step.spread(block.stream_lengths))
        at, units = (step.at, down[l].units) if l in down else (step.at[:0], np.zeros((0, 0)))
        axes = _axes(_sampled(block.S, at, units, model.activation))
        features, slopes = np.split(axes, [n * (n + 1) // 2], axis=1)
        yield "width", {("U", l): _symmetric(features)} | ({("D", l): _symmetric(slopes)} if down else {})
    for place, covariance in of_dim.items():
        yield "dim", {place: _symmetric(_axes(covariance))}


def _wishart(P: Square) -> Entries:
    """d times the covariance of the entries of Z Zᵀ/d, Z of d columns N(0, P)."""
    return _crossed(P, P) / 2


def _added(K: Square, P: Square) -> Entries:
    """d times the covariance of the entries of (X + Z)(X + Z)ᵀ, X Xᵀ = K given, Z of d columns N(0, P/d)."""
    return _wishart(P) + _crossed(K, P)


def _crossed(K: Square, P: Square) -> Entries:
    """K_pr P_qs + K_ps P_qr + K_qr P_ps + K_qs P_pr over entries p ≥ q and r ≥ s."""
    p, q = np.tril_indices(len(K))
    at = lambda M, a, b: M[np.ix_(a, b)]  # noqa: E731
    return at(K, p, p) * at(P, q, q) + at(K, p, q) * at(P, q, p) + at(K, q, p) * at(P, p, q) + at(K, q, q) * at(P, p, p)


def _sampled(
    S: Square, at: Int[np.ndarray, " steps"], units: Float64[np.ndarray, "steps steps"], activation: str
) -> Entries:
    """m times the covariance of the entries of φφᵀ/m over prefixes and of those of φ'φ'ᵀbbᵀ/m over steps, b ~ N(0,
    `units`) in every unit, by quadrature over the features."""
    x = quadrature_nodes(S)
    phi, slope = ACTIVATIONS[activation](x), ACTIVATIONS[activation].derivative(x[:, at])
    (p, q), (r, s) = np.tril_indices(len(S)), np.tril_indices(len(at))
    products = np.hstack([phi[:, p] * phi[:, q], slope[:, r] * slope[:, s]])
    b = np.append(np.ones(len(p)), units[r, s])
    weights = np.outer(b, b)
    weights[len(p) :, len(p) :] += _wishart(units)
    mean = products.mean(axis=0) * b
    return products.T @ products / len(products) * weights - np.outer(mean, mean)


def _axes(covariance: Entries) -> Float64[np.ndarray, "axes entries"]:
    """Vectors w_a with Σ_a w_a w_aᵀ the covariance."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > 1e-12 * values[-1]
    return (np.sqrt(values[kept]) * vectors[:, kept]).T


def _symmetric(entries: Float64[np.ndarray, "axes entries"]) -> Float64[np.ndarray, "axes n n"]:
    axes, n = len(entries), int((2 * entries.shape[1]) ** 0.5)
    matrices = np.zeros((axes, n, n))
    p, q = np.tril_indices(n)
    matrices[:, p, q] = matrices[:, q, p] = entries
    return matrices
