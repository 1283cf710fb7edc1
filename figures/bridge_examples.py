"""How many examples of a bridge are enough, compiled or drawn at random

Step-by-step answers of two adapters of which the first has a bridge of so few examples, and what the composition keeps
of either adapter's own hop."""

import math
from typing import Any

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_reuse.figures import _cells, _groups, _shares, style
from lora_reuse.figures.rows import Rows
from lora_reuse.llm.bridge_examples import DRAWN_FROM
from lora_reuse.llm.data.bridges import CHOICES

NEEDS = {
    "llm_bridge_examples": "python -m llm.bridge_examples",
    "llm_bridge": "python -m llm.bridge setup=0,4",
    "llm_methods": "python -m llm.methods setup=2 library=data_mix prompting=steps",
}
ASKED = {"steps": "right, step by step (%)", "own": "own hops kept (%)"}
ENDS = {"0": ("compiled", "random"), "4": ("random",)}
"""The setups of `llm.bridge` without a bridge and with the whole of it in the first expert, and whose lines they are
on."""
ENOUGH = 0.9
"""The share of the joint adapter's answers that a bridge is to reach."""


def data(rows: Rows) -> pandas.DataFrame:
    """Shares in percent by model, choice, number of examples, composition and what is asked: the steps, or both own
    hops together; with the `joint` adapter's share of the steps, which has the whole bridge and both adapters' facts.
    Without a bridge and with the whole one, of the seeds that there are rows of few examples of."""
    plain = {"layers": "mlp", "adapter": "lora"}
    axes = ("choice", "examples", "composition", "prompting")
    few, about = _groups.grouped(rows, ["llm_bridge_examples"], axes, bridge_in="first", **plain)
    if not few:
        raise rows.missing("llm_bridge_examples")
    ends, _ = _groups.grouped(rows, ["llm_bridge"], ("setup", "composition", "prompting"), **plain)
    joint, _ = _groups.grouped(rows, ["llm_methods"], ("setup", "prompting"), library="data_mix", adapter="lora")
    named, lines = _groups.called(few), []
    for model in about:
        mine = {key[1:]: group for key, group in few.items() if key[0] == model}
        seeds = set(pandas.concat(mine.values())["settings.seed"])
        for (setup, rule, asked), group in ((key[1:], group) for key, group in ends.items() if key[0] == model):
            group = group[group["settings.seed"].isin(seeds)]
            if setup in ENDS and rule in {key[2] for key in mine} and len(group):
                mine |= {(choice, _examples(setup, group), rule, asked): group for choice in ENDS[setup]}
        other = joint.get((model, "2", "steps"))
        of_joint = math.nan if other is None else _cells.of_rows(other)["percent"]
        for (choice, examples, rule, asked), group in mine.items():
            said: dict[str, Any] = {
                "model": named[model],
                "choice": choice,
                "examples": int(examples),
                "composition": rule,
            }
            if asked == "steps":
                lines.append(said | {"asked": "steps"} | _shown(group) | {"joint": of_joint})
            elif asked == "first" and (choice, examples, rule, "second") in mine:
                lines.append(
                    said | {"asked": "own"} | _shown(_groups.both_hops(group, mine[choice, examples, rule, "second"]))
                )
    order = {name: i for i, name in enumerate((*map(named.get, about), *ASKED, *CHOICES))}
    key = ["model", "composition", "asked", "choice", "examples"]
    ordered = ("model", "asked", "choice")
    return pandas.DataFrame(lines).sort_values(key, key=lambda it: it.map(order) if it.name in ordered else it)


def _examples(setup: str, group: pandas.DataFrame) -> str:
    """How many examples a whole bridge has; none without one."""
    return "0" if setup == "0" else str(DRAWN_FROM["random"] * int(group["settings.bridge_triplets"].iloc[0]))


def _shown(group: pandas.DataFrame) -> dict[str, Any]:
    return _shares.shown(_cells.of_rows(group) | {"reported": ""}, math.nan)


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """Two rows of panels a model, the steps above and the own hops below; a column a rule that answers anything, and a
    line a choice over the numbers of examples, which stand at equal distances."""
    steps = table[table["asked"] == "steps"]
    heard = steps[steps["percent"] > 0].groupby("model", sort=False)["composition"].unique()
    style.height(figure, 0.6 + 3.4 * len(heard))
    parts = figure.subfigures(len(heard), 1, squeeze=False)[:, 0]
    letters = style.letters()
    for model, rules, part in zip(heard.index, heard, parts, strict=True):
        grid = part.subplots(2, len(rules), squeeze=False, sharex="col", sharey="row", height_ratios=(3, 2))
        for rule, column in zip(rules, grid.T, strict=True):
            own = table[(table["model"] == model) & (table["composition"] == rule)]
            for axes, asked in zip(column, ASKED, strict=True):
                _lines(axes, own[own["asked"] == asked], sorted(own["examples"].unique()))
            style.title(column[0], next(letters), rule)
            column[1].set_xlabel("examples of the bridge")
        for axes, label in zip(grid[:, 0], ASKED.values(), strict=True):
            axes.set_ylabel(label)
        if len(heard) > 1:
            part.suptitle(model, x=0.01, ha="left")
    style.legend(
        figure, 5, *_shares.seed_handle(table), *([_shares.void_handle()] if _shares.void(table).any() else [])
    )
    style.note(
        figure,
        f"$N$ = {_shares.span(steps['seeds'])} seeds × {_shares.span(steps['total'] / steps['seeds'])} questions",
    )


def _lines(axes: Axes, part: pandas.DataFrame, counts: list[int]) -> None:
    choices = [choice for choice in CHOICES if choice in set(part["choice"])]
    for i, choice in enumerate(choices):
        own, step = part[part["choice"] == choice], min(0.2, 0.6 / len(choices))
        places = [counts.index(count) + step * (i - (len(choices) - 1) / 2) for count in own["examples"]]
        look = style.series(list(CHOICES).index(choice))
        _shares.points(axes, own, places, step, look | {"label": choice.replace("_", " ")})
    if "steps" in set(part["asked"]) and part["joint"].notna().any():
        axes.axhline(ENOUGH * part["joint"].iloc[0], label="90 % of the joint adapter", zorder=0.8, **style.CHANCE)
    axes.set_xticks(range(len(counts)), [str(count) for count in counts])
    axes.set_xlim(-0.5, len(counts) - 0.5)
    axes.set_ylim(-4, 104)
    axes.set_yticks(range(0, 101, 25))


def caption(table: pandas.DataFrame) -> str:
    """What the lines are, and which of them reach the joint adapter."""
    steps = table[(table["asked"] == "steps") & (table["examples"] > 0)]
    reached = steps[steps["percent"] >= ENOUGH * steps["joint"]]
    several = table["model"].nunique() > 1
    of = lambda it: f"{it.model}'s " if several else ""  # noqa: E731
    said = "; ".join(f"{of(it)}{it.composition} with {it.examples} {it.choice} ones" for it in reached.itertuples())
    joint = " and ".join(
        f"{share:.0f} %" + (f" of {model}" if several else "")
        for model, share in steps.groupby("model", sort=False)["joint"].first().items()
    )
    none = sorted(set(steps["composition"]) - set(steps[steps["percent"] > 0]["composition"]))
    silent = f" Not drawn, because nothing is right, is {' and '.join(none)}." if none else ""
    return f"""Two adapters of one hop each are composed, of which the first has so many examples of a bridge beside its
        own facts. Compiled ones are made of the training templates of both adapters and of made-up names, each a
        two-hop question answered step by step in wordings that come once each; random ones are drawn from the bridge of
        setup 2, of which one in three is step by step. The last number is that whole bridge (setup 4), and none is
        setup 0. Above, held-out two-hop questions asked step by step; the dotted line is 90 % of what one adapter on
        all data answers ({joint}). Below, the one-hop questions of both adapters under the same
        rule. {_shares.MEANING} The dotted line is reached by {said or "none of these"}.{silent}
        {_shares.told_void(table)}"""
