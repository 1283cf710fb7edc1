"""The multiples of a sum of k experts on a prompt of k hops

The experts of the first, of the middle and of the last hop, at one width and in closed form."""

import numpy as np
import pandas
from matplotlib.figure import Figure

from lora_reuse.figures import style
from lora_reuse.figures._theory import bars, over_seeds, rows_of, seeds
from lora_reuse.figures.rows import Rows
from lora_reuse.runs.settings import short
from lora_reuse.theory import kernels

NEEDS = {"kernel_limit": "python -m theory.sweep width=2**14 seeds=32 hops=2,3,4"}
WIDTH = 2**14
EXPERTS = ("c_first", "c_second", "c_third", "c_fourth")
PLACES = ("first", "middle", "last")


def data(rows: Rows) -> pandas.DataFrame:
    """The coefficient of every expert by the number of hops at width 2^14; `place` says which hop is the expert's,
    `limit` is the closed form at d = m = ∞."""
    table = rows_of(rows, "kernel_limit", "hops", width=WIDTH).copy()
    said = table.get("settings.hops")
    if said is None or said.max() < 3:
        raise rows.missing("kernel_limit", hops=3)
    table["settings.hops"] = said.fillna(2).astype(int)
    means = over_seeds(table, ["hops"], [name for name in EXPERTS if f"measured.{name}" in table])
    means = means.dropna(subset="measured").reset_index(drop=True)
    places = [place(name, hops) for name, hops in zip(means["quantity"], means["hops"], strict=True)]
    return means.assign(place=places, limit=list(map(limit, places, means["hops"])))


def place(name: str, hops: int) -> str:
    """Whether an expert's hop is the first, the last or one of those between."""
    return {0: "first", hops - 1: "last"}.get(EXPERTS.index(name), "middle")


def limit(place: str, hops: float) -> float:
    """k(η, ξ)/k(η, η) with ‖η‖² = 2, ‖ξ‖² = 1 + 1/k, and η·ξ = 1/k for the first expert, whose entity is one of the
    prompt's k context tokens, 1 for the last, whose relation is last in both, and 0 for the others."""
    dot = {"first": 1 / hops, "middle": 0.0, "last": 1.0}[place]
    return float(kernels.coefficient(kernels.kernel(np.array([[2.0, dot], [dot, 1 + 1 / hops]])), 0, 1))


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """Against the number of hops, the experts of one prompt side by side."""
    figure.set_figwidth(style.WIDTH * 0.6)
    axes = figure.subplots()
    for i, where in enumerate(PLACES):
        part = table[table["place"] == where]
        hops = np.linspace(3 if where == "middle" else 2, max(table["hops"]), 50)
        axes.plot(hops, [limit(where, k) for k in hops], label=None if i else "closed form", **style.THEORY)
        of_prompt = part.groupby("hops")["hops"]
        apart = part["hops"] + 0.09 * (of_prompt.cumcount() - (of_prompt.transform("size") - 1) / 2)
        axes.errorbar(apart, part["measured"], bars(part), label=f"{where} hop", **style.series(i, linestyle="none"))
    axes.axhline(1, **style.CHANCE)
    axes.set_xticks(sorted(table["hops"].unique()))
    axes.set_ylim(0, 1.1)
    axes.set_xlabel("hops $k$")
    axes.set_ylabel("coefficient on $x\\ r_1 \\dots r_k$")
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.9), ncols=2, columnspacing=1.0)
    style.note(figure, seeds(table))


def caption(table: pandas.DataFrame) -> str:
    """The claim, with the coefficients of the longest prompt."""
    longest = table[table["hops"] == table["hops"].max()].set_index("place")["limit"]
    of = {where: float(longest[[where]].iloc[0]) for where in PLACES}
    return f"""Theorem 2 with more hops (beyond the paper, whose prompts have two): at d = ∞ the sum of k experts adds
        to the prompt of k hops one multiple of each expert's difference of answers, and the old answer keeps its one
        (dotted). Points are measured at m = {short(WIDTH)}, dashed lines are the closed form. At {table["hops"].max()}
        hops the last expert has {of["last"]:.3f}, because the prompt ends with its relation, and the first
        {of["first"]:.3f}, because its entity is in the context. An expert between them has {of["middle"]:.3f}, as on a
        prompt that has nothing to do with its fact. Means over seeds with 95 % intervals, smaller than the marker."""
