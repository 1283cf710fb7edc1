"""A new first hop and what the base knows: does one adapter reach it?

An adapter learned that A's spouse is B, a well-known person, and is asked where A's spouse was born."""

import math
from typing import Any

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_reuse.figures import _cells, _groups, _shares, style
from lora_reuse.figures._names import wrapped
from lora_reuse.figures.rows import Rows
from lora_reuse.llm.protocols.controls import ENOUGH

NEEDS = {"llm_semi_synthetic": "python -m llm.semi_synthetic model=smollm2 fact=birth_country chat=on library=1"}
DIALS = ("fact", "names", "chat", "rate", "steps")
ASKED = {
    "known": "of B, the base alone",
    "second": "of B, the adapter",
    "first": "A's spouse",
    "both": "two hops",
    "dealt": "dealt anew",
}
LEARNED = {"false": "couples alone", "true": "couples and other people"}
"""What the adapter learned, by `replay`."""
MARKS = {"second": "second_kept", "first": "first_kept", "both": "hits", "dealt": "permuted"}


def data(rows: Rows) -> pandas.DataFrame:
    """Shares in percent by model, dials of the training and what is asked: of the base what it knows of B, of the
    adapter that, its own first hop and both hops; and how often an answer would be right if the places were dealt anew
    among the people. Where the base does not say what it knows in half of the questions, nothing is shown."""
    axes = (*DIALS, "replay", "library", "composition")
    groups, _ = _groups.grouped(rows, ["llm_semi_synthetic"], axes, layers="mlp", adapter="lora", prompting="direct")
    names, lines = _groups.called(groups), []
    for (model, *dials, replay, library, _), group in groups.items():
        if library != "1":
            continue
        said: dict[str, Any] = {"model": names[model], **dict(zip(DIALS, dials, strict=True)), "replay": replay}
        cells = {asked: _cells.of_rows(group, mark) for asked, mark in MARKS.items()}
        dealt = 100 * group["measured.permuted"].sum() / group["measured.total"].sum()
        # A mean over all deals, which is no count and has no error.
        cells["dealt"] |= {"percent": dealt, "low": math.nan, "high": math.nan, "by_seed": ""}
        base = groups.get((model, *dials, "false", "none", "base"))
        if base is None:
            continue
        cells["known"] = _cells.of_rows(base[base["settings.seed"].isin(group["settings.seed"])], "second_kept")
        if cells["known"]["percent"] >= 100 * ENOUGH:
            for asked in ASKED:
                lines.append(said | {"asked": asked} | _shares.shown(cells[asked] | {"reported": ""}, math.nan))
    if not lines:
        raise rows.missing("llm_semi_synthetic")
    return pandas.DataFrame(lines).drop(columns=["reported", "chance"])


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """A panel a model, fact, kind of A and training; a mark for each thing asked."""
    dials = ["model", *DIALS, "replay"]
    panels = list(table.groupby(dials, sort=False))
    style.height(figure, 2.4)
    grid = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)
    letters = style.letters()
    for (_, part), axes in zip(panels, grid.flat, strict=True):
        said = part.iloc[0]
        model = "" if table["model"].nunique() == 1 else f"{wrapped(said['model'], 26)}\n"
        told = f"{model}{LEARNED[said['replay']]}, {said['names']} A\n{_shares.n(part[part['asked'] == 'both'])}"
        _panel(axes, part)
        style.title(axes, next(letters), told)
    grid[0, 0].set_xlabel("right answers (%)")
    style.note(figure, _shares.N)


def _panel(axes: Axes, part: pandas.DataFrame) -> None:
    places = [list(ASKED).index(asked) for asked in part["asked"]]
    _shares.points(axes, part, places, 0.5, style.series(0, linestyle="none"), across=True)
    axes.set_xlim(-3, 103)
    axes.set_ylim(len(ASKED) - 0.5, -0.5)
    axes.set_yticks(range(len(ASKED)), list(ASKED.values()))


def caption(table: pandas.DataFrame) -> str:
    """What is learned and asked, and how the two trainings compare."""
    rates = table.groupby("replay", sort=False)[["rate", "steps"]].agg(lambda values: ", ".join(dict.fromkeys(values)))
    models = "; ".join(table["model"].unique())
    said = "; ".join(
        f"{LEARNED[str(replay)]}: rate {line['rate']}, {line['steps']} steps" for replay, line in rates.iterrows()
    )
    return f"""An adapter of {models} learned who the new spouse of each A is: B, a well-known person of whom the base
        alone names the right place in at least three of four other questions; in some panels also where other
        well-known people were born ({said}). Asked in held-out words: the place of B, of the base alone and under the
        adapter; who A's spouse is; and the place of A's spouse, which nothing taught (two hops). Dealt anew: how often
        those last answers would be right if the places were dealt anew among the people. {_shares.MEANING}"""
