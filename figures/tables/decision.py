"""What to do with two adapters: a decision without answers, and what it costs

A frozen probability that a rule works, beside scores that need no forecast: how each ranks what worked, how many points
of right answers its decisions fall short of the best rule in hindsight, and how far its probabilities are off."""

import math
from collections.abc import Iterator
from typing import Any

import pandas

from lora_reuse.figures import _cells
from lora_reuse.figures.rows import Rows
from lora_reuse.llm.forecast.decision import frozen
from lora_reuse.llm.forecast.trial import BINS, SCORES, Line, Trial, about, kept_off, trials, unlike_prompts
from lora_reuse.llm.scoring.intervals import Difference, Limits
from lora_reuse.runs.rows import load_rows

NEEDS = {"llm_forecast": "python -m llm.forecast validate=results/paper"}
ALPHA = 0.05


def table(rows: Rows) -> pandas.DataFrame:
    """The numbers of every score, by question, number and score, for rows that had no part in the coefficients. Raises
    MissingRows where there are none."""
    loaded = load_rows(rows.folder, "llm_forecast")
    found = list(trials(loaded, unlike_prompts(load_rows(rows.folder, "llm_skills"))))
    if not found:
        raise rows.missing("llm_forecast", seen=False)
    lines = {(one.question, *key): cell for one in found for key, cell in _lines(one)}
    made = _cells.frame(lines, ("question", "number", "score"), _cells.Found())
    made.attrs["trials"] = [f"{one.question.capitalize()}: {about(one)}{_shown(one)}" for one in found]
    off, count = kept_off(loaded)
    if count:
        made.attrs["trials"].append(
            f"What a rule is said to keep of an expert's own answers is off by {100 * off:.0f} points, over {count} "
            "rows of one-hop questions."
        )
    return made


def _lines(found: Trial) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    """The cells of a question by number and score. That of an area counts pairs of rows, that of a regret libraries."""
    worked = int(found.lines["decision"].area.worked.sum())
    pairs, asked = worked * (len(found.rows) - worked), len(found.libraries)
    for name, line in found.lines.items():
        if pairs:
            yield ("AUC", name), _cell(found, line.area.value, pairs, line.area_limits)
    for name, line in found.lines.items():
        yield ("regret", name), _cell(found, line.regret, asked, line.regret_limits)
    for name, line in found.lines.items():
        if line.saved:
            yield ("decision saves", name), _cell(found, line.saved.mean, asked, line.saved)
    for name, line in found.lines.items():
        yield ("calibration error", name), _cell(found, line.error, len(found.rows), None)
    for one in found.lines["decision"].bins:
        low = min(int(one.probability * BINS), BINS - 1) * 100 // BINS
        number = f"worked, at {low} to {low + 100 // BINS} %"
        yield (number, "decision"), _cell(found, one.worked / one.rows, one.rows, None)


def _cell(found: Trial, share: float, total: int, limits: Limits | Difference | None) -> dict[str, Any]:
    low, high = (limits.low, limits.high) if limits else (math.nan, math.nan)
    counts = {"hits": share * total, "total": total, "percent": 100 * share, "low": 100 * low, "high": 100 * high}
    counts |= {"seeds": found.seeds, "predicted_low": math.nan, "predicted_high": math.nan}
    made = " & ".join(dict.fromkeys(row["provenance"]["command"] for row in found.rows))
    first = found.rows[0]["hash"]  # the caption says which rows these are
    about_rows = {"experiment": "llm_forecast", "row": first, "rows": first, "command": made}
    return dict.fromkeys(_cells.COLUMNS, "") | counts | about_rows


def _shown(found: Trial) -> str:
    """In how many libraries the decision takes a rule, and against which scores it saves regret after Holm."""
    decided: Line = found.lines["decision"]
    said = f" The decision takes a rule in {decided.taken}, of which one works in {decided.right}."
    compared = {name: line.saved for name, line in found.lines.items() if line.saved}
    if worse := [name for name, one in compared.items() if one.p < ALPHA and one.mean < 0]:
        said += f" It costs more than {', '.join(worse)}."
    if better := [name for name, one in compared.items() if one.p < ALPHA and one.mean > 0]:
        said += f" It costs less than {', '.join(better)}."
    if equal := [f"{name} (p = {one.p:.2g})" for name, one in compared.items() if one.p >= ALPHA]:
        said += f" Not told apart from {', '.join(equal)}."
    return said


def caption(table: pandas.DataFrame) -> str:
    """What a cell is, what the rows are, and what the differences show."""
    known, scores = frozen(), "; ".join(f"{name}: {what}" for name, what in SCORES.items())
    return (
        "A decision takes one rule or none for two experts that are asked in one way. A rule works where half of its"
        " answers or more are right. AUC: the share of pairs of a composition that worked and one that did not which"
        " the score puts in order. Regret, in points of right answers, the mean over libraries: what the best rule in"
        " hindsight has more where one works; where none does, what a rule that is taken lacks of a half, and nothing"
        " where none is taken. Decision saves: the regret of the score minus that of the decision, paired, with Holm's"
        " p below. Calibration error: how far the probability is from the share that worked, by fifths, mean over rows."
        " Worked: of compositions that the decision gives a probability in that fifth, those that did. Intervals are"
        " 95 % over seeds of"
        " each base. The probability has two signals, with coefficients"
        f" {known.united} and {known.sure} and the constant {known.constant}, and a rule is taken from"
        f" {100 * known.merge_from:.0f} % on. They were fitted on two-hop questions to the pocket model of seed 0 and"
        " frozen before the rows of two skills here; the rows of facts were there and in view when the two signals were"
        " chosen among a few. Each other score takes a rule from"
        " the threshold that costs least on the rows of that fit, and its probability is logistic in it. Two skills"
        " are of rows that say how sure the experts are of their own answers; questions in forms that no prompt of the"
        " forecast has were set apart after their rows were seen. MergeProbe, which judges mergeability"
        " from the first percent of training, has no line: no formula of its signals was at hand. The scores are:"
        f" {scores}. {' '.join(table.attrs['trials'])} Theory has no prediction here."
    )
