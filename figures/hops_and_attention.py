"""The multiples with more hops, and with attention that is not uniform

Left: the experts of the first, of the middle and of the last hop on a prompt of k hops. Right: the two of the paper's
prompt, against the attention on its entity. Both at one width and in closed form."""

from typing import Any

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_reuse.figures import style
from lora_reuse.figures._theory import bars, over_seeds, rows_of, seeds
from lora_reuse.figures.rows import Rows
from lora_reuse.runs.settings import short
from lora_reuse.theory import kernels

NEEDS = {
    "kernel_limit": "python -m theory.sweep width=2**14 seeds=32 hops=2,3,4"
    " && python -m theory.sweep width=2**14 seeds=32 decay=0.015625,0.125,0.5,1,2,8,64"
}
WIDTH = 2**14
EXPERTS = ("c_first", "c_second", "c_third", "c_fourth")
PLACES = ("first", "middle", "last")


def data(rows: Rows) -> pandas.DataFrame:
    """The coefficient of every expert by the number of hops, and of two hops by the decay, at width 2^14; `place` says
    which hop is the expert's, `limit` is the closed form at d = m = ∞."""
    parts = []
    for axis, default, another in (("hops", 2, 3), ("decay", 1.0, 2.0)):
        table = rows_of(rows, "kernel_limit", axis, width=WIDTH).copy()
        column = f"settings.{axis}"
        table[column] = table[column].fillna(default) if column in table else default  # which a row leaves out
        if table[column].nunique() < 2:
            raise rows.missing("kernel_limit", **{axis: another if default in set(table[column]) else default})
        names = [name for name in EXPERTS if f"measured.{name}" in table]
        parts.append(over_seeds(table, [axis], names).assign(panel=axis))
    means = pandas.concat(parts, ignore_index=True)
    means = means.assign(hops=means["hops"].fillna(2).astype(int), decay=means["decay"].fillna(1.0))
    means["place"] = [place(name, hops) for name, hops in zip(means["quantity"], means["hops"], strict=True)]
    points = zip(means["place"], means["hops"], means["decay"], strict=True)
    return means.assign(limit=[limit(*point) for point in points])


def place(name: str, hops: int) -> str:
    """Whether an expert's hop is the first, the last or one of those between."""
    return {0: "first", hops - 1: "last"}.get(EXPERTS.index(name), "middle")


def on_entity(decay: Any) -> Any:
    """The attention on x in the two-hop prompt, δ/(1 + δ)."""
    return decay / (1 + decay)


def limit(place: str, hops: float, decay: float = 1.0) -> float:
    """k(η, ξ)/k(η, η) with ‖η‖² = 2, ‖ξ‖² = 1 + Σ_t a_t² for the attention a on the context, and η·ξ = a_x for the
    first expert, whose entity is in the context, 1 for the last, whose relation is last in both, and 0 for the others.
    a is uniform unless there are two hops, which only then may have a decay."""
    a = on_entity(decay) if hops == 2 else 1 / hops
    length = a**2 + (1 - a) ** 2 if hops == 2 else 1 / hops
    dot = {"first": a, "middle": 0.0, "last": 1.0}[place]
    return float(kernels.coefficient(kernels.kernel(np.array([[2.0, dot], [dot, 1 + length]])), 0, 1))


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """Hops on the left, attention on the right."""
    left, right = figure.subplots(1, 2, sharey=True)
    of_hops, of_decay = (table[table["panel"] == panel] for panel in ("hops", "decay"))
    fine = np.linspace(0.001, 0.999, 100)
    for i, where in enumerate(PLACES):
        part = of_hops[of_hops["place"] == where]
        hops = np.linspace(3 if where == "middle" else 2, max(of_hops["hops"]), 50)
        left.plot(hops, [limit(where, k) for k in hops], label=None if i else "closed form", **style.THEORY)
        of_prompt = part.groupby("hops")["hops"]
        apart = part["hops"] + 0.09 * (of_prompt.cumcount() - (of_prompt.transform("size") - 1) / 2)
        points(left, apart, part, i, f"{where} hop")
        part = of_decay[of_decay["place"] == where]
        if len(part):
            right.plot(fine, [limit(where, 2, a / (1 - a)) for a in fine], **style.THEORY)
            points(right, on_entity(part["decay"]), part, i, f"{where} hop")
    for axes in (left, right):
        axes.axhline(1, **style.CHANCE)
    left.set_xticks(sorted(of_hops["hops"].unique()))
    left.set_ylim(0, 1.1)
    left.set_xlabel("hops $k$")
    left.set_ylabel("coefficient on $x\\ r_1 \\dots r_k$")
    left.legend(loc="upper right", bbox_to_anchor=(1, 0.9), ncols=2, columnspacing=1.0)
    right.set_xlabel("attention on $x$ in $x\\ r_1\\ r_2$")
    style.title(left, "a", "more hops")
    style.title(right, "b", "other attention, two hops")
    style.note(figure, seeds(table))


def points(axes: Axes, x: Any, part: pandas.DataFrame, i: int, label: str) -> None:
    """Means over seeds of one expert."""
    axes.errorbar(x, part["measured"], bars(part), label=label, **style.series(i, linestyle="none"))


def caption(table: pandas.DataFrame) -> str:
    """The claim, with the coefficients of the longest prompt and the range under any attention."""
    longest = table[table["hops"] == table["hops"].max()].set_index("place")["limit"]
    of = {where: float(longest[[where]].iloc[0]) for where in PLACES}
    none, all_ = ([limit(where, 2, decay) for where in ("first", "last")] for decay in (1e-9, 1e9))
    return f"""Theorem 2 with more hops and with other attention (beyond the paper, whose prompts have two hops and
        whose attention is uniform): at d = ∞ the sum of k experts adds one multiple of each expert's difference of
        answers, and the old answer keeps its one (dotted). Points are measured at m = {short(WIDTH)}, dashed lines are
        the closed form. (a) At {table["hops"].max()} hops the last expert has {of["last"]:.3f}, because the prompt ends
        with its relation, and the first {of["first"]:.3f}, because its entity is in the context. An expert between
        them has {of["middle"]:.3f}, as on a prompt that has nothing to do with its fact. (b) The context of two hops
        has two tokens, so the attention on x says all of it. From none of it on x to all, c₁ goes from {none[0]:.3f} to
        {all_[0]:.3f}, and c₂ is at least {limit("last", 2):.3f} and at most {all_[1]:.3f}. Means over seeds with 95 %
        intervals, smaller than the marker."""
