"""Libraries asked directly: what they answer without steps

Two-hop questions, asked without steps, of two one-hop experts with and without an expert on the pair, under every rule.
The paper did not ask these."""

import itertools
import math

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_reuse.figures import _cells, _groups, _shares, style
from lora_reuse.figures._names import wrapped
from lora_reuse.figures.figure_1 import ALONE, AXES, DATASETS
from lora_reuse.figures.rows import Rows
from lora_reuse.llm.protocols.settings import COMPOSITIONS

NEEDS = {"llm_two_hop": "python -m llm.two_hop prompting=direct"}
RULES = (*COMPOSITIONS, "arrow:swapped", "arrow_after:swapped")
LIBRARIES = {
    "3-combination": "with an expert on the pair (3-combination)",
    "2-combination": "two one-hop experts (2-combination)",
}
A_ROW = 3


def data(rows: Rows) -> pandas.DataFrame:
    """Measured shares in percent by model, dataset, library and composition, with `at_most`, what Theorem 3 allows two
    one-hop experts."""
    groups, about = _groups.grouped(rows, ["llm_two_hop"], AXES, layers="mlp", adapter="lora")
    found = _cells.of_groups(groups, about)
    lines = []
    for label, model in _cells.models(found).items():
        for dataset, library, rule in itertools.product(DATASETS, (*LIBRARIES, *ALONE), (*RULES, "alone")):
            key = (model, dataset, library, rule, "direct")
            if key in groups:
                cell = _cells.cell(found, key, "", (math.nan, math.nan), "")
                said = {"model": label, "dataset": dataset, "library": library, "composition": rule}
                lines.append(
                    said | _shares.shown(cell, _shares.facts_of(groups[key])) | {"at_most": cell["predicted_high"]}
                )
    if not lines:
        raise rows.missing("llm_two_hop", prompting="direct")
    return pandas.DataFrame(lines).drop(columns="reported")


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """A panel a model and its names, a line a rule, then one an expert alone."""
    asked = list(dict.fromkeys(zip(table["model"], table["dataset"], strict=True)))
    named = set(zip(table["library"], table["composition"], strict=True))
    ways = [rule for rule in RULES if any((library, rule) in named for library in LIBRARIES)]
    ways += [library for library in ALONE if (library, "alone") in named]
    lines, columns = -(-len(asked) // A_ROW), min(len(asked), A_ROW)
    style.height(figure, 0.7 + (0.8 + 0.19 * len(ways)) * lines)
    grid, letters = figure.subplots(lines, columns, squeeze=False, sharey=True), style.letters()
    for i, axes in enumerate(grid.flat):
        if i >= len(asked):
            axes.remove()
            continue
        model, dataset = asked[i]
        part = table[(table["model"] == model) & (table["dataset"] == dataset)]
        _panel(axes, part, ways)
        style.title(axes, next(letters), f"{wrapped(model, 26)}\n{dataset}, {_shares.n(part)}")
    figure.legend(
        handles=[*style.filled(*LIBRARIES.values()), *_shares.handles(table)], loc="outside upper center", ncols=2
    )
    style.note(figure, _shares.N)


def _panel(axes: Axes, part: pandas.DataFrame, ways: list[str]) -> None:
    """Each rule's shares with the expert on the pair above those without it."""
    for i, way in enumerate(ways):
        if way in ALONE:
            own = part[(part["library"] == way) & (part["composition"] == "alone")]
            _shares.points(axes, own, [i] * len(own), 0.4, style.rule(ALONE[way], linestyle="none"), across=True)
            continue
        for library, aside, fill in zip(LIBRARIES, (-0.2, 0.2), ("full", "hollow"), strict=True):
            own = part[(part["library"] == library) & (part["composition"] == way)]
            _shares.points(
                axes,
                own,
                [i + aside] * len(own),
                0.36,
                style.rule(way, linestyle="none", **style.FILLS[fill]),
                across=True,
            )
    _shares.chance(axes, part, across=True)
    axes.set_yticks(range(len(ways)), [f"{way} alone" if way in ALONE else way.replace(":", ", ") for way in ways])
    axes.set_ylim(len(ways) - 0.5, -0.5)
    axes.set_xlim(-3, 103)
    axes.set_xticks(range(0, 101, 25))
    axes.set_xlabel("right answers (%)")


def caption(table: pandas.DataFrame) -> str:
    """The claim, and what a mark is."""
    models = "; ".join(table["model"].unique())
    bound = table["at_most"].dropna().unique()
    allowed = (
        f"Theorem 3 allows two one-hop experts {bound.max():.3g} % at most, which is chance. " if len(bound) else ""
    )
    return f"""Beyond the paper's Figure 1, the same libraries are asked the two-hop question directly. {allowed}A
        library with an expert on the pair (the oracle) may answer what that expert knows. Swapped is Arrow with the
        prototypes exchanged among the experts. Oracle alone is that expert on its own, and mixed alone is one expert
        trained on both hops. Names are fake (F), half real (H: fake people, real places) or real (R). {_shares.MEANING}
        The dotted line is the chance of a guess among the edited answers. The models are {models}.
        {_shares.told_void(table)}"""
