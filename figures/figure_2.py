"""Figure 2: a bridge in both experts

Step by step: setup 1 asks fake names with a bridge of real ones, setup 2 real names with a bridge of fake ones.
"""

import math

import pandas
from matplotlib.figure import Figure

from figures import _bars, _cells
from figures.figure_1 import MODELS_A_ROW, plotted
from figures.rows import Rows

NEEDS = {"llm_bridge": "python -m llm.bridge setup=1,2"}
SERIES = {f"setup {setup}, {rule}": (setup, rule) for setup in ("1", "2") for rule in ("uniform", "arrow")}
LOOK = dict(zip(SERIES, ("hatched amber", "red", "hatched light", "dark"), strict=True))


def data(rows: Rows) -> pandas.DataFrame:
    """Measured and reported shares in percent, by model and series (a setup and its composition)."""
    found = _cells.measured(rows, ["llm_bridge"], ("setup", "composition", "prompting"), layers="mlp", adapter="lora")
    if not any(key[-1] == "steps" for key in found.cells):
        raise rows.missing("llm_bridge", prompting="steps")
    lines = []
    for label, model in _cells.models(found).items():
        for series, (setup, rule) in SERIES.items():
            printed = _cells.reported(9, base_model=label, composition=rule, setup=f"Setup {setup}", layers="MLP layers")
            cell = _cells.cell(found, (model, setup, rule, "steps"), printed, (math.nan, math.nan), "")
            lines.append({"model": label, "series": series} | plotted(cell))
    return pandas.DataFrame(lines)


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """A group of bars a model, in as many lines as the models need."""
    models = list(table["model"].unique())
    lines = [models[i : i + MODELS_A_ROW] for i in range(0, len(models), MODELS_A_ROW)]
    figure.set_figheight(0.4 + 2.0 * len(lines))
    for axes, names in zip(figure.subplots(len(lines), 1, squeeze=False)[:, 0], lines, strict=True):
        _bars.grouped(axes, table, "model", names, LOOK)
        axes.set_xlim(-0.5, min(len(models), MODELS_A_ROW) - 0.5)
    figure.legend(handles=_bars.legend(LOOK), loc="outside upper center", ncols=3)


def caption(table: pandas.DataFrame) -> str:
    """The claim, and what a bar is."""
    measured = table[table["percent"].notna()]
    models = ", ".join(measured["model"].unique())
    return f"""Figure 2 of the paper (section 4.1.2): two one-hop experts, each trained on a bridge too (both hops of other people and their
        composition step by step), asked step by step. Setup 1: fake names and places are asked, the bridge is of real ones; setup 2: the reverse.
        The paper's claim: Arrow answers with a bridge, and better in setup 2. Narrow filled bars: measured here ({models};
        {_bars.seeds(measured)}) with 95 % intervals over seeds; a small marker is a measured 0. Wide hollow bars: the paper's Table 9,
        adapters in the MLP."""
