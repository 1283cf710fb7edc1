"""Where the two experts sit: theory beside trained networks and language models

The share of composed questions that the sum of two one-hop experts answers, by the blocks that each expert is in."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_reuse.figures import _cells, _groups, layers, style, trained
from lora_reuse.figures._names import wrapped
from lora_reuse.figures.rows import MissingRows, Rows
from lora_reuse.llm.protocols.controls import ENOUGH

NEEDS = layers.NEEDS | trained.NEEDS
NEEDS |= {
    "llm_latent": "python -m llm.latent triplets=20 library=2-combination second=right composition=sum"
    " layers=lower/upper,upper/lower,lower,upper seeds=5"
}
OF_MODELS = {"lower": "both_lower", "upper/lower": "second_below", "lower/upper": "first_below", "upper": "both_upper"}
"""Where a model's experts sit -> the theory's word."""
RICH = 0.1
"""The output scale of the trained networks: the one at which two blocks compose what was held out."""
A_ROW = 3


class Share(NamedTuple):
    """A cell of a matrix, in percent: `first_kept` and `second_kept` are of the experts' own hops under the sum."""

    world: str
    facts: int
    placement: str
    measured: float
    low: float
    high: float
    first_kept: float
    second_kept: float
    seeds: int
    row: str


def data(rows: Rows) -> pandas.DataFrame:
    """Shares and the own hops kept by world, n and placement; worlds without rows are left out. Raises MissingRows
    where there are none at all."""
    found = list(itertools.chain(_two_blocks(rows), _trained(rows), _models(rows)))
    if not found:
        raise rows.missing("llm_latent")
    table = pandas.DataFrame(found)
    kept = table[["first_kept", "second_kept"]].min(axis=1) >= 100 * ENOUGH
    return table.assign(void=~kept & (table["measured"] < 100 * ENOUGH))


def _two_blocks(rows: Rows) -> Iterator[Share]:
    try:
        table = layers.data(rows)
    except MissingRows:
        return
    plain = table[(table["scale"] == 1) & (table["alignment"] == 1) & (table["facts"] == layers.FACTS)]
    finite = plain[np.isfinite(plain["width"])]
    yield from _of_theory("two blocks that compose", finite[finite["width"] == finite["width"].max()])


def _trained(rows: Rows) -> Iterator[Share]:
    try:
        table = trained.data(rows)
    except MissingRows:
        return
    rich = table[table["alpha"] == RICH]
    for depth in sorted(rich["depth"].unique()):
        yield from _of_theory(f"{int(depth)} trained blocks", rich[rich["depth"] == depth])


def _of_theory(world: str, table: pandas.DataFrame) -> Iterator[Share]:
    """A matrix of the table that a figure of the theory stands on, which has shares in place of percent."""
    for placement in layers.PLACES:
        lines = table[table["placement"] == placement].to_dict("records")
        said = {str(line["quantity"]): line for line in lines}
        if one := said.get("accuracy_among_new"):
            measured, low, high = (100 * one[name] for name in ("measured", "low", "high"))
            first, second = (100 * said[f"{hop}_kept"]["measured"] for hop in ("first", "second"))
            facts, seeds, row = int(one["facts"]), int(one["seeds"]), str(one["row"])
            yield Share(world, facts, placement, measured, low, high, first, second, seeds, row)


def _models(rows: Rows) -> Iterator[Share]:
    """Of each model those with the fewest facts that it was asked."""
    usual = {"library": "2-combination", "second": "right", "composition": "sum", "dataset": "R"}
    groups, _ = _groups.grouped(rows, ["llm_latent"], ("triplets", "rank", "layers"), **usual)
    names = _groups.called(groups)
    placed = {key: group for key, group in groups.items() if key[3] in OF_MODELS}
    fewest = {model: min(int(key[1]) for key in placed if key[0] == model) for model, *_ in placed}
    for (model, facts, _, place), group in placed.items():
        if int(facts) == fewest[model]:
            cell = _cells.of_rows(group)
            measured, low, high = (cell[name] for name in ("percent", "low", "high"))
            first, second = (_cells.of_rows(group, f"{hop}_kept")["percent"] for hop in ("first", "second"))
            placement, seeds, row = OF_MODELS[place], cell["seeds"], cell["row"]
            yield Share(names[model], int(facts), placement, measured, low, high, first, second, seeds, row)


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """A matrix a world."""
    worlds = list(dict.fromkeys(zip(table["world"], table["facts"], strict=True)))
    lines = -(-len(worlds) // A_ROW)
    style.height(figure, 0.4 + 1.85 * lines)
    grid, letters = figure.subplots(lines, min(len(worlds), A_ROW), squeeze=False), style.letters()
    for i, axes in enumerate(grid.flat):
        if i >= len(worlds):
            axes.remove()
            continue
        world, facts = worlds[i]
        part = table[(table["world"] == world) & (table["facts"] == facts)]
        _matrix(axes, part)
        style.title(axes, next(letters), f"{wrapped(world, 24)}\n$n={facts}$, chance {100 / facts:.0f} %")
    for axes in figure.axes[:: grid.shape[1]]:
        axes.set_ylabel("first expert in")
    for axes in figure.axes[-grid.shape[1] :]:
        axes.set_xlabel("second expert in")
    seeds = table.groupby(["world", "facts"], sort=False)["seeds"].min()
    style.note(figure, f"$N$ = {', '.join(map(str, seeds))} seeds a matrix")


def _matrix(axes: Axes, part: pandas.DataFrame) -> None:
    shares = np.full((2, 2), np.nan)
    for cell in part.to_dict("records"):
        column, row = layers.PLACES[cell["placement"]]
        shares[row, column] = cell["measured"]
        look: dict[str, Any] = {"ha": "center", "va": "center", "color": "white" if cell["measured"] > 60 else "black"}
        limits = "" if np.isnan(cell["low"]) else f"\n[{max(cell['low'], 0):.0f}, {min(cell['high'], 100):.0f}]"
        axes.text(column, row + 0.12, f"{cell['measured']:.0f} %{limits}", fontsize=8, **look)
        kept = f"kept {cell['first_kept']:.0f}, {cell['second_kept']:.0f} %{' (void)' if cell['void'] else ''}"
        axes.text(column, row - 0.32, kept, fontsize=6, **look)
    edges = [-0.5, 0.5, 1.5]
    axes.pcolormesh(edges, edges, shares, cmap=style.SHADES, vmin=0, vmax=100, edgecolors="0.7", linewidth=0.4)
    axes.set_xticks([0, 1], ["lower", "upper"])
    axes.set_yticks([0, 1], ["lower", "upper"], rotation=90, va="center")


def caption(table: pandas.DataFrame) -> str:
    """What a cell says, in each world, and which cells are void."""
    void = int(table["void"].sum())
    told = (
        f"{void} of {len(table)} cells are void, since the sum keeps less than {100 * ENOUGH:.0f} % of an expert's own"
        " hop."
        if void
        else "In every cell the sum keeps both experts' own hops."
    )
    return f"""Two one-hop experts of n facts each, the first in one half of the blocks and the second in the same or
        the other half, are summed and asked the n composed questions directly. In the two blocks that were made to
        compose, and in transformers that were trained on facts (output scale α = {RICH:g}), a share is of the questions
        for which the right answer is the largest of the n new ones; in language models, of the answers that name the
        right place and no other, at the smallest n that a model was asked. Under each share stand the shares of the
        first and of the second expert's own questions that the sum keeps. Brackets are 95 % intervals over seeds.
        {told}"""
