"""How well a forecast ranks what then worked, beside scores that need no forecast: tables from rows of `llm_forecast`
alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from lora_reuse.llm.forecast import HALF
from lora_reuse.llm.forecast.area import Area, Clusters, Worked, area, difference, limits
from lora_reuse.llm.forecast.regret import WORKED, Row, base_of
from lora_reuse.llm.scoring.intervals import Difference, Limits, holm, over_seeds

KINDS = {
    "composes": ("direct", "steps"),
    "joins skills": ("both",),
    "joins more skills": ("all",),
    "keeps": ("first", "second"),
}
"""What is forecast, and the ways of asking that it is about: whether two-hop questions are answered, whether questions
that need two skills are, or more than two, and whether the one-hop questions of the experts still are."""
SKILLS = (*KINDS["joins skills"], *KINDS["joins more skills"])
PREDICTORS = {
    "forecast": "whether each adapter alone says a token of the answer that nobody else does; of one-hop questions, "
    "how many of an expert's own"
    " prompts keep their answer",
    "lookup": "the mean share of right answers that the rule has, asked in the same way, in the rows of the seed that "
    "was looked at",
    "confidence": "the composed model's mean log-probability of its own answers",
    "hidden states": "how much of each adapter's change the answer's tokens set off",
    "cosine": "the cosine of the two updates",
    "random": "a random number",
    "never": "no for every row",
}
"""The scores, each with what it is; the forecast is compared with the others."""
IN_VIEW = {
    "keeps": (
        "2af755345e6dc37bf964d2d2058c2cab13dea770",
        "3b31c8e2cee67ee82905050fb764960513345e26",
        "23a36f3d0482f7b3f12d97a26c20e09197fd8dab",
    )
}
"""By kind, the commits of the forecasts that were there when its reading was chosen. The other kinds are read as they
were first written, before any of their rows."""
DRAWS = 200
"""How many random scores there are."""

Draws = Float[np.ndarray, "draws rows"]
Share = tuple[int, int, Limits | None]


class Among(NamedTuple):
    """An area among some rows: its interval, the area in each seed alone (NaN where all rows worked or none did), and
    of a baseline how far the forecast is ahead of it, with Holm's p-value over all differences of the ranking."""

    area: Area
    limits: Limits | None
    by_seed: list[float]
    ahead: Difference | None = None


class Line(NamedTuple):
    """A score: its area among all rows, and among the rows of libraries in which a rule worked that were asked in the
    same way; of a score that calls (yes from 1/2 on) the calls that are right, and their balanced accuracy, the mean of
    the shares of right calls among rows that worked and among those that did not."""

    everywhere: Among
    where_one_worked: Among
    right: Share | None = None
    balanced: Among | None = None


@dataclass(frozen=True)
class Ranking:
    """All scores of rows of one kind, made at seeds that were looked at while the forecast was written (`seen`) or at
    others.

    `covered`: of random scores, the share whose interval of the area holds 1/2; 0.95 is what an interval promises.
    """

    kind: str
    seen: bool
    rows: list[Row]
    worked: Bool[np.ndarray, " rows"]
    where_one_worked: Bool[np.ndarray, " rows"]
    clusters: Clusters
    lines: dict[str, Line]
    covered: float

    @property
    def bases(self) -> int:
        """How many bases the experts were trained on."""
        return len({base_of(row) for row in self.rows})

    @property
    def in_view(self) -> Bool[np.ndarray, " rows"]:
        """Which of the rows were there when the reading of this kind was chosen."""
        return np.array([row.get("provenance", {}).get("commit") in IN_VIEW.get(self.kind, ()) for row in self.rows])


def rankings(rows: Sequence[Row]) -> Iterator[Ranking]:
    """A ranking of each kind, for rows of seeds that were not looked at and for those of the seed that was, where there
    are any.

    The lookup stands on the second, so it has no line there.
    """
    for kind, promptings in KINDS.items():
        of_kind = sorted(
            (row for row in rows if row["settings"]["prompting"] in promptings), key=lambda row: row["settings"]["row"]
        )
        looked_up = lookup([row for row in of_kind if row["settings"]["seen"]])
        for seen in (False, True):
            if chosen := [row for row in of_kind if row["settings"]["seen"] == seen]:
                yield _ranking(kind, seen, chosen, None if seen else looked_up)


def lookup(rows: Sequence[Row]) -> Callable[[Row], float] | None:
    """The mean share of right answers of a row's rule and way of asking in these rows, of skills by their protocol; of
    a rule that none of them has, of all that were asked so, or else of all. None without rows."""
    if not rows:
        return None
    found: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        for key in _keys(row):
            found.setdefault(key, []).append(row["measured"]["hits"] / row["measured"]["total"])
    means = {key: float(np.mean(shares)) for key, shares in found.items()}
    return lambda row: next(means[key] for key in _keys(row) if key in means)


def _keys(row: Row) -> list[tuple[str, ...]]:
    settings = row["settings"]
    way = (settings["of"], settings["prompting"]) if settings["prompting"] in SKILLS else (settings["prompting"],)
    return [(*way, settings["composition"]), way, ()]


def forecast_of(row: Row) -> tuple[float, bool]:
    """The score of the forecast and its call. A hop is called kept when half of its expert's own prompts keep their
    answer."""
    measured, prompting = row["measured"], row["settings"]["prompting"]
    if prompting in KINDS["keeps"]:
        share = measured["kept"][KINDS["keeps"].index(prompting)]
        return share, share >= HALF
    return measured["score"], bool(measured["called"])


def _ranking(kind: str, seen: bool, rows: list[Row], looked_up: Callable[[Row], float] | None) -> Ranking:
    worked = np.array([row["measured"]["hits"] >= WORKED * row["measured"]["total"] for row in rows])
    seeds = [f"{base_of(row)} {row['settings']['seed']}" for row in rows]
    clusters = Clusters(seeds, [f"{seed} {row['settings']['pair']}" for seed, row in zip(seeds, rows, strict=True)])
    libraries = [(pair, row["settings"]["prompting"]) for pair, row in zip(clusters.pair, rows, strict=True)]
    good = {library for library, works in zip(libraries, worked, strict=True) if works}
    where = np.array([library in good for library in libraries])
    scores = _scores(rows, looked_up)
    calls = {"forecast": np.array([forecast_of(row)[1] for row in rows]), "never": np.zeros(len(rows), dtype=bool)}
    if "lookup" in scores:
        calls["lookup"] = scores["lookup"][0] >= HALF
    everywhere = _areas(scores, worked, clusters, np.ones(len(rows), dtype=bool))
    among = everywhere if where.all() else _areas(scores, worked, clusters, where)
    _adjust(*([everywhere] if where.all() else [everywhere, among]))
    lines = {}
    for name in scores:
        call = calls.get(name)
        right = None if call is None else _right(call == worked, clusters)
        balanced = (
            None
            if call is None
            else scored(area(call.astype(float), worked), call[None].astype(float), worked, clusters)
        )
        lines[name] = Line(everywhere[name], among[name], right, balanced)
    covered = [found for score in scores["random"] if (found := limits(area(score, worked), clusters))]
    share = float(np.mean([low <= 0.5 <= high for low, high in covered])) if covered else float("nan")
    return Ranking(kind, seen, rows, worked, where, clusters, lines, share)


def _scores(rows: Sequence[Row], looked_up: Callable[[Row], float] | None) -> dict[str, Draws]:
    """Each score of the rows: one draw of all but the random one."""
    measured = {"confidence": "confidence", "hidden states": "hidden", "cosine": "cosine"}
    one = {"forecast": [forecast_of(row)[0] for row in rows], "never": [0.0] * len(rows)}
    one |= {} if looked_up is None else {"lookup": [looked_up(row) for row in rows]}
    one |= {name: [row["measured"][field] for row in rows] for name, field in measured.items()}
    found = {name: np.array([values], dtype=float) for name, values in one.items()}
    found["random"] = np.random.default_rng(0).random((DRAWS, len(rows)))
    return {name: found[name] for name in PREDICTORS if name in found}


def _areas(
    scores: Mapping[str, Draws], worked: Worked, clusters: Clusters, part: Bool[np.ndarray, " rows"]
) -> dict[str, Among]:
    """The areas of all scores among some of the rows, and how far the first is ahead of the others."""
    inside = Clusters(*([label for label, kept in zip(labels, part, strict=True) if kept] for labels in clusters))
    found: dict[str, Among] = {}
    for name, draws in scores.items():
        every = [area(score[part], worked[part]) for score in draws]
        mean = Area(
            float(np.mean([one.value for one in every])),
            np.mean([one.influence for one in every], axis=0),
            worked[part],
        )
        found[name] = scored(mean, draws[:, part], worked[part], inside)
        if len(draws) > 1:  # the interval of a mean over draws would say that a single draw does not vary
            low, high = np.quantile([one.value for one in every], [0.025, 0.975])
            found[name] = found[name]._replace(limits=Limits(float(low), float(high)))
    first = next(iter(found.values()))
    return {
        name: one if one is first else one._replace(ahead=difference(first.area, one.area, inside))
        for name, one in found.items()
    }


def scored(found: Area, draws: Draws, worked: Worked, clusters: Clusters) -> Among:
    """The area of a score, or the mean of several draws, with its limits and the area in each seed."""
    seeds = np.array(clusters.seed)
    parts = [seeds == seed for seed in sorted(set(clusters.seed))]
    return Among(
        found,
        limits(found, clusters),
        [float(np.mean([area(s[part], worked[part]).value for s in draws])) for part in parts],
    )


def _adjust(*columns: dict[str, Among]) -> None:
    """Puts Holm's p-values, over the differences in all columns, in the place of the single ones."""
    compared = [(column, name, one.ahead) for column in columns for name, one in column.items() if one.ahead]
    for (column, name, ahead), p in zip(compared, holm([ahead.p for *_, ahead in compared]), strict=True):
        column[name] = column[name]._replace(ahead=ahead._replace(p=p))


def _right(right: Bool[np.ndarray, " rows"], clusters: Clusters) -> Share:
    """Right calls of all, and the interval of their share over seeds, with a pair of experts as what varies
    together."""
    seeds = np.array(clusters.seed)
    parts = [right[seeds == seed] for seed in sorted(set(clusters.seed))]
    hits, asked = (
        np.array(counts, dtype=float) for counts in ([part.sum() for part in parts], [len(part) for part in parts])
    )
    return int(hits.sum()), int(asked.sum()), over_seeds(hits, asked, len(set(clusters.pair)))
