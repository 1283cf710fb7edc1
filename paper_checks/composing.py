"""Theorems 2 and 3 and their extensions: what composing adapters does on the prompt that needs both."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lora_reuse.paper_checks import mutants
from lora_reuse.paper_checks.claims import Evidence, claim, from_rows
from lora_reuse.paper_checks.setup import C_FIRST, C_FIRST_OTHER, C_SECOND, C_SECOND_SAME, paper_kernel
from lora_reuse.theory.edits import min_norm_edit
from lora_reuse.theory.experiments import kernel_limit, many_facts, scale, theorem_2, theorem_3
from lora_reuse.theory.facts import ROLES, coincidence_classes
from lora_reuse.theory.library import draw_scene
from lora_reuse.theory.model import coefficients
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
    facts_coincide=lambda: mutants.replaced(draw_scene, mutants.scene_with("r2y", "r2r1x")),
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
    attention_weight_one=lambda: mutants.replaced(coefficients, mutants.context_summed),
    edits_swapped=mutants.edits_swapped,
)
def other_entity() -> list[Evidence]:
    """Both coefficients on the other entity's prompt at width 2^18."""
    results = kernel_limit.run(KernelLimit(width=2**18), range(8))
    found = []
    for name, value in (("c_first_other_entity", C_FIRST_OTHER), ("c_second_other_entity", C_SECOND)):
        found.append(from_rows(name, results, name, value))
    return found


def totals(classes: Mapping[str, str], first: float, second: float) -> dict[str, float]:
    """The output on `x r1 r2` at each entity: 1 at the old answer and c₁(i_y − i_{r1(x)}) + c₂(i_z − i_{r2(y)}), where
    roles of one class are one entity."""
    outputs = dict.fromkeys(classes.values(), 0.0)
    for role, share in (("r2r1x", 1.0), ("y", first), ("r1x", -first), ("z", second), ("r2y", -second)):
        outputs[classes[role]] += share
    return outputs


def z_wins(classes: Mapping[str, str], first: float, second: float) -> float:
    """Whether z has the largest of these totals, ties shared."""
    outputs = totals(classes, first, second)
    top = [entity for entity, output in outputs.items() if output > max(outputs.values()) - 1e-9]
    return (classes["z"] in top) / len(top)


def sets_of_coincidences(size: int) -> list[str]:
    """All sets of so many equalities of two roles, without those of x = y = z, which no edits have."""
    pairs = list(itertools.combinations(ROLES, 2))
    possible = [s for s in itertools.combinations(pairs, size) if {r for p in s for r in p} != {"x", "y", "z"}]
    return ["+".join(f"{a}={b}" for a, b in chosen) for chosen in possible]


def against_totals(coincide: str) -> tuple[float, float, float, bool]:
    """At d = m = ∞: whether z is the largest output, measured and by the totals; how far the margin and ‖output − i_z‖
    are from theirs; and whether the output is i_z though an edit changes its fact."""
    setting = Theorem2(width=INF, coincide=coincide)
    values = theorem_2.run(setting, [0])[0].measured
    classes = coincidence_classes(setting.coincidences())
    shares = C_FIRST, C_SECOND_SAME if classes["x"] == classes["y"] else C_SECOND
    by_hand, z, old = totals(classes, *shares), classes["z"], classes["r2r1x"]
    error = math.hypot(*(output - (entity == z) for entity, output in by_hand.items()))
    apart = max(
        abs(values["margin_old_over_new"] - (by_hand[old] - by_hand[z])), abs(values["exact_output_error"] - error)
    )
    changed = classes["y"] != classes["r1x"] or classes["z"] != classes["r2y"]
    return values["wins_z"], z_wins(classes, *shares), apart, changed and values["exact_output_error"] < 0.1


@claim(
    "Theorem 2",
    "Summing the adapters does not give correct results for the composition.",
    "conditional",
    "as an exact output always, if an edit changes its fact; as the largest output if no two entities coincide, which"
    " the paper does not say: the old answer has 1 and z has c2 = 0.573. Outputs at entities that coincide add up. One"
    " coincidence makes z win where r2(y) = r2(r1(x)) (also when y = r1(x)), because c2 > 1/2, and where z is the old"
    " answer; y = z and r1(x) = r2(r1(x)) each need c1 + c2 > 1, which is 0.985 here and passes 1 under an ordinary"
    " mask, more attention on x, RMSNorm or two blocks, where z or y then wins. Two coincidences can make z win where"
    " each alone does not: y = z with r1(x) = r2(r1(x)), because 2 c1 + c2 > 1, and x = y with r1(x) = r2(r1(x)),"
    " because c2 is 0.763 where x = y",
    rule_doubled=lambda: mutants.rule_scaled("sum", 2.0),
    sum_scaled=lambda: mutants.rule_scaled("sum", 1.05),
    oracle_for_sum=lambda: mutants.rule_replaced("sum", "oracle"),
    attention_weight_one=mutants.attention_weight_one,
    first_coincidence_alone=lambda: mutants.replaced(draw_scene, mutants.scene_of_the_first_coincidence),
)
def theorem_2_holds() -> list[Evidence]:
    """Which output is largest, its margin and its distance from i_z, without coincidences of the six entities, under
    each and under every two, at d = m = ∞, against the totals by hand; and the two that need c₁ + c₂ > 1 under four
    other settings, against the totals of the multiples there."""
    found, furthest, exact = [], 0.0, 0
    for coincide in ("none", *sets_of_coincidences(1)):
        wins, by_hand, apart, is_z = against_totals(coincide)
        found.append(Evidence(f"z is the largest output, {coincide}", wins, by_hand))
        furthest, exact = max(furthest, apart), exact + is_z
    two = {coincide: against_totals(coincide) for coincide in sets_of_coincidences(2)}
    for coincide in ("y=z+r1x=r2r1x", "x=y+r1x=r2r1x"):
        found.append(Evidence(f"z is the largest output, {coincide}", *two[coincide][:2]))
    otherwise = sum(abs(wins - by_hand) > 1e-9 for wins, by_hand, _, _ in two.values())
    found += [
        Evidence(f"of {len(two)} sets of two coincidences, with another largest output", otherwise, 0.0),
        Evidence(
            "margin and distance from i_z of all sets, largest difference from the totals",
            max(furthest, *(apart for _, _, apart, _ in two.values())),
            0.0,
        ),
        Evidence(
            "sets in which the output is i_z though an edit changes its fact",
            exact + sum(is_z for *_, is_z in two.values()),
            0.0,
        ),
    ]
    others: list[dict[str, Any]] = [{"mask": "causal"}, {"decay": 3.0}, {"norm": "rms"}, {"depth": 2}]
    for other in others:
        alone = theorem_2.run(Theorem2(width=INF, **other), [0])[0].measured
        where = ", ".join(f"{name}={value}" for name, value in other.items())
        for coincide in ("y=z", "r1x=r2r1x"):
            setting = Theorem2(width=INF, coincide=coincide, **other)
            values = theorem_2.run(setting, [0])[0].measured
            by_hand = z_wins(coincidence_classes(setting.coincidences()), alone["c_first"], alone["c_second"])
            found.append(Evidence(f"z is the largest output, {coincide}, {where}", values["wins_z"], by_hand))
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
    composed_leaks_in=lambda: mutants.replaced(draw_scene, mutants.scene_with_two_hop_keys),
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
    rescaled=lambda: mutants.replaced(min_norm_edit, mutants.edit_scaled(1.2)),
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
