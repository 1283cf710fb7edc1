"""Whether an expert can store a fact about someone its base has never read of

Facts about real people, on a pocket model whose corpus does not speak of all of them (`coverage=`): right answers by whether it speaks of the person.
"""

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import _bars, _cells, style
from figures.rows import Rows
from llm.data.facts import triplets
from llm.pocket.corpus import World, tested
from llm.pocket.size import Corpus
from llm.table import pooled

NEEDS = {"llm_two_hop": "python -m llm.two_hop model=results/pocket-half dataset=R"}
ASKED = {"first": "hop 1: A's spouse", "second": "hop 2: B's home", "direct": "two hops, directly"}
"""Of the second hop the person is B, else A."""
RULES = ("alone", "uniform", "average", "sum", "arrow", "arrow_after")
LIBRARIES = {(library, hop) for library in ("mixed", "2-combination") for hop in ("first", "second")}
LIBRARIES |= {("oracle", "direct"), ("3-combination", "direct")}


def data(rows: Rows) -> pandas.DataFrame:
    """Hits by model, what is asked, composition, and whether the corpus speaks of the person; `alone` is an expert trained on what is asked."""
    found = rows.all("llm_two_hop")
    lines = []
    if "provenance.pocket.coverage" in found:
        partly = found[found["provenance.pocket.coverage"].between(0, 1, inclusive="left") & (found["settings.split"] == "test")]
        axes = [f"settings.{name}" for name in ("model", "library", "composition", "prompting")]
        for key, group in partly[partly["settings.dataset"] == "R"].groupby(axes, sort=False):
            model, library, composition, prompting = map(str, key)
            if (library, prompting) in LIBRARIES and composition in RULES:
                said = {"model": model, "coverage": group["provenance.pocket.coverage"].iloc[0], "library": library, "composition": composition}
                said |= {"prompting": prompting}
                lines += [said | {"familiar": familiar} | share for familiar in (True, False) if (share := _share(group, prompting, familiar))]
    if not lines:
        raise rows.missing("llm_two_hop", model="results/pocket-half", dataset="R")
    table = pandas.DataFrame(lines)
    order = {name: i for i, name in enumerate((*ASKED, *RULES))}
    return table.sort_values(["model", "prompting", "composition"], key=lambda column: column.map(order) if column.name != "model" else column)


def _share(group: pandas.DataFrame, prompting: str, familiar: bool) -> dict[str, Any]:
    """Hits of the triplets whose person the corpus speaks of, or does not, over the group's seeds; a triplet of a seed is a cluster. Nothing where
    there are none."""
    counts = []
    for line in group.to_dict("records"):
        made = {str(name).removeprefix("provenance.pocket."): value for name, value in line.items() if str(name).startswith("provenance.pocket.")}
        known = _familiar(Corpus(**{f.name: made[f.name] for f in dataclasses.fields(Corpus) if f.name in made}), int(made["seed"]))
        facts = triplets("R", line["settings.seed"])[: line["settings.triplets"]]
        right = [
            hits
            for fact, hits in zip(facts, line["measured.by_triplet"], strict=True)
            if ((fact.b if prompting == "second" else fact.a) in known) == familiar
        ]
        each = line["measured.total"] // len(facts)
        counts.append({"measured": {"hits": sum(right), "total": each * len(right), "by_triplet": right}})
    counts = [count for count in counts if count["measured"]["total"]]
    if not counts:
        return {}
    hits, total, limits = pooled(counts)
    low, high = limits or (math.nan, math.nan)
    shares = {"hits": hits, "total": total, "percent": 100 * hits / total, "low": 100 * low, "high": 100 * high, "seeds": len(counts)}
    return shares | _cells.source(group.assign(experiment="llm_two_hop"))


@functools.cache
def _familiar(corpus: Corpus, seed: int) -> frozenset[str]:
    """The people of R of whom a corpus speaks, as its seed has drawn them."""
    return frozenset(World(corpus, seed).facts["study_in"]) & frozenset(tested())


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """A line a model, a panel for what is asked."""
    models = list(table["model"].unique())
    figure.set_figheight(0.6 + 2.0 * len(models))
    letters = iter("abcdefghijklmnopqrstuvwxyz" * len(models))
    for model, line in zip(models, figure.subplots(len(models), len(ASKED), squeeze=False, sharey=True), strict=True):
        for axes, (prompting, text) in zip(line, ASKED.items(), strict=True):
            _panel(axes, table[(table["model"] == model) & (table["prompting"] == prompting)])
            style.title(axes, next(letters), text)
        line[0].set_ylabel(f"{_bars.wrapped(str(model), 24)}\nright answers (%)")
    style.legend(figure, ncols=2)


def _panel(axes: Axes, part: pandas.DataFrame) -> None:
    rules = [rule for rule in RULES if rule in set(part["composition"])]
    for i, (familiar, label) in enumerate(((True, "the corpus speaks of the person"), (False, "it does not"))):
        own = part[part["familiar"] == familiar]
        places = [rules.index(rule) + 0.2 * (i - 0.5) for rule in own["composition"]]
        interval = np.array([own["percent"] - own["low"], own["high"] - own["percent"]])
        axes.errorbar(places, own["percent"], interval, **style.series(i, linestyle="none", label=label, markersize=3.5, elinewidth=0.7))
    axes.set_xticks(range(len(rules)), rules, rotation=30, ha="right", fontsize=6.5)
    axes.set_xlim(-0.6, len(rules) - 0.4)
    axes.set_ylim(-4, 104)
    axes.set_yticks(range(0, 101, 25))


def caption(table: pandas.DataFrame) -> str:
    """What is asked of whom, and what a point is."""
    models = ", ".join(
        f"{model} (coverage={share:g})" for model, share in dict(table[["model", "coverage"]].itertuples(index=False, name=None)).items()
    )
    return f"""Beyond the paper: facts of real people, R, on a base whose corpus speaks of some of them only, or of none. `alone`: one expert trained
        on what is asked; otherwise both one-hop experts and, asked two hops, the oracle with them. People it does not speak of have names of tokens
        that the base was never trained on, unlike the fake names of F. Measured on {models}, {_bars.seeds(table, "point")}, with 95 % intervals
        over seeds."""
