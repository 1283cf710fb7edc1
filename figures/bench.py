"""Which rule composes: the reuse bench

How far each rule goes from the floor to the ceiling of libraries whose precondition is known, and its score over all of
them."""

import math
import textwrap
from statistics import fmean
from typing import Any

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_reuse.figures import _names, style
from lora_reuse.figures.rows import Rows
from lora_reuse.llm.bench.__main__ import Options
from lora_reuse.llm.bench.libraries import LIBRARIES, Library, cells, libraries
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

BASES = {"pocket": range(Options.first_seed, Options.first_seed + Options.seeds), "smollm2": range(6, 7)}
"""The bases, and of which seeds; of the first those that the command asks where nothing else is said."""
WHOLE = "score"
"""The column of all libraries."""
NEEDS = {
    f"llm_{name}": "lora-reuse bench model=pocket rule=uniform,average,sum,arrow,arrow_after"
    for name in dict.fromkeys(one.protocol for library in LIBRARIES for one in (library.asked, library.ceiling))
}


def data(rows: Rows) -> pandas.DataFrame:
    """A line a base, rule and library of which all seeds have rows: the `share`, `floor` and `ceiling` in percent, what
    is `gained` with its 95 % interval, and in percent how many of the experts' own answers are `kept`. A rule with rows
    in every library of a base has a line "score", too. `tau` is Kendall's between the rankings of those rules by two
    seeds of the base, in the mean, and `tau_bases` that between the rankings by both bases over the libraries that both
    have."""
    known: Known = {row["hash"]: row for experiment in NEEDS for row in load_rows(rows.folder, experiment)}
    shared = [library for library in LIBRARIES if all(library in libraries(model) for model in BASES)]
    tables, rankings = [], []
    for model, seeds in BASES.items():
        parts = _parts(model, known)
        whole = {rule: scored(each) for rule, each in parts.items() if len(each) == len(libraries(model))}
        scores = {rule: _score(each) for rule, each in whole.items() if each}
        in_both = {rule: [part for part in each if part.library in shared] for rule, each in whole.items()}
        rankings.append({rule: _score(each).value for rule, each in in_both.items() if each})
        taus = agreement(np.array([one.by_seed for one in scores.values()]).reshape(-1, len(seeds)))
        if parts:
            lines = [line for rule, each in parts.items() for line in _lines(model, rule, each, scores.get(rule))]
            unknown = ", ".join(one.name for one in LIBRARIES if one not in libraries(model))
            tables.append(pandas.DataFrame(lines).assign(tau=fmean(taus) if taus else math.nan, unknown=unknown))
    if not tables:
        raise rows.missing("llm_skills")
    table = pandas.concat(tables, ignore_index=True)
    ranked = [rule for rule in rankings[0] if all(rule in ranking for ranking in rankings)]
    both = np.array([[ranking[rule] for ranking in rankings] for rule in ranked]).reshape(-1, len(BASES))
    return table.assign(tau_bases=next(iter(agreement(both)), math.nan))


def _parts(model: str, known: Known) -> dict[str, list[InLibrary]]:
    """Of each rule with rows on a base, the libraries that have all of them."""
    found = {
        rule: [part for library in libraries(model) if (part := _part(library, rule, model, known))]
        for rule in rules_of(known)
    }
    return {rule: parts for rule, parts in found.items() if parts}


def _score(parts: list[InLibrary]) -> Score:
    return score([part.gained() for part in parts])


def _lines(model: str, rule: str, parts: list[InLibrary], whole: Score | None) -> list[dict[str, Any]]:
    """The lines of a rule on a base: one a library, and that of its score, if it has one."""
    made = [{"provenance": row["provenance"]} for row in parts[0].asked]
    about = {"base": _names.of(model, pandas.json_normalize(made)), "rule": rule, "seeds": len(BASES[model])}
    lines = []
    for part in parts:
        kept = part.kept()
        line = about | {"library": part.library.name, "row": part.asked[0]["hash"]}
        line |= {"share": 100 * share(part.asked), "floor": 100 * share(part.floor)}
        line |= {"ceiling": 100 * share(part.ceiling), "kept": math.nan if kept is None else 100 * kept}
        lines.append(line | (_said(_score([part])) if part.room > 0 else {}))
    return [*lines, about | {"library": WHOLE} | _said(whole)] if whole else lines


def _part(library: Library, rule: str, model: str, known: Known) -> InLibrary | None:
    found = cells(library, rule, model)
    return in_library(library, found, BASES[model], known) if found else None


def _said(found: Score) -> dict[str, float]:
    low, high = found.mean.limits() if found.mean else (math.nan, math.nan)
    return {"gained": found.value, "low": low, "high": high}


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """A block of panels a base: a column for the score and one a library, a line a rule, the best at the top."""
    drawn = table.dropna(subset="gained")
    columns = [name for name in (WHOLE, *(one.name for one in LIBRARIES)) if (drawn["library"] == name).any()]
    blocks = {base: _order(part) for base, part in _by_base(table)}
    style.height(figure, 1.1 + sum(0.3 + 0.19 * len(order) for order in blocks.values()))
    heights = [len(order) + 0.6 for order in blocks.values()]
    grid = figure.subplots(len(blocks), len(columns), sharey="row", squeeze=False, height_ratios=heights)
    for line, (base, order) in zip(grid, blocks.items(), strict=True):
        for axes, name in zip(line, columns, strict=True):
            part = drawn[(drawn["base"] == base) & (drawn["library"] == name)]
            if part.empty:  # the library is not of this base, or it has no room there
                axes.remove()
            else:
                _column(axes, part, order)
        line[0].set_yticks(range(len(order)), order)
        line[0].set_ylim(-0.6, len(order) - 0.4)
        if len(blocks) > 1:
            line[0].set_ylabel(_names.wrapped(base, 20), fontsize=7)
    for axes, name in zip(grid[0], columns, strict=True):
        axes.set_title(textwrap.fill(name, 9), fontsize=7, loc="center")
    counts = [str(part["seeds"].iloc[0]) for _, part in _by_base(table)]
    style.note(figure, f"$N$ = {' and '.join(counts)} seeds")


def _order(part: pandas.DataFrame) -> list[str]:
    """The rules of a base, from the worst: those without a score, by what they gain in the libraries that they have,
    and those with one."""
    means = part.groupby("rule")["gained"].mean()
    whole = part[part["library"] == WHOLE].set_index("rule")["gained"]
    return sorted(means.index, key=lambda rule: (rule in whole, whole.get(rule, means[rule])))


def _by_base(table: pandas.DataFrame) -> list[tuple[str, pandas.DataFrame]]:
    return [(str(base), part) for base, part in table.groupby("base", sort=False)]


def _column(axes: Axes, part: pandas.DataFrame, order: list[str]) -> None:
    for place in (0, 1):
        axes.axvline(place, zorder=0, **style.CHANCE)
    for line in part.to_dict("records"):
        family = str(line["rule"]).partition(":")[0]
        look: dict[str, Any] = (
            style.rule(line["rule"]) if family in style.RULES else {"color": style.BLACK, "marker": "o"}
        )
        height = order.index(line["rule"])
        if not math.isnan(line["low"]):
            axes.hlines(height, max(-0.25, line["low"]), min(1.25, line["high"]), color=look["color"], linewidth=0.8)
        axes.plot(line["gained"], height, linestyle="none", **look)
    axes.set_xlim(-0.3, 1.3)
    axes.set_xticks([0, 1])
    axes.tick_params(axis="y", length=0)


def caption(table: pandas.DataFrame) -> str:
    """What a mark is, which libraries there are, and whether seeds and bases agree."""
    there = dict.fromkeys(table["library"])
    about = " ".join(f"{one.name.capitalize()}: {one.about}." for one in LIBRARIES if one.name in there)
    said = " ".join(_of_base(base, part) for base, part in _by_base(table))
    between = table["tau_bases"].iloc[0]
    told = f" The rankings by the two bases, over the libraries of both, have a τ of {between:.2f}. {_first(table)}"
    agree = "" if math.isnan(between) else told
    return f"""Rules of composition over libraries whose precondition is known. A mark is how far a rule goes from the
        floor (0) to the ceiling (1); the score is {SCORE}. The floor is the control of the library. The ceiling is one
        adapter on all the data or, where that answers nothing, an expert on the answers; of a known fact it is the
        fact's expert alone. Bars are 95 % intervals over seeds (Student's t), cut at the frame; one seed has none.
        {said}{agree} The libraries are as follows. {about}"""


def _first(table: pandas.DataFrame) -> str:
    """Which of the rules that have a score on both bases is ahead on each."""
    scores = table[table["library"] == WHOLE].pivot(index="rule", columns="base", values="gained").dropna()
    ahead = [f"{scores[base].idxmax()} on {base}" for base in dict.fromkeys(table["base"])]
    if len(first := set(scores.idxmax())) == 1:
        return f"Of the {len(scores)} rules with a score on both, {first.pop()} is first on both."
    return f"Of the {len(scores)} rules with a score on both, the first is {' and '.join(ahead)}."


def _of_base(base: str, part: pandas.DataFrame) -> str:
    """How many of its rules have a score, whether its seeds agree, and what cannot be scored on it."""
    tau, whole = part["tau"].iloc[0], int((part["library"] == WHOLE).sum())
    low = ", ".join(part.loc[part["gained"].isna(), "library"].unique())
    said = [f"Of {base}, {whole} rules have rows in every library, and so a score."]
    if not math.isnan(tau):
        said.append(f"Two of its seeds rank them with a Kendall's τ of {tau:.2f}.")
    if unknown := part["unknown"].iloc[0]:
        said.append(f"Not asked, since what it was pretrained on is not known: {unknown}.")
    if low:
        said.append(f"Not drawn, since its ceiling is right in less than half: {low}.")
    return " ".join(said)
