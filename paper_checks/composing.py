"""Theorems 2 and 3 and their extensions: what composing adapters does on the prompt that needs both."""

from typing import Any

import numpy as np

from lora_reuse.paper_checks import mutants
from lora_reuse.paper_checks.claims import Evidence, claim, from_rows
from lora_reuse.paper_checks.setup import C_FIRST, C_FIRST_OTHER, C_SECOND, paper_kernel
from lora_reuse.theory.experiments import kernel_limit, many_facts, scale, theorem_2, theorem_3
from lora_reuse.theory.settings import INF, KernelLimit, ManyFacts, Scale, Theorem2, Theorem3

RHO = paper_kernel(2**0.5, 2**0.5, 1.0)


def one_fact(name: str, **knobs: Any) -> dict[str, float]:
    """Theorem 3's quantities for one fact at d = m = ∞."""
    return theorem_3.run(Theorem3(width=INF, composition=name, **knobs), [0])[0].measured


def composed_coefficients(name: str, first: float, second: float, **knobs: Any) -> list[Evidence]:
    """Both composed coefficients at width 2^14, 32 seeds, against values computed from the paper's formulas."""
    results = theorem_3.run(Theorem3(width=2**14, composition=name, **knobs), range(32))
    found = []
    for key, value in (("c_first", first), ("c_second", second)):
        found.append(from_rows(f"{name}: {key}", results, key, value))
    return found


@claim(
    "Theorem 2, eq. 19",
    "Adding the two adapters contributes nonzero multiples of i_y - i_r1(x) and i_z - i_r2(y).",
    "confirmed with constants",
    "the multiples are 0.412 and 0.573, with predicted errors at every width; nothing lies outside their span",
    edits_swapped=mutants.edits_swapped,
    sum_scaled=lambda: mutants.rule_scaled("sum", 1.05),
    without_pi_minus_theta=mutants.kernel_without_pi_minus_theta,
)
def two_multiples() -> list[Evidence]:
    """c₁ and c₂ of features at width 2^18 and of the composed output at 2^14, and what is outside the span."""
    results = kernel_limit.run(KernelLimit(width=2**18), range(8))
    found = []
    for name, value in (("c_first", C_FIRST), ("c_second", C_SECOND)):
        found.append(from_rows(name, results, name, value))
    limit = kernel_limit.run(KernelLimit(width=INF), [0])[0].measured
    found.append(Evidence("c_first, m=inf", limit["c_first"], C_FIRST))
    return [
        *found,
        *composed_coefficients("sum", C_FIRST, C_SECOND),
        Evidence("outside the span", one_fact("sum")["span_residual"], 0.0),
    ]


@claim(
    "proof of Theorem 2, last line",
    "... instead of the correct i_z - i_r2(y).",
    "corrected",
    (
        "the correct change is i_z - i_r2(r1(x)): the base answers r2(r1(x)) on x r1 r2. Adding the printed change"
        " leaves i_z + i_r2(r1(x)) - i_r2(y)"
    ),
    facts_coincide=lambda: mutants.replaced("draw_scene", mutants.scene_with("r2y", "r2r1x")),
    sum_for_oracle=lambda: mutants.rule_replaced("oracle", "sum"),
)
def correct_change() -> list[Evidence]:
    """Distance of the output from i_z: through the edit of the composed prompt by i_z − i_{r2(r1(x))}, and with the
    printed change added (√2)."""
    scene = theorem_3.draw_scene(1)
    i, e = scene.one_hot, scene.edits
    printed = scene.two_hop_outputs(i(e.z) - i(e.r2y))
    return [
        Evidence("||output - i_z||, the composed prompt edited", one_fact("oracle")["exact_output_error"], 0.0),
        Evidence("||old + (i_z - i_r2(y)) - i_z||", float(np.linalg.norm(printed - i(e.z))), 2**0.5),
    ]


@claim(
    "proof of Theorem 2, after eq. 19",
    "On another entity's prompt u r1 r2 the same linear combination appears.",
    "confirmed with constants",
    "with multiples 0.276 and 0.573: the second is the same as for x, because the second adapter never saw x",
    attention_weight_one=lambda: mutants.replaced("coefficients", mutants.context_summed),
    edits_swapped=mutants.edits_swapped,
)
def other_entity() -> list[Evidence]:
    """Both coefficients on the other entity's prompt at width 2^18."""
    results = kernel_limit.run(KernelLimit(width=2**18), range(8))
    found = []
    for name, value in (("c_first_other_entity", C_FIRST_OTHER), ("c_second_other_entity", C_SECOND)):
        found.append(from_rows(name, results, name, value))
    return found


@claim(
    "Theorem 2",
    "Summing the adapters does not give correct results for the composition.",
    "conditional",
    "as an exact output always; as the largest output unless r2(y) = r2(r1(x)) (also when y = r1(x)) or z is the old"
    " answer: then z wins with 0.573 against 0.427",
    rule_doubled=lambda: mutants.rule_scaled("sum", 2.0),
    oracle_for_sum=lambda: mutants.rule_replaced("sum", "oracle"),
)
def theorem_2_holds() -> list[Evidence]:
    """Which output is largest, and how far the output is from i_z, under every coincidence of two entities, at d = m =
    ∞."""
    found = []
    for coincide, winner in (
        ("none", 0.0),
        ("x=y", 0.0),
        ("z=r2y", 0.0),
        ("r2y=r2r1x", 1.0),
        ("y=r1x", 1.0),
        ("z=r2r1x", 1.0),
    ):
        values = theorem_2.run(Theorem2(width=INF, coincide=coincide), [0])[0].measured
        found.append(Evidence(f"z is the largest output, {coincide}", values["wins_z"], winner))
        found.append(
            Evidence(f"the output is not i_z (1: so), {coincide}", float(values["exact_output_error"] > 0.1), 1.0)
        )
    return [*found, Evidence("margin of the old answer over z", one_fact("sum")["margin_old_over_new"], 1 - C_SECOND)]


@claim(
    "A.1.1, eq. 25",
    "With two facts the second adapter contributes the same multiple of both answer differences.",
    "confirmed with constants",
    (
        "for n facts the multiple is k(eta2, xi)/(k(eta, eta) + (n - 1) rho) = 0.573/(1 + 0.609(n - 1)); it is for d to"
        " infinity, not for m alone"
    ),
    inverse_gram_dropped=mutants.inverse_gram_dropped,
    attention_weight_one=mutants.attention_weight_one,
)
def same_multiple() -> list[Evidence]:
    """The mean coefficient at width 2^13 and at infinity for n = 2, 4, 8, and its spread over facts."""
    found = []
    for facts in (2, 4, 8):
        value = C_SECOND / (1 + (facts - 1) * RHO)
        results = many_facts.run(ManyFacts(width=2**13, facts=facts), range(16))
        found.append(from_rows(f"coefficient, n={facts}", results, "coefficient_second", value))
        limit = many_facts.run(ManyFacts(width=INF, facts=facts), [0])[0].measured
        found += [
            Evidence(f"coefficient, n={facts}, m=inf", limit["coefficient_second"], value),
            Evidence(f"its spread over facts and prompts, n={facts}", limit["coefficient_second_spread"], 0.0),
        ]
    return found


@claim(
    "Theorem 3, A.1.1",
    "Weighted averaging still fails to compose when several facts are updated.",
    "confirmed with constants",
    "no weights whatever on the two updates pass 1/n among the n edited answers (d = m = infinity)",
    composed_leaks_in=lambda: mutants.replaced("draw_scene", mutants.scene_with_two_hop_keys),
)
def no_weights_help() -> list[Evidence]:
    """The best accuracy over all directions and lengths of (α₁, α₂), n = 2, 4, 8."""
    return [
        Evidence(
            f"best accuracy, n={n}",
            many_facts.run(ManyFacts(width=INF, facts=n, composition="best"), [0])[0].measured["accuracy"],
            1 / n,
            tolerance=1e-12,
        )
        for n in (2, 4, 8)
    ]


@claim(
    "beyond the paper",
    (
        "An expert's own facts flip at scale 1/2, so an average of two experts is at the edge and a factor average"
        " below it."
    ),
    "confirmed with constants",
    "and a composed fact, if it is the only one, at 1/0.573 = 1.745",
    rescaled=lambda: mutants.replaced("min_norm_edit", mutants.edit_scaled(1.2)),
)
def flips_at_one_half() -> list[Evidence]:
    """One-hop accuracy at 0.49, 0.5 and 0.51, two-hop accuracy at 1.74 and 1.75."""
    found = []
    for w, expected in ((0.49, 0.0), (0.5, 0.5), (0.51, 1.0)):
        values = scale.run(Scale(width=INF, scale=w, facts=1), [0])[0].measured
        found.append(Evidence(f"one-hop accuracy at w={w}", values["one_hop_accuracy"], expected))
    for w, expected in ((1.74, 0.0), (1.75, 1.0)):
        values = scale.run(Scale(width=INF, scale=w, facts=1), [0])[0].measured
        found.append(Evidence(f"two-hop accuracy at w={w}", values["two_hop_accuracy"], expected))
    return found
