"""Every figure of the theory: drawn from few rows and from all committed ones, its numbers held against the claim it
shows."""

import contextlib
import functools
import importlib
import itertools
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lora_reuse.figures import __main__ as command
from lora_reuse.figures import _names, _shares, _theory, registry, style
from lora_reuse.figures.rows import MissingRows, Rows
from lora_reuse.llm.protocols import settings as llm
from lora_reuse.theory import settings as theory
from matplotlib.colors import to_hex, to_rgb
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.transforms import Bbox

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "results" / "paper"
NAMES = "kernel_limit proposition_1 capacity theorem_2 theorem_3 many_facts scale bridge large_library".split()


def module(name):
    return importlib.import_module(f"lora_reuse.figures.{name}")


def committed(name):
    return [json.loads(line) for line in (PAPER / f"{name}.jsonl").read_text().splitlines()]


def write(folder, name, rows):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def few(name):
    """Two seeds, and of a long grid every other point, so that cells are missing; and a row of another mask that must
    not be drawn."""
    rows = [row for row in committed(name) if row["settings"]["seed"] < 2]
    axis = {"kernel_limit": "width", "bridge": "locality", "scale": "scale"}.get(name)
    if axis:
        values = sorted(
            {
                float(row["settings"][axis])
                for row in rows
                if row["settings"]["facts" if name == "bridge" else "seed"] in (0, 1)
            }
        )
        kept = set(values[::2])
        rows = [row for row in rows if float(row["settings"][axis]) in kept]
    other = json.loads(json.dumps(rows[0]))
    other["hash"], other["settings"]["mask"] = "0" * 16, "causal"
    other["measured"] = dict.fromkeys(other["measured"], 1e6)
    return [*rows, other]


def table_of(name, folder=PAPER):
    return module(name).data(Rows(folder, module(name).NEEDS))


def quantity(table, name):
    return table[table["quantity"] == name]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("figures")
    for name in NAMES:
        registry.draw(registry.Item(name, "figure"), PAPER, out)
    return out


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_drawn_from_few_rows(name, tmp_path):
    table = table_of(name, write(tmp_path / "rows", name, few(name)))
    with registry.picture(module(name), table) as figure:
        figure.draw_without_rendering()
    assert module(name).caption(table)
    assert (table["measured"] < 1e5).all(), "the row of another mask is left out"


@pytest.mark.parametrize("name", ["kernel_limit", "proposition_1", "theorem_2", "many_facts"])
def test_one_row_a_point_is_enough(name):
    rows = [row for row in committed(name) if row["settings"]["seed"] == 0]
    table = module(name).data(_Given(rows, module(name).NEEDS))
    assert (
        table["low"].isna().all() or name == "kernel_limit"
    )  # whose root mean squares have an interval of χ² with one degree of freedom
    with registry.picture(module(name), table) as figure:
        figure.draw_without_rendering()
    assert module(name).caption(table)


class _Given(Rows):
    """Rows that are given and not read."""

    def __init__(self, rows, needs):
        import pandas

        super().__init__("nowhere", needs)
        self.table = pandas.json_normalize(rows).replace({"inf": math.inf}).infer_objects()

    def all(self, experiment):
        return self.table.copy()


@pytest.mark.parametrize("name", NAMES)
def test_files_hold_what_they_should(name, drawn):
    pdf, png = (drawn / f"{name}.pdf").read_bytes(), (drawn / f"{name}.png").read_bytes()
    assert b"/FontFile2" in pdf, "fonts are embedded"
    assert not [word for word in (b"/Type3", b"CreationDate", b"Producer") if word in pdf]
    assert not [chunk for chunk in (b"tEXt", b"tIME") if chunk in png]
    caption = (drawn / f"{name}.md").read_text()
    assert f"]({name}.png)" in caption
    assert "seeds" in caption
    assert f"- `{name}.jsonl`: `python -m theory.sweep" in caption
    assert "nan" not in caption.lower()
    hashes = {row["hash"] for row in committed(name)}
    assert set(table_of(name)["row"]) <= hashes


@pytest.mark.parametrize("name", NAMES)
def test_nothing_overlaps_is_clipped_or_empty(name):
    with registry.picture(module(name), table_of(name)) as figure:
        whole(figure)


def whole(figure):
    """Nothing overlaps, is clipped or empty."""
    figure.draw_without_rendering()
    inside = figure.bbox.padded(1)
    for axes in figure.axes:
        assert axes.lines or axes.collections, "no empty panel"
        texts = [child for child in axes.get_children() if isinstance(child, Text) and child.get_text()]  # titles too
        legends = [child for child in axes.get_children() if isinstance(child, Legend)]
        for artist in (*texts, *legends, axes.xaxis.label, axes.yaxis.label):
            box = artist.get_window_extent()
            assert box.width == 0 or (inside.contains(*box.min) and inside.contains(*box.max)), artist
        for axis in (axes.xaxis, axes.yaxis):
            boxes = [
                label.get_window_extent() for label in axis.get_ticklabels() if label.get_text() and label.get_visible()
            ]
            assert not [pair for pair in itertools.combinations(boxes, 2) if Bbox.intersection(*pair)]
        for legend in legends:
            assert not covered(axes, legend.get_window_extent()), "the legend hides points"
    titles = [
        title.get_window_extent()
        for axes in figure.axes
        for title in (axes.title, axes._left_title)
        if title.get_text()
    ]
    assert not [pair for pair in itertools.combinations(titles, 2) if Bbox.intersection(*pair)]


def covered(axes, box):
    """The points of the lines that lie under the box; error bars and markers are lines too."""
    points = [axes.transData.transform(line.get_xydata()) for line in axes.lines if len(line.get_xydata()) > 2]
    return [point for line in points for point in line if box.contains(*point)]


def test_the_same_bytes_in_another_process(drawn, tmp_path):
    names = ["kernel_limit"]
    words = [sys.executable, "-m", "figures", f"only={'+'.join(names)}", f"rows={PAPER}", f"out={tmp_path}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for name, ending in itertools.product(names, ("pdf", "png", "csv", "md")):
        assert (tmp_path / f"{name}.{ending}").read_bytes() == (drawn / f"{name}.{ending}").read_bytes(), (name, ending)


# What each figure shows, as its numbers must bear it out; then one falsified row set that must not.


def kernel_limit(table):
    slope, half = module("kernel_limit").slope_of_error(table)
    assert abs(slope + 0.5) < 1.5 * half
    for name, limit in (("c_first", 0.412232), ("c_second", 0.573036)):
        part = quantity(table, name)
        assert np.allclose(part["predicted"], limit, atol=1e-6)
        assert np.abs((part["measured"] - part["predicted"]) / part["stderr"] * np.sqrt(part["seeds"])).max() < 4
        error = quantity(table, f"{name}_error")
        assert np.allclose(error["predicted"] * np.sqrt(error["width"]), error["predicted"].iloc[0] * 16, rtol=1e-6)
        assert np.abs(np.log(error["measured"] / error["predicted"])).max() < 5 / np.sqrt(2 * error["seeds"].min())


def proposition_1(table):
    assert np.allclose(quantity(table, "efficacy")["measured"], 1, atol=1e-9)
    for name, limit in (
        ("leakage_same_relation", 0.608998),
        ("leakage_same_entity", 0.608998),
        ("leakage_unrelated", 1 / math.pi),
    ):
        part = quantity(table, name)
        assert np.allclose(part["predicted"], limit, atol=1e-6)
        assert np.abs((part["measured"] - limit) / part["stderr"] * np.sqrt(part["seeds"])).max() < 4
    assert (quantity(table, "norm_rome")["measured"] > 5).all()


def capacity(table):
    assert (table["prompts"] == 96).all()
    exact = quantity(table, "stored_exactly").set_index("width")["measured"]
    assert exact[exact.index < 96].max() < 0.01
    assert exact[exact.index >= 104].min() == 1
    unstored = quantity(table, "unstored")
    below = unstored[unstored["width"] < 96]
    assert np.allclose(below["measured"], below["predicted"], atol=0.01)


def theorem_2(table):
    outputs = {name: quantity(table, f"output_{name}").iloc[0] for name in ("old", "y", "z", "r1x", "r2y")}
    assert outputs["old"]["measured"] == 1
    assert [round(outputs[name]["predicted"], 3) for name in ("y", "z", "r1x", "r2y")] == [0.412, 0.573, -0.412, -0.573]
    margins = quantity(table, "margin_old_over_new").set_index("coincide")
    assert set(margins[margins["high"] < 0].index) == {"r2y=r2r1x", "y=r1x"}
    free = margins[margins["stderr"] > 0]
    assert np.abs((free["measured"] - free["predicted"]) / free["stderr"] * np.sqrt(free["seeds"])).max() < 4


def theorem_3(table):
    margins = quantity(table, "margin_old_over_new")
    assert set(margins[margins["predicted"] < 0]["composition"]) == {"oracle"}
    widest = margins[margins["width"] == margins["width"].max()].set_index("composition")
    assert len(widest) == 13
    assert np.abs(widest["measured"] - widest["predicted"]).max() < 0.05
    assert widest.drop("oracle")["measured"].min() > 0


def many_facts(table):
    accuracy = quantity(table, "accuracy")
    best = accuracy[(accuracy["composition"] == "best") & np.isinf(accuracy["width"])]
    assert np.allclose(best["measured"], 1 / best["facts"])
    assert (accuracy[~accuracy["composition"].isin(["best", "oracle", "linear"])]["measured"] == 0).all()
    rotated = accuracy[
        (accuracy["composition"] == "linear") & (accuracy["gauge"] == "random") & (accuracy["facts"] > 1)
    ]
    assert (rotated["low"] <= rotated["closed_form"]).sum() >= len(rotated) - 1
    coefficient = quantity(table, "coefficient_second")
    assert np.allclose(
        *(coefficient[np.isinf(coefficient["width"])][c] for c in ("measured", "closed_form")), rtol=1e-9
    )


def scale(table):
    one_hop = quantity(table, "one_hop_accuracy")
    assert set(map(tuple, one_hop[["scale", "measured"]].to_numpy())) == {
        (w, 0.0 if w < 0.5 else 0.5 if w == 0.5 else 1.0) for w in one_hop["scale"].unique()
    }
    composed = quantity(table, "two_hop_accuracy")
    flips = 1 / _theory.coefficients()[1]
    single = composed[composed["facts"] == 1]
    assert (single["measured"] == (single["scale"] > flips)).all()
    assert composed[composed["facts"] == 4]["measured"].max() == 0.25


def bridge(table):
    for hop in ("hop_1", "hop_2"):
        part = quantity(table, hop)
        part = part[(part["locality"] - part["threshold"]).abs() > 1e-9]
        assert ((part["measured"] > 0.5) == (part["locality"] > part["threshold"])).all()
        own = quantity(table, f"c_{hop}").set_index(["facts", "locality"])["measured"]
        assert (
            (own > 0.5) == (part.set_index(["facts", "locality"])["measured"].reindex(own.index).fillna(1) > 0.5)
        ).all()
    assert (quantity(table, "two_hop_direct")["measured"] == 0).all()
    stars = {
        name: part.groupby("facts")["threshold"].first()
        for name, part in table.groupby("quantity")
        if name.startswith("hop")
    }
    assert round(stars["hop_2"][8], 2) == 0.34
    assert stars["hop_1"][1] == 0


def large_library(table):
    by_line = table.set_index(["quantity", "graph", "composition"]).sort_index()
    for name, chance in module("large_library").CHANCES.items():
        assert (by_line.loc[name]["low"] <= by_line.loc[chance]["measured"] + 1e-9).all()
    assert by_line.loc["accuracy"]["measured"].max() < 0.25
    assert round(by_line.loc[("coefficient_right", "disjoint", "sum"), "measured"], 3) == 0.109


CLAIMS = [kernel_limit, proposition_1, capacity, theorem_2, theorem_3, many_facts, scale, bridge, large_library]
FALSE = {  # name: which rows, which measured value, and what it is falsified to
    "kernel_limit": (lambda s: s["width"] == 2**24, "c_first", lambda v: v * 1.001),
    "proposition_1": (lambda s: s["width"] == 2**16, "leakage_unrelated", lambda v: v * 1.05),
    "capacity": (lambda s: s["width"] == 94, "stored_exactly", lambda v: 0.5),
    "theorem_2": (lambda s: s["coincide"] == "x=y", "margin_old_over_new", lambda v: -v),
    "theorem_3": (lambda s: s["composition"] == "cat" and s["width"] == 2**14, "margin_old_over_new", lambda v: v - 1),
    "many_facts": (lambda s: s["composition"] == "best" and s["facts"] == 8, "accuracy", lambda v: 0.25),
    "scale": (lambda s: s["facts"] == 1 and s["scale"] == 1.7, "two_hop_accuracy", lambda v: 1.0),
    "bridge": (
        lambda s: s["facts"] == 8 and s["locality"] == 0.25 and s["composition"] == "sum",
        "hop_2",
        lambda v: 1.0,
    ),
    "large_library": (
        lambda s: s["graph"] == "shared" and s["composition"] == "sum",
        "accuracy_within_u3",
        lambda v: v + 0.2,
    ),
}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
def test_the_numbers_bear_out_the_claim(claim):
    claim(table_of(claim.__name__))


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
def test_false_numbers_do_not(claim, tmp_path):
    name = claim.__name__
    chosen, quantity_, falsified = FALSE[name]
    rows = committed(name)
    for row in rows:
        if chosen(row["settings"]):
            row["measured"][quantity_] = falsified(row["measured"][quantity_])
    with pytest.raises(AssertionError):
        claim(table_of(name, write(tmp_path / "rows", name, rows)))


def test_the_closed_form_is_that_of_the_rows():
    rows = {row["settings"]["facts"]: row for row in committed("many_facts") if row["settings"]["composition"] == "sum"}
    first, second, other = _theory.coefficients()
    assert rows[1]["predicted"]["coefficient_second"] == pytest.approx(second, rel=1e-9)
    assert rows[8]["predicted"]["coefficient_second"] == pytest.approx(second / (1 + 7 * other), rel=1e-9)
    assert committed("theorem_2")[-1]["predicted"]["c_first"] == pytest.approx(first, rel=1e-9)


def test_the_slope_is_that_of_the_sweep(tmp_path):
    from lora_reuse.runs.rows import by_setting
    from lora_reuse.theory.table import log_log_slope

    rows = [
        row
        for row in committed("kernel_limit")
        if row["settings"]["dim"] == "inf" and row["settings"]["init_scale"] == "std"
    ]
    rows = [row for row in rows if row["settings"]["width"] != "inf"]
    expected = log_log_slope(list(by_setting(rows).values()), "kernel_relative_rms")
    assert module("kernel_limit").slope_of_error(table_of("kernel_limit")) == pytest.approx(expected, rel=1e-6)


def test_over_seeds_against_a_hand_made_table():
    import pandas

    table = pandas.DataFrame(
        {
            "settings.width": [4, 4, 8],
            "measured.c": [1.0, 3.0, 5.0],
            "predicted.c": [2.0, 2.0, 6.0],
            "hash": ["a", "b", "c"],
        }
    )
    first, second = _theory.over_seeds(table, ["width"], ["c"]).to_dict("records")
    assert (first["measured"], first["seeds"], first["row"], first["predicted"]) == (2.0, 2, "a", 2.0)
    assert first["high"] - 2 == pytest.approx(
        12.706 * math.sqrt(2) / math.sqrt(2), rel=1e-4
    )  # t with one degree of freedom
    assert (second["measured"], second["seeds"]) == (5.0, 1)
    assert math.isnan(second["low"])


@pytest.mark.parametrize("name", NAMES)
def test_missing_rows_say_which_command_makes_them(name, tmp_path, capsys):
    assert command.main([f"only={name}", f"rows={tmp_path}", f"out={tmp_path / 'out'}"]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"figures: rows: got no rows of {name} in {tmp_path}")
    assert f"`{module(name).NEEDS[name]} out={tmp_path}`" in line
    assert line.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_commands_that_make_rows_make_rows_that_are_drawn(tmp_path, capsys):
    """Each command is one the sweep accepts, and its grid has the settings the figure selects (checked on the cheapest
    that draws)."""
    import shlex

    from lora_reuse.theory import sweep

    for name in NAMES:
        words = shlex.split(module(name).NEEDS[name])[3:]
        assert sweep.main([*words, "dry_run=true", f"out={tmp_path}"]) == 0, name
    words = shlex.split(module("large_library").NEEDS["large_library"])[3:]
    assert (
        sweep.main([word if not word.startswith("seeds") else "seeds=2" for word in words] + [f"out={tmp_path}"]) == 0
    )
    registry.draw(registry.Item("large_library", "figure"), tmp_path, tmp_path / "out")
    capsys.readouterr()


def test_all_of_a_bare_folder_goes_on_and_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        registry, "items", lambda: {name: registry.Item(name, "figure") for name in ("scale", "capacity")}
    )
    write(tmp_path, "scale", few("scale"))
    assert command.main([f"rows={tmp_path}", f"out={tmp_path / 'out'}"]) == 0
    scale_, capacity_ = capsys.readouterr().out.splitlines()
    assert scale_.startswith("scale: ")
    assert "scale.pdf" in scale_
    assert "capacity: rows: got no rows of capacity" in capacity_
    assert not list((tmp_path / "out").glob("capacity*"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["only=theorem2"], "only: got 'theorem2'; allowed: bridge, bridge_minimum, capacity,"),
        (["only=theorem2"], "did you mean 'theorem_2'?"),
        (["onyl=scale"], "did you mean 'only'?"),
        (["rows=nowhere"], "rows: got nowhere; allowed: a folder that is there"),
        (["report=true", "only=scale"], "report: got true with only=scale"),
        (["only=scale", "out=Makefile"], "out: got Makefile"),
    ],
)
def test_mistakes_are_one_line(words, says, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert command.main(words) == 2
    line = capsys.readouterr().err
    assert says in line
    assert line.count("\n") == 1


def test_a_figure_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fails(table, figure):
        raise MissingRows("rows", "none", "some")

    monkeypatch.setattr(module("scale"), "draw", fails)
    made = registry.draw_or_say(registry.Item("scale", "figure"), PAPER, tmp_path / "out")
    assert made.missing == "rows: got none; allowed: some"
    assert not made.files
    assert not (tmp_path / "out").exists()


def test_list_names_every_figure_and_its_command(capsys):
    assert command.main(["list=true"]) == 0
    text = capsys.readouterr().out
    for name in NAMES:
        assert f"{name} (figure)" in text
        assert module(name).NEEDS[name] in text


def test_help_is_quick():
    heavy = "[name for name in ('matplotlib', 'pandas', 'jax') if name in sys.modules]"
    code = f"import sys; from figures.__main__ import main; code = main(['--help']); print(code, {heavy})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.endswith("0 []\n"), done.stderr
    assert "only" in done.stdout


def test_only_names_of_needs_can_be_read():
    with pytest.raises(KeyError, match="not in NEEDS"):
        Rows(PAPER, {"scale": "..."}).all("bridge")
    with pytest.raises(MissingRows, match=r"no rows of scale in .* with facts=3"):
        Rows(PAPER, {"scale": "make it"}).select("scale", facts=3)


def test_series_differ_without_colour():
    looks = [style.series(i) for i in range(2 * len(style.MARKERS))]
    assert len({(look["marker"], look.get("markerfacecolor")) for look in looks}) == len(looks)


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


@contextlib.contextmanager
def asked(monkeypatch):
    """What `style.rule` is asked for: the compositions, and what is drawn of each."""
    found, rule = {}, style.rule
    with monkeypatch.context() as patch:
        patch.setattr(
            style,
            "rule",
            lambda name, **others: found.setdefault(name, []).append(rule(name, **others)) or rule(name, **others),
        )
        yield found


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
    drawn = [(look["color"], look["marker"], look.get("markerfacecolor")) for look in map(style.rule, sorted(names))]
    assert len(set(drawn)) == len(names)
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
def test_a_figure_draws_each_rule_in_its_look(name, monkeypatch):
    table = committed_table(name)
    with asked(monkeypatch) as found, registry.picture(module(name), table) as figure:
        drawn = looks(figure)
    assert found
    for rule in found:
        colour, marker = style.RULES[rule if rule in style.RULES else rule.partition(":")[0]]
        assert {(to_hex(colour), str(marker)), to_hex(colour)} & drawn, rule
    column = "composition" if "composition" in table else "series"
    named = set(table[column]) & set(style.RULES)
    others = {name for name in named if name == "alone" or name not in found}
    assert name in ("many_facts", "bridge") or not others - {"alone"}, "each rule of the table is drawn as a rule"


def test_two_figures_draw_the_same_rule_alike(monkeypatch):
    found = {}
    for name in COMPOSED:
        with asked(monkeypatch) as own, registry.picture(module(name), committed_table(name)):
            found[name] = {rule: {(look["color"], look["marker"]) for look in looks} for rule, looks in own.items()}
    assert sum("arrow" in own for own in found.values()) >= 8
    for rule in set().union(*found.values()):
        assert len(set().union(*(own.get(rule, set()) for own in found.values()))) == 1, rule


def test_a_rule_by_position_is_seen(monkeypatch):
    """Planted: what a figure drew before, its i-th rule in the i-th colour."""
    table = committed_table("bridge_minimum")
    order = list(table["composition"].unique())
    monkeypatch.setattr(style, "rule", lambda name, **others: style.series(order.index(name), **others))
    with registry.picture(module("bridge_minimum"), table) as figure:
        drawn = looks(figure)
    assert not all((to_hex(style.RULES[rule][0]), str(style.RULES[rule][1])) in drawn for rule in order)


@pytest.mark.parametrize("name", [name for name, item in registry.items().items() if item.kind == "figure"])
def test_every_figure_fits_the_page_and_says_what_n_is(name):
    with registry.picture(module(name), committed_table(name)) as figure:
        figure.draw_without_rendering()
        assert figure.get_figheight() <= style.PAGE
        said = [text.get_text() for text in figure.findobj(Text)]
    assert any(text.startswith("$N$ = ") for text in said)
    assert not any("results/" in text for text in said), "names, not folders"
    caption = " ".join(module(name).caption(committed_table(name)).split())
    assert "results/" not in caption
    assert max(len(sentence) for sentence in re.split(r"(?<=[.!]) (?=[A-Z(])", caption)) < 420


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
        drawn, labels = dots(figure), {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    seeds = [len(shares.split()) for shares in table[~_shares.void(table)]["by_seed"].fillna("")]
    assert drawn == sum(count for count in seeds if count > 1)
    assert (drawn > 0) == ("one seed" in labels)
    assert any(label.startswith("chance, a guess among the edited answers") for label in labels)


@pytest.mark.parametrize("name", SHARES)
def test_a_void_cell_is_hatched_and_no_share(name):
    table = committed_table(name).assign(void="")
    measured = table.index[table["percent"].notna()]
    table.loc[measured[::2], "void"] = "oracle got 3 of 40"
    with registry.picture(module(name), table) as figure:
        hatched = [bar for axes in figure.axes for bar in axes.patches if bar.get_hatch() == _shares.VOID["hatch"]]
        labels = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
        drawn = dots(figure)
        figure.draw_without_rendering()
    assert len(hatched) == len(measured[::2])
    assert _shares.VOID_LABEL in labels
    assert drawn == sum(len(seeds.split()) for seeds in table.loc[measured[1::2], "by_seed"] if " " in seeds)
    assert f"(oracle: {len(measured[::2])} cells)" in module(name).caption(table)
    none = committed_table(name).assign(void="")
    assert "void" not in _shares.told_void(none)


def test_names_of_models():
    import pandas

    made = pandas.DataFrame(
        {"provenance.pocket.seed": [1], "provenance.pocket.width": [256.0], "provenance.pocket.coverage": [0.5]}
    )
    assert _names.of("results/somewhere", made) == "pocket, half of the people known, pretraining seed 1"
    assert _names.of(
        "pocket (01234567), own tasks", made.assign(**{"provenance.pocket.seed": 0, "provenance.pocket.coverage": 0.25})
    ) == ("pocket, coverage=0.25 (01234567), own tasks")
    assert _names.of("someone/a-model/", made[[]]) == "a-model"
    assert _names.called({"a/x": made[[]], "b/x": made[[]], "c/y": made[[]]}) == {
        "a/x": "a/x",
        "b/x": "b/x",
        "c/y": "y",
    }
    assert _names.wrapped("pocket, half of the people known", 14) == "pocket, half\nof the people\nknown"
