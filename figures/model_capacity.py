"""What a small model has room for: step-by-step answers and kept hops against facts, rank and width

Setup 2 of Table 1 with one of them varied. Below, how large the experts' updates are and how alike, and what chance
would make them."""

import math
from typing import Any

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_reuse.figures import _cells, _groups, _shares, style
from lora_reuse.figures._names import wrapped
from lora_reuse.figures.rows import Rows

NEEDS = {"llm_bridge": "python -m llm.bridge setup=2 triplets=5,10,20"}
PANELS = {"triplets": "facts an expert", "rank": "rank (α/rank kept)", "width": "width of the base"}
RULES = ("sum", "average", "arrow", "arrow_after")
KEPT = "own hops, arrow_after"
ALIKE = {"update_ratio": "‖ΔW‖/‖W‖", "prototype_cos": "|cos| of prototypes"}


def data(rows: Rows) -> pandas.DataFrame:
    """Measured shares in percent by panel, its value and series (a rule, step by step; or hops kept), with the size of
    the experts' updates, the
    |cos| of their prototypes and that of random directions. In each panel the rest is as in most rows; widths are those
    of pocket models that
    differ in nothing else, but for the MLP's."""
    axes = ("triplets", "rank", "alpha", "composition", "prompting")
    groups, about = _groups.grouped(rows, ["llm_bridge"], axes, layers="mlp", adapter="lora", setup="2")
    found = _cells.of_groups(groups, about)
    lines = []
    for key, group in groups.items():
        model, triplets, rank, alpha, composition, prompting = key
        said = _about(found.names[model], triplets, rank, alpha, group)
        if prompting == "steps" and composition in RULES:
            lines.append(
                said | {"series": composition} | _shown(_cells.cell(found, key, "", (math.nan, math.nan), ""), group)
            )
        if composition == "arrow_after" and prompting == "first":
            both = _groups.both_hops(group, groups.get((*key[:-1], "second"), group[:0]))
            kept = _cells.of_rows(both) | {"reported": "", "row": group["hash"].iloc[0]}
            lines.append(said | {"series": KEPT} | _shown(kept, group))
    points = pandas.DataFrame(lines)
    shown = [panel for name in PANELS if len(points) for panel in _panels(points, name)]
    if not shown:
        raise rows.missing("llm_bridge", setup="2", triplets=[5, 10, 20])
    return pandas.concat(shown, ignore_index=True).drop(columns=["alpha", "corpus", "reported"])


def _shown(cell: dict[str, Any], group: pandas.DataFrame) -> dict[str, Any]:
    return _shares.shown(cell, _shares.facts_of(group)) | {"rows": cell["rows"]}


def _about(model: str, triplets: str, rank: str, alpha: str, group: pandas.DataFrame) -> dict[str, Any]:
    """The point's dials, the base's corpus, and mean |cos| of two random directions on the input side of an MLP's three
    modules, √(2/πd) each."""
    made = {
        name.removeprefix("provenance.pocket."): group[name].iloc[0]
        for name in map(str, group)
        if name.startswith("provenance.pocket.")
    }
    sizes = [made.get(name, math.nan) for name in ("width", "width", "feed_forward")]
    corpus = " ".join(
        f"{name}={value}" for name, value in sorted(made.items()) if name not in ("width", "feed_forward")
    )
    return {
        **{
            "model": model,
            "triplets": int(triplets),
            "rank": int(rank),
            "alpha": int(alpha),
            "width": sizes[0],
            "corpus": corpus,
        },
        **{name: group[f"measured.{name}"].mean() for name in ALIKE},
        "random_cos": float(np.mean([math.sqrt(2 / (math.pi * d)) for d in sizes])),
    }


def _panels(points: pandas.DataFrame, name: str) -> list[pandas.DataFrame]:
    """For each model the points in which `name` alone varies, the most there are; `of` is the model, of several widths
    the one with most answers."""
    points = points.assign(
        scale=points["alpha"] / points["rank"], corpus=points["corpus" if name == "width" else "model"]
    )
    rest = [
        other
        for other in ("triplets", "rank", "alpha", "scale")
        if other != name and (other, name) not in (("alpha", "rank"), ("scale", "width"))
    ]
    found = []
    for _, own in points.dropna(subset=[name]).groupby("corpus", sort=False):
        most = max(
            (part for _, part in own.groupby(rest, sort=False)),
            key=lambda part: (part[name].nunique(), len(part), part["total"].sum()),
        )
        if most[name].nunique() > 1:
            ordered = most.assign(
                panel=name, value=most[name].astype(int), of=str(most.groupby("model")["total"].sum().idxmax())
            )
            found.append(ordered.drop(columns="scale").sort_values(["series", "value"], kind="stable"))
    return found


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """Two lines a model, answers above and updates below; a column a panel."""
    models, panels = list(table["of"].unique()), [name for name in PANELS if name in set(table["panel"])]
    style.height(figure, 0.8 + 3.6 * len(models))
    grid = figure.subplots(2 * len(models), len(panels), squeeze=False, height_ratios=(3, 2) * len(models))
    letters = style.letters()
    for model, above, below in zip(models, grid[::2], grid[1::2], strict=True):
        told = False
        for i, name in enumerate(panels):
            part = table[(table["of"] == model) & (table["panel"] == name)]
            if part.empty:
                above[i].remove()
                below[i].remove()
                continue
            values = sorted(part["value"].unique())
            _answers(above[i], part, values)
            _updates(below[i], part, values)
            for axes in (above[i], below[i]):
                axes.set_xticks(range(len(values)), [f"{value}" for value in values])
                axes.set_xlim(-0.4, len(values) - 0.6)
            below[i].set_xlabel(PANELS[name])
            style.title(
                above[i],
                next(letters),
                f"{'' if told else wrapped(str(model), 28) + ', '}{_shares.n(part[part['series'] != KEPT])}",
            )
            if not told:
                above[i].set_ylabel("right answers (%)")
                below[i].set_ylabel("mean over modules")
            told = True
    style.legend(figure, 4, *_shares.handles(table))
    style.note(figure, _shares.N)


def _answers(axes: Axes, part: pandas.DataFrame, values: list[int]) -> None:
    for i, series in enumerate((*RULES, KEPT)):
        own = part[part["series"] == series]
        places = [values.index(value) + 0.1 * (i - 2) for value in own["value"]]
        kept = {"linestyle": ":", **style.FILLS["hollow"]} if series == KEPT else {}
        if len(own):
            _shares.points(
                axes, own, places, 0.1, style.rule("arrow_after" if series == KEPT else series, label=series, **kept)
            )
    _shares.chance(axes, part)
    if part["chance"].nunique() > 1:
        axes.plot(range(len(values)), part.groupby("value")["chance"].first().loc[values], zorder=0.8, **style.CHANCE)
    axes.set_ylim(-4, 104)
    axes.set_yticks(range(0, 101, 25))


def _updates(axes: Axes, part: pandas.DataFrame, values: list[int]) -> None:
    means = part.groupby("value")[[*ALIKE, "random_cos"]].mean().loc[values]
    for (name, label), marker in zip(ALIKE.items(), "x+", strict=True):
        axes.plot(range(len(values)), means[name], label=label, color="black", marker=marker, linewidth=0.6)
    axes.plot(range(len(values)), means["random_cos"], label="|cos| of random directions", **style.THEORY)
    axes.set_ylim(0, None)


def caption(table: pandas.DataFrame) -> str:
    """What is varied, and what a point is."""
    models = "; ".join(table["model"].unique())
    return f"""Beyond the paper, one thing of setup 2 of Table 1 is varied alone: the number of facts an expert (and of
        questions), the rank at one α/rank, or the width of the base. Above are two-hop questions answered step by step
        under each rule, and, dotted, the one-hop questions that arrow_after still answers. One layer of theory stores
        any number of facts up to the width and keeps them under the sum. It says nothing of rank. Below are the size of
        the experts' updates and the |cos| of their prototypes. The dashed line is √(2/πd), the |cos| of random
        directions: experts that share a bridge are far more alike. Values stand at equal distances. {_shares.MEANING}
        The models are {models}. {_shares.told_void(table)}"""
