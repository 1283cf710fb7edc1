"""Theorem 3, rule by rule."""

from typing import Any

import numpy as np

from lora_reuse.paper_checks import mutants
from lora_reuse.paper_checks.claims import Evidence, claim, of_seeds
from lora_reuse.paper_checks.composing import composed_coefficients, one_fact
from lora_reuse.paper_checks.setup import C_FIRST, C_SECOND
from lora_reuse.theory.experiments import many_facts, theorem_3
from lora_reuse.theory.settings import INF, ManyFacts, Theorem3

FACTS = 8


def _accuracy(name: str, seeds: int = 1, **knobs: Any) -> float:
    """Accuracy on the composed prompts of n = 8 facts at d = m = ∞."""
    results = many_facts.run(ManyFacts(width=INF, facts=FACTS, composition=name, **knobs), range(seeds))
    return float(np.mean([result.measured["accuracy"] for result in results]))


@claim(
    "Theorem 3, eq. 26 (CAT)",
    "CAT does not compose; a larger second weight is right on one example for the wrong reasons.",
    "conditional",
    "for a single fact any second weight above 1/0.573 = 1.745 answers z; squared error on that very example gives"
    " 0.873, too little; with several facts no weights pass 1/n",
    sum_for_cat=lambda: mutants.rule_replaced("cat", "sum"),
)
def cat_fails() -> list[Evidence]:
    """One fact: fitted and given weights on both sides of 1.745. Eight facts: fitted on all three kinds of examples."""
    found = [
        Evidence("z wins, weights fitted on the example", one_fact("cat")["wins_z"], 0.0),
        Evidence("c_second, fitted", one_fact("cat")["c_second"], 0.5),
    ]
    for weight, wins in ((1.74, 0.0), (1.75, 1.0)):
        found.append(
            Evidence(
                f"z wins, second weight {weight}",
                one_fact("cat", fit="given", weight_first=0.0, weight_second=weight)["wins_z"],
                wins,
            )
        )
    return [
        *found,
        *(
            Evidence(f"accuracy, n={FACTS}, fitted on {data}", _accuracy("cat", data=data), 0.0)
            for data in ("two_hop", "held_out", "one_hop")
        ),
    ]


@claim(
    "Theorem 3, eq. 27 (linear merging)",
    "Linear merging of the factors does not compose.",
    "conditional",
    "its result depends on factors that the penalty leaves free: signs give (0.985, 0.985) or (-0.161, 0.161), random"
    " rotations give 1/n on average, and factors ordered fact by fact compose perfectly, because the cross term A2 B1^T"
    " then pairs x_j with z_j",
    square_root_weights=mutants.square_root_weights,
    sum_for_linear=lambda: mutants.rule_replaced("linear", "sum"),
)
def linear_merging_fails() -> list[Evidence]:
    """One fact: both signs, weight 2. Eight facts, weights (1, 4): ordered, sign-flipped and randomly rotated
    factors."""
    plus, minus = C_FIRST + C_SECOND, C_FIRST - C_SECOND
    found = [
        *composed_coefficients("linear", plus, plus),
        *composed_coefficients("linear", minus, -minus, gauge="minus"),
    ]
    doubled = one_fact("linear", weight_first=2.0, weight_second=2.0)
    found.append(Evidence("c_second at weights 2, 2", doubled["c_second"], 4 * plus))
    knobs: dict[str, Any] = {"weight_first": 1.0, "weight_second": 4.0}
    found += [
        Evidence(f"accuracy, n={FACTS}, {g}", _accuracy("linear", gauge=g, **knobs), v)
        for g, v in (("plus", 1.0), ("minus", 0.0))
    ]
    chance = 1 / FACTS
    error = float(np.sqrt(chance * (1 - chance) / (48 * FACTS)))
    return [
        *found,
        Evidence("accuracy, random rotations", _accuracy("linear", seeds=48, gauge="random", **knobs), chance, error),
    ]


@claim(
    "Theorem 3, eq. 27 (Uniform)",
    "Uniform routing, equal weights in eq. 27, does not compose.",
    "confirmed with constants",
    (
        "each update enters with 1/4 and both multiples are 0.246: one-hop facts do not survive either, since they flip"
        " at 1/2"
    ),
    average_for_uniform=lambda: mutants.rule_replaced("uniform", "average"),
)
def uniform_fails() -> list[Evidence]:
    """Coefficients at width 2^14, the winner for one fact, accuracy for eight."""
    quarter = (C_FIRST + C_SECOND) / 4
    found = composed_coefficients("uniform", quarter, quarter)
    return [
        *found,
        Evidence("z wins", one_fact("uniform")["wins_z"], 0.0),
        Evidence(f"accuracy, n={FACTS}", _accuracy("uniform"), 0.0),
    ]


@claim(
    "Theorem 3, eq. 28 (Arrow)",
    "Arrow routing does not compose.",
    "confirmed with constants",
    "weights softmax(0.412, 0.573) = (0.460, 0.540) at unit scale; in software features are not of unit scale, logits"
    " grow like sqrt(m), and routing is all to the second expert, whose multiple is 0.573 < 1",
    merged_after=lambda: mutants.rule_replaced("arrow", "arrow_after"),
    sum_for_arrow=lambda: mutants.rule_replaced("arrow", "sum"),
)
def arrow_fails() -> list[Evidence]:
    """Coefficients of eq. 28 at width 2^14 from the paper's scores; the winner under raw scores; accuracy for eight
    facts."""
    w = np.exp([C_FIRST, C_SECOND])
    first, second = w / w.sum()
    inner = first * C_FIRST + second * C_SECOND
    found = composed_coefficients("arrow", float(first * inner), float(second * inner))
    raw = one_fact("arrow", scores="raw")
    found += [
        Evidence("c_second, raw scores, m=inf", raw["c_second"], C_SECOND),
        Evidence("z wins, raw scores", raw["wins_z"], 0.0),
    ]
    return [
        *found,
        Evidence("z wins", one_fact("arrow")["wins_z"], 0.0),
        Evidence(f"accuracy, n={FACTS}", _accuracy("arrow"), 0.0),
    ]


def _merge_fails(name: str) -> list[Evidence]:
    single = one_fact(name)
    return [
        Evidence("z wins", single["wins_z"], 0.0),
        Evidence("outside the span", single["span_residual"], 0.0, tolerance=1e-9),
        Evidence(f"accuracy, n={FACTS}", _accuracy(name), 0.0),
    ]


@claim(
    "Theorem 3 (TIES)",
    "TIES-Merging does not compose.",
    "confirmed with constants",
    "experts of distinct facts share no output, so no sign conflicts, and TIES is the sum of the trimmed updates",
    trimmed_and_tripled=lambda: mutants.rule_scaled("ties", 3.0),
)
def ties_fails() -> list[Evidence]:
    """The winner, and that an untrimmed TIES is the sum, by quadrature at m = ∞ (accurate to 1e-3)."""
    found = _merge_fails("ties")
    for key, value in (("c_first", C_FIRST), ("c_second", C_SECOND)):
        found.append(Evidence(f"{key}, density 1", one_fact("ties", density=1.0)[key], value, tolerance=2e-3))
    return found


@claim(
    "Theorem 3 (DARE)",
    "DARE does not compose.",
    "confirmed with constants",
    "dropping is unbiased: its coefficients tend to those of the sum as m grows",
    dropped_and_tripled=lambda: mutants.rule_scaled("dare", 3.0),
)
def dare_fails() -> list[Evidence]:
    """The winner, and both coefficients at width 2^12 over 64 seeds against those of the sum."""
    found = _merge_fails("dare")
    results = theorem_3.run(Theorem3(width=2**12, composition="dare", density=0.5), range(64))
    for key, value in (("c_first", C_FIRST), ("c_second", C_SECOND)):
        found.append(of_seeds(f"{key}, density 0.5", [result.measured[key] for result in results], value))
    return found


@claim(
    "Theorem 3 (LoraHub)",
    "LoraHub's gradient-free weights do not compose.",
    "confirmed",
    "",
    tripled=lambda: mutants.rule_scaled("lorahub", 3.0),
)
def lorahub_fails() -> list[Evidence]:
    """The winner for one fact, with weights fitted on that very fact, and accuracy for eight."""
    return [
        Evidence("z wins", one_fact("lorahub")["wins_z"], 0.0),
        Evidence(f"accuracy, n={FACTS}", _accuracy("lorahub"), 0.0),
    ]
