"""P5: step by step with the bridge, Arrow sends each hop to its expert, and what it sends to the other one is wrong."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from lora_reuse.llm.scoring.intervals import Mean
from lora_reuse.paper_checks.predictions.rows import Row, alike, chosen
from lora_reuse.paper_checks.predictions.verdicts import CLAIMS, Test, Within, at_chance, mean_of, prediction, share_of

RULES = ("arrow", "arrow_after")
PROTOTYPES = ("", ":swapped", ":random")
HALF = CLAIMS["P5"].bounds["half"]
Counts = Float64[np.ndarray, "2 2"]


def elsewhere(row: Row) -> Row:
    """A router whose weight is on the wrong expert, where its answers are right as before."""
    flipped = {
        name: row["measured"][name][::-1] for name in ("hop_1_by_gate", "hop_2_by_gate") if name in row["measured"]
    }
    return {**row, "measured": row["measured"] | flipped}


@prediction(
    "P5",
    remark=(
        "The mean weight is no test: 0.664 is the theory's at Arrow's temperature 1, and that of the rows was chosen"
        " for the model's width."
    ),
    elsewhere=elsewhere,
)
def routing(rows: Sequence[Row]) -> list[Test]:
    """Counts of prompts, by whether the gate is above one half at the answer's first token and by whether the hop is
    right; those of a triplet count as one. Hops right by gate are pooled over prototypes: swapped and random ones are
    what puts the weight elsewhere."""
    tests: list[Test] = []
    for rule in RULES:
        found = {
            end: alike(chosen(rows, "llm_bridge", setup="2", prompting="steps", composition=rule + end))
            for end in PROTOTYPES
        }
        for hop in (1, 2):
            tests += _hop(rule, hop, found)
        tests.append(at_chance(f"{rule}: right with each other's prototypes", found[":swapped"]))
    return tests


def _hop(rule: str, hop: int, found: dict[str, list[Row]]) -> list[Test]:
    own = np.array([_counts(row, hop).sum(axis=1) for row in found[""]]).reshape(-1, 2)
    what = f"{rule}, hop {hop}: share of answers with the gate on expert {hop}"
    told = f"more than {HALF:g} (1 in the theory)"
    tests = [share_of(what, told, own[:, 0].tolist(), own.sum(axis=1).tolist(), len(found[""]), Within(low=HALF))]
    gate = f"gate_{hop}_at_{('first', 'second')[hop - 1]}_answer"
    weights = [row["measured"][gate] for row in found[""] if gate in row["measured"]]
    if weights:
        tests.append(
            Test(f"{rule}, hop {hop}: mean weight of expert {hop} there", "", f"{np.mean(weights):.3f}", len(weights))
        )
    what, told = (
        f"{rule}, hop {hop}: share right with the gate on its expert less that without",
        f"more than {HALF:g} (1 and 0 in the theory)",
    )
    return [*tests, _right_by_gate(what, told, hop, found)]


def _right_by_gate(what: str, told: str, hop: int, found: dict[str, list[Row]]) -> Test:
    """The difference of the shares of all seeds together; its error is that of two binomials, or that between the seeds
    where it is larger."""
    pooled = [row for rows in found.values() for row in rows]
    seeds: dict[int, Counts] = {}
    for row in pooled:  # a triplet is one trial, under however many prototypes it was asked
        seed = row["settings"]["seed"]
        seeds[seed] = seeds.get(seed, np.zeros((2, 2))) + _counts(row, hop) / sum(map(bool, found.values()))
    usable = [counts for counts in seeds.values() if counts.sum(axis=1).all()]
    if len(usable) < 2:
        return Test(what, told, rows=len(pooled))
    counts = np.sum(usable, axis=0)
    asked = counts.sum(axis=1)
    p = (counts[:, 0] + 0.5) / (asked + 1)  # half a hit and half a miss more, so that all or nothing has an error, too
    within = float((p * (1 - p) / asked).sum())
    each = [c[0, 0] / c[0].sum() - c[1, 0] / c[1].sum() for c in usable]
    error = np.sqrt(max(within, float(np.var(each, ddof=1)) / len(each)))
    apart = Mean(float(counts[0, 0] / asked[0] - counts[1, 0] / asked[1]), float(error), len(usable) - 1)
    return mean_of(
        what, told, apart, len(pooled), Within(low=HALF), shown=lambda share: f"{min(max(share, -1.0), 1.0):.3f}"
    )


def _counts(row: Row, hop: int) -> Counts:
    """[[right, wrong], [right, wrong]] with the gate on the hop's expert, and without, in triplets."""
    m = row["measured"]
    return np.array(m.get(f"hop_{hop}_by_gate", np.zeros((2, 2)))) * len(m["by_triplet"]) / m["total"]
