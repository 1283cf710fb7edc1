"""Beyond the paper, whose model has one block: its theorems in transformers of several, in the kernel regime."""

import functools
import itertools

import numpy as np

from lora_reuse.paper_checks import mutants
from lora_reuse.paper_checks.claims import Evidence, claim, from_rows
from lora_reuse.paper_checks.setup import paper_kernel
from lora_reuse.theory.experiments import depth, many_facts, theorem_2
from lora_reuse.theory.library import draw_scene
from lora_reuse.theory.settings import INF, Depth, ManyFacts, Theorem2

KEYS, ASKED = ("xr", "ys"), "xrs"


@functools.cache
def stream(block: int, one: str, other: str) -> float:
    """Inner product of two positions' streams after a block, each position written as its prefix, with eq. 13 as
    printed: strict mask, no normalisation, an MLP of twice the kernel."""
    if block == 0:
        return float(one[-1] == other[-1])
    norm, other_norm = state(block, one, one) ** 0.5, state(block, other, other) ** 0.5
    dot = min(state(block, one, other), norm * other_norm)
    return dot + 2 * paper_kernel(norm, other_norm, dot)


@functools.cache
def state(block: int, one: str, other: str) -> float:
    """Inner product of what their MLPs read: the streams', and the mean of the streams' over both contexts."""
    pairs = [(one[:s], other[:t]) for s in range(1, len(one)) for t in range(1, len(other))]
    attended = sum(stream(block - 1, *pair) for pair in pairs) / max(len(pairs), 1)
    return stream(block - 1, one, other) + attended


def readout_coefficients(blocks: int) -> list[float]:
    """c₁ and c₂ with the top readout adapted, from eq. 13."""
    norms = {p: state(blocks, p, p) ** 0.5 for p in (*KEYS, ASKED)}
    return [paper_kernel(norms[key], norms[ASKED], state(blocks, key, ASKED)) / (norms[key] ** 2 / 2) for key in KEYS]


@claim(
    "beyond the paper; Theorem 2",
    "With several blocks the two adapters still add two multiples, and never remove the old answer.",
    "confirmed with constants",
    "in the kernel regime, for LoRA on the top readout or, to first order, on every W: at L = 4 the multiples are 0.703"
    " and 0.617 or 0.524 and 0.423; networks of width 256, differentiated by JAX, follow within their predicted errors",
    attention_weight_one=mutants.deep_attention_weight_one,
    mlp_of_one_variance=mutants.mlp_of_one_variance,
    slopes_ignored=mutants.slopes_ignored,
    without_pi_minus_theta=mutants.kernel_without_pi_minus_theta,
    oracle_for_sum=lambda: mutants.rule_replaced("sum", "oracle"),
)
def two_multiples_at_every_depth() -> list[Evidence]:
    """What is outside the span of the two differences and what is left of the old answer, the multiples against eq. 13
    by hand, and those of drawn networks."""
    outside, old, apart = [], [], []
    for blocks in (1, 2, 4, 8):
        for norm, adapted, mask in itertools.product(("none", "rms"), ("readout", "all"), ("strict", "causal")):
            setting = Theorem2(width=INF, depth=blocks, norm=norm, adapted=adapted, mask=mask)
            values = theorem_2.run(setting, [0])[0].measured
            outside.append(values["span_residual"])
            old.append(values["margin_old_over_new"] + values.get("c_second", np.nan))
            if (norm, adapted, mask) == ("none", "readout", "strict"):
                by_hand = readout_coefficients(blocks)
                apart += [abs(values[n] - v) for n, v in zip(("c_first", "c_second"), by_hand, strict=True)]
    found = [
        Evidence("outside the span, L = 1 to 8", max(outside), 0.0),
        Evidence("least output at the old answer", min(old), 1.0),
        Evidence("c_first and c_second against eq. 13 by hand, largest difference", max(apart), 0.0),
    ]
    for adapted in ("readout", "all"):
        results = depth.run(Depth(width=256, depth=4, adapted=adapted), range(12))
        found += [from_rows(f"{name}, L=4, n=256, {adapted}", results, name) for name in ("c_first", "c_second")]
    return found


@claim(
    "beyond the paper; Theorem 3, A.1.1",
    "With several blocks no weights on the two adapters pass one in n among n edited answers.",
    "confirmed with constants",
    "in the kernel regime, at d = m = infinity, with and without RMSNorm: every composed prompt sees the n keys of the"
    " second adapter alike",
    composed_leaks_in=lambda: mutants.replaced(draw_scene, mutants.scene_with_two_hop_keys),
)
def ceiling_at_every_depth() -> list[Evidence]:
    """The best accuracy over all directions and lengths of (α₁, α₂) for 4 facts, and the spread of the coefficients."""
    found = []
    for blocks, norm, adapted in ((2, "none", "readout"), (4, "none", "all"), (8, "rms", "all")):
        setting = ManyFacts(width=INF, facts=4, composition="best", depth=blocks, norm=norm, adapted=adapted)
        values = many_facts.run(setting, [0])[0].measured
        where = f"L={blocks}, {adapted}, norm={norm}"
        found += [
            Evidence(f"best accuracy, {where}", values["accuracy"], 1 / 4, tolerance=1e-12),
            Evidence(f"spread of the coefficients, {where}", values["coefficient_second_spread"], 0.0),
        ]
    return found


@claim(
    "beyond the paper; Theorem 2",
    "The sum's largest output on the two-hop prompt stays the old answer at every depth.",
    "conditional",
    "if no two entities coincide, with RMSNorm or when every W is adapted, up to 64 blocks. With the readout alone and"
    " no normalisation later positions outgrow earlier ones, and from 9 blocks on y wins, the answer of the first hop;"
    " z never does",
    mlp_of_one_variance=mutants.mlp_of_one_variance,
    attention_weight_one=mutants.deep_attention_weight_one,
)
def which_answer_wins_with_depth() -> list[Evidence]:
    """Which output is largest on both sides of the change, and at 64 blocks."""
    found = []
    for blocks, norm, adapted, winner in (
        (8, "none", "readout", "old"),
        (9, "none", "readout", "y"),
        (64, "none", "readout", "y"),
        (64, "none", "all", "old"),
        (64, "rms", "readout", "old"),
        (64, "rms", "all", "old"),
    ):
        setting = Theorem2(width=INF, depth=blocks, norm=norm, adapted=adapted)
        values = theorem_2.run(setting, [0])[0].measured
        found.append(Evidence(f"{winner} wins, L={blocks}, {adapted}, norm={norm}", values[f"wins_{winner}"], 1.0))
    return found
