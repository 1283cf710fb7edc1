"""The nearest matrix of a low rank to a whole one, without all of its singular vectors."""

import torch
from jaxtyping import Float
from torch import Tensor

from lora_reuse.llm.adapters.lowrank import LowRank

TOLERANCE = 1e-5
"""Of a singular vector, over the largest singular value. Those of a whole SVD in float32 are off by 1e-6."""


def nearest(matrix: Float[Tensor, "outputs inputs"], rank: int, standing_out: int) -> LowRank:
    """The nearest matrix of a rank: Σ_j σ_j u_j v_jᵀ of the largest singular values. `standing_out` is how many of them
    are expected to stand out from the others, which says nothing of the result, only of the time that it takes.

    A basis V of inputs starts with that many random directions (the same ones each time) and grows by the residuals
    Mᵀu − σv of the best pairs (u, σ, v) in its span: the block Lanczos method. It ends a step after the residuals of
    the wanted pairs are no more than TOLERANCE σ_1, that is, after they are singular vectors of a matrix that is as
    near. A step takes 4 · outputs · inputs · block operations; few steps are needed where the values fall behind those
    that stand out. Where the basis would pass a quarter of all directions, all singular vectors are computed.

    Source: Golub and Underwood 1977; Musco and Musco 2015 (arXiv 1504.05477) for the error after few steps."""
    block = max(rank, standing_out) + 8
    random = torch.Generator().manual_seed(0)
    basis, image = matrix.new_zeros(matrix.shape[1], 0), matrix.new_zeros(len(matrix), 0)
    near = False
    new = torch.randn(matrix.shape[1], block, generator=random, dtype=matrix.dtype)
    while basis.shape[1] + block <= min(matrix.shape) // 4:
        for _ in range(2):  # rounding of what is nearly in the span remains after once
            new = torch.linalg.qr(new - basis @ (basis.T @ new)).Q
        basis, image = torch.cat([basis, new], dim=1), torch.cat([image, matrix @ new], dim=1)
        q, r = torch.linalg.qr(image)
        left, values, right = torch.linalg.svd(r)
        left, values, right = q @ left[:, :block], values[:block], basis @ right[:block].T
        if near:
            return LowRank(left[:, :rank] * values[:rank], right[:, :rank].contiguous())
        new = matrix.T @ left - right * values
        near = bool(torch.linalg.vector_norm(new[:, :rank], dim=0).max() <= TOLERANCE * values[0])
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return LowRank(left[:, :rank] * values[:rank], right[:rank].T.contiguous())
