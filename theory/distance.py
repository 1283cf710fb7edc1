"""How far the Gram matrix of m random features is from its kernel: the law of ‖G − k‖_F/‖k‖_F, in closed form."""

import numpy as np
from jaxtyping import Float64
from scipy import integrate


def relative_rms_law(M: Float64[np.ndarray, "n n n n"], k: Float64[np.ndarray, "n n"]) -> tuple[float, float]:
    """√m times mean and standard deviation of ‖G − k‖_F/‖k‖_F at width m, G − k being Gaussian with covariance (M −
    kk)/m.

    ‖G − k‖² is then Q = Σ λ_i χ²₁ with λ the eigenvalues of that covariance, and
    E√Q = (4π)^(−1/2) ∫₀^∞ (1 − Π(1 + 2sλ_i)^(−1/2)) s^(−3/2) ds.

    Args:
        M: fourth moments of the features, [n n n n].
        k: their kernel, [n n].

    Returns:
        Mean and standard deviation, each times √m.

    Examples:
        >>> from lora_reuse.theory.kernels import fourth_moments, gram_stderr, kernel
        >>> S = np.array([[1.0]])  # E|x| = √(2/π) of a standard deviation
        >>> mean, spread = relative_rms_law(fourth_moments(S), kernel(S))
        >>> bool(np.isclose(mean, np.sqrt(2 / np.pi) * gram_stderr(S).item() / kernel(S).item()))
        True
    """
    n = len(k)
    covariance = (M - np.einsum("ij,kl->ijkl", k, k)).reshape(n * n, n * n)
    scale = np.trace(covariance)
    eigenvalues = np.maximum(np.linalg.eigvalsh(covariance), 0.0) / scale

    def integrand(log_s: float) -> float:  # s = exp(log_s), so s^(-3/2) ds = s^(-1/2) d(log s)
        s = np.exp(log_s)
        return -np.expm1(-0.5 * np.log1p(2 * s * eigenvalues).sum()) / np.sqrt(s)

    mean = integrate.quad(integrand, -60, 60, limit=400)[0] / np.sqrt(4 * np.pi)
    norm = np.linalg.norm(k)
    return float(mean * np.sqrt(scale) / norm), float(np.sqrt(max(1 - mean**2, 0.0) * scale) / norm)


def relative_rms_bias(phi: Float64[np.ndarray, "nodes n"], k: Float64[np.ndarray, "n n"]) -> float:
    """m^(3/2) times what `relative_rms_law` leaves out of the mean of ‖G − k‖_F/‖k‖_F because G − k is Gaussian to
    leading order only.

    `phi` are features at quadrature nodes, mean_u φφᵀ = k. With ψ = φφᵀ − k, Q = m‖G − k‖² and g ~ N(0, Γ), Γ = (1 +
    2sC)⁻¹ on the axes of C = E ψψᵀ, the Edgeworth series of the characteristic function of √m (G − k) gives

        E e^(−sQ) = |Γ|^(1/2) (1 + (2s)² E κ₄(g)/(24m) − (2s)³ E κ₃(g)²/(72m)),

    κ₃(g), κ₄(g) the cumulants of g·ψ, and E√Q follows from the integral of `relative_rms_law`. (For one entry: E|X|
    falls by (κ₄/24 − κ₃²/24)/m.) What is left out next is smaller by another 1/m.

    Args:
        phi: features at quadrature nodes, [nodes n], mean φφᵀ = k (√nodes times `gaussian.quadrature_features`).
        k: their kernel, [n n].

    Returns:
        The correction, times m^(3/2).

    Examples:
        >>> from lora_reuse.theory.gaussian import QUADRATURE_NODES, quadrature_features
        >>> from lora_reuse.theory.kernels import kernel
        >>> S = np.array([[1.0]])
        >>> phi = quadrature_features(S) * QUADRATURE_NODES**0.5
        >>> round(relative_rms_bias(phi, kernel(S)), 1)  # a Gaussian's E|G − k| is larger
        -0.5
    """
    psi = (phi[:, :, None] * phi[:, None, :] - k).reshape(len(phi), -1)
    variances, axes = np.linalg.eigh(psi.T @ psi / len(phi))
    kept = variances > 1e-10 * variances[-1]
    scale = variances.sum()
    variances, y = variances[kept] / scale, psi @ axes[:, kept] / np.sqrt(scale)
    fourth = (y**2).T @ y**2 / len(y)
    third = np.einsum("ui,uj,uk->ijk", y, y, y, optimize=True) / len(y)
    log_s = np.linspace(-20, 20, 401)
    s = np.exp(log_s)
    gamma = 1 / (1 + 2 * np.multiply.outer(s, variances))
    kappa_4 = 3 * (
        np.einsum("si,ij,sj->s", gamma, fourth, gamma) - (gamma @ variances) ** 2 - 2 * gamma**2 @ variances**2
    )
    traced = np.einsum("iik,si->sk", third, gamma)
    kappa_3 = 6 * np.einsum("ijk,si,sj,sk->s", third**2, gamma, gamma, gamma, optimize=True) + 9 * np.sum(
        gamma * traced**2, axis=1
    )
    change = np.sqrt(np.prod(gamma, axis=1)) * (s**2 * kappa_4 / 6 - s**3 * kappa_3 / 9)
    return float(
        -integrate.trapezoid(change / np.sqrt(s), log_s) / np.sqrt(4 * np.pi) * np.sqrt(scale) / np.linalg.norm(k)
    )
