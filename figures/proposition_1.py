"""What one edit does to other prompts, and what other ways to make it cost

Left: the edit of Proposition 1 is exact on its own prompt and leaks to others, by the kernel's overlap with them.
Right: the norm of other updates that make the same edit, over that of Proposition 1."""

import pandas
from matplotlib.figure import Figure

from lora_reuse.figures import style
from lora_reuse.figures._theory import bars, over_seeds, rows_of, seeds
from lora_reuse.figures.rows import Rows
from lora_reuse.runs.settings import short

NEEDS = {"proposition_1": "python -m theory.sweep experiment=proposition_1 width=2**8,2**10,2**12,2**14,2**16 seeds=32"}
EFFECTS = {
    "efficacy": "the edited prompt, $x\\ r_1$",
    "leakage_same_relation": "same relation, $u\\ r_1$",
    "leakage_same_entity": "same entity, $x\\ r_2$",
    "leakage_unrelated": "unrelated, $u\\ r_2$",
}
NORMS = {
    "norm_rome": "ROME, all other prompts in $C$",
    "norm_neighbour_key": "along the key of $u\\ r_1$",
    "lora_excess_norm": "AdamW, no penalty",
}


def data(rows: Rows) -> pandas.DataFrame:
    """Every effect and norm by width, mean over seeds."""
    table = rows_of(rows, "proposition_1", "width")
    names = [*EFFECTS, *NORMS, "trained_relative_error", "lora_alignment"]
    return over_seeds(table, ["width"], [name for name in names if f"measured.{name}" in table])


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """Effects on the left, norms on the right."""
    effects, norms = figure.subplots(1, 2)
    low, high = table["width"].min(), table["width"].max()
    for axes, labels in ((effects, EFFECTS), (norms, NORMS)):
        for i, (name, label) in enumerate(labels.items()):
            part = table[table["quantity"] == name]
            if part.empty:
                continue
            axes.plot(part["width"], part["predicted"], **style.THEORY)
            apart = 1.12 ** {"leakage_same_relation": -1, "leakage_same_entity": 1}.get(name, 0)
            axes.errorbar(
                part["width"] * apart, part["measured"], bars(part), label=label, **style.series(i, linestyle="none")
            )
        style.powers_of_two(axes, low, high, "width $m$")
        axes.plot([], [], label="predicted", **style.THEORY)
    effects.set_ylim(0, 1.75)
    effects.set_yticks([0, 0.25, 0.5, 0.75, 1])
    effects.set_ylabel("share of the edit")
    effects.legend(loc="upper center", ncols=2)
    style.title(effects, "a", "efficacy and leakage")
    norms.axhline(1, color="0.6", linewidth=0.6)
    norms.annotate("Proposition 1", (high, 1), (0, -2), textcoords="offset points", ha="right", va="top", fontsize=7)
    norms.set_ylim(0, 11.5)
    norms.set_yticks([0, 1, 2, 4, 6])
    norms.set_ylabel(r"$\Vert\Delta W\Vert$ over Proposition 1's")
    norms.legend(loc="upper center", ncols=2)
    style.title(norms, "b", "the same edit, otherwise")
    style.note(figure, seeds(table))


def caption(table: pandas.DataFrame) -> str:
    """The claim, and what training finds."""
    widest = table[table["width"] == table["width"].max()].set_index("quantity")["measured"]
    names = ("leakage_same_relation", "leakage_same_entity", "leakage_unrelated")
    leaks = "{:.3f}, {:.3f} and {:.3f}".format(*(widest[name] for name in names))
    trained = ""
    if "lora_alignment" in widest:
        error = table[table["quantity"] == "trained_relative_error"]["measured"].max()
        trained = (
            f"Gradient descent with the penalty annealed away finds Proposition 1 to a relative error of {error:.1e};"
            f" AdamW without a penalty fits the fact with an update at cosine {widest['lora_alignment']:.3f} to it."
        )
    return f"""Proposition 1 (section 3.1, eq. 6): the update makes its edit exactly, and because ReLU features overlap
        it leaks: at m = {short(int(table["width"].max()))} by {leaks} to a prompt of the same relation, of the same
        entity, and to one that shares neither. Dashed: k(η, ξ)/k(η, η) and the closed forms of the norms. {trained}
        Means over {table["seeds"].min()} seeds, each with a world of its own, with 95 % intervals."""
