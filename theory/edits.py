"""LoRA updates in closed form: Proposition 1 (eq. 1), eq. 23 and ROME's covariance.

An update is ΔW = out · intoᵀ. (The paper writes ΔW = A Bᵀ in section 3.1 and B Aᵀ in eq. 26-28, PEFT ΔW = (α/r) B A; A
of section 3.1, B of the other two, is `out`.) Keys are features φ(Uh), one column a prompt: explicit ones, or
`gram.coordinates` at any width."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float, Float64

from lora_reuse.runs.settings import SettingError

Keys = Float[np.ndarray, "features edits"]
Residuals = Float[np.ndarray, "outputs edits"]
Covariance = Float[np.ndarray, "features features"]


@dataclass(frozen=True)
class LowRank:
    """ΔW = out · intoᵀ, never formed unless asked for. Raises ValueError, naming both shapes, when they do not fit."""

    out: Float64[np.ndarray, "outputs rank"]
    into: Float64[np.ndarray, "features rank"]

    def __post_init__(self) -> None:
        if self.out.ndim != 2 or self.into.ndim != 2 or self.out.shape[1] != self.into.shape[1]:
            raise ValueError(
                f"LowRank: out {self.out.shape} and into {self.into.shape} need two axes each"
                " and the same rank, their second"
            )

    @property
    def rank(self) -> int:
        return self.out.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        return self.out.shape[0], self.into.shape[0]

    def __matmul__(self, features: Float64[np.ndarray, "features prompts"]) -> Float64[np.ndarray, "outputs prompts"]:
        if features.shape[0] != self.shape[1]:
            raise ValueError(
                f"LowRank of shape {self.shape} cannot read features of shape {features.shape}:"
                f" need {self.shape[1]} rows"
            )
        return self.out @ (self.into.T @ features)

    def __add__(self, other: "LowRank") -> "LowRank":
        """The sum of the two updates; its rank is the sum of the ranks."""
        if self.shape != other.shape:
            raise ValueError(f"LowRank of shape {self.shape} cannot be added to one of shape {other.shape}")
        return LowRank(np.hstack([self.out, other.out]), np.hstack([self.into, other.into]))

    def __rmul__(self, scale: float) -> "LowRank":
        return LowRank(scale * self.out, self.into)

    def dense(self) -> Float64[np.ndarray, "outputs features"]:
        return self.out @ self.into.T

    def singular_values(self) -> Float64[np.ndarray, " rank"]:
        """The singular values of ΔW, from the two triangular factors."""
        return np.linalg.svd(np.linalg.qr(self.out).R @ np.linalg.qr(self.into).R.T, compute_uv=False)

    def norm(self) -> float:
        """‖ΔW‖_F."""
        return float(np.linalg.norm(self.singular_values()))

    def balanced(self) -> "LowRank":
        """The same ΔW with ‖A‖² + ‖B‖² as small as it can be, 2‖ΔW‖_*: unique up to an orthogonal mixing of the
        rank."""
        out_q, out_r = np.linalg.qr(self.out)
        into_q, into_r = np.linalg.qr(self.into)
        left, values, right = np.linalg.svd(out_r @ into_r.T, full_matrices=False)
        root = np.sqrt(values)
        return LowRank(out_q @ (left * root), into_q @ (right.T * root))


def min_norm_edit(keys: Keys, residuals: Residuals, C: Covariance | None = None) -> LowRank:
    """ΔW = D (KᵀC⁻¹K)⁻¹ KᵀC⁻¹, with ΔW K = D exactly: the keys K get the residuals D added to their outputs.

    One key and C = I is Proposition 1 (eq. 1), several are eq. 23, and C = E[φφᵀ] over other prompts is ROME (Meng et
    al. 2022), the least change tr(ΔW C ΔWᵀ) to their outputs.

    With C = I it is also the LoRA solution, the least ‖A‖² + ‖B‖² over all A Bᵀ K = D of rank s ≥ n. Over the factors
    of one ΔW that penalty is at least 2‖ΔW‖_*, reached by `LowRank.balanced`. And if X K = D, with P the projection
    onto the keys' span, X P = D(KᵀK)⁻¹Kᵀ = ΔW, so X Xᵀ = ΔW ΔWᵀ + X(I − P)Xᵀ, and the trace of the root grows strictly:
    ‖X‖_* > ‖ΔW‖_* unless X = ΔW.

    Raises SettingError when the keys are linearly dependent, to a few roundings of the type they come in: no ΔW gives
    them arbitrary residuals. What follows is in float64.
    """
    if keys.shape[1] != residuals.shape[1]:
        raise ValueError(
            f"min_norm_edit: keys {keys.shape} and residuals {residuals.shape} need one column an edit each"
        )
    rounding = float(np.finfo(keys.dtype).eps) if keys.dtype.kind == "f" else 0.0
    keys, residuals = np.asarray(keys, np.float64), np.asarray(residuals, np.float64)
    try:
        dual = keys if C is None else scipy.linalg.solve(C, keys, assume_a="pos")
    except np.linalg.LinAlgError:
        raise ValueError(
            f"min_norm_edit: the covariance C {keys.shape[0]} x {keys.shape[0]} is singular; add a ridge to it"
        ) from None
    inner = keys.T @ dual
    refuse_dependent(inner, max(1e-12, keys.shape[1] * (10 * rounding) ** 2))
    return LowRank(residuals, scipy.linalg.solve(inner, dual.T, assume_a="pos").T)


def refuse_dependent(inner: Float64[np.ndarray, "edits edits"], least: float = 1e-12) -> None:
    """Raises SettingError for keys of these inner products where, at unit length, their smallest eigenvalue is below
    `least`."""
    scale = np.sqrt(np.diagonal(inner))
    if not scale.all() or np.linalg.eigvalsh(inner / np.outer(scale, scale))[0] < least:
        mend = "drop repeated prompts, or raise the width or the dim"
        raise SettingError("keys", f"{len(inner)} that are linearly dependent", "linearly independent ones", mend)


def edit(
    keys: Keys | Float[np.ndarray, " features"],
    changes: Residuals | Float[np.ndarray, " outputs"],
    C: Covariance | None = None,
) -> LowRank:
    """Proposition 1: ΔW = (i_new − i_old) φᵀ/‖φ‖², the update of least norm that changes the output on one prompt, or
    on several: ΔW = D (KᵀK)⁻¹ Kᵀ (eq. 23).

    Args:
        keys: φ(Uh) of the edited prompt, [features], or K, [features edits]. `coordinates(gram(...))` stands for it at
            any width.
        changes: what is to be added to the outputs, [outputs], or D, [outputs edits].
        C: E[φφᵀ] over prompts that should stay as they are, [features features]: then it is ROME's update.

    Returns:
        ΔW = `out` `into`ᵀ as a `LowRank`: `edit(...) @ features` is what it adds to other prompts, `.dense()` the
        matrix.

    Raises:
        SettingError: when keys are linearly dependent.
        ValueError: when shapes do not fit, or C is singular.

    Examples:
        >>> phi = lr.coordinates(lr.gram(["x r1", "x r1 r2"], lr.Model(width=2**12), 0))
        >>> update = lr.edit(phi[:, 0], np.array([1.0, -1.0]))
        >>> (update @ phi).round(2)  # all of the change on its own prompt, c₁ of it on the other
        array([[ 1.  ,  0.43],
               [-1.  , -0.43]])

    Source: Proposition 1 (eq. 1), eq. 23; Meng et al., *Locating and editing factual associations in GPT*, NeurIPS
    2022.
    """
    columns = lambda a: a[:, None] if a.ndim == 1 else a  # noqa: E731
    return min_norm_edit(columns(keys), columns(changes), C)


def leading_change(answers: int, old: int, new: int, margin: float) -> Float64[np.ndarray, " outputs"]:
    """The least change of outputs i_old after which the new answer leads every other one by a margin: what a softmax
    over outputs has to be given for a confidence, where eq. 6 asks for i_new itself.

    With μ the margin, N the number of answers and γ = max(μ − 1, 0)/N it is (min(μ, 1) + 1)/2 · (i_new − i_old) for
    μ ≤ 1, the paper's difference at μ = 1, and (μ − γ) i_new − (1 + γ) i_old − γ on every other answer beyond. There
    every other answer is behind by μ exactly.

    Args:
        answers: N, at least 2.
        old: the answer that has an output of 1, others having 0.
        new: the answer that is to lead.
        margin: μ, at least 0.

    Returns:
        The change, [outputs].

    Raises:
        ValueError: for a margin below 0.

    Examples:
        >>> leading_change(4, old=0, new=1, margin=1.0)
        array([-1.,  1.,  0.,  0.])
        >>> leading_change(4, old=0, new=1, margin=3.0)
        array([-1.5,  2.5, -0.5, -0.5])
    """
    if margin < 0:
        raise ValueError(f"leading_change: margin {margin}; need at least 0, at which the two answers tie")
    beyond = max(margin - 1, 0.0) / answers
    change = np.full(answers, -beyond)
    change[new] = (1 + margin) / 2 if margin <= 1 else margin - beyond
    change[old] = -(1 + margin) / 2 if margin <= 1 else -1 - beyond
    return change + 0.0
