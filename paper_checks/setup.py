"""Section 3.1 and A.1: the model, its two readings, its kernel, what it can store."""

import math

import numpy as np

from lora_reuse.paper_checks import mutants
from lora_reuse.paper_checks.claims import Evidence, claim, from_rows, of_seeds
from lora_reuse.theory import gram
from lora_reuse.theory import model as transformer
from lora_reuse.theory.experiments import attention, capacity, kernel_limit
from lora_reuse.theory.limit import limit_geometry
from lora_reuse.theory.settings import INF, Attention, Capacity, KernelLimit


def paper_kernel(norm: float, other_norm: float, dot: float) -> float:
    """Eq. 13 as printed, for one pair: ‖x‖‖x'‖/(2π) · ((π − η) cos η + sin η)."""
    eta = math.acos(dot / (norm * other_norm))
    return norm * other_norm / (2 * math.pi) * ((math.pi - eta) * math.cos(eta) + math.sin(eta))


# k(η₁, ξ)/k(η₁, η₁) and k(η₂, ξ)/k(η₂, η₂) from the paper's own formulas: ‖η‖² = 2, ‖ξ‖² = 3/2, η₁·ξ = 1/2, η₂·ξ = 1,
# k(η, η) = 1.
C_FIRST = paper_kernel(2**0.5, 1.5**0.5, 0.5)
C_SECOND = paper_kernel(2**0.5, 1.5**0.5, 1.0)
C_FIRST_OTHER = paper_kernel(2**0.5, 1.5**0.5, 0.0)
# Where x = y the contexts of `y r2` and `x r1 r2` have a token in common, and η₂·ξ = 1 + 1/2.
C_SECOND_SAME = paper_kernel(2**0.5, 1.5**0.5, 1.5)


@claim(
    "A.1, eq. 4 to 5",
    "With this initialisation attention is close to uniform when d is large.",
    "conditional",
    (
        "1/sqrt(d) has to be the standard deviation of the entries; as a variance, logits grow like sqrt(d) and"
        " attention picks one token"
    ),
    variance_reading=mutants.variance_reading,
)
def uniform_attention() -> list[Evidence]:
    """The larger of two softmax weights over d, and the mean square logit d³σ⁸, over 1000 seeds: a mean of fewer
    squares passes its limit more often than a normal law does."""
    found = []
    for dim in (256, 4096):
        results = attention.run(Attention(dim=dim, init_scale="std"), range(1000))
        found.append(from_rows(f"larger attention weight, d={dim}", results, "largest_weight"))
        found.append(from_rows(f"mean square logit, d={dim}", results, "logit_mean_square", 1 / dim))
    return found


@claim(
    "3.1, A.1",
    "All matrices have entries from N(0, 1/sqrt(d)).",
    "conditional",
    (
        "the two readings give different coefficients: 0.412, 0.573 (standard deviation) or 0.534, 0.225 (variance), so"
        " which fact dominates flips"
    ),
    attention_weight_one=mutants.attention_weight_one,
    edits_swapped=mutants.edits_swapped,
)
def two_readings() -> list[Evidence]:
    """The two coefficients at width 2^18 under both readings, 8 seeds, against eq. 13 written out for each geometry."""
    angle = paper_kernel(1.0, 0.5**0.5, 0.5)
    # variance: only V-images count: ‖η‖² = 1, ‖ξ‖² = 1/2, η₁·ξ = 1/2, η₂·ξ = 0, k(η, η) = 1/2
    expected = {"std": (C_FIRST, C_SECOND), "variance": (2 * angle, 2 * paper_kernel(1.0, 0.5**0.5, 0.0))}
    found = []
    for scale, values in expected.items():
        results = kernel_limit.run(KernelLimit(width=2**18, init_scale=scale), range(8))
        for name, value in zip(("c_first", "c_second"), values, strict=True):
            found.append(from_rows(f"{name}, {scale}", results, name, value))
    return found


@claim(
    "A.1, eq. 13-15",
    "As m grows, the features' inner products tend to the arc-cosine kernel.",
    "confirmed with constants",
    (
        "with the constant: ||G - k||/||k|| has mean 2.210 m^(-1/2) and standard deviation 0.926 m^(-1/2) on the"
        " theorem's four prompts"
    ),
    without_pi_minus_theta=mutants.kernel_without_pi_minus_theta,
    attention_weight_one=mutants.attention_weight_one,
)
def arc_cosine_kernel() -> list[Evidence]:
    """The kernel on the theorem's four prompts against eq. 13; the relative error of G at three widths against its
    predicted mean; the constants of its law."""
    S = [[2, 0, 0.5, 0], [0, 2, 1, 1], [0.5, 1, 1.5, 1.25], [0, 1, 1.25, 1.5]]
    k = np.array(
        [
            [paper_kernel(S[i][i] ** 0.5, S[j][j] ** 0.5, S[i][j]) if i != j else S[i][i] / 2 for j in range(4)]
            for i in range(4)
        ]
    )
    G = gram.gram(kernel_limit.PROMPTS, KernelLimit(width=INF), [0])[0]
    found = [Evidence("the kernel against eq. 13, largest difference", float(np.abs(G - k).max()), 0.0)]
    for width, seeds in ((2**10, 64), (2**14, 64), (2**18, 16)):
        results = kernel_limit.run(KernelLimit(width=width), range(seeds))
        found.append(from_rows(f"||G - k||/||k||, m={width}", results, "kernel_relative_rms"))
    law = results[0].predicted["kernel_relative_rms"], results[0].stderr["kernel_relative_rms"]
    for what, value, printed in zip(("mean", "standard deviation"), law, (2.210, 0.926), strict=True):
        found.append(Evidence(f"its {what} times m^(1/2)", value * width**0.5, printed, tolerance=5e-4))
    return found


@claim(
    "A.1, eq. 21",
    "With ordinary causal masking the expressions change without substance.",
    "corrected",
    "eq. 21 prints (UV e_x + U(1+V) e_r)/2, which halves the residual; with the residual of eq. 4 the key is (V e_x + V"
    " e_r)/2 + e_r. The coefficients become 0.420 and 0.799: the old answer still wins if no two"
    " entities coincide, and z where y = z or r1(x) = r2(r1(x)), because their sum passes 1",
    attention_weight_one=mutants.attention_weight_one,
)
def ordinary_mask() -> list[Evidence]:
    """Squared norm of the key, and both coefficients at width 2^18 under mask=causal, against eq. 13 on the overlaps by
    hand."""
    attended, residual = transformer.coefficients([(0, 1)], 2, mask="causal")
    found = [
        Evidence(
            "norm of the key, squared (eq. 21 as printed: 0.75)",
            float(limit_geometry(attended, residual)[0, 0]),
            1.5,
        )
    ]
    results = kernel_limit.run(KernelLimit(width=2**18, mask="causal"), range(8))
    # ‖η‖² = 1 + 1/2, ‖ξ‖² = 1 + 1/3, η₁·ξ = 2/6, η₂·ξ = 1 + 1/6, k(η, η) = 3/4
    norms = 1.5**0.5, (4 / 3) ** 0.5
    for name, dot in (("c_first", 1 / 3), ("c_second", 7 / 6)):
        found.append(from_rows(f"{name}, causal", results, name, paper_kernel(*norms, dot) / 0.75))
    return found


@claim(
    "3.2",
    "All one-hop and two-hop facts can jointly be coded into W when d and m are sufficiently large.",
    "confirmed with constants",
    "sufficiently large is m = the number of prompts (plus the few ReLU features that are dead on all of them), at any"
    " d; below, the share of the answers' energy that is lost has a closed form",
    readout_regularised=lambda: mutants.replaced_in(capacity, "min_norm_readout", mutants.ridge_readout),
)
def storage_threshold() -> list[Evidence]:
    """96 prompts: everything exact at m = 120 and at m = infinity, nearly nothing at m = 90; the lost share at m = 24
    and 48."""
    found = [
        Evidence(
            "share stored exactly, m=120",
            float(np.mean([r.measured["stored_exactly"] for r in capacity.run(Capacity(width=120), range(8))])),
            1.0,
        ),
        Evidence(
            "share stored exactly, m=inf", capacity.run(Capacity(width=INF), [0])[0].measured["stored_exactly"], 1.0
        ),
    ]
    below = capacity.run(Capacity(width=90), range(8))
    found.append(
        Evidence(
            "share stored exactly, m=90",
            float(np.mean([r.measured["stored_exactly"] for r in below])),
            0.0,
            tolerance=0.03,
        )
    )
    for width in (24, 48):
        results = capacity.run(Capacity(width=width), range(40))
        expected = float(np.mean([r.predicted["unstored"] for r in results]))
        # The closed form is the leading order in 1/m: 3/m of it is the tolerance beside the statistical error.
        lost = [r.measured["unstored"] for r in results]
        found.append(of_seeds(f"energy not stored, m={width}", lost, expected, tolerance=3 / width * expected))
    return found
