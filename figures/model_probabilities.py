"""Where a model's probability goes when two experts are added

Log-probabilities of the candidate answers to a two-hop question, of the base and under the sum, beside the outputs of
one layer of theory."""

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_reuse.figures import _groups, _means, style
from lora_reuse.figures._names import wrapped
from lora_reuse.figures.rows import Rows
from lora_reuse.paper_checks.predictions.limit import outputs

NEEDS = {"llm_two_hop": "python -m llm.two_hop library=2-combination composition=sum,base prompting=direct"}
CANDIDATES = {
    "old": "old",
    "y": "$y$",
    "z": "$z$",
    "other": "other $z$",
    "old_second": "$r_2(y)$",
    "old_first": "$r_1(x)$",
}
"""The columns of the rows -> what they are; the order is the theory's for several facts."""
LIBRARY = {"base": "none", "sum": "2-combination"}
A_ROW = 3


def data(rows: Rows) -> pandas.DataFrame:
    """Means over triplets, datasets and seeds with 95 % intervals over seeds, by model, composition and candidate;
    `predicted`, the outputs of one layer with as many facts."""
    groups, about = _groups.grouped(
        rows, ["llm_two_hop"], ("composition", "library", "dataset"), prompting="direct", layers="mlp", adapter="lora"
    )
    called, lines = _groups.called(groups), []
    for model in about:
        for rule, library in LIBRARY.items():
            found = [group for key, group in groups.items() if key[:3] == (model, rule, library)]
            table = pandas.concat(found) if found else pandas.DataFrame()
            if "measured.logp_z_by_triplet" in table:
                table = table[table["measured.logp_z_by_triplet"].notna()]
                lines += _lines(called[model], rule, table) if len(table) else []
    if not lines:
        raise rows.missing("llm_two_hop", composition=list(LIBRARY), prompting="direct")
    return pandas.DataFrame(lines)


def _lines(model: str, rule: str, table: pandas.DataFrame) -> list[dict]:
    facts = int(table["settings.triplets"].iloc[0])
    told = outputs(facts) if rule == "sum" else {"old": 1.0}
    lines = []
    for name in CANDIDATES:
        seeds = [
            np.concatenate(list(own[f"measured.logp_{name}_by_triplet"])) for _, own in table.groupby("settings.seed")
        ]
        line = {"model": model, "composition": rule, "facts": facts, "candidate": name, **_means.over_seeds(seeds)}
        lines.append(line | {"predicted": told.get(name, 0.0), "row": table["hash"].iloc[0]})
    return lines


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """The theory, then a panel a model."""
    facts, models = list(table["facts"].unique()), list(table["model"].unique())
    count = len(facts) + len(models)
    lines = -(-count // A_ROW)
    columns = -(-count // lines)
    style.height(figure, 0.6 + 2.3 * lines)
    grid, letters = figure.subplots(lines, columns, squeeze=False), style.letters()
    for i, axes in enumerate(grid.flat):
        if i >= count:
            axes.remove()
            continue
        if i < len(facts):
            part, column, text = table[table["facts"] == facts[i]], "predicted", f"theory, $n={facts[i]}$"
            part = part[part["model"] == part["model"].iloc[0]]
        else:
            name = models[i - len(facts)]
            part = table[table["model"] == name]
            column, text = "measured", f"{wrapped(name, 24)}\n{_means.n(part)}"
        _panel(axes, part, column)
        axes.set_ylabel("output" if column == "predicted" else "mean log-probability")
        style.title(axes, next(letters), text)
    style.legend(figure, 3, *_means.handles(table))
    style.note(figure, _means.N)


def _panel(axes: Axes, part: pandas.DataFrame, column: str) -> None:
    names = list(CANDIDATES)
    for i, rule in enumerate(LIBRARY):
        own = part[part["composition"] == rule]
        if own.empty:
            continue
        places = [names.index(name) + 0.24 * i - 0.12 for name in own["candidate"]]
        look = style.rule(rule, linestyle="none", label={"base": "base alone", "sum": "sum of both experts"}[rule])
        if column == "predicted":
            axes.plot(places, own["predicted"], **look)
        else:
            _means.points(axes, own, places, 0.22, look)
    axes.set_xticks(range(len(names)), list(CANDIDATES.values()))
    axes.set_xlim(-0.5, len(names) - 0.5)


def caption(table: pandas.DataFrame) -> str:
    """The claim, and what a point is."""
    models = "; ".join(table["model"].unique())
    return f"""Prediction P2 (Theorem 2, eq. 25) is about the two-hop question under the sum of two one-hop experts,
        asked directly. The sum leaves the old answer first. It adds to y, adds to z and to every other edited z alike,
        and takes from r₂(y) and r₁(x). The first panels show one layer's outputs with as many facts. The others show
        mean log-probabilities of the candidates on {models}. The two scales differ, so that what the theory predicts of
        a model is the order. {_means.MEANING}"""
