"""Which part of a bridge lets two adapters compose: setup 2 of Table 1 with one thing changed

Right answers of two composed adapters with a bridge as it is, with one that teaches the form without the logic, with
one about what is asked, and with a hop or both stated before the question."""

import math
from typing import Any

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_reuse.figures import _cells, _groups, _shares, style
from lora_reuse.figures._names import wrapped
from lora_reuse.figures.rows import Rows
from lora_reuse.llm.bridge_controls import ALONE, CONDITIONS
from lora_reuse.llm.protocols.settings import COMPOSITIONS

NEEDS = {"llm_bridge_controls": "python -m llm.bridge_controls"}
SAID = {
    "bridge": "the bridge as it is",
    "shuffled": "final answers shuffled",
    "asked_triplets": "about the asked triplets",
    "asked_people": "about the asked people",
    "first_given": "first hop stated",
    "both_given": "both hops stated",
    "expert_1": "the first adapter alone",
    "expert_2": "the second adapter alone",
}
ASKED = ("steps", "direct")
BASE = "the base, step by step"


def data(rows: Rows) -> pandas.DataFrame:
    """Shares of right two-hop answers in percent by model, rule, condition and what is asked. An adapter alone stands
    beside every rule, and so does the base where something is stated before the question."""
    axes = ("condition", "composition", "prompting")
    groups, about = _groups.grouped(rows, ["llm_bridge_controls"], axes, layers="mlp", adapter="lora", beside=0)
    names, lines = _groups.called(groups), []
    for model in about:
        mine = {key[1:]: group for key, group in groups.items() if key[0] == model and key[3] in ASKED}
        for rule in (rule for rule in COMPOSITIONS if any(key[1] == rule for key in mine)):
            for (condition, composition, asked), group in mine.items():
                series = asked
                if composition == "base" and condition in ("first_given", "both_given") and asked == "steps":
                    series = BASE
                elif composition != rule and condition not in ALONE:
                    continue
                said: dict[str, Any] = {"model": names[model], "rule": rule, "condition": condition, "asked": series}
                lines.append(said | _shares.shown(_cells.of_rows(group) | {"reported": ""}, math.nan))
    if not lines:
        raise rows.missing("llm_bridge_controls")
    return pandas.DataFrame(lines).drop(columns=["reported", "chance"])


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """A line of panels a model, a panel a rule; in it a line a condition, a mark for each way of asking."""
    models, rules = list(table["model"].unique()), [rule for rule in COMPOSITIONS if rule in _drawn(table)]
    conditions = [it for it in CONDITIONS if it in set(table["condition"])]
    asked = [it for it in (*ASKED, BASE) if it in set(table["asked"])]
    style.height(figure, 0.6 + (0.25 + 0.26 * len(conditions)) * len(models))
    grid = figure.subplots(len(models), len(rules), squeeze=False, sharex=True, sharey=True)
    for line, model in zip(grid, models, strict=True):
        for axes, rule in zip(line, rules, strict=True):
            _panel(axes, table[(table["model"] == model) & (table["rule"] == rule)], conditions, asked)
        line[0].set_ylabel(wrapped(model, 24))
    letters = style.letters()
    for axes, rule in zip(grid[0], rules, strict=True):
        style.title(axes, next(letters), rule)
    grid[-1, len(rules) // 2].set_xlabel("right two-hop answers (%)")
    void = [_shares.void_handle()] if _shares.void(table).any() else []
    style.legend(figure, 5, *_shares.seed_handle(table), *void)
    about = f"{_shares.span(table['seeds'])} seeds × {_shares.span(table['total'] / table['seeds'])} questions"
    style.note(figure, f"$N$ = {about}")


def _drawn(table: pandas.DataFrame) -> set[str]:
    """The rules that keep both own hops with the bridge as it is, of some model."""
    return set(table[(table["condition"] == "bridge") & ~_shares.void(table)]["rule"])


def _panel(axes: Axes, part: pandas.DataFrame, conditions: list[str], asked: list[str]) -> None:
    step = 0.8 / len(asked)
    for i, way in enumerate(asked):
        own = part[part["asked"] == way]
        places = [conditions.index(it) + step * (i - (len(asked) - 1) / 2) for it in own["condition"]]
        label = {"steps": "step by step", "direct": "directly"}.get(way, way)
        _shares.points(axes, own, places, step, style.series(i, linestyle="none") | {"label": label}, across=True)
    axes.set_xlim(-3, 103)
    axes.set_ylim(len(conditions) - 0.5, -0.5)
    axes.set_yticks(range(len(conditions)), [SAID[it] for it in conditions])


def caption(table: pandas.DataFrame) -> str:
    """What each line changes."""
    lost = sorted(set(table["rule"]) - _drawn(table))
    left = f" Not drawn, because it loses the own hops of all models, is {' and '.join(lost)}." if lost else ""
    return f"""Two adapters of one hop each and the bridge of setup 2 are composed and asked held-out two-hop questions.
        The lines differ in the bridge or in the question. The bridge is that of setup 2; or the same with every final
        answer moved to another triplet, so that it has the form of the steps without their logic; or one of the asked
        triplets themselves, with their answers; or one of the asked people under other relations. The question has the
        statement of the first hop before it, or the statements of both. Each adapter alone stands in the panels of all
        rules.{left} {_shares.MEANING} {_shares.told_void(table)}"""
