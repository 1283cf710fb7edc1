"""python decaying_attention.py

The two coefficients of Theorem 2 where attention is not uniform: the weight of a token is multiplied by `decay` for
each place that is between it and the last token. `decay=1` is the paper's assumption (eq. 5)."""

import numpy as np

from lora_reuse.theory.kernels import kernel
from lora_reuse.theory.limit import limit_geometry
from lora_reuse.theory.streaming import stream, streamed

PROMPTS = ("x r1", "y r2", "x r1 r2")
TOKENS = ("x", "y", "r1", "r2")


def attention(decay):
    """(α, β) of eq. 4 with h(p) = Σ_t α[p, t] V e_t + β[p, t] e_t, one row a prompt and one column a token."""
    attended, residual = np.zeros((2, len(PROMPTS), len(TOKENS)))
    for row, prompt in enumerate(PROMPTS):
        *context, last = map(TOKENS.index, prompt.split())
        weights = decay ** np.arange(len(context))[::-1]
        attended[row, context] = weights / weights.sum()
        residual[row, last] = 1.0
    return attended, residual


def coefficients(gram):
    """c₁ and c₂ of eq. 19, from the Gram matrix of the three prompts."""
    return gram[0, 2] / gram[0, 0], gram[1, 2] / gram[1, 1]


if __name__ == "__main__":
    for decay in (1.0, 0.5, 0.0):
        S = limit_geometry(*attention(decay), "std")
        print("decay={}: c₁ = {:.4f}, c₂ = {:.4f} at infinite width".format(decay, *coefficients(kernel(S))))
        drawn = streamed(S[None], 2**18, [stream(0)])[0]
        print("decay={}: c₁ = {:.4f}, c₂ = {:.4f} at width 2**18".format(decay, *coefficients(drawn)))
