"""The hidden states of prompts as d → ∞, where tokens and their images become orthogonal, and how far a finite d is
from that."""

import numpy as np
from jaxtyping import Float64

from lora_reuse.theory import kernels


def limit_geometry(
    attended: Float64[np.ndarray, "n images"], residual: Float64[np.ndarray, "n tokens"], init_scale: str = "std"
) -> Float64[np.ndarray, "n n"]:
    """S as d → ∞, where tokens e_t and images V e_t become orthogonal: with uniform attention and strict masking
    h(p)·h(q) → [last tokens equal] + (token overlaps of the two contexts)/(their lengths' product).

    Reading N(0, 1/√d) as a variance, ‖V e‖² outgrows ‖e‖² by √d and only the second term is left.

    Args:
        attended: α of `model.coefficients`, [n images], those of all heads.
        residual: β of it, [n tokens].
        init_scale: `std` or `variance`.

    Returns:
        S, [n n].

    Examples:
        >>> from lora_reuse.theory.model import coefficients
        >>> limit_geometry(*coefficients([(0, 2), (1, 3), (0, 2, 3)], tokens=4))  # x r1, y r2, x r1 r2
        array([[2. , 0. , 0.5],
               [0. , 2. , 1. ],
               [0.5, 1. , 1.5]])
    """
    overlap = attended @ attended.T
    return overlap + residual @ residual.T if init_scale == "std" else overlap


def geometry_stderr(
    attended: Float64[np.ndarray, "n images"], residual: Float64[np.ndarray, "n tokens"], edited: int, asked: int
) -> float:
    """√d times the standard deviation of c = k(η, ξ)/k(η, η) over the draw of E and V at dimension d (`std`, ReLU,
    uniform attention).

    To first order E Eᵀ = I + A, (V e_s)·(V e_t) = I + A + B and (V e_s)·e_t = C, with A, B symmetric Gaussian of
    variance 1/d off and 2/d on the diagonal, C Gaussian of variance 1/d, all independent; the rest is the gradient of c
    in S. Images of several heads share A within a head, and B is of all their images.

    Args:
        attended: α of `model.coefficients`, [n images], those of all heads.
        residual: β of it, [n tokens].
        edited: the index of the edited prompt.
        asked: the index of the asked prompt.

    Returns:
        The standard deviation of one draw of E and V, to O(1/d).

    Examples:
        >>> from lora_reuse.theory.model import coefficients
        >>> tokens = coefficients([(0, 2), (1, 3), (0, 2, 3)], tokens=4)
        >>> round(geometry_stderr(*tokens, 0, 2), 2), round(geometry_stderr(*tokens, 1, 2), 2)
        (0.64, 0.74)
    """
    S = limit_geometry(attended, residual)
    a, b = S[edited, edited], S[asked, asked]
    across, theta = kernels.angle(S)
    q = across[edited, asked]
    k = kernels.kernel(S)[edited, asked]
    gradient = {(edited, asked): (np.pi - theta[edited, asked]) / (np.pi * a), (asked, asked): q / (2 * np.pi * a * b)}
    gradient[edited, edited] = q / (2 * np.pi * a**2) - 2 * k / a**2
    count, T = attended.shape[1], residual.shape[1]
    images, tokens, mixed = (np.zeros(shape) for shape in ((count, count), (T, T), (count, T)))
    for (i, j), slope in gradient.items():
        images += slope * np.outer(attended[i], attended[j])
        tokens += slope * np.outer(residual[i], residual[j])
        mixed += slope * (np.outer(attended[i], residual[j]) + np.outer(attended[j], residual[i]))
    images, tokens = (images + images.T) / 2, (tokens + tokens.T) / 2
    shared = np.einsum("ksku->su", images.reshape(count // T, T, count // T, T))
    return float(np.sqrt(2 * np.sum((shared + tokens) ** 2) + 2 * np.sum(images**2) + np.sum(mixed**2)))
