"""How much the wording of a question matters

Two composed adapters with a bridge of each setup are asked about the same triplets in the test templates and in the dev
templates: how many more answers are right in the first."""

from typing import Any

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_reuse.figures import _groups, _means, style
from lora_reuse.figures._names import wrapped
from lora_reuse.figures._views import SETUPS
from lora_reuse.figures.rows import Rows
from lora_reuse.llm.protocols.settings import COMPOSITIONS
from lora_reuse.llm.scoring.intervals import difference

NEEDS = {"llm_bridge": "python -m llm.bridge setup=0,2,3,4,5 split=test,dev"}
AXES = ("setup", "composition", "prompting")
ASKED = {"steps": "step by step", "direct": "directly", "first": "for the first hop", "second": "for the second hop"}


def data(rows: Rows) -> pandas.DataFrame:
    """By model, setup, rule and prompting: the mean difference of the shares of both pairs of templates, in points,
    over the seeds that were asked both, with its 95 % interval; and both shares of these seeds, in percent."""
    test, dev = (
        _groups.grouped(rows, ["llm_bridge"], AXES, layers="mlp", adapter="lora", split=split)[0]
        for split in ("test", "dev")
    )
    names, lines = _groups.called(test), []
    for key in (key for key in test if key in dev):
        first, second = (_by_seed(groups[key]) for groups in (test, dev))
        both = sorted(first.keys() & second.keys())
        if not both:
            continue
        said = {"model": names[key[0]]} | dict(zip(AXES, key[1:], strict=True))
        said |= {name: np.mean([of[seed].mean() for seed in both]) for name, of in (("test", first), ("dev", second))}
        said |= _difference([first[seed] for seed in both], [second[seed] for seed in both])
        lines.append(said | {"of_seed": " ".join(map(str, both)), "row": dev[key]["hash"].iloc[0]})
    if not lines:
        raise rows.missing("llm_bridge", split="dev")
    return pandas.DataFrame(lines)


def _difference(first: list[np.ndarray], second: list[np.ndarray]) -> dict[str, Any]:
    """The mean of first − second over seeds, with its interval where there are several."""
    by_seed = [(a - b).mean() for a, b in zip(first, second, strict=True)]
    found = difference([each / 100 for each in first], [each / 100 for each in second])
    low, high = (100 * found.low, 100 * found.high) if found else (np.nan, np.nan)
    counted = {"seeds": len(first), "triplets": max(map(len, first))}
    return counted | {
        "measured": np.mean(by_seed),
        "low": low,
        "high": high,
        "by_seed": " ".join(f"{each:.6g}" for each in by_seed),
    }


def _by_seed(group: pandas.DataFrame) -> dict[int, np.ndarray]:
    """The share of right answers of each triplet in percent, by seed."""
    return {
        seed: 100 * np.array(hits) * len(hits) / total
        for seed, hits, total in zip(
            group["settings.seed"], group["measured.by_triplet"], group["measured.total"], strict=True
        )
    }


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """A line of panels a model, a panel a way of asking; in it a place a setup, a mark a rule."""
    models, asked = list(table["model"].unique()), [way for way in ASKED if way in set(table["prompting"])]
    setups, rules = sorted(table["setup"].unique()), [it for it in COMPOSITIONS if it in set(table["composition"])]
    style.height(figure, 0.9 + 1.9 * len(models))
    letters = style.letters()
    grid = figure.subplots(len(models), len(asked), squeeze=False, sharex=True, sharey=True)
    for line, model in zip(grid, models, strict=True):
        for axes, way in zip(line, asked, strict=True):
            _panel(axes, table[(table["model"] == model) & (table["prompting"] == way)], setups, rules)
        line[0].set_ylabel("test less dev (points)")
        for way, axes in zip(asked, line, strict=True):
            named = "" if len(models) == 1 or axes is not line[0] else f"{wrapped(str(model), 24)}\n"
            style.title(axes, next(letters), f"{named}{ASKED[way]}")
    for axes in grid[-1]:
        axes.set_xlabel("setup")
    style.legend(figure, 6, *_means.handles(table))
    style.note(figure, f"{_means.N.replace('mean', 'difference')}: {_means.n(table).removeprefix('$N$ = ')}")


def _panel(axes: Axes, part: pandas.DataFrame, setups: list[str], rules: list[str]) -> None:
    step = 0.8 / len(rules)
    axes.axhline(0, linewidth=0.6, color="0.6", zorder=0.5)
    for i, rule in enumerate(rules):
        own = part[part["composition"] == rule]
        if len(own):
            places = [setups.index(setup) + step * (i - (len(rules) - 1) / 2) for setup in own["setup"]]
            _means.points(axes, own, places, step, style.rule(rule, linestyle="none", markersize=3, label=rule))
    axes.set_xticks(range(len(setups)), setups)


def caption(table: pandas.DataFrame) -> str:
    """What a mark is, and the mean over all cells."""
    setups = "; ".join(f"{setup}, {SETUPS[setup]}" for setup in sorted(table["setup"].unique()))
    return f"""Two adapters with a bridge of each setup ({setups}) are composed and asked the same questions in the two
        test templates and in the two dev templates. A mark is how many more of a hundred answers are right in the test
        templates. {" ".join(_said(str(model), part) for model, part in table.groupby("model", sort=False))}
        A bar is a 95 % interval over seeds, not corrected for the number of intervals; a small dot is one seed."""


def _said(model: str, part: pandas.DataFrame) -> str:
    """For each way of asking, the mean difference over all cells, and its interval over the seeds that all have."""
    told = []
    for way in (way for way in ASKED if way in set(part["prompting"])):
        own = part[part["prompting"] == way]
        cells = [
            dict(zip(seeds.split(), map(float, values.split()), strict=True))
            for seeds, values in zip(own["of_seed"].astype(str), own["by_seed"].astype(str), strict=True)
        ]
        common = [seed for seed in cells[0] if all(seed in cell for cell in cells)]
        if len(common) > 1:
            mean = _means.over_seeds([np.array([np.mean([cell[seed] for cell in cells])]) for seed in common])
            told.append(f"{ASKED[way]} {mean['measured']:+.1f} points [{mean['low']:.1f}, {mean['high']:.1f}]")
    return f"The mean over all setups and rules of {model} is {', '.join(told)}." if told else ""
