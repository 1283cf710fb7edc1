"""The decision on trial: how well its probability ranks what then worked, how far it is off, and what the decision
costs, beside scores that need no forecast. Only rows that had no part in the coefficients are tried."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lora_reuse.llm.forecast.area import Area, Clusters, area
from lora_reuse.llm.forecast.area import limits as area_limits
from lora_reuse.llm.forecast.decision import THRESHOLDS, frozen, logistic, may_be_fitted, signals_of
from lora_reuse.llm.forecast.merge_probe import SHARE, fitted, has_signals, own_hops
from lora_reuse.llm.forecast.ranking import KINDS, SKILLS, lookup
from lora_reuse.llm.forecast.regret import (
    WORKED,
    Library,
    Row,
    Score,
    base_of,
    least_regret,
    libraries,
    regrets,
    share,
)
from lora_reuse.llm.scoring.intervals import Difference, Limits, difference, holm, mean_over_seeds
from lora_reuse.runs.table import aligned

BINS = 5
KINDS_OF_BASE = {"pocket": "same base", "smollm2": "SmolLM2"}
"""The base that the coefficients were fitted on, and one not pretrained here; the kin of the first are other bases."""
MENDED_ON = {"two": {("smollm2", 0)}, "three or more": {("pocket", 0), ("pocket", 1), ("pocket", 2)}}
"""By how many of five skills the models and seeds that do not test a reading, because it was found on their rows: of
two that an empty answer is its end, and of more that the first signal is how far an answer needs each adapter."""
SCORES = {
    "decision": "the frozen probability",
    "pairwise": "the same with the first signal that two adapters have, of three or more",
    "lookup": "the mean share of right answers that the rule has, asked in the same way, in rows that were looked at",
    "confidence": "the composed model's mean log-probability of its own answers",
    "hidden states": "how much of each adapter's change the answer's tokens set off",
    "cosine": "the cosine of the two updates",
    "MergeProbe": f"how the updates and their gradients align after {100 * SHARE:.0f} % of the training, and how much "
    "each disturbs what the modules see of the other's examples (the authors' signals, our formulas), weighed by the "
    "rows of the fit; the lookup orders the rules of a pair",
    "never": "no rule is taken",
}
"""What decides, each with what it is."""
UNFITTED = ("decision", "pairwise", "never")
"""Those that need no rows of the fit."""


class Bin(NamedTuple):
    """Rows whose probability is in one fifth of 0 to 1: how many, their mean probability, and how many worked."""

    rows: int
    probability: float
    worked: int


class Line(NamedTuple):
    """What a score does on the rows of a question: its area, its mean regret, how many libraries it takes a rule in and
    in how many of these one works, its reliability by bins, and the regret that the decision saves against it."""

    area: Area
    area_limits: Limits | None
    regret: float
    regret_limits: Limits | None
    taken: int
    right: int
    bins: list[Bin]
    saved: Difference | None = None

    @property
    def error(self) -> float:
        """The expected calibration error: how far probabilities are from the share that worked, mean over rows."""
        off = sum(abs(one.rows * one.probability - one.worked) for one in self.bins)
        return off / sum(one.rows for one in self.bins)


class Trial(NamedTuple):
    """All scores on the rows of one question to one kind of base."""

    question: str
    rows: list[Row]
    libraries: list[Library]
    lines: dict[str, Line]

    @property
    def seeds(self) -> int:
        """How many seeds there are, those of two bases apart."""
        return len({(base_of(row), row["settings"]["seed"]) for row in self.rows})


def question_of(row: Row, unlike: Collection[str] = ()) -> str | None:
    """What a row tests; None for rows that had a part in the coefficients, for the experts' own hops, and for skills
    whose rows do not say how sure the experts are. `unlike` as in `trials`.

    Two skills that were forecast before the mends stand apart: the first signal was the size of a mean there, and an
    empty answer was read as a space. The first of the mends was found on those of SmolLM2."""
    settings = row["settings"]
    if may_be_fitted(row) or settings["prompting"] in KINDS["keeps"]:
        return None
    kind = "two-hop"
    if settings["prompting"] in SKILLS:
        if "own_confidence" not in row["measured"]:
            return None
        count = "two" if settings["prompting"] in KINDS["joins skills"] else "three or more"
        kind = f"{count} skills, other forms" if settings["row"] in unlike else f"{count} skills"
        if settings["of"] == "llm_skills" and "united" in row["measured"]:
            kind += ", after the mends"
        if settings["of"] == "llm_skill_sets":
            mended = (settings["model"], settings["seed"]) in MENDED_ON[count]
            kind = f"{count} of five skills{', mended on' if mended else ''}"
    return f"{kind}, {KINDS_OF_BASE.get(settings['model'], 'other bases')}"


def unlike_prompts(rows: Sequence[Row]) -> set[str]:
    """The hashes of those rows of `llm_skills` whose questions have forms that no prompt of a forecast has."""
    return {row["hash"] for row in rows if row["settings"].get("formats") == "new"}


def trials(rows: Sequence[Row], unlike: Collection[str] = ()) -> Iterator[Trial]:
    """A trial of each question that has rows. Rows that forecast those in `unlike`, whose questions have forms that the
    forecast was not shown, stand apart. Every score decides from the threshold of its least regret on the rows
    that the coefficients were fitted on, and its probability is a logistic one on the same rows; without these rows
    there are the decision and never alone."""
    fit = [row for row in rows if may_be_fitted(row)]
    seen = [row for row in rows if row["settings"]["seen"] and row["settings"]["model"] == "pocket"]
    looked_up = lookup([row for row in seen if row["settings"]["prompting"] not in KINDS["keeps"]])
    found: dict[str, list[Row]] = {}
    for row in rows:
        if question := question_of(row, unlike):
            found.setdefault(question, []).append(row)
    for question, tried in sorted(found.items()):
        if libraries(tried):
            yield _trial(question, tried, fit, looked_up)


def _trial(question: str, rows: list[Row], fit: list[Row], looked_up: Callable[[Row], float] | None) -> Trial:
    asked, worked = libraries(rows), share(rows) >= WORKED
    seeds = [f"{base_of(row)} {row['settings']['seed']}" for row in rows]
    clusters = Clusters(seeds, [f"{seed} {row['settings']['pair']}" for seed, row in zip(seeds, rows, strict=True)])
    lines, costs = {}, {}
    for name in SCORES:
        if (name not in UNFITTED and not fit) or (name == "MergeProbe" and not has_signals(rows + fit)):
            continue
        if name == "pairwise" and not all("size" in row["measured"] for row in rows):
            continue
        score, probability, merge_from = _decided(name, rows, fit, looked_up)
        ranked = area(score, worked)
        costs[name] = _by_seed(regrets(score, asked, merge_from), asked, seeds)
        mean = mean_over_seeds(costs[name], 1 / len(asked))  # equal regrets are no proof of their value
        taken = [one for one in asked if one.taken(score, merge_from) is not None]
        lines[name] = Line(
            ranked,
            area_limits(ranked, clusters) if 0 < worked.sum() < len(worked) else None,
            mean.value if mean else float(np.concatenate(costs[name]).mean()),
            Limits(*np.clip(mean.limits(), 0.0, 1.0).tolist()) if mean else None,
            len(taken),
            sum(one.works for one in taken),
            _bins(probability, worked),
        )
    saved = {name: difference(costs[name], costs["decision"]) for name in lines if name != "decision"}
    told = {name: one for name, one in saved.items() if one}
    for (name, one), p in zip(told.items(), holm([one.p for one in told.values()]), strict=True):
        lines[name] = lines[name]._replace(saved=one._replace(p=p))
    return Trial(question, rows, asked, lines)


def _decided(
    name: str, rows: list[Row], fit: list[Row], looked_up: Callable[[Row], float] | None
) -> tuple[Score, Score, float]:
    """A score of the rows, the probability that it stands for, and from where on it takes a rule."""
    if name in ("decision", "pairwise"):
        known, signals = frozen(), signals_of(rows)
        if name == "pairwise":
            signals[:, 0] = [row["measured"]["size"] for row in rows]
        z = known.constant + signals @ np.array([known.united, known.sure])
        probability = 1 / (1 + np.exp(-z))
        return probability, probability, known.merge_from
    if name == "never":
        return np.zeros(len(rows)), np.zeros(len(rows)), 1.0
    field = {"confidence": "confidence", "hidden states": "hidden", "cosine": "cosine"}

    probed = fitted(fit, looked_up) if name == "MergeProbe" and looked_up else None

    def of(some: list[Row]) -> Score:
        if probed:
            return probed(some)
        if name == "lookup" and looked_up:
            return np.array([looked_up(row) for row in some])
        return np.array([row["measured"][field[name]] for row in some])

    known, score = of(fit), of(rows)
    constant, weights = logistic(known[:, None], share(fit) >= WORKED)
    low, high = known.min(), known.max()
    steps = [low + (high - low) * step for step in THRESHOLDS] + [high + 1.0]
    return score, 1 / (1 + np.exp(-(constant + weights[0] * score))), least_regret(known, libraries(fit), steps)


def _by_seed(values: Score, asked: Sequence[Library], seeds: Sequence[str]) -> list[Float[np.ndarray, " libraries"]]:
    """The values of the libraries of each seed, of each base."""
    found: dict[str, list[float]] = {}
    for value, one in zip(values, asked, strict=True):
        found.setdefault(seeds[one.rows[0]], []).append(value)
    return [np.array(each) for _, each in sorted(found.items())]


def _bins(probability: Score, worked: np.ndarray) -> list[Bin]:
    """The reliability: fifths of 0 to 1 that have rows."""
    numbers = np.minimum((probability * BINS).astype(int), BINS - 1)
    parts = [numbers == i for i in range(BINS)]
    return [Bin(int(p.sum()), float(probability[p].mean()), int(worked[p].sum())) for p in parts if p.any()]


def about(found: Trial) -> str:
    """What the rows of a trial are, in words."""
    bases = len({base_of(row) for row in found.rows})
    counts = [(len(found.libraries), "library", "libraries"), (found.seeds, "seed", "seeds"), (bases, "base", "bases")]
    asked, seeds, kinds = (f"{count} {one if count == 1 else more}" for count, one, more in counts)
    return f"{len(found.rows)} rows of {asked}, {seeds} and {kinds}"


def kept_off(rows: Sequence[Row]) -> tuple[float, int]:
    """How far the share of an adapter's own prompts that keep their answer is from the share of right answers to its
    own hop: the mean over rows of the seeds that were not looked at, and how many there are."""
    own = [row for row in rows if row["settings"]["prompting"] in KINDS["keeps"] and not row["settings"]["seen"]]
    kept = [row["measured"]["kept"][KINDS["keeps"].index(row["settings"]["prompting"])] for row in own]
    return (float(np.abs(np.array(kept) - share(own)).mean()), len(own)) if own else (math.nan, 0)


def text(rows: Sequence[Row], unlike: Collection[str] = ()) -> str:
    """The trials as the command prints them, a block a question."""
    blocks = []
    for found in trials(rows, unlike):
        head = ["score", "AUC", "regret", "decision saves", "takes a rule", "of these one works", "calibration error"]
        lines = [head, *([name, *_words(line)] for name, line in found.lines.items())]
        bins = ", ".join(f"{one.worked}/{one.rows} at {one.probability:.0%}" for one in found.lines["decision"].bins)
        works = sum(one.works for one in found.libraries)
        told = f"{found.question}: {about(found)}; a rule works in {works} of the libraries"
        blocks.append(f"{told}\n{aligned(lines)}\nworked, by probability: {bins}")
    off, count = kept_off(rows)
    blocks += [f"own answers: what a rule keeps of them is off by {100 * off:.0f} points, over {count} rows"] * (
        count > 0
    )
    areas, count = own_hops(rows)
    blocks += [f"own answers kept, AUC: {', '.join(f'{name} {value:.2f}' for name, value in areas.items())}"] * (
        count > 0
    )
    return "\n\n".join(blocks)


def _words(line: Line) -> list[str]:
    ranked = "" if np.isnan(line.area.value) else f"{line.area.value:.2f}{_interval(line.area_limits, 1, '.2f')}"
    saved = line.saved
    return [
        ranked,
        f"{100 * line.regret:.1f}{_interval(line.regret_limits, 100, '.1f')}",
        f"{100 * saved.mean:+.1f} [{100 * saved.low:+.1f}, {100 * saved.high:+.1f}] p={saved.p:.2g}" if saved else "",
        str(line.taken),
        str(line.right),
        f"{line.error:.2f}",
    ]


def _interval(found: Limits | None, factor: int, form: str) -> str:
    return f" [{factor * found.low:{form}}, {factor * found.high:{form}}]" if found else ""
