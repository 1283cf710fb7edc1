"""Rows as the theory says, made up: those that support every prediction."""

import numpy as np

from lora_reuse.paper_checks.predictions import limit

N, EACH, SEEDS = 20, 2, 5
OUTPUTS = limit.outputs(N)


def row(experiment, seed, measured, stderr=None, **settings):
    settings = {
        "model": "toy",
        "split": "test",
        "seed": seed,
        "triplets": N,
        "dataset": "R",
        "rank": 16,
        "layers": "mlp",
        "temperature": 0.25,
        **settings,
    }
    provenance = {"base_digest": "0123456789abcdef", "commit": "0" * 40, "dirty": False}
    return {
        "experiment": experiment,
        "settings": settings,
        "measured": measured,
        "predicted": {},
        "stderr": stderr or {},
        "provenance": provenance,
    }


def counts(right):
    """Every prompt of the first `right` triplets is answered."""
    by_triplet = [EACH * (i < right) for i in range(N)]
    return {"hits": sum(by_triplet), "total": N * EACH, "by_triplet": by_triplet}


def noisy(value, seed, name, sd):
    rng = np.random.default_rng([seed, *name.encode()])
    return (value + sd * rng.standard_normal(N)).tolist()


def two_hop(seed, composition, prompting, right, **extra):
    library = "none" if composition == "base" else "2-combination"
    return row(
        "llm_two_hop", seed, counts(right) | extra, composition=composition, prompting=prompting, library=library
    )


def log_probs(seed, composition):
    logits = OUTPUTS if composition == "sum" else dict.fromkeys(OUTPUTS, 0.0) | {"old": 1.0}
    told = {
        f"logp_{name}_by_triplet": noisy(-10 + 4 * value, seed, name + composition, 0.05)
        for name, value in logits.items()
    }
    return told | {"rank_z": (N - 1) / 2}


def gated(seed, rule):
    ends = {"": (18, [[36, 2], [0, 2]]), ":swapped": (0, [[0, 0], [1, 39]]), ":random": (3, [[9, 1], [2, 28]])}
    return [
        row(
            "llm_bridge",
            seed,
            counts(right) | {"hop_1_by_gate": table, "hop_2_by_gate": table},
            setup="2",
            prompting="steps",
            composition=rule + end,
        )
        for end, (right, table) in ends.items()
    ]


def overlaps(seed, hop, state):
    told = {}
    for kind in limit.KINDS[1:]:
        told[f"log_ratio_{kind}_by_triplet"] = noisy(
            np.log(limit.ratio(hop, kind, N)), seed, f"{kind}{hop}{state}", 0.05
        )
    r2 = {"r2_linear": 0.9, "r2_arccos": 0.4, "r2_eq23": 0.99}
    return row("llm_overlap", seed, told | r2, {"r2_linear": 0.03}, expert=hop, state=state, composition="sum")


def edits(seed, depth, covariance):
    fixed = {"depth": depth, "covariance": covariance}
    found = []
    for library, composition in (("1", "sum"), ("2", "sum"), ("2-combination", "sum"), ("2-combination", "joint")):
        settings = fixed | {"library": library, "composition": composition}
        found.append(row("llm_edit", seed, counts(19), prompting="own", **settings))
        kept = {
            f"kept_{kind}_by_triplet": counts(18)["by_triplet"]
            for kind in ("same_relation", "same_entity", "unrelated")
        }
        asked = {f"asked_{kind}": N * EACH for kind in ("same_relation", "same_entity", "unrelated")}
        found.append(row("llm_edit", seed, counts(18) | kept | asked, prompting="neighbours", **settings))
        if library == "2-combination":
            found += [row("llm_edit", seed, counts(18), prompting=hop, **settings) for hop in ("first", "second")]
            found.append(row("llm_edit", seed, counts(seed == 0), prompting="direct", **settings))
            found.append(row("llm_edit", seed, counts(0), prompting="steps", **settings))
    return found


def bridges(seed):
    """Setups 0 and 2 to 5 step by step, and their own hops."""
    right = {
        ("0", "arrow"): 0,
        ("2", "arrow"): 15,
        ("3", "arrow"): 0,
        ("4", "sum"): 18,
        ("4", "arrow"): 4,
        ("5", "sum"): 16,
        ("5", "arrow"): 3,
    }
    found = []
    for (setup, rule), steps in right.items():
        for prompting, hits in (("steps", steps), ("first", 18), ("second", 19)):
            if (setup, rule, prompting) != ("2", "arrow", "steps"):  # which has gates, too
                found.append(row("llm_bridge", seed, counts(hits), setup=setup, composition=rule, prompting=prompting))
    return found


def latent(seed, n, second, split, **where):
    """Both hops of every question are kept, and no answer is a place of the n; of half of the questions it is the right
    one where expert 1 sits below expert 2."""
    right, asked = n // 2 if where.get("layers") == "lower/upper" else 0, n * EACH
    by_triplet = [EACH * (i < right) for i in range(n)]
    measured = {
        "hits": sum(by_triplet),
        "total": asked,
        "by_triplet": by_triplet,
        "permuted": 0.0,
        "first_kept": asked,
        "second_kept": asked,
        "both_kept": asked,
    }
    measured |= {"permuted_both_kept": 0.0, "both_kept_by_triplet": [EACH] * n, "hits_both_kept_by_triplet": by_triplet}
    about = {"library": "2-combination", "second": second, "split": split, "composition": "sum", "triplets": n} | where
    return row("llm_latent", seed, measured, prompting="direct", **about)


def semi_synthetic(seed, names, library, composition):
    """Both hops are kept, and no answer is a country."""
    hits, asked = counts(0), N * EACH
    measured = hits | {"permuted": 0.0, "first_kept": asked, "second_kept": asked}
    about = {"names": names, "library": library, "composition": composition, "fact": "birth_country"}
    made = row("llm_semi_synthetic", seed, measured, prompting="direct", **about)
    del made["settings"]["dataset"]
    return made


def bridge_examples(seed):
    """Compiled bridges do more than drawn ones, and both keep the hops."""
    found = []
    for choice, right in (("compiled", 14), ("random", 6)):
        about = {"examples": 16, "choice": choice, "bridge_in": "first", "bridge_triplets": 20}
        found += [
            row("llm_bridge_examples", seed, counts(hits), composition="arrow_after", prompting=prompting, **about)
            for prompting, hits in (("steps", right), ("first", 18), ("second", 19))
        ]
    return found


def exposed(seed, exposure, people, prompting):
    """All hops are known; in steps all people are answered, directly the chained alone."""
    n = round(5 * N * (exposure if people == "chained" else 1 - exposure))
    right = [EACH * (people == "chained" or prompting == "steps")] * n
    measured = {"hits": sum(right), "total": EACH * n, "by_group": right, "group_sizes": [EACH] * n}
    measured |= {"known": EACH * n, "hits_known": sum(right), "permuted_known": 0.0, "known_by_group": [1] * n}
    model = f"pocket-exposure-{exposure}-{seed}"
    made = row("llm_exposure", seed, measured, model=model, composition="base", people=people, prompting=prompting)
    made["provenance"]["pocket"] = {"seed": seed, "exposure": exposure}
    return made


def exposed_adapters(seed):
    """Steps are answered where pretraining chained the relations, and both keep the hops."""
    found = []
    for relations, right in (("chained", 18), ("apart", 2)):
        for library, rules in (("2-combination", ("average", "sum", "arrow", "arrow_after")), ("mixed", ("alone",))):
            about = {"relations": relations, "words": "pretraining", "library": library}
            found += [
                row("llm_exposed", seed, counts(hits), composition=rule, prompting=prompting, **about)
                for rule in rules
                for prompting, hits in (("steps", right), ("first", 18), ("second", 19))
            ]
    return found


def as_the_theory_says(seeds=SEEDS):
    rows = []
    for seed in range(seeds):
        for composition in ("sum", "base"):
            rows.append(
                two_hop(seed, composition, "direct", composition == "sum" and seed == 0, **log_probs(seed, composition))
            )
        rows += [two_hop(seed, composition, "direct", 0) for composition in ("uniform", "arrow", "random")]
        for prompting in ("first", "second"):
            rows += [
                two_hop(seed, name, prompting, right)
                for name, right in (("sum", N), ("average", N // 2), ("uniform", 0), ("arrow", N))
            ]
        for library, prompting in (("1", "first"), ("2", "second")):
            for w in (0.0, 0.25, 0.375, 0.5, 0.625, 1.0):
                right = N * (w > 0.5)
                rows.append(
                    row(
                        "llm_scale",
                        seed,
                        counts(right),
                        library=library,
                        prompting=prompting,
                        scale=w,
                        composition="cat",
                    )
                )
        for rule in ("arrow", "arrow_after"):
            rows += gated(seed, rule)
        rows += bridges(seed)
        rows += [
            latent(seed, n, second, split)
            for n in (5, 10, 20, 40)
            for second in ("right", "dealt")
            for split in ("dev", "test")
        ]
        rows += [
            latent(seed, n, "right", split, **where)
            for n in (10, 20)
            for split in ("dev", "test")
            for where in (
                *({"layers": layers} for layers in ("lower/upper", "upper/lower", "lower", "upper")),
                {"layers": "mlp", "rank": 8},
            )
        ]
        rows += [
            semi_synthetic(seed, names, library, composition)
            for names in ("fake", "real")
            for library, composition in (("1", "alone"), ("2-combination", "sum"))
        ]
        rows += bridge_examples(seed)
        rows += exposed_adapters(seed)
        rows += [
            exposed(seed, exposure, people, prompting)
            for exposure in (0.25, 0.5, 0.75)
            for people in ("chained", "never")
            for prompting in ("direct", "steps")
        ]
        rows += [overlaps(seed, hop, state) for hop in (1, 2) for state in ("base", "sum")]
        for depth in (0.0, 1.0):
            for covariance in ("identity", "rome"):
                rows += edits(seed, depth, covariance)
    return rows
