"""Which compositions work: forecasts without answers, beside what needs no forecast

Scores that rank compositions of experts, and how often each puts one that worked above one that did not: of two-hop
questions, of questions that need two skills or more, and of the experts' own one-hop questions."""

import functools
import math
from collections.abc import Iterator
from typing import Any

import pandas

from lora_reuse.figures import _cells
from lora_reuse.figures.rows import Rows
from lora_reuse.llm.forecast import ranking
from lora_reuse.llm.forecast.ranking import PREDICTORS, Among, Ranking, rankings
from lora_reuse.llm.forecast.ranking_text import about
from lora_reuse.runs.rows import load_rows

NEEDS = {"llm_forecast": "python -m llm.forecast validate=results/paper"}
QUESTIONS = {
    "composes": "two-hop",
    "joins skills": "two skills",
    "joins more skills": "three skills or more",
    "keeps": "own hop",
}
ALL, WORKED = "all", "where a rule worked"
ALPHA = 0.05


def table(rows: Rows) -> pandas.DataFrame:
    """The numbers of every score, by question, number and score, for compositions at seeds that were not looked at
    while the forecast was written. Raises MissingRows where there are no rows."""
    found = [one for one in rankings(load_rows(rows.folder, "llm_forecast")) if not one.seen]
    if not found:
        raise rows.missing("llm_forecast", seen=False)
    lines = {(QUESTIONS[one.kind], *key): cell for one in found for key, cell in _lines(one)}
    made = _cells.frame(lines, ("question", "number", "score", "among"), _cells.Found())
    made.attrs["rankings"] = [f"{QUESTIONS[one.kind].capitalize()}: {about(one)} {_shown(one)}" for one in found]
    return made


def _lines(found: Ranking) -> Iterator[tuple[tuple[str, str, str], dict[str, Any]]]:
    """The cells of a question by number, score and the compositions among which it is."""
    cell = functools.partial(_cells.of_many, found.rows, seeds=len(set(found.clusters.seed)))
    among = {ALL: {name: line.everywhere for name, line in found.lines.items()}}
    if not found.where_one_worked.all():
        among[WORKED] = {name: line.where_one_worked for name, line in found.lines.items()}
    for name in found.lines:
        for where, scores in among.items():
            one = scores[name]
            yield ("AUC", name, where), cell(one.area.value, one.limits, by_seed=_by_seed(one))
    for name in found.lines:
        for where, scores in among.items():
            if ahead := scores[name].ahead:
                yield ("forecast ahead", name, where), cell(ahead.mean, ahead)
    for name, line in found.lines.items():
        if line.right:
            right, asked, limits = line.right
            yield ("right calls", name, ALL), cell(right / asked, limits, total=asked)
    for name, line in found.lines.items():
        if one := line.balanced:
            yield ("balanced", name, ALL), cell(one.area.value, one.limits, by_seed=_by_seed(one))


def _by_seed(among: Among) -> str:
    return " ".join("-" if math.isnan(value) else f"{100 * value:.4g}" for value in among.by_seed)


def _shown(found: Ranking) -> str:
    """What the differences show after Holm's correction."""
    told = []
    parts = {"Among all": [line.everywhere.ahead for line in found.lines.values()]}
    if not found.where_one_worked.all():
        parts["Among those where a rule worked"] = [line.where_one_worked.ahead for line in found.lines.values()]
    for where, differences in parts.items():
        compared = [(name, one) for name, one in zip(found.lines, differences, strict=True) if one]
        ahead = [name for name, one in compared if one.p < ALPHA and one.mean > 0]
        behind = [name for name, one in compared if one.p < ALPHA and one.mean < 0]
        open_ = [f"{name} (p = {one.p:.2g})" for name, one in compared if one.p >= ALPHA]
        said = [f"{word} {', '.join(names)}" for word, names in (("ahead of", ahead), ("behind", behind)) if names]
        said += [f"neither shown ahead of nor behind {', '.join(open_)}"] if open_ else []
        if said:
            told.append(f"{where}, the forecast is {'; and it is '.join(said)}.")
    return " ".join(told)


def caption(table: pandas.DataFrame) -> str:
    """What a cell is, what the rows are, and what the differences show."""
    scores = "; ".join(f"{name}: {what}" for name, what in PREDICTORS.items())
    return (
        "Scores that rank compositions of experts by whether they worked, which is to say that half of their"
        " answers or more are right. AUC: the share of pairs of a composition that worked and one that did not which"
        " the score puts in order, with ties counted half. Forecast ahead: the AUC of the forecast minus that of the"
        " score, paired. Right calls: how often a score of 1/2 or more agrees with what worked. Balanced: the mean of"
        " the shares of right calls among compositions that worked and among those that did not, which is the AUC of"
        " the call. Where a rule worked: among compositions of libraries in which a rule worked that were asked in the"
        " same way. Intervals are 95 %, not corrected for their number, with seeds as the unit: Student's t with one"
        " degree of freedom fewer than there are seeds makes those of few seeds wide. The interval of random is where"
        f" 95 % of {ranking.DRAWS} random scores lie. p is Holm's over all differences of a question. The scores are:"
        f" {scores}. The lookup was defined when all rows were there. {' '.join(table.attrs['rankings'])} Each cell"
        " stands on all rows of its question whose settings say seen=false; the link is to the first of them. Theory"
        " has no prediction here."
    )
