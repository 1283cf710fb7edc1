"""What an expert does to prompts that are not its own, in a model

How much an expert's update acts at the answer, over how much it acts on its own prompt, by kind of prompt; dashed, one
layer of theory."""

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from lora_reuse.figures import _groups, _means, style
from lora_reuse.figures._names import wrapped
from lora_reuse.figures.rows import Rows
from lora_reuse.paper_checks.predictions.limit import ratio

NEEDS = {"llm_overlap": "python -m llm.overlap"}
KINDS = {
    "two_hop": "two hops,\nits person",
    "two_hop_other": "two hops,\nanother",
    "same_relation": "its relation,\nanother",
    "same_entity": "its person,\nelse",
    "unrelated": "neither",
}
"""The kinds of prompts of the rows -> words: x r1 r2, u r1 r2, u r1, x q and u q for an edit of x r1."""
STATES = {"base": "hidden states of the base", "sum": "of the sum of both experts"}


def data(rows: Rows) -> pandas.DataFrame:
    """Geometric means of ‖ΔW h(ξ)‖/‖ΔW h(η)‖ over modules, templates, triplets and seeds, with 95 % intervals over
    seeds, by model, expert, state and kind; `predicted`, the theory's; `r2`, of the logarithm on that of the kernel of
    the modules' inputs."""
    groups, about = _groups.grouped(rows, ["llm_overlap"], ("expert", "state"), layers="mlp")
    called, lines = _groups.called(groups), []
    for model in about:
        for (_, expert, state), group in ((key, group) for key, group in groups.items() if key[0] == model):
            facts = int(group["settings.triplets"].iloc[0])
            for kind in KINDS:
                line = {"model": called[model], "expert": int(expert), "state": state, "kind": kind}
                line |= _means.over_seeds(
                    [np.array(each) for each in group[f"measured.log_ratio_{kind}_by_triplet"]], np.exp
                )
                line |= {"predicted": ratio(int(expert), kind, facts), "r2": group["measured.r2_linear"].mean()}
                lines.append(line | {"row": group["hash"].iloc[0]})
    if not lines:
        raise rows.missing("llm_overlap")
    return pandas.DataFrame(lines)


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """A line of panels a model, a panel an expert."""
    models, experts = list(table["model"].unique()), sorted(table["expert"].unique())
    style.height(figure, 0.6 + 2.4 * len(models))
    grid, letters = figure.subplots(len(models), len(experts), squeeze=False, sharey=True), style.letters()
    for i, model in enumerate(models):
        for j, expert in enumerate(experts):
            part = table[(table["model"] == model) & (table["expert"] == expert)]
            _panel(grid[i, j], part)
            known = ", ".join(f"{share:.2f}" for share in part.drop_duplicates("state")["r2"])
            text = f"{wrapped(model, 40)}, {_means.n(part)}\nexpert {expert}, $R^2$ {known}"
            style.title(grid[i, j], next(letters), text)
        grid[i, 0].set_ylabel("acts, over its own prompt")
    style.legend(figure, 4, *_means.handles(table))
    style.note(figure, _means.N)


def _panel(axes: Axes, part: pandas.DataFrame) -> None:
    kinds = list(KINDS)
    told = part.drop_duplicates("kind")
    for i, (kind, predicted) in enumerate(zip(told["kind"], told["predicted"], strict=True)):
        axes.hlines(
            predicted,
            kinds.index(kind) - 0.35,
            kinds.index(kind) + 0.35,
            label="" if i else "theory",
            zorder=1,
            **_dashes(),
        )
    for i, (state, label) in enumerate(STATES.items()):
        own = part[part["state"] == state]
        if len(own):
            places = [kinds.index(kind) + 0.24 * i - 0.12 for kind in own["kind"]]
            _means.points(axes, own, places, 0.2, style.rule(state, linestyle="none", label=label))
    axes.set_yscale("log")
    axes.set_yticks([0.1, 0.2, 0.5, 1, 2])
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    ends = part[["low", "high", "measured", "predicted"]]
    low, high = ends.min().min(), ends.max().max()
    axes.set_ylim(min(0.18, 0.8 * low), max(1.25, 1.2 * high))
    axes.set_xticks(range(len(kinds)), list(KINDS.values()), fontsize=6.5)
    axes.set_xlim(-0.5, len(kinds) - 0.5)


def _dashes() -> dict:
    return {"colors" if name == "color" else name: value for name, value in style.THEORY.items()}


def caption(table: pandas.DataFrame) -> str:
    """The claim, and what a point is."""
    models = "; ".join(table["model"].unique())
    return f"""Prediction P4 (eq. 19, 23) is that an expert's update acts on other prompts in proportion to the overlap
        of keys. A mark is how much the update acts where the answer is given, over how much it acts on its own prompt.
        The prompts are the two-hop question about its person and about another's, its relation for another person, its
        person under another relation, and neither. The dashed lines are one layer with as many facts. The marks are
        geometric means over modules, templates, triplets and seeds on {models}. R² is how much of the spread over
        prompts and modules the kernel of the modules' own inputs explains, first with hidden states of the base, then
        of the sum. {_means.MEANING}"""
