"""Where the chain of two hops breaks inside a model

Of the two-hop question: whether the person in between is read off the hidden states, whether the second expert acts on
that person where they are patched in, and whether a later state patched back repairs the chain."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_reuse.figures import _groups, _means, _shares, style
from lora_reuse.figures._names import wrapped
from lora_reuse.figures.rows import Rows

NEEDS = {"llm_links": "python -m llm.links split=dev,test layers=mlp,lower/upper,upper/lower,lower,upper"}
AXES = ("library", "composition", "layers")
READ = {"y_at_end": "$y$ at the answer", "y_at_x": "$y$ at $x$", "z_at_end": "$z$ at the answer"}
PATCHED = {
    "patched": "$y$ patched in: $z$",
    "patched_dev": "the same, dev wordings",
    "other_follows": "another's: that one's $z$",
    "other_patched": "another's: $z$",
}
BACK = {"direct": "as it is", "back": "patched back", "back_other": "from another question"}
PLACES = {
    "mlp": "all",
    "lower/upper": "1 lower,\n2 upper",
    "upper/lower": "1 upper,\n2 lower",
    "lower": "both\nlower",
    "upper": "both\nupper",
}
"""Where the experts sit -> words."""
USUAL = ("2-combination", "sum", "mlp")


def data(rows: Rows) -> pandas.DataFrame:
    """Shares of the questions by model and dataset, library, rule, place of the experts, quantity and depth (a share of
    the blocks; NaN for what has none), means over seeds with 95 % intervals."""
    groups, _ = _groups.grouped(rows, ["llm_links"], ("dataset", *AXES))
    dev, _ = _groups.grouped(rows, ["llm_links"], ("dataset", *AXES), split="dev")
    called, lines = _groups.called(groups), []
    for key, group in groups.items():
        model, dataset, *placed = key
        said = {"model": f"{called[model]}, {dataset}"} | dict(zip(AXES, placed, strict=True))
        total = int(group["measured.total"].iloc[0])
        for name, depths, by_seed in _quantities(group, dev.get(key)):
            for depth, shares in zip(depths, by_seed.T, strict=True):
                mean = _means.over_seeds([np.array([100 * share]) for share in shares])
                told = {"quantity": name, "depth": depth, "total": total, "row": group["hash"].iloc[0]}
                lines.append(said | told | mean)
    if not lines:
        raise rows.missing("llm_links")
    return pandas.DataFrame(lines)


def _quantities(group: pandas.DataFrame, dev: pandas.DataFrame | None) -> Iterable[tuple[str, list[float], np.ndarray]]:
    """Each quantity with its depths and, a line a seed, its shares."""
    for name in ("direct", "first", "second"):
        yield name, [np.nan], np.array(group[f"measured.{name}"])[:, None]
    for name in (*READ, *PATCHED):
        of, column = (dev, "patched") if name == "patched_dev" else (group, name)
        if of is None:
            continue
        by_seed = np.array(list(of[f"measured.{column}"]))
        blocks = by_seed.shape[1] - (name in READ)
        yield name, [depth / blocks for depth in range(by_seed.shape[1])], by_seed
    if dev is not None:  # the pair of depths is chosen on other wordings than those that are shown
        best = int(np.array(list(dev["measured.back_at_x"])).mean(axis=0).argmax())
        for name, of in (("back", "back_at_x"), ("back_other", "back_at_x_other")):
            yield name, [np.nan], np.array(list(group[f"measured.{of}"]))[:, [best]]


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """A line of panels a model: the lens, the patch, and back-patching by the place of the experts."""
    models = list(table["model"].unique())
    style.height(figure, 0.9 + 2.3 * len(models))
    grid = figure.subplots(len(models), 3, squeeze=False, sharey=True)
    letters = style.letters()
    for model, (left, middle, right) in zip(models, grid, strict=True):
        part = table[(table["model"] == model) & (table["composition"] == USUAL[1])]
        usual = part[(part["library"] == USUAL[0]) & (part["layers"] == USUAL[2])]
        _by_depth(left, usual, READ)
        _by_depth(middle, usual, PATCHED)
        _by_place(right, part[part["library"] == USUAL[0]])
        left.set_ylabel("leads the $n$ names, %")
        for axes, words in ((left, "read by a lens"), (middle, "patched in at $x$"), (right, "by place of experts")):
            style.title(axes, next(letters), f"{wrapped(model, 22)}\n{words}")
    for axes in grid[-1][:2]:
        axes.set_xlabel("share of the blocks before")
    style.note(figure, f"{_means.N.replace('triplets', 'questions')}; {seeds(table)}")


def seeds(table: pandas.DataFrame) -> str:
    """`$N$ = 5 × 40`."""
    return f"$N$ = {_shares.span(table['seeds'])} × {_shares.span(table['total'])}"


def _by_depth(axes: Axes, part: pandas.DataFrame, names: dict[str, str]) -> None:
    for i, (name, label) in enumerate(names.items()):
        own = part[part["quantity"] == name].sort_values("depth")
        if len(own):
            look: dict[str, Any] = style.series(i, label=label, markersize=2.5)
            axes.plot(own["depth"], own["measured"], **look)
            axes.fill_between(own["depth"], own["low"], own["high"], color=look["color"], alpha=0.15, linewidth=0)
    axes.set_ylim(-4, 150)  # the legend is above the shares
    axes.set_yticks(range(0, 101, 25))
    if part["quantity"].isin(list(names)).any():
        axes.legend(loc="upper left", fontsize=6)


def _by_place(axes: Axes, part: pandas.DataFrame) -> None:
    there = [place for place in PLACES if (part["layers"] == place).any()]
    for i, (name, label) in enumerate(BACK.items()):
        own = part[part["quantity"] == name].set_index("layers").reindex(there).dropna(subset=["measured"])
        if len(own):
            places = [there.index(str(place)) + 0.24 * (i - 1) for place in own.index]
            _means.points(axes, own, places, 0.2, style.series(i, linestyle="none", label=label))
    axes.set_xticks(range(len(there)), [PLACES[place] for place in there], fontsize=6)
    if len(part):
        axes.legend(loc="upper right", fontsize=6)


def caption(table: pandas.DataFrame) -> str:
    """What is read, patched and patched back, and of the usual experts how far each link holds."""
    own = table[(table[list(AXES)] == list(USUAL)).all(axis=1)]
    told = []
    for model, part in own.groupby("model", sort=False):
        most = part.groupby("quantity")["measured"].max()
        dev = f" ({most['patched_dev']:.0f} % in the dev wordings)" if "patched_dev" in most else ""
        told.append(
            f"On {model} y leads at x in {most['y_at_x']:.0f} % of the questions and at the answer in"
            f" {most['y_at_end']:.0f} %; with y's state put in, z leads in {most['patched']:.0f} %{dev}; with"
            f" another's, that one's z leads in {most['other_follows']:.0f} %."
        )
    return f"""Two one-hop experts are summed and asked x r1 r2 directly. A share says for how many questions the right
        name leads the n names that could be it, by the first tokens in which they differ. Chance is 1/n. (a) The
        hidden states after each block, through the last norm and the head (a logit lens), at the last token of x and
        where the answer is given. (b) The state before a block at the last token of x is replaced by that of the
        one-hop question y r2 at the last token of y, or of another triplet's y. (c) The state of a later block replaces
        that of an earlier one at x, where the pair of blocks is the best one on the dev templates; the control takes it
        from another triplet's question. The shares of the sum with adapters in all layers are, in the block where each
        is largest: {" ".join(told)} Bands and bars are 95 % intervals over seeds (Student's t)."""
