"""One rule has one look in all figures, seeds are dots, void cells are hatched, and everybody can tell them apart."""

import functools
import itertools
import math
import re
from typing import Any

import numpy as np
import pandas
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.text import Text

from lora_reuse.figures import _names, _shares, registry, style
from lora_reuse.figures.rows import Rows
from lora_reuse.llm.protocols import settings as llm
from lora_reuse.runs import look
from lora_reuse.theory import settings as theory
from tests.drawn_figures import PAPER, module, whole


def test_series_differ_without_colour():
    looks = [style.series(i) for i in range(2 * len(look.MARKERS))]
    assert len({(one["marker"], one.get("markerfacecolor")) for one in looks}) == len(looks)


# One rule has one look.

MODELS = (
    "figure_1",
    "figure_2",
    "direct_answers",
    "bridge_minimum",
    "model_capacity",
    "familiarity",
    "model_probabilities",
)
COMPOSED = ("bridge", "many_facts", "large_library", "theorem_3", *MODELS)
"""The figures that draw compositions."""


@functools.cache
def committed_table(name):
    return module(name).data(Rows(PAPER, module(name).NEEDS))


@functools.cache
def drawn(name):
    """What `style.rule` is asked for by a figure, the compositions and what is drawn of each, and the looks of what
    stands in it."""
    found, rule = {}, style.rule
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            style,
            "rule",
            lambda name, **others: found.setdefault(name, []).append(rule(name, **others)) or rule(name, **others),
        )
        with registry.picture(module(name), committed_table(name)) as figure:
            return found, looks(figure)


def looks(figure):
    """(colour, marker) of every mark, and the colour of every bar."""
    marks = {(to_hex(line.get_color()), str(line.get_marker())) for axes in figure.axes for line in axes.lines}
    return marks | {
        to_hex(colour)
        for axes in figure.axes
        for bar in axes.patches
        for colour in (bar.get_edgecolor(), bar.get_facecolor())
    }


def test_every_composition_of_theory_and_models_has_a_look_of_its_own():
    learned = {name.removesuffix(":two_hop") for name in llm.LEARNED}  # what `cat` is in theory learns from two hops
    names = {
        *llm.COMPOSITIONS,
        *llm.CONTROLS,
        *llm.RULES,
        *learned,
        *theory.COMPOSITIONS,
        "best",
        "oracle",
        "alone",
        "joint",
    }
    chosen = [(look["color"], look["marker"], look.get("markerfacecolor")) for look in map(style.rule, sorted(names))]
    assert len(set(chosen)) == len(names)
    markers = [marker for _, marker in style.RULES.values()]
    assert len(set(markers)) == len(markers), "told apart without colour"
    assert {colour for colour, _ in style.RULES.values()} <= {*style.COLOURS, style.GREY}
    assert style.rule("cat:two_hop") == style.rule("cat")
    with pytest.raises(KeyError):
        style.rule("no such rule")


LINEAR = {  # Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]


def lab(colour: str, seen: Any = ((1, 0, 0), (0, 1, 0), (0, 0, 1))):
    """CIELAB (D65) of a colour as it is seen."""
    red = np.array(to_rgb(colour))
    light = np.clip(np.asarray(seen) @ np.where(red <= 0.04045, red / 12.92, ((red + 0.055) / 1.055) ** 2.4), 0, 1)
    x, y, z = (
        value ** (1 / 3) if value > 216 / 24389 else (24389 / 27 * value + 16) / 116
        for value in XYZ @ light / np.sum(XYZ, axis=1)
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("seen", LINEAR)
def test_the_rules_of_most_figures_differ_in_colour_to_everyone(seen):
    colours = [style.rule(rule)["color"] for rule in ("sum", "average", "uniform", "arrow", "arrow_after")]
    apart = [np.linalg.norm(lab(a, LINEAR[seen]) - lab(b, LINEAR[seen])) for a, b in itertools.combinations(colours, 2)]
    assert min(apart) > 10  # a just noticeable difference is about 2.3
    red, green = "#c04040", "#5a7a30"  # planted: a pair that only some tell apart
    assert np.linalg.norm(lab(red) - lab(green)) > 3 * min(
        np.linalg.norm(lab(red, s) - lab(green, s)) for s in LINEAR.values()
    )


@pytest.mark.parametrize("name", COMPOSED)
def test_a_figure_draws_each_rule_in_its_look(name):
    table = committed_table(name)
    found, seen = drawn(name)
    assert found
    for rule in found:
        colour, marker = style.RULES[rule if rule in style.RULES else rule.partition(":")[0]]
        assert {(to_hex(colour), str(marker)), to_hex(colour)} & seen, rule
    column = "composition" if "composition" in table else "series"
    named = set(table[column]) & set(style.RULES)
    others = {name for name in named if name == "alone" or name not in found}
    assert name in ("many_facts", "bridge") or not others - {"alone"}, "each rule of the table is drawn as a rule"


def test_two_figures_draw_the_same_rule_alike():
    found = {
        name: {rule: {(look["color"], look["marker"]) for look in used} for rule, used in drawn(name)[0].items()}
        for name in COMPOSED
    }
    assert sum("arrow" in own for own in found.values()) >= 8
    for rule in set().union(*found.values()):
        assert len(set().union(*(own.get(rule, set()) for own in found.values()))) == 1, rule


def test_a_rule_by_position_is_seen(monkeypatch):
    """Planted: what a figure drew before, its i-th rule in the i-th colour."""
    table = committed_table("bridge_minimum")
    order = list(table["composition"].unique())
    monkeypatch.setattr(style, "rule", lambda name, **others: style.series(order.index(name), **others))
    with registry.picture(module("bridge_minimum"), table) as figure:
        seen = looks(figure)
    assert not all((to_hex(style.RULES[rule][0]), str(style.RULES[rule][1])) in seen for rule in order)


@pytest.mark.parametrize("name", [name for name, item in registry.items().items() if item.kind == "figure"])
def test_every_figure_is_whole_fits_the_page_and_says_what_n_is(name):
    """Rows come, and with them panels and longer names: nothing overlaps, is cut or empty."""
    with registry.picture(module(name), committed_table(name)) as figure:
        whole(figure)
        assert figure.get_figheight() <= style.PAGE
        said = [text.get_text() for text in figure.findobj(Text)]
    assert any(text.startswith("$N$ = ") for text in said)
    assert not any("results/" in text for text in said), "names, not folders"
    caption = " ".join(module(name).caption(committed_table(name)).split())
    assert "results/" not in caption
    assert max(len(sentence) for sentence in re.split(r"(?<=[.!]) (?=[A-Z(])", caption)) < 420


MANY = {
    **dict.fromkeys(("bridge_examples", "chains", "links", "own_answers", "semi_synthetic", "wordings"), "model"),
    **{"bridge_controls": "rule", "trained": "depth", "where_experts_sit": "world"},
}
"""Figures of as many panels as the rows have values of a column."""


@pytest.mark.parametrize(("name", "column"), MANY.items())
def test_figures_do_not_run_out_of_letters(name, column):
    table = committed_table(name)
    one = table[table[column] == table[column].iloc[0]].head(12)
    bare: dict[str, Any] = {"low": math.nan, "high": math.nan, "by_seed": ""}  # marks alone, which are quickly drawn
    one = one.assign(**{of: nothing for of, nothing in bare.items() if of in one})
    others = {"depth": range(14), "rule": list(llm.COMPOSITIONS)[:14]}.get(column, [f"m{i}" for i in range(14)])
    many = pandas.concat([one.assign(**{column: other, "void": ""}) for other in others], ignore_index=True)
    with registry.picture(module(name), many) as figure:
        titles = " ".join(text.get_text() for text in figure.findobj(Text))
    found = re.findall(r"\\bf\{\((\w+)\)\}", titles)
    assert len(found) >= len(others)
    assert sorted(found) == sorted(itertools.islice(style.letters(), len(found)))


def test_letters_go_on_after_z():
    found = list(itertools.islice(style.letters(), 53))
    assert [found[number] for number in (0, 25, 26, 27, 52)] == ["a", "z", "aa", "ab", "ba"]


# Shares of models: a dot a seed, chance, and void cells.

SHARES = [name for name in MODELS if name != "model_probabilities"] + ["model_scale"]


def dots(figure):
    return sum(
        len(line.get_xdata())
        for axes in figure.axes
        for line in axes.lines
        if line.get_markersize() == _shares.DOT["markersize"]
    )


@pytest.mark.parametrize("name", SHARES)
def test_a_dot_a_seed(name):
    table = committed_table(name)
    with registry.picture(module(name), table) as figure:
        marked, labels = dots(figure), {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    seeds = [len(shares.split()) for shares in table[~_shares.void(table)]["by_seed"].fillna("")]
    assert marked == sum(count for count in seeds if count > 1)
    assert (marked > 0) == ("one seed" in labels)
    assert any(label.startswith("chance, a guess among the edited answers") for label in labels)


@pytest.mark.parametrize("name", SHARES)
def test_a_void_cell_is_hatched_and_no_share(name):
    table = committed_table(name).assign(void="")
    measured = table.index[table["percent"].notna()]
    table.loc[measured[::2], "void"] = "oracle got 3 of 40"
    with registry.picture(module(name), table) as figure:
        hatched = [bar for axes in figure.axes for bar in axes.patches if bar.get_hatch() == _shares.VOID["hatch"]]
        labels = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
        marked = dots(figure)
        figure.draw_without_rendering()
    assert len(hatched) == len(measured[::2])
    assert _shares.VOID_LABEL in labels
    assert marked == sum(len(seeds.split()) for seeds in table.loc[measured[1::2], "by_seed"] if " " in seeds)
    assert f"(oracle: {len(measured[::2])} cells)" in module(name).caption(table)
    none = committed_table(name).assign(void="")
    assert "void" not in _shares.told_void(none)


def test_names_of_models():
    made = pandas.DataFrame(
        {"provenance.pocket.seed": [1], "provenance.pocket.width": [256.0], "provenance.pocket.coverage": [0.5]}
    )
    assert _names.of("results/somewhere", made) == "pocket, half of the people known, pretraining seed 1"
    assert _names.of(
        "pocket (01234567), own tasks", made.assign(**{"provenance.pocket.seed": 0, "provenance.pocket.coverage": 0.25})
    ) == ("pocket, coverage=0.25 (01234567), own tasks")
    assert _names.of("someone/a-model/", made[[]]) == "a-model"
    said = pandas.DataFrame({"provenance.base": ["SmolLM2-135M-Instruct, Q4_1, dequantised"] * 2})
    assert _names.of("smollm2", said) == "SmolLM2-135M-Instruct, Q4_1, dequantised"
    assert _names.of("smollm2 (01234567), own tasks", said).endswith(", dequantised (01234567), own tasks")
    said.loc[1, "provenance.base"] = None
    assert _names.of("smollm2", said) == "smollm2"
    assert _names.called({"a/x": made[[]], "b/x": made[[]], "c/y": made[[]]}) == {
        "a/x": "a/x",
        "b/x": "b/x",
        "c/y": "y",
    }
    again = made.assign(
        **{"provenance.pocket.layers": 8, "provenance.pocket.coverage": 1.0, "provenance.pocket.seed": 0}
    )
    assert _names.called({"results/eight": again, "results/eight-cpu": again}) == {
        "results/eight": "pocket, 8 layers (eight)",
        "results/eight-cpu": "pocket, 8 layers (eight-cpu)",
    }
    assert _names.wrapped("pocket, half of the people known", 14) == "pocket, half\nof the people\nknown"
