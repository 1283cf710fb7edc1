"""Figure 2: a bridge in both experts

Step by step: setup 1 asks fake names with a bridge of real ones, setup 2 real names with a bridge of fake ones.
"""

import math

import pandas
from matplotlib.figure import Figure

from lora_reuse.figures import _bars, _cells, _groups, _shares, style
from lora_reuse.figures.figure_1 import MODELS_A_ROW
from lora_reuse.figures.rows import Rows

NEEDS = {"llm_bridge": "python -m llm.bridge setup=1,2"}
SERIES = {f"setup {setup}, {rule}": (setup, rule) for setup in ("1", "2") for rule in ("uniform", "arrow")}
LOOK = {series: (rule, _bars.HATCH if setup == "1" else "") for series, (setup, rule) in SERIES.items()}
"""A bar has the colour of its rule; setup 1 is hatched."""


def data(rows: Rows) -> pandas.DataFrame:
    """Measured and reported shares in percent, by model and series (a setup and its composition)."""
    groups, about = _groups.grouped(
        rows, ["llm_bridge"], ("setup", "composition", "prompting"), layers="mlp", adapter="lora"
    )
    if not any(key[-1] == "steps" for key in groups):
        raise rows.missing("llm_bridge", prompting="steps")
    found = _cells.of_groups(groups, about)
    lines = []
    for label, model in _cells.models(found).items():
        for series, (setup, rule) in SERIES.items():
            printed = _cells.reported(
                9, base_model=label, composition=rule, setup=f"Setup {setup}", layers="MLP layers"
            )
            key = (model, setup, rule, "steps")
            cell = _cells.cell(found, key, printed, (math.nan, math.nan), "")
            lines.append({"model": label, "series": series} | _shares.shown(cell, _shares.facts_of(groups.get(key))))
    return pandas.DataFrame(lines)


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """A group of bars a model, in as many lines as the models need."""
    models = list(table["model"].unique())
    lines = [models[i : i + MODELS_A_ROW] for i in range(0, len(models), MODELS_A_ROW)]
    style.height(figure, 0.6 + 2.0 * len(lines))
    for axes, names in zip(figure.subplots(len(lines), 1, squeeze=False)[:, 0], lines, strict=True):
        _bars.grouped(axes, table, "model", names, LOOK)
        axes.set_xlim(-0.5, min(len(models), MODELS_A_ROW) - 0.5)
    figure.legend(handles=[*_bars.legend(LOOK), *_shares.handles(table)], loc="outside upper center", ncols=4)
    style.note(figure, _shares.N)


def caption(table: pandas.DataFrame) -> str:
    """The claim, and what a bar is."""
    models = "; ".join(table[table["percent"].notna()]["model"].unique())
    return f"""Figure 2 of the paper (section 4.1.2) composes two one-hop experts, each of which is also trained on a
        bridge: both hops of other people, and their composition step by step. All questions are asked step by step.
        Setup 1 asks fake names and places with a bridge of real ones, and setup 2 the reverse. The paper's claim is
        that Arrow answers with a bridge, and better in setup 2. {_bars.MEANING} The paper's numbers are those of its
        Table 9 with adapters in the MLP. The models measured here are {models}. {_shares.told_void(table)}"""
