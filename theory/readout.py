"""The base model: the readout W that stores facts, and how many it can store."""

import numpy as np
from jaxtyping import Float64, Int
from scipy import optimize

from lora_reuse.theory.edits import LowRank


def one_hot(answers: Int[np.ndarray, " prompts"], entities: int) -> Float64[np.ndarray, "entities prompts"]:
    """Y, one column i_y a prompt."""
    return np.eye(entities)[:, answers]


def min_norm_readout(
    keys: Float64[np.ndarray, "features prompts"], Y: Float64[np.ndarray, "entities prompts"]
) -> LowRank:
    """W = Y Φ⁺: of all readouts with the least ‖WΦ − Y‖_F the one of least norm. It stores every fact (WΦ = Y) once the
    features of the prompts are linearly independent, for ReLU features at m ≥ the number of prompts (Ghosal et al. 2022
    for the margin)."""
    return LowRank(Y, np.linalg.pinv(keys, rcond=1e-12).T)


def unstored_share(
    k: Float64[np.ndarray, "prompts prompts"], Y: Float64[np.ndarray, "entities prompts"], width: int | float
) -> float:
    """The predicted ‖WΦ − Y‖²_F/‖Y‖²_F at width m, for large m: tr(Y κ(k + κ)⁻¹ Yᵀ)/tr(Y Yᵀ) with tr(k(k + κ)⁻¹) = m.

    Φ⁺Φ projects onto the m random directions φ(U_i H); its mean is the ridge smoother of the kernel k whose effective
    ridge κ uses up m degrees of freedom (the deterministic equivalent of a sample covariance). κ = 0 from m = rank(k)
    on: the threshold."""
    values, vectors = np.linalg.eigh(k)
    values = np.where(values > 1e-10 * values[-1], values, 0.0)
    energy = np.sum((Y @ vectors) ** 2, axis=0) / np.sum(Y**2)
    if width >= np.count_nonzero(values):
        return float(energy[values == 0].sum())

    def excess(log_kappa: float) -> float:
        return float(np.sum(values / (values + np.exp(log_kappa))) - width)

    low, high = np.log(values[-1]) - 60, np.log(values.sum() / width) + 1
    kappa = np.exp(optimize.root_scalar(excess, bracket=(low, high), xtol=1e-12).root)
    return float(np.sum(energy * kappa / (values + kappa)))
