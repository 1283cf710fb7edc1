"""What to do with two adapters or more: a decision without answers, and what it costs

A frozen probability that a rule works, beside scores that need no forecast: how each ranks what worked, how many points
of right answers its decisions fall short of the best rule in hindsight, and how far its probabilities are off."""

import functools
import math
from collections.abc import Iterator
from typing import Any

import pandas

from lora_reuse.figures import _cells
from lora_reuse.figures.rows import Rows
from lora_reuse.llm.forecast.decision import frozen
from lora_reuse.llm.forecast.merge_probe import forecasts, own_hops
from lora_reuse.llm.forecast.trial import BINS, SCORES, Trial, about, kept_off, trials, unlike_prompts
from lora_reuse.runs.rows import load_rows

NEEDS = {"llm_forecast": "python -m llm.forecast validate=results/paper"}


def table(rows: Rows) -> pandas.DataFrame:
    """The numbers of every score, by question, number and score, for rows that had no part in the coefficients. Raises
    MissingRows where there are none."""
    loaded = forecasts(rows.folder)
    found = list(trials(loaded, unlike_prompts(load_rows(rows.folder, "llm_skills"))))
    if not found:
        raise rows.missing("llm_forecast", seen=False)
    lines = {(f"{one.question} ({about(one)})", *key): cell for one in found for key, cell in _lines(one)}
    made = _cells.frame(lines, ("question", "number", "score"), _cells.Found())
    made.attrs["kept_off"], made.attrs["own_hops"] = kept_off(loaded), own_hops(loaded)
    made.attrs["scores"] = [name for name in SCORES if any(name in one.lines for one in found)]
    return made


def _lines(found: Trial) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    """The cells of a question by number and score."""
    cell = functools.partial(_cells.of_many, found.rows, seeds=found.seeds)
    asked, lines = len(found.libraries), found.lines
    yield ("a rule works in", "decision"), cell(sum(one.works for one in found.libraries) / asked, total=asked)
    for name, line in lines.items():
        yield ("takes a rule in", name), cell(line.taken / asked, total=asked)
    for name, line in lines.items():
        if line.taken:
            yield ("of which one works in", name), cell(line.right / line.taken, total=line.taken)
    for name, line in lines.items():
        if not math.isnan(line.area.value):
            yield ("AUC", name), cell(line.area.value, line.area_limits)
    for name, line in lines.items():
        yield ("regret, points", name), cell(line.regret, line.regret_limits)
    for name, line in lines.items():
        if line.saved:
            yield ("decision saves, points", name), cell(line.saved.mean, line.saved)
    for name, line in lines.items():
        if line.saved:
            yield ("p of what it saves", name), cell(line.saved.p)
    for name, line in lines.items():
        yield ("calibration error", name), cell(line.error)
    for one in lines["decision"].bins:
        low = min(int(one.probability * BINS), BINS - 1) * 100 // BINS
        number = f"worked, at {low} to {low + 100 // BINS} %"
        yield (number, "decision"), cell(one.worked / one.rows, total=one.rows)


def caption(table: pandas.DataFrame) -> str:
    """What a cell is, what decides, and what it was fitted on."""
    known, scores = frozen(), "; ".join(f"{name}: {SCORES[name]}" for name in table.attrs["scores"])
    off, count = table.attrs["kept_off"]
    kept = (
        f" What a rule is said to keep of an expert's own answers is off by {100 * off:.0f} points, over {count} rows"
        " of one-hop questions."
    )
    areas, hops = table.attrs["own_hops"]
    if hops:
        kept += (
            " MergeProbe is made for these: whether a rule keeps an expert's own answers. Fitted on the seed that was"
            f" looked at, it ranks {hops} rows of the others with an AUC of {areas['MergeProbe']:.2f}; what the"
            f" forecast says a rule keeps ranks them with {areas['forecast']:.2f}."
        )
    return (
        "A decision takes one rule or none for a library, two experts or more that are asked in one way. A rule works"
        " where half of its answers or more are right. AUC is the share of pairs of a composition that worked and one"
        " that did not which the score puts in order. Regret is a mean over libraries, in points of right answers: what"
        " the best rule in hindsight has more, where one works; where none does, what a rule that is taken lacks of a"
        " half, and nothing where none is taken. What the decision saves is the regret of the score minus its own,"
        " paired; p is Holm's over the scores of a question. The calibration error is how far the probability is from"
        " the share that worked, by fifths, in the mean over rows. The last lines of a question are of compositions"
        " that the decision gives a probability in that fifth, and how many of them worked. Intervals are 95 % over"
        " the seeds of each base, where there are two, and are not corrected for their number. What decides is one of"
        f" these. {scores}. The frozen probability has two signals, with coefficients {known.united} and {known.sure}"
        f" and the constant {known.constant}, and a rule is taken from {100 * known.merge_from:.0f} % on. They were"
        " fitted on two-hop questions to the pocket model of seed 0, before the rows of two skills here; the rows of"
        " facts were in view when the two signals were chosen among a few. Each other score takes a rule from the"
        " threshold that costs least on the rows of that fit, and its probability is logistic in it. Two skills are of"
        " rows that say how sure the experts are of their own answers; questions in forms that no prompt of the"
        " forecast has were set apart after their rows were seen. In rows of two of five skills, and in those after"
        " the mends, the first signal is a mean over prompts of its size, and an empty answer is read as its end;"
        " before, the size of the mean was taken, and an empty answer read as a space. The latter was found on the"
        " pairs of one seed of SmolLM2, which stand apart (mended on). Of three or more of five skills the first signal"
        " is how far an answer changes when the same rule leaves an expert out, of all experts the least; that was"
        f" found on three seeds of the pocket model, which stand apart, too.{kept if count else ''} Theory has no"
        " prediction here."
    )
