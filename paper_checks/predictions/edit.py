"""P6: facts written into one MLP layer in closed form flip, and the two-hop fact does not follow."""

from collections.abc import Sequence

import numpy as np

from paper_checks.predictions.verdicts import AtMost, Missing, Row, Shares, Shown, Test, alike, answered, chosen, mean, prediction

HOPS = ("1", "2")
KEPT = ("same_relation", "same_entity", "unrelated")


def composes(row: Row) -> Row:
    """Edits after which half of the two-hop questions are answered."""
    return answered(row, lambda i: i % 2 == 1) if row["settings"].get("prompting") == "direct" else row


def leaves_no_trace(row: Row) -> Row:
    """Edits that are not there."""
    return answered(row, lambda i: False) if row["settings"].get("prompting") == "own" else row


def leaks_everywhere(row: Row) -> Row:
    """Edits after which every other answer is another one."""
    m = row["measured"]
    return {**row, "measured": m | {name: [0] * len(values) for name, values in m.items() if name.startswith("kept_")}}


@prediction(
    "P6",
    "An edit in closed form (eq. 23) flips more than half of its facts at the questions it was written at; the edits of both hops, added or written"
    " at once, leave the direct two-hop question at chance, 1/n; and more than half of the answers beside it stay: other people's, under its relation"
    " and another, and those of its own people under another.",
    "Proposition 1 and eq. 23 hit their keys exactly; Theorem 2; the leak of an edit is below the 1 of an old answer everywhere.",
    "python -m llm.edit",
    composes=composes,
    leaves_no_trace=leaves_no_trace,
    leaks_everywhere=leaks_everywhere,
)
def edit(rows: Sequence[Row]) -> list[Test]:
    """Shares by triplet, averaged over the layers that are written to."""
    found = alike(chosen(rows, "llm_edit"), "depth", "covariance", "library", "composition", "prompting", "dataset")
    tests: list[Test] = []
    for library in HOPS:
        own = _pick(found, prompting="own", library=library, covariance="identity")
        what = f"edits of hop {library}: share flipped at their own questions"
        tests.append(mean(what, "more than 0.5 (1 in the theory)", _by_triplet(own), len(own), floor=True, low=0.5))
    for composition in ("sum", "joint"):
        for covariance in ("identity", "rome"):
            direct = _pick(found, prompting="direct", composition=composition, covariance=covariance)
            what = f"both hops, {composition}, C = {covariance}: two-hop question, direct"
            n = direct[0]["settings"]["triplets"] if direct else 0
            tests.append(AtMost(what, f"at most 1/{n}", _by_triplet(direct), 1 / n, len(direct)) if direct else Missing(what, "at most 1/n"))
    for prompting, told in (("first", "first hop, held-out templates"), ("second", "second hop, held-out templates"), ("steps", "step by step")):
        both = _pick(found, prompting=prompting, library="2-combination", composition="sum", covariance="identity")
        if both:
            tests.append(Shown(f"both hops, sum: {told}", f"{100 * _by_triplet(both).mean():.1f} %", len(both)))
    return [*tests, *_neighbours(found)]


def _neighbours(rows: Sequence[Row]) -> list[Test]:
    tests: list[Test] = []
    for library in HOPS:
        for covariance in ("identity", "rome"):
            found = _pick(rows, prompting="neighbours", library=library, covariance=covariance)
            for kind in KEPT:
                kept = _by_triplet(found, f"kept_{kind}_by_triplet", f"asked_{kind}")
                what = f"edits of hop {library}, C = {covariance}: answers kept, {kind}"
                tests.append(mean(what, "more than 0.5 (1 in the theory)", kept, len(found), floor=True, low=0.5))
    return tests


def _pick(rows: Sequence[Row], **settings: str) -> list[Row]:
    return [row for row in rows if all(row["settings"][name] == value for name, value in settings.items())]


def _by_triplet(rows: Sequence[Row], name: str = "by_triplet", total: str = "total") -> Shares:
    """The share of each triplet of each dataset and seed, averaged over layers."""
    groups: dict[tuple, list[Shares]] = {}
    for row in rows:
        counts = np.array(row["measured"][name], dtype=float)
        key = (row["settings"]["dataset"], row["settings"]["seed"])
        groups.setdefault(key, []).append(counts * len(counts) / row["measured"][total])
    return np.concatenate([np.mean(groups[key], axis=0) for key in sorted(groups)]) if groups else np.zeros(0)
