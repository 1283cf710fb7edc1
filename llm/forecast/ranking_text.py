"""The ranking in words: what its columns are, what its rows are, and a line a score."""

from collections.abc import Sequence

import numpy as np

from lora_reuse.llm.forecast.area import Clusters, area
from lora_reuse.llm.forecast.ranking import (
    DRAWS,
    KINDS,
    PREDICTORS,
    Among,
    Line,
    Ranking,
    Row,
    forecast_of,
    rankings,
    scored,
)
from lora_reuse.llm.scoring.intervals import Limits
from lora_reuse.runs.table import aligned


def ranking(rows: Sequence[Row]) -> str:
    """What the columns are, then for each ranking what its rows are and a line a score."""
    return "\n\n".join([COLUMNS, *(f"{found.kind}: {about(found)}\n{_table(found)}" for found in rankings(rows))])


COLUMNS = (
    "AUC: the share of pairs of a row that worked (half of its answers right, or more) and one that did not which a "
    "score puts in order,\n"
    "ties half. Its 95 % interval takes seeds as the unit; of random scores it is where 95 % of them lie. Then the "
    "AUC in each seed alone.\n"
    "forecast ahead by: the forecast's AUC minus this one, paired, and Holm's p-value over all differences of these "
    "rows.\n"
    "balanced: the mean of the shares of right calls among rows that worked and among those that did not.\n"
    + "\n".join(f"{name}: {what}." for name, what in PREDICTORS.items())
)


def about(found: Ranking) -> str:
    """What a ranking's rows are, and when its reading was chosen, in sentences."""
    whose = "the seed that was" if found.seen else "seeds that were not"
    rows, worked, where = len(found.rows), int(found.worked.sum()), int(found.where_one_worked.sum())
    seeds, pairs = len({row["settings"]["seed"] for row in found.rows}), len(set(found.clusters.pair))
    said = (
        f"{_count(rows, 'row')} of {whose} looked at while the forecast was written, of {_count(pairs, 'pair')} of "
        "experts from"
        f" {_count(seeds, 'seed')} on {_count(found.bases, 'base')}. {_count(worked, 'row')} worked, so that the call "
        "never is right"
        f" for {100 * (1 - worked / rows):.0f} % of the rows."
    )
    asked = [row["settings"]["prompting"] for row in found.rows]
    for prompting in KINDS[found.kind]:
        here = found.worked[np.array(asked) == prompting]
        if len(here) and not here.any() and worked:
            said += f" None of the {_count(len(here), 'row')} asked {prompting!r} worked."
    if found.in_view.any():
        said += (
            f" {_count(int(found.in_view.sum()), 'row')} had been forecast when the reading of this kind was chosen."
        )
        after = ~found.in_view
        if found.worked[after].any() and not found.worked[after].all():
            scores = np.array([forecast_of(row)[0] for row in found.rows])[after]
            clusters = Clusters(
                *([label for label, kept in zip(labels, after, strict=True) if kept] for labels in found.clusters)
            )
            among = scored(area(scores, found.worked[after]), scores[None], found.worked[after], clusters)
            pairs = len(set(clusters.pair))
            said += (
                f" Among the {_count(len(scores), 'other')}, of {_count(pairs, 'pair')} of experts, its AUC is "
                f"{_area(among)}."
            )
    if where < rows:
        libraries = len({pair for pair, kept in zip(found.clusters.pair, found.where_one_worked, strict=True) if kept})
        said += (
            f" A rule worked in {_count(libraries, 'library', 'libraries')}; asked in the same way, these have "
            f"{_count(where, 'row')}."
        )
    if not np.isnan(found.covered):
        said += f" The interval holds 0.5 for {100 * found.covered:.0f} % of {DRAWS} random scores."
    return said


def _count(number: int, one: str, more: str = "") -> str:
    return f"{number} {one if number == 1 else more or one + 's'}"


def _table(found: Ranking) -> str:
    head = ["score", "AUC", "by seed", "forecast ahead by", "right calls", "balanced"]
    blocks = [[head, *([name, *_words(line.everywhere), *_calls(line)] for name, line in found.lines.items())]]
    if not found.where_one_worked.all():
        head = ["where a rule worked", *head[1:4]]
        blocks.append([head, *([name, *_words(line.where_one_worked)] for name, line in found.lines.items())])
    return "\n".join(map(aligned, blocks))


def _words(among: Among) -> list[str]:
    each = " ".join("-" if np.isnan(value) else f"{value:.2f}" for value in among.by_seed)
    ahead = among.ahead
    return [
        _area(among),
        each,
        f"{ahead.mean:+.2f} [{ahead.low:+.2f}, {ahead.high:+.2f}] p={ahead.p:.2g}" if ahead else "",
    ]


def _calls(line: Line) -> list[str]:
    if line.right is None or line.balanced is None:
        return ["", ""]
    hits, asked, found = line.right
    return [f"{hits}/{asked} {hits / asked:.0%}" + _interval(found), _area(line.balanced)]


def _area(among: Among) -> str:
    return "all or none worked" if np.isnan(among.area.value) else f"{among.area.value:.2f}" + _interval(among.limits)


def _interval(found: Limits | None) -> str:
    return f" [{found.low:.2f}, {found.high:.2f}]" if found else ""
