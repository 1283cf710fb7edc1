"""Trained experts scaled by w: where a model's answers flip

Left: one-hop facts, which one layer of theory flips at w = 1/2. Right: two-hop questions asked directly.
"""

import math

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_reuse.figures import _cells, _groups, _shares, style
from lora_reuse.figures._names import wrapped
from lora_reuse.figures._theory import coefficients
from lora_reuse.figures.rows import Rows

NEEDS = {"llm_scale": "python -m llm.scale"}
ONE_HOP = {
    ("1", "first"): "expert 1 alone",
    ("2", "second"): "expert 2 alone",
    ("2-combination", "first"): "both, asked hop 1",
    ("2-combination", "second"): "both, asked hop 2",
}
TWO_HOPS = {
    ("1", "direct"): "expert 1 alone",
    ("2", "direct"): "expert 2 alone",
    ("2-combination", "direct"): "both, asked two hops",
}
LABELS = list(dict.fromkeys([*ONE_HOP.values(), *TWO_HOPS.values()]))


def data(rows: Rows) -> pandas.DataFrame:
    """Measured shares in percent by model, dataset, library, what is asked, and w; `flip`, the w at which theory has
    one expert's answers flip."""
    groups, about = _groups.grouped(
        rows, ["llm_scale"], ("dataset", "library", "prompting", "scale"), layers="mlp", adapter="lora"
    )
    found = _cells.of_groups(groups, about)
    lines = []
    for key, group in groups.items():
        model, dataset, library, prompting, scale = key
        if (library, prompting) in ONE_HOP | TWO_HOPS:
            facts = int(_shares.facts_of(group))
            cell = _shares.shown(_cells.cell(found, key, "", (math.nan, math.nan), ""), facts)
            said = {
                "model": found.names[model],
                "dataset": dataset,
                "library": library,
                "prompting": prompting,
                "scale": float(scale),
            }
            lines.append(said | {"facts": facts, "flip": _flip(facts) if prompting == "direct" else 0.5} | cell)
    if not lines:
        raise rows.missing("llm_scale")
    return pandas.DataFrame(lines).drop(columns="reported").sort_values(["model", "dataset", "scale"], kind="stable")


def _flip(facts: int) -> float:
    """The w at which the second expert alone, with n facts, has all its z pass the old answer: (1 + (n - 1)ρ)/c₂."""
    _, second, other = coefficients()
    return (1 + (facts - 1) * other) / second


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """A line of two panels a model and its names."""
    asked = [key for key, _ in table.groupby(["model", "dataset"], sort=False)]
    style.height(figure, 0.8 + 2.3 * len(asked))
    grid, letters = figure.subplots(len(asked), 2, squeeze=False, sharey=True), style.letters()
    for (model, dataset), pair in zip(asked, grid, strict=True):
        part = table[(table["model"] == model) & (table["dataset"] == dataset)]
        for axes, series, text in zip(pair, (ONE_HOP, TWO_HOPS), ("one hop", "two hops, directly"), strict=True):
            own = part[[key in series for key in zip(part["library"], part["prompting"], strict=True)]]
            _panel(axes, own, series)
            style.title(axes, next(letters), f"{text}, {dataset}, {_shares.n(own)}\n{wrapped(str(model), 40)}")
            axes.set_xlabel("scale $w$")
        pair[0].set_ylabel("right answers (%)")
    style.legend(figure, 4, *_shares.handles(table))
    style.note(figure, _shares.N)


def _panel(axes: Axes, part: pandas.DataFrame, series: dict[tuple[str, str], str]) -> None:
    """Dashed, the theory: 0 up to the flip; beyond it all for one hop, one of n facts for two."""
    if part.empty:
        axes.annotate("not measured here", (0.5, 0.5), xycoords="axes fraction", ha="center", fontsize=7, color="0.45")
        return
    low, high, flip = part["scale"].min(), part["scale"].max(), part["flip"].iloc[0]
    above = 100 if series is ONE_HOP else 100 / part["facts"].iloc[0]
    x, y = ([low, flip, flip, high], [0, 0, above, above]) if flip < high else ([low, high], [0, 0])
    axes.plot(x, y, label="theory", zorder=1, **style.THEORY)
    for (library, prompting), label in series.items():
        i = LABELS.index(label)
        own = part[(part["library"] == library) & (part["prompting"] == prompting)]
        if len(own):
            # The larger and hollow ones lie behind, where experts agree.
            look = style.series(i, markersize=8 - 1.5 * i, label=label) | ({"markerfacecolor": "none"} if i < 2 else {})
            _shares.points(axes, own, list(own["scale"]), 0.06, look)
    _shares.chance(axes, part)
    axes.set_ylim(-4, 104)
    axes.set_yticks(range(0, 101, 25))


def caption(table: pandas.DataFrame) -> str:
    """The claim, and what a point is."""
    models = "; ".join(table["model"].unique())
    direct = table[table["prompting"] == "direct"]
    most = (
        f"The largest measured share of direct two-hop answers is {direct['percent'].max():.3g} %."
        if len(direct)
        else ""
    )
    flips = ", ".join(
        f"{flip:.1f} for {facts} facts"
        for facts, flip in dict(direct[["facts", "flip"]].itertuples(index=False, name=None)).items()
    )
    far = f" ({flips})" if flips else ""
    return f"""Prediction P3 (Proposition 1) is that an expert's own facts flip at w = 1/2, whatever the other expert
        adds. On the two-hop question the second expert's answers pass the old one together at w = (1 + 0.609(n −
        1))/0.573{far}. They tie, so that at most one in n is right. The dashed line is that theory, of one layer.
        {_shares.MEANING} The dotted line is the chance of a guess among the edited answers. The models are {models}.
        {most} {_shares.told_void(table)}"""
