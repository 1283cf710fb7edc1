"""How many skills compose in one answer: a fact and forms, from two experts to five

One expert is on facts, four are on forms of an answer. An answer is right if its value is right and it has every form
that the question asks for."""

import math

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_reuse.figures import _cells, _groups, _shares, style
from lora_reuse.figures._names import wrapped
from lora_reuse.figures.rows import Rows
from lora_reuse.llm.data.skill_sets import HOMES, SKILLS
from lora_reuse.llm.protocols.dials import CONTROLS

NEEDS = {"llm_skill_sets": "python -m llm.skill_sets"}
AXES = ("asked", "library", "composition")
PANELS = {"pairs": "two skills, sum", "fact": "the fact and forms", "forms": "forms alone"}
PAIRS_BY = "sum"
ALONE = {"mixed": "joint", "oracle": "oracle"}
LABELS = {"joint": "one expert on all data"}
RULES = ("sum", "average", "arrow_after", "linear", "knots", "iso_c")
"""As many as can be told apart; the table *skill_rules* has every rule."""

Together = dict[tuple[str, str, str, str], list[pandas.DataFrame]]


def data(rows: Rows) -> pandas.DataFrame:
    """Shares of right answers in percent by model, panel, skills and composition: of each pair under the sum, and of
    all sets of so many skills together, with the fact or without it, under RULES and what they are compared with."""
    sets, about = together(rows)
    sets = {key: own for key, own in sets.items() if key[3] in (*RULES, *CONTROLS, *ALONE.values())}
    found = _cells.of_groups({key: as_one(own) for key, own in sets.items()}, about)
    lines = []
    for label, model in _cells.models(found, {}).items():
        for key, own in sets.items():
            if key[0] == model:
                cell = _shares.shown(_cells.cell(found, key, "", (math.nan, math.nan), ""), math.nan)
                said = dict(zip(("panel", "skills", "composition"), key[1:], strict=True))
                lines.append({"model": label} | said | {"sets": len(_sound(own))} | cell)
    return pandas.DataFrame(lines).drop(columns=["reported", "chance"])


def together(rows: Rows) -> tuple[Together, dict[str, str]]:
    """The sets of so many of the five skills, by model, with the fact or without it, their number and the composition,
    and each pair under the sum by its name; and what the rows of each model are. A rule that was not asked all sets
    that others were is left out there. A set whose controls failed is void under every rule, whatever that one answers
    of it."""
    groups, about = _groups.grouped(rows, ["llm_skill_sets"], AXES)
    failed = {key[:2]: reason for key, group in groups.items() for reason in group["void"] if reason}
    found: Together = {}
    for (model, asked, library, composition), group in groups.items():
        skills = asked.split("+")
        if len(skills) < 2 or not {*skills} <= {*SKILLS} or library not in ("none", "asked", *ALONE):
            continue
        rule = ALONE.get(library, composition)
        void = library == "asked" and (model, asked) in failed
        of_set = group.assign(void=failed[model, asked]) if void else group
        found.setdefault((model, "fact" if HOMES in skills else "forms", str(len(skills)), rule), []).append(of_set)
        if len(skills) == 2 and rule == PAIRS_BY:
            found[model, "pairs", asked, rule] = [group]
    if not found:
        raise rows.missing("llm_skill_sets")
    most = {key[:3]: max(len(sets) for other, sets in found.items() if other[:3] == key[:3]) for key in found}
    return {key: sets for key, sets in found.items() if len(sets) == most[key[:3]]}, about


def _sound(sets: list[pandas.DataFrame]) -> list[pandas.DataFrame]:
    """The sets whose controls held."""
    return [group for group in sets if not any(group["void"])]


def as_one(sets: list[pandas.DataFrame]) -> pandas.DataFrame:
    """The rows of several sets as one a seed: of those whose controls held, or where none did of all. The sets ask
    about the same people, who are right or wrong together."""
    every = pandas.concat(_sound(sets) or sets)
    merged = every.groupby("settings.seed", as_index=False).first()
    for name in ("hits", "total"):
        merged[f"measured.{name}"] = every.groupby("settings.seed")[f"measured.{name}"].sum().to_numpy()
    by_group = every.groupby("settings.seed")["measured.by_group"]
    merged["measured.by_group"] = [np.sum(list(each), axis=0).tolist() for _, each in by_group]
    return merged


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """The pairs as a triangle of shares, then a line a rule over the number of skills, with the fact and without."""
    models = list(table["model"].unique())
    style.height(figure, 0.4 + 2.1 * len(models))
    ratios = {"width_ratios": [1.25, 1.1, 1]}
    grid = figure.subplots(len(models), len(PANELS), squeeze=False, gridspec_kw=ratios)
    for model, places in zip(models, grid, strict=True):
        own = table[table["model"] == model]
        for axes, panel in zip(places, PANELS, strict=True):
            part = own[own["panel"] == panel]
            (_pairs if panel == "pairs" else _lines)(axes, part)
        if len(models) > 1:
            places[0].set_ylabel(wrapped(model, 24))
        places[1].set_ylabel("right answers (%)")
    for letter, axes, title in zip("abc", grid[0], PANELS.values(), strict=True):
        style.title(axes, letter, title)
    for axes in grid[-1][1:]:
        axes.set_xlabel("skills in one answer")
    counted = table[table["sets"] > 0]  # a void cell may count no set
    questions = _shares.span(counted["total"] / counted["seeds"] / counted["sets"])
    style.note(figure, f"$N$ = {_shares.span(table['seeds'])} seeds × {questions} questions a set of skills")
    style.legend(figure, 5, *([_shares.void_handle()] if _shares.void(table).any() else []))


def _pairs(axes: Axes, part: pandas.DataFrame) -> None:
    shares = np.full((len(SKILLS), len(SKILLS)), np.nan)
    for cell in part.to_dict("records"):
        first, second = map(SKILLS.index, cell["skills"].split("+"))
        shares[second, first] = math.nan if cell["void"] else cell["percent"]
        said = "void" if cell["void"] else f"{cell['percent']:.0f}"
        colour = "white" if cell["percent"] > 60 else "black"
        axes.text(first, second, said, ha="center", va="center", fontsize=7, color=colour)
    edges = np.arange(len(SKILLS) + 1) - 0.5
    axes.pcolormesh(edges, edges, shares, cmap=style.SHADES, vmin=0, vmax=100, edgecolors="white")
    axes.set_xlim(-0.5, len(SKILLS) - 1.5)
    axes.set_ylim(len(SKILLS) - 0.5, 0.5)
    axes.set_xticks(range(len(SKILLS) - 1), SKILLS[:-1], rotation=30)
    axes.set_yticks(range(1, len(SKILLS)), SKILLS[1:])
    axes.tick_params(length=0)


def _lines(axes: Axes, part: pandas.DataFrame) -> None:
    rules = [rule for rule in part["composition"].unique() if rule not in CONTROLS]
    step = min(0.12, 0.7 / max(len(rules), 1))
    for i, rule in enumerate(rules):
        own = part[part["composition"] == rule].sort_values("skills")
        places = [int(count) + step * (i - (len(rules) - 1) / 2) for count in own["skills"]]
        _shares.points(axes, own, places, step, style.rule(rule, label=LABELS.get(rule, rule), markersize=3.0))
    counts = sorted(part["skills"].astype(int).unique())
    axes.set_xticks(counts)
    axes.set_ylim(-4, 104)
    axes.set_yticks(range(0, 101, 25))


def caption(table: pandas.DataFrame) -> str:
    """What is composed and asked, and what a mark is."""
    models = "; ".join(table["model"].unique())
    seeds = _shares.span(table["seeds"])
    return f"""Experts are composed and asked for all of their skills in one answer. One expert is on facts (homes), and
        each other one is on a form of an answer, learned on facts that the base knows. Code and a call stand in place
        of the base's sentence, a Spanish frame goes before it, and a style ends it. An answer is right if its value is
        right and it has every form. (a) Two skills under the sum, in percent. (b) All sets of so many skills with the
        fact among them, together. (c) All sets of forms alone, where the value is one that the base knows. Beside the
        rules stands one expert on all data mixed, which never saw two forms in one answer, either. {_shares.MEANING}
        There are {seeds} seeds and twenty questions a set and seed. A set is left out where one of its experts alone
        does not have its own skill. The models are {models}. {_shares.told_void(table)}"""
