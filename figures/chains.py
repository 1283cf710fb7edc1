"""How long a chain composes: experts of one hop each, asked for two to four hops at once

Only chains are counted of which every hop is answered in every wording under the same composition."""

import math
from typing import Any

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lora_reuse.figures import _cells, _groups, _shares, style
from lora_reuse.figures.rows import Rows

NEEDS = {"llm_chains": "python -m llm.chains"}
AXES = ("prompting", "bridge", "library", "composition", "hops")
PANELS = {("direct", "none"): "directly, no bridge", ("steps", "all"): "step by step, a bridge in each"}
ALONE = ("joint", "oracle")
LOOKS: dict[str, dict[str, Any]] = {
    "joint": {"label": "one expert on everything", "color": "0.25"},
    "oracle": {"label": "one expert on the asked chains", "color": "0.6"},
}
DEALT = "dealt"
"""The share of right answers if the places of the known chains were dealt anew among them."""
UNKNOWN = "no chain is known"


def data(rows: Rows) -> pandas.DataFrame:
    """Shares of right answers about known chains in percent, by model, how they are asked, bridge, composition and
    hops, beside the share of the chains that are known; and what dealing the places anew would get, of the experts'
    rules together."""
    groups, about = _groups.grouped(rows, ["llm_chains"], AXES)
    known, dealt = dict[tuple[str, ...], pandas.DataFrame](), dict[tuple[str, ...], list[pandas.DataFrame]]()
    shares = dict[tuple[str, ...], float]()
    for (model, prompting, bridge, library, composition, hops), group in groups.items():
        rule = library if library in ALONE else composition
        if (prompting, bridge) in PANELS and library != "none":
            key = (model, prompting, bridge, rule, hops)
            known[key] = group if library == "oracle" else _of_known(group)
            shares[key] = 100 * group["measured.known"].sum() / group["measured.total"].sum()
            if library == "experts":
                dealt.setdefault((model, prompting, bridge, DEALT, hops), []).append(group)
    if not known:
        raise rows.missing("llm_chains")
    found = _cells.of_groups(known, about)
    lines: list[dict[str, Any]] = []
    for label, model in _cells.models(found, {}).items():
        for key, group in known.items():
            if key[0] == model:
                cell = _shares.shown(_cells.cell(found, key, "", (math.nan, math.nan), ""), math.nan)
                if key[3] != "oracle" and not group["measured.known"].sum():
                    cell |= {"void": cell["void"] or UNKNOWN}
                lines.append({"model": label} | _labels(key) | cell | {"known": shares[key]})
        for key, each in dealt.items():
            if key[0] == model and (total := sum(group["measured.known"].sum() for group in each)):
                percent = 100 * sum(group["measured.permuted_known"].sum() for group in each) / total
                lines.append({"model": label} | _labels(key) | {"percent": percent})
    return pandas.DataFrame(lines).drop(columns=["reported", "chance"])


def _labels(key: tuple[str, ...]) -> dict[str, Any]:
    said = dict(zip(("prompting", "bridge", "composition", "hops"), key[1:], strict=True))
    return said | {"hops": int(said["hops"])}


def _of_known(group: pandas.DataFrame) -> pandas.DataFrame:
    """The rows as if the known chains alone had been asked; as they are where there are none."""
    kept = group.copy()
    names = ("by_group", "group_sizes", "known_by_group")
    each = [
        [(hits, size) for hits, size, known in zip(*parts, strict=True) if known]
        for parts in zip(*(group[f"measured.{name}"] for name in names), strict=True)
    ]
    kept["measured.by_group"] = [[hits for hits, _ in chains] for chains in each]
    kept["measured.group_sizes"] = [[size for _, size in chains] for chains in each]
    kept["measured.hits"] = [sum(hits for hits, _ in chains) for chains in each]
    kept["measured.total"] = [sum(size for _, size in chains) for chains in each]
    some = kept[kept["measured.total"] > 0]
    return group if some.empty else some


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """A row of panels a model: a line a rule over the hops."""
    models = list(table["model"].unique())
    style.height(figure, 0.5 + 2.0 * len(models))
    letters = style.letters()
    places = figure.subplots(len(models), len(PANELS), squeeze=False, sharey=True)
    for model, across in zip(models, places, strict=True):
        for axes, ((prompting, bridge), title) in zip(across, PANELS.items(), strict=True):
            own = table[(table["model"] == model) & (table["prompting"] == prompting) & (table["bridge"] == bridge)]
            _panel(axes, own)
            axes.set_xlabel(f"hops\n{_shares.n(own[~_shares.void(own)])}")
            style.title(axes, next(letters), title if len(models) == 1 else f"{model}: {title}")
        across[0].set_ylabel("right answers\nabout known chains (%)")
    style.note(figure, _shares.N)
    drawn = [Line2D([], [], label="places dealt anew", **style.CHANCE), *_shares.seed_handle(table)]
    style.legend(figure, 5, *drawn, *([_shares.void_handle()] if _shares.void(table).any() else []))


def _panel(axes: Axes, part: pandas.DataFrame) -> None:
    rules = [rule for rule in part["composition"].unique() if rule != DEALT]
    step = min(0.12, 0.8 / max(len(rules), 1))
    for i, rule in enumerate(rules):
        own = part[part["composition"] == rule].sort_values("hops")
        places = [hops + step * (i - (len(rules) - 1) / 2) for hops in own["hops"]]
        _shares.points(
            axes, own, places, step, style.rule(rule, **{"label": rule, "markersize": 3.0} | LOOKS.get(rule, {}))
        )
    dealt = part[part["composition"] == DEALT].sort_values("hops")
    axes.plot(dealt["hops"], dealt["percent"], **style.CHANCE)
    axes.set_xticks([2, 3, 4])
    axes.set_ylim(-4, 104)
    axes.set_yticks(range(0, 101, 25))


def caption(table: pandas.DataFrame) -> str:
    """What is composed and asked, who counts, and what a mark is."""
    return f"""Each expert knows one relation (best friend, child, spouse, home). Their composition is asked where the
        spouse of the child of the best friend of A lives, or for the last two or three of these hops; the experts
        without a bridge are the same in chains of every length. (a) Directly. (b) Step by step, where every expert also
        learned chains of so many hops of other people. A chain counts where the same composition answers every single
        hop of it in every wording; the share that counts is the column `known` of the CSV. Beside the rules stand one
        expert on everything that the experts learn, and, asked directly, one on the answers, of which all chains count,
        since it learned no single hop. The grey line is how often the answers would be right if the places of the known
        chains were dealt anew among them.
        {_shares.MEANING} There are {_shares.span(table["seeds"])}
        seeds. {_shares.told_void(table)}"""
