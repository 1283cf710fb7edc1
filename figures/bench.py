"""Which rule composes: the reuse bench

How far each rule goes from the floor to the ceiling of libraries whose precondition is known, and its score over all of
them."""

import math
import textwrap
from statistics import fmean
from typing import Any

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_reuse.figures import style
from lora_reuse.figures.rows import Rows
from lora_reuse.llm.bench.__main__ import Options
from lora_reuse.llm.bench.libraries import LIBRARIES, Library, cells
from lora_reuse.llm.bench.score import (
    SCORE,
    InLibrary,
    Known,
    Score,
    agreement,
    in_library,
    rules_of,
    score,
    scored,
    share,
)
from lora_reuse.runs.rows import load_rows

MODEL, SEEDS = "pocket", range(Options.first_seed, Options.first_seed + Options.seeds)
"""Of the rows that are drawn: what the command asks for where nothing else is said."""
WHOLE = "score"
"""The column of all libraries."""
NEEDS = {
    f"llm_{name}": f"lora-reuse bench model={MODEL} rule=uniform,average,sum,arrow,arrow_after"
    for name in dict.fromkeys(one.protocol for library in LIBRARIES for one in (library.asked, library.ceiling))
}


def data(rows: Rows) -> pandas.DataFrame:
    """A line a rule and library of which all seeds have rows: the `share`, `floor` and `ceiling` in percent, what is
    `gained` with its 95 % interval, and in percent how many of the experts' own answers are `kept`. A rule with rows in
    every library has a line "score", too. `tau` is Kendall's between the rankings of those rules by two seeds, in the
    mean."""
    known: Known = {row["hash"]: row for experiment in NEEDS for row in load_rows(rows.folder, experiment)}
    lines, scores = [], {}
    for rule in rules_of(known):
        parts = [part for library in LIBRARIES if (part := _part(library, rule, known))]
        for part in parts:
            kept = part.kept()
            line = {"rule": rule, "library": part.library.name, "row": part.asked[0]["hash"], "seeds": len(SEEDS)}
            line |= {"share": 100 * share(part.asked), "floor": 100 * share(part.floor)}
            line |= {"ceiling": 100 * share(part.ceiling), "kept": math.nan if kept is None else 100 * kept}
            lines.append(line | (_said(score([part.gained()])) if part.room > 0 else {}))
        if len(parts) == len(LIBRARIES):
            scores[rule] = score([part.gained() for part in scored(parts)])
            lines.append({"rule": rule, "library": WHOLE, "seeds": len(SEEDS)} | _said(scores[rule]))
    if not lines:
        raise rows.missing("llm_skills")
    taus = agreement(list(scores.values()))
    return pandas.DataFrame(lines).assign(tau=fmean(taus) if taus else math.nan)


def _part(library: Library, rule: str, known: Known) -> InLibrary | None:
    found = cells(library, rule, MODEL)
    return in_library(library, found, SEEDS, known) if found else None


def _said(found: Score) -> dict[str, float]:
    low, high = found.mean.limits() if found.mean else (math.nan, math.nan)
    return {"gained": found.value, "low": low, "high": high}


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """A column for the score and one a library, a line a rule, the best at the top."""
    means = table.groupby("rule")["gained"].mean()
    whole = table[table["library"] == WHOLE].set_index("rule")["gained"]
    order = sorted(means.index, key=lambda rule: (rule in whole, whole.get(rule, means[rule])))
    drawn = table.dropna(subset="gained")
    columns = [name for name in (WHOLE, *(one.name for one in LIBRARIES)) if (drawn["library"] == name).any()]
    style.height(figure, 1.1 + 0.19 * len(order))
    grid = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, name in zip(grid, columns, strict=True):
        _column(axes, drawn[drawn["library"] == name], order)
        axes.set_title(textwrap.fill(name, 9), fontsize=7, loc="center")
    grid[0].set_yticks(range(len(order)), order)
    grid[0].set_ylim(-0.6, len(order) - 0.4)
    style.note(figure, f"$N$ = {len(SEEDS)} seeds")


def _column(axes: Axes, part: pandas.DataFrame, order: list[str]) -> None:
    for place in (0, 1):
        axes.axvline(place, zorder=0, **style.CHANCE)
    for line in part.to_dict("records"):
        family = str(line["rule"]).partition(":")[0]
        look: dict[str, Any] = (
            style.rule(line["rule"]) if family in style.RULES else {"color": style.BLACK, "marker": "o"}
        )
        height = order.index(line["rule"])
        axes.hlines(height, max(-0.25, line["low"]), min(1.25, line["high"]), color=look["color"], linewidth=0.8)
        axes.plot(line["gained"], height, linestyle="none", **look)
    axes.set_xlim(-0.3, 1.3)
    axes.set_xticks([0, 1])
    axes.tick_params(axis="y", length=0)


def caption(table: pandas.DataFrame) -> str:
    """What a mark is, which libraries there are, and whether seeds agree."""
    there = dict.fromkeys(table["library"])
    about = " ".join(f"{one.name.capitalize()}: {one.about}." for one in LIBRARIES if one.name in there)
    tau, whole = table["tau"].iloc[0], int((table["library"] == WHOLE).sum())
    agree = (
        "" if math.isnan(tau) else f" Between two seeds the rankings of these rules have a Kendall's τ of {tau:.2f}."
    )
    without = table[table["gained"].isna()]["library"].unique()
    left = f" Not drawn, since its ceiling is right in less than half: {', '.join(without)}." if len(without) else ""
    return f"""Rules of composition on the {MODEL} model, over libraries whose precondition is known. A mark is how far
        a rule goes from the floor (0) to the ceiling (1); the score is {SCORE}. The floor is the control of the
        library. The ceiling is one adapter on all the data or, where that answers nothing, an expert on the answers.
        Bars are 95 % intervals over {len(SEEDS)} seeds (Student's t), cut at the frame. Rows in every library, and so
        a score, have {whole} rules.{agree}{left} The libraries are as follows. {about}"""
