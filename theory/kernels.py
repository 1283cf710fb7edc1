"""The arc-cosine kernel of order 1 (eq. 13), its fourth moments, and the error bars they give a finite width.

Throughout, S = H Hᵀ is the Gram matrix of the hidden states and the features are φ(u·h) with u ~ N(0, I), so that
G = φ(UH)ᵀφ(UH)/m → E[φφ'] as m → ∞. The scale of U cancels in every ratio of the paper. φ is the ReLU, or the identity
(`activation="linear"`, for the comparison with Nichani et al. in A.1.2).
"""

import itertools

import numpy as np
from jaxtyping import Float64
from scipy import integrate

Matrix = Float64[np.ndarray, "... n n"]


def kernel(S: Matrix, activation: str = "relu") -> Matrix:
    """k(h, h') = ‖h‖‖h'‖/(2π) · ((π − θ) cos θ + sin θ), the m → ∞ limit of G (eq. 13–15); h·h' for linear features.

    Written with ‖h‖‖h'‖ sin θ = √(‖h‖²‖h'‖² − (h·h')²) and arctan2, which keeps its digits where arccos(cos θ) loses
    them."""
    if activation == "linear":
        return S.copy()
    across, theta = _angle(S)
    k = (across + (np.pi - theta) * S) / (2 * np.pi)
    diagonal = np.einsum("...ii->...i", S)
    np.einsum("...ii->...i", k)[...] = diagonal / 2
    return k


def kernel_change(S: Float64[np.ndarray, "n n"], change: Float64[np.ndarray, "n n"]) -> Float64[np.ndarray, "n n"]:
    """dk for a small change of S: ∂k/∂(h·h') = (π − θ)/(2π), ∂k/∂‖h‖² = ‖h'‖ sin θ/(4π ‖h‖), and ‖h‖²/2 on the
    diagonal."""
    across, theta = _angle(S)
    diagonal = np.diagonal(S)
    by_norm = across / (4 * np.pi * diagonal[:, None]) * np.diagonal(change)[:, None]
    dk = (np.pi - theta) / (2 * np.pi) * change + by_norm + by_norm.T
    np.einsum("ii->i", dk)[...] = np.diagonal(change) / 2
    return dk


def _angle(S: Matrix) -> tuple[Matrix, Matrix]:
    """‖h‖‖h'‖ sin θ and θ for every pair."""
    diagonal = np.einsum("...ii->...i", S)
    norms = np.sqrt(diagonal[..., :, None] * diagonal[..., None, :])
    across = np.sqrt(np.maximum((norms - S) * (norms + S), 0.0))
    return across, np.arctan2(across, S)


def pair_second_moment(S: Matrix, activation: str = "relu") -> Matrix:
    """E[(φφ')²] = ‖h‖²‖h'‖²/(2π) · (3 sin θ cos θ + (π − θ)(1 + 2 cos² θ)) for every pair (the arc-cosine kernel of
    order 2)."""
    diagonal = np.einsum("...ii->...i", S)
    squares = diagonal[..., :, None] * diagonal[..., None, :]
    if activation == "linear":
        return squares + 2 * S**2
    across, theta = _angle(S)
    return (3 * across * S + (np.pi - theta) * (squares + 2 * S**2)) / (2 * np.pi)


def orthant_moment(S: Float64[np.ndarray, "n n"], powers: tuple[int, ...]) -> float:
    """E[Π_i x_i^{a_i} 1{x > 0}] for x ~ N(0, S) of full rank, n ≤ 4: so E[φ_iφ_jφ_kφ_l] for any four prompts.

    Stein's identity lowers a power, at the price of the boundary of the orthant (Kan and Robotti 2017): with b = a −
    e_i, M(a) = Σ_j S_ij (b_j M(b − e_j) + [b_j = 0] N(0; S_jj) M_{x_j = 0}(b without j))."""
    if not any(powers):
        return orthant_probability(S)
    i = next(i for i, a in enumerate(powers) if a)
    lowered = tuple(a - (j == i) for j, a in enumerate(powers))
    total = 0.0
    for j, power in enumerate(lowered):
        if power:
            total += S[i, j] * power * orthant_moment(S, tuple(a - (k == j) for k, a in enumerate(lowered)))
        else:
            rest = [k for k in range(len(S)) if k != j]
            conditional = S[np.ix_(rest, rest)] - np.outer(S[rest, j], S[j, rest]) / S[j, j]
            total += (
                S[i, j] / np.sqrt(2 * np.pi * S[j, j]) * orthant_moment(conditional, tuple(lowered[k] for k in rest))
            )
    return total


def orthant_probability(S: Float64[np.ndarray, "n n"]) -> float:
    """P(x > 0) for x ~ N(0, S), n ≤ 4: arcsines up to n = 3, for n = 4 one smooth integral over the scale t of the
    correlations (Plackett 1954): dP/dt = Σ_{i<j} ρ_ij / (2π √(1 − t²ρ_ij²)) · P(x_k, x_l > 0 | x_i = x_j = 0)."""
    scale = np.sqrt(np.diagonal(S))
    R = np.clip(S / np.outer(scale, scale), -1.0, 1.0)
    pairs = list(itertools.combinations(range(len(R)), 2))
    arcsines = sum(np.arcsin(R[i, j]) for i, j in pairs)
    if len(R) < 4:
        return (1.0, 0.5, 0.25 + arcsines / (2 * np.pi), 0.125 + arcsines / (4 * np.pi))[len(R)]
    nodes, weights = np.polynomial.legendre.leggauss(96)
    t = (nodes + 1) / 2
    slope = np.zeros_like(t)
    for i, j in pairs:
        k, l = (a for a in range(4) if a not in (i, j))  # noqa: E741
        r = {(a, b): t * R[a, b] for a, b in itertools.permutations(range(4), 2)}
        determinant = 1 - r[i, j] ** 2
        variance = lambda a: 1 - (r[a, i] ** 2 + r[a, j] ** 2 - 2 * r[i, j] * r[a, i] * r[a, j]) / determinant  # noqa: E731, B023
        covariance = (
            r[k, l]
            - (r[k, i] * r[l, i] + r[k, j] * r[l, j] - r[i, j] * (r[k, i] * r[l, j] + r[k, j] * r[l, i])) / determinant
        )
        both = 0.25 + np.arcsin(np.clip(covariance / np.sqrt(variance(k) * variance(l)), -1, 1)) / (2 * np.pi)
        slope += R[i, j] / (2 * np.pi * np.sqrt(determinant)) * both
    return 1 / 16 + float(weights @ slope) / 2


def fourth_moments(S: Float64[np.ndarray, "n n"], activation: str = "relu") -> Float64[np.ndarray, "n n n n"]:
    """M[i, j, k, l] = E[φ_i φ_j φ_k φ_l]; for linear features Isserlis' S_ij S_kl + S_ik S_jl + S_il S_jk."""
    n = len(S)
    if activation == "linear":
        return np.einsum("ij,kl->ijkl", S, S) + np.einsum("ik,jl->ijkl", S, S) + np.einsum("il,jk->ijkl", S, S)
    M = np.empty((n, n, n, n))
    for chosen in itertools.combinations_with_replacement(range(n), 4):
        distinct = sorted(set(chosen))
        value = orthant_moment(S[np.ix_(distinct, distinct)], tuple(chosen.count(i) for i in distinct))
        for index in set(itertools.permutations(chosen)):
            M[index] = value
    return M


def coefficient(G: Matrix, edited: int, asked: int) -> Float64[np.ndarray, "..."]:
    """c = G(η, ξ)/G(η, η): the share of an edit's answer difference that appears on another prompt (eq. 19)."""
    return np.asarray(G[..., edited, asked] / G[..., edited, edited])


def coefficient_stderr(
    M: Float64[np.ndarray, "n n n n"], k: Float64[np.ndarray, "n n"], edited: int, asked: int
) -> float:
    """√m times the standard deviation of c at width m, by the delta method: √E[φ_η²(φ_ξ − c φ_η)²] / k(η, η)."""
    c = coefficient(k, edited, asked)
    e, q = edited, asked
    return float(np.sqrt(M[e, e, q, q] - 2 * c * M[e, e, e, q] + c**2 * M[e, e, e, e]) / k[e, e])


def relative_rms_law(M: Float64[np.ndarray, "n n n n"], k: Float64[np.ndarray, "n n"]) -> tuple[float, float]:
    """√m times mean and standard deviation of ‖G − k‖_F/‖k‖_F at width m, G − k being Gaussian with covariance (M −
    kk)/m.

    ‖G − k‖² is then Q = Σ λ_i χ²₁ with λ the eigenvalues of that covariance, and
    E√Q = (4π)^(−1/2) ∫₀^∞ (1 − Π(1 + 2sλ_i)^(−1/2)) s^(−3/2) ds.
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
    return mean * np.sqrt(scale) / norm, np.sqrt(max(1 - mean**2, 0.0) * scale) / norm


def relative_rms_bias(phi: Float64[np.ndarray, "nodes n"], k: Float64[np.ndarray, "n n"]) -> float:
    """m^(3/2) times what `relative_rms_law` leaves out of the mean of ‖G − k‖_F/‖k‖_F because G − k is Gaussian to
    leading order only.

    `phi` are features at quadrature nodes, mean_u φφᵀ = k. With ψ = φφᵀ − k, Q = m‖G − k‖² and g ~ N(0, Γ), Γ = (1 +
    2sC)⁻¹ on the axes of C = E ψψᵀ, the Edgeworth series of the characteristic function of √m (G − k) gives

        E e^(−sQ) = |Γ|^(1/2) (1 + (2s)² E κ₄(g)/(24m) − (2s)³ E κ₃(g)²/(72m)),

    κ₃(g), κ₄(g) the cumulants of g·ψ, and E√Q follows from the integral of `relative_rms_law`. (For one entry: E|X|
    falls by (κ₄/24 − κ₃²/24)/m.) What is left out next is smaller by another 1/m."""
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


def limit_geometry(
    attended: Float64[np.ndarray, "n tokens"], residual: Float64[np.ndarray, "n tokens"], init_scale: str = "std"
) -> Float64[np.ndarray, "n n"]:
    """S as d → ∞, where tokens e_t and images V e_t become orthogonal: with uniform attention and strict masking
    h(p)·h(q) → [last tokens equal] + (token overlaps of the two contexts)/(their lengths' product).

    Reading N(0, 1/√d) as a variance, ‖V e‖² outgrows ‖e‖² by √d and only the second term is left.
    """
    overlap = attended @ attended.T
    return overlap + residual @ residual.T if init_scale == "std" else overlap


def geometry_stderr(
    attended: Float64[np.ndarray, "n tokens"], residual: Float64[np.ndarray, "n tokens"], edited: int, asked: int
) -> float:
    """√d times the standard deviation of c = k(η, ξ)/k(η, η) over the draw of E and V at dimension d (`std`, ReLU,
    uniform attention).

    To first order E Eᵀ = I + A, (V e_s)·(V e_t) = I + A + B and (V e_s)·e_t = C, with A, B symmetric Gaussian of
    variance 1/d off and 2/d on the diagonal, C Gaussian of variance 1/d, all independent; the rest is the gradient of c
    in S."""
    S = limit_geometry(attended, residual)
    a, b = S[edited, edited], S[asked, asked]
    across, theta = _angle(S)
    q = across[edited, asked]
    k = kernel(S)[edited, asked]
    gradient = {(edited, asked): (np.pi - theta[edited, asked]) / (np.pi * a), (asked, asked): q / (2 * np.pi * a * b)}
    gradient[edited, edited] = q / (2 * np.pi * a**2) - 2 * k / a**2
    images, tokens, mixed = (np.zeros((attended.shape[1],) * 2) for _ in range(3))
    for (i, j), slope in gradient.items():
        images += slope * np.outer(attended[i], attended[j])
        tokens += slope * np.outer(residual[i], residual[j])
        mixed += slope * (np.outer(attended[i], residual[j]) + np.outer(attended[j], residual[i]))
    images, tokens = (images + images.T) / 2, (tokens + tokens.T) / 2
    return float(np.sqrt(2 * np.sum((images + tokens) ** 2) + 2 * np.sum(images**2) + np.sum(mixed**2)))
