"""python several_heads.py

The two coefficients of Theorem 2 with several heads of attention. Head h has a V_h of its own and attends by its own
decay (`decay=1` is the paper's uniform attention, eq. 5); what the H heads read is added and divided by √H."""

import numpy as np

from lora_reuse.theory.kernels import kernel
from lora_reuse.theory.limit import limit_geometry
from lora_reuse.theory.model import coefficients
from lora_reuse.theory.streaming import stream, streamed

PROMPTS = [(0, 2), (1, 3), (0, 2, 3)]  # x r1, y r2, x r1 r2


def heads(decays):
    """(α, β) with h(p) = Σ_{h,t} α[p, h t] V_h e_t + Σ_t β[p, t] e_t."""
    found = [coefficients(PROMPTS, tokens=4, decay=decay) for decay in decays]
    attended = np.hstack([attended for attended, _ in found]) / np.sqrt(len(decays))
    return attended, found[0][1]


def shares(gram):
    """c₁ and c₂ of eq. 19, from the Gram matrix of the three prompts."""
    return gram[0, 2] / gram[0, 0], gram[1, 2] / gram[1, 1]


if __name__ == "__main__":
    for decays in ((1.0,), (1.0, 1.0), (0.01, 100.0)):
        S = limit_geometry(*heads(decays))
        print("decays={}: c₁ = {:.4f}, c₂ = {:.4f} at infinite width".format(decays, *shares(kernel(S))))
        drawn = streamed(S[None], 2**18, [stream(0)])[0]
        print("decays={}: c₁ = {:.4f}, c₂ = {:.4f} at width 2**18".format(decays, *shares(drawn)))
