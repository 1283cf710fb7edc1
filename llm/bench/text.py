"""The table of the bench: a line a library, the score, the rule against all others, and whether seeds agree."""

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from lora_reuse.llm.bench.libraries import libraries
from lora_reuse.llm.bench.score import (
    SCORE,
    Against,
    InLibrary,
    Known,
    Score,
    against,
    agreement,
    measured,
    rules_of,
    score,
    scored,
    share,
)
from lora_reuse.llm.methods import COST
from lora_reuse.llm.protocols.table import ALONE, pooled
from lora_reuse.runs.table import aligned


def table(rule: str, model: str, seeds: Sequence[int], known: Known) -> str:
    """All that is said of a rule whose rows are there. Raises ValueError where one of them is not."""
    parts = measured(rule, model, seeds, known)
    if parts is None:
        raise ValueError(f"no rows of {rule}")
    said = [f"{rule} on {model}, seeds {', '.join(map(str, seeds))}", aligned([HEAD, *map(_line, parts)])]
    counted = scored(parts)
    if not counted:
        return "\n\n".join([*said, "no score: no ceiling is right in half of its answers and above the floor"])
    others = [other for other in rules_of(known) if other != rule]
    said.append(_score(score([part.gained() for part in counted]), len(counted)))
    said.append(_against(against(rule, others, model, seeds, known)))
    found = {other: measured(other, model, seeds, known) for other in (rule, *others)}
    complete = {other: parts for other, parts in found.items() if parts and scored(parts)}
    scores = [score([part.gained() for part in scored(parts)]) for parts in complete.values()]
    said.append(_ranking({name: one.value for name, one in zip(complete, scores, strict=True)}))
    said.append(_agreement(agreement(np.array([one.by_seed for one in scores])), len(complete)))
    return "\n\n".join(said)


def about(model: str) -> str:
    """What each library of a base is."""
    return "\n".join(f"{library.name}: {library.about}" for library in libraries(model))


HEAD = ["library", "hits/total", "share [95 %]", "floor", "ceiling", "gained", "own answers", *COST]


def _line(part: InLibrary) -> list[str]:
    found, kept = pooled(part.asked), part.kept()
    return [
        part.library.name,
        f"{found.hits}/{found.total}",
        found.share,
        *(f"{100 * share(rows):.0f} %" for rows in (part.floor, part.ceiling)),
        f"{part.gained().mean:.2f}" if part.room > 0 else "not scored",
        "" if kept is None else f"{100 * kept:.0f} %",
        *(cost(part.asked) for cost in COST.values()),
    ]


def _score(found: Score, libraries: int) -> str:
    limits = found.limits
    interval = f" [{limits.low:.2f}, {limits.high:.2f}]" if limits else ", and one seed has no interval"
    return (
        f"score {found.value:.2f}{interval}: {SCORE}, of the {libraries} whose ceiling is right in half of its answers;"
        " 95 % over seeds"
    )


def _against(found: Sequence[Against]) -> str:
    if not found:
        return "no other rule has rows of two of these seeds, and something to gain where this one has"
    lines = [["against", "score", "seeds", "difference [95 %]", "p"]]
    for one in found:
        low, high = one.difference.limits()
        told = f"{one.p:.3f}" if one.p >= 0.001 else "< 0.001"
        difference = f"{one.difference.value:+.2f} [{low:+.2f}, {high:+.2f}]"
        lines.append([one.other, f"{one.score:.2f}", str(one.seeds), difference, told])
    head = f"Differences of scores, paired over seeds and questions. {ALONE}; p is Holm's, over all other rules."
    return f"{head}\n{aligned(lines)}"


def _ranking(scores: Mapping[str, float]) -> str:
    ranked = sorted(scores.items(), key=lambda one: -one[1])
    return f"rules with rows of all these seeds, by score: {', '.join(f'{name} {value:.2f}' for name, value in ranked)}"


def _agreement(found: Sequence[float], rules: int) -> str:
    if not found:
        return "Kendall's tau between rankings takes rows of three rules, of which some differ, for two seeds"
    return (
        f"Kendall's tau between the rankings of {rules} rules by two seeds: {fmean(found):.2f} in the mean, "
        f"{min(found):.2f} at least"
    )
