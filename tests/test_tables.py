"""The paper's tables and its Figures 1 and 2: every number is that of its rows, of the paper, or of the theory; what is missing says so."""

import importlib
import itertools
import json
import math
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pandas
import pytest
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from figures import _cells, registry, tables
from figures.rows import MissingRows, Rows
from llm.table import pooled
from paper_checks.reported import load
from runs.rows import load_rows
from tests.rows_of_models import row, write

PAPER = "results/paper"
NAMES = "compositions methods table_01 table_02 table_07 table_08 table_09 table_10 table_12".split()


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def module(name):
    return importlib.import_module(f"figures.tables.{name}")


def table_of(name, folder):
    return module(name).table(Rows(folder, module(name).NEEDS))


@pytest.fixture
def few(tmp_path):
    """Rows of two models and two seeds, with cells that are missing; the second model is one of the paper's."""
    model = "somewhere/Qwen2.5-14B-Instruct"
    rows = [
        row("llm_bridge", [2, 1, 0, seed], seed=seed, setup=s, composition=c, prompting="steps")
        for s in "02"
        for c in ("uniform", "arrow")
        for seed in (0, 1)
    ]
    rows += [row("llm_bridge", [2, 2, 2, 2], model=model, setup="2", composition="arrow", prompting="steps")]
    rows += [row("llm_bridge", [0, 1, 0, 0], setup="0", composition="arrow", prompting="direct", predicted={"at_most": 2.0})]
    for dataset, seed in itertools.product("FH", (0, 1)):
        place = {"dataset": dataset, "seed": seed, "prompting": "steps"}
        rows += [row("llm_two_hop", [2, 2, 1, 0], library="3-combination", composition="arrow", **place)]
        rows += [row("llm_two_hop", [0, 0, 0, 0], library="2-combination", composition="arrow", **place)]
        rows += [row("llm_two_hop", [2, 2, 2, 2], library="oracle", composition="alone", **place)]
    rows += [
        row("llm_two_hop", [0, 1, 0, 0], library="2-combination", composition="arrow", dataset="F", prompting="direct", predicted={"at_most": 2.0})
    ]
    rows += [row("llm_two_hop", [1, 1, 0, 0], library="3-combination", composition="arrow", dataset="F", prompting="steps", layers="attention")]
    rows += [row("llm_placement", [1, 0, 0, 0], setup="2", layers="both", composition="arrow", prompting="steps")]
    rows += [row("llm_large_library", [1, 0, 0, 0], graph="shared", library="10-combination", composition="arrow", prompting="direct", triplets=4)]
    bound = {"at_most": 2.0}
    rows += [row("llm_methods", [1, 0, 0, 0], adapter="lora", composition="cat:two_hop", prompting="steps")]
    rows += [row("llm_methods", [0, 0, 0, 0], adapter="lori_d", composition="lori_concat", prompting="direct", predicted=bound)]
    rows += [row("llm_methods", [2, 2, 2, 2], library="oracle", composition="alone", prompting="steps")]
    return write(tmp_path / "rows", *rows)


def agrees(name, table, rows):
    """Every measured cell is the sum over its rows, which differ in nothing but the seed and are of what its labels say."""
    by_hash = {one["hash"]: one for one in rows}
    measured = table[table["row"] != ""]
    assert len(measured)
    for labels, cell in zip(measured.index, measured.to_dict("records"), strict=True):
        group = [by_hash[name] for name in cell["rows"].split()]
        assert cell["row"] == group[0]["hash"]
        assert len({json.dumps(one["settings"] | {"seed": 0}, sort_keys=True) for one in group}) == 1
        assert cell["seeds"] == len({one["settings"]["seed"] for one in group}) == len(group)
        hits, total, low, high = pooled(group)
        assert (cell["hits"], cell["total"]) == (hits, total)
        assert (cell["percent"], cell["low"], cell["high"]) == pytest.approx((100 * hits / total, 100 * low, 100 * high))
        assert SAYS[name](*labels).items() <= group[0]["settings"].items()


def _library(column):
    library, _, composition = column.partition(", ")
    return {"library": library, "composition": composition or "alone"}


ASKED = {"step by step": "steps", "direct": "direct"}
LAYERS = {"mlp layers": "mlp", "attention layers": "attention", "mlp + attention layers": "both", "mlp+attention layers": "both"}
SAYS = {  # the settings that a cell's labels speak of
    "compositions": lambda model, prompting, setup, rule: {"model": model, "prompting": ASKED[prompting], "setup": setup, "composition": rule},
    "methods": lambda model, adapter, method, column: {
        **{"adapter": {"LoRA": "lora", "LoRI-D": "lori_d"}[adapter], "prompting": ASKED[column.partition(", ")[2]]},
        **({"library": "oracle"} if method == "one expert on the pair" else {"composition": method, "setup": column.split(",")[0][-1]}),
    },
    "table_01": lambda setup, one, two, model: {"setup": setup, "composition": "arrow", "prompting": "steps"},
    "table_02": lambda adaptation, rule, prompting, model: {
        **{"adapter": {"LoRA": "lora", "LoRI-D": "lori_d"}[adaptation], "composition": {"CAT": "cat:two_hop", "Concat": "lori_concat"}[rule]},
        **{"setup": "0", "library": "pair", "prompting": ASKED[prompting]},
    },
    "table_07": lambda data, model, prompting, column: {"dataset": data, "prompting": ASKED[prompting], "layers": "mlp"} | _library(column),
    "table_08": lambda model, layers, column: {"dataset": "F", "prompting": "steps", "layers": LAYERS[layers.lower()]} | _library(column),
    "table_09": lambda model, rule, column: {
        **{"composition": rule, "prompting": "steps", "setup": column.partition(", ")[0].split()[1]},
        "layers": LAYERS[column.partition(", ")[2].lower()],
    },
    "table_10": lambda setup, one, two, rule, model: {"setup": setup, "composition": rule.lower(), "prompting": "steps"},
    "table_12": lambda model, prompting, rule, graph: {"graph": graph.split()[0].lower(), "composition": rule, "prompting": ASKED[prompting]},
}


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_their_rows(name, few):
    rows = [one for path in few.glob("*.jsonl") for one in map(json.loads, path.read_text().splitlines())]
    agrees(name, table_of(name, few), rows)


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_the_committed_rows(name):
    rows = load_rows(PAPER)
    if {one["experiment"] for one in rows} & {need for need in module(name).NEEDS if need.startswith("llm_")}:
        table = table_of(name, PAPER)
        if (table["row"] != "").any():
            agrees(name, table, rows)
    else:
        without_rows(name, PAPER)


def test_a_falsified_row_does_not_agree(few):
    rows = [one for path in few.glob("*.jsonl") for one in map(json.loads, path.read_text().splitlines())]
    table = table_of("table_10", few)
    for one in rows:
        one["measured"]["hits"] += 1
    with pytest.raises(AssertionError):
        agrees("table_10", table, rows)


@pytest.mark.parametrize("number", [1, 2, 7, 8, 9, 10, 12])
def test_every_number_of_the_paper_stands_in_its_table(number, few):
    """As often as the paper has it; the cells over uniform and arrow stand once in ours too."""
    ours = [value for value in table_of(f"table_{number:02d}", few)["reported"] if value]
    assert sorted(ours) == sorted(load(number)["value"])


def test_numbers_of_the_paper_are_in_their_places(few):
    """A few, read off the paper."""
    seven = table_of("table_07", few)["reported"]
    assert seven["H", "DeepSeek-R1-Distill-Llama-70B", "step by step", "3-combination, uniform"] == "42.2"
    assert seven["F", "Qwen2.5-14B-Instruct", "step by step", "3-combination, arrow"] == "70"
    eight = table_of("table_08", few)["reported"]
    assert eight["Qwen2.5-14B-Instruct", "MLP + Attention layers", "3-combination, arrow"] == "65"
    nine = table_of("table_09", few)["reported"]
    assert nine["DeepSeek-R1-Distill-Qwen-14B", "arrow", "setup 1, MLP layers"] == "64.7"
    assert nine["Qwen2.5-3B-Instruct", "uniform", "setup 2, MLP+Attention layers"] == "6.9"
    ten = table_of("table_10", few)["reported"].droplevel(["expert 1", "expert 2"])
    assert ten["5", "Arrow", "Qwen2.5-7B-Instruct"] == "35.3"
    twelve = table_of("table_12", few)["reported"]
    assert twelve["DeepSeek-R1-Distill-Qwen-7B", "direct", "arrow", "Shared Graphs"] == "13.8"


def test_a_model_of_the_paper_has_its_number_beside_ours(few):
    cell = table_of("table_10", few).droplevel(["expert 1", "expert 2"]).loc[("2", "Arrow", "Qwen2.5-14B-Instruct")]
    assert (cell["hits"], cell["total"], cell["reported"]) == (8, 8, "94.1")
    text = tables.markdown(table_of("table_10", few), "")
    assert f"[8/8](#row-{cell['row']}) 100 % [51, 100]<br>paper 94.1 %" in text.replace("\N{NO-BREAK SPACE}", " ")


def test_theory_bounds_direct_answers_and_spans_step_by_step_ones(few):
    shutil.copy(f"{PAPER}/bridge.jsonl", few)
    table = table_of("compositions", few)
    direct = table.loc[("pocket", "direct", "0", "arrow")]
    assert math.isnan(direct["predicted_low"])
    assert direct["predicted_high"] == 25  # 2 of 8
    rows = [json.loads(line) for line in Path(f"{PAPER}/bridge.jsonl").read_text().splitlines()]
    chains = [
        one["predicted"]["two_hop_step_by_step"]
        for one in rows
        if [one["settings"][name] for name in ("width", "facts", "setup", "composition")] == ["inf", 8, 0, "sum"]
    ]
    steps = table.loc[("pocket", "step by step", "0", "sum")]
    assert [steps["predicted_low"], steps["predicted_high"]] == [100 * min(chains), 100 * max(chains)]
    assert math.isnan(table.loc[("pocket", "step by step", "0", "uniform")]["predicted_high"])


def test_seeds_are_pooled_and_their_triplets_are_clusters(few):
    cell = table_of("table_10", few).droplevel(["expert 1", "expert 2"]).loc[("2", "Arrow", "pocket")]
    assert (cell["hits"], cell["total"], cell["seeds"]) == (7, 16, 2)


def test_sweeps_do_not_mix_with_the_rows_of_a_table(few):
    before = table_of("table_10", few)
    write(
        few,
        *(
            row("llm_bridge", [2, 2, 2, 2], setup="2", composition="arrow", prompting="steps", rank=rank, seed=seed)
            for rank in (4, 64)
            for seed in range(3)
        ),
    )
    write(few, row("llm_bridge", [2, 2, 2, 2], setup="2", composition="arrow", prompting="steps", split="dev"))
    after = table_of("table_10", few)
    pandas.testing.assert_frame_equal(before, after)
    assert "pocket (seeds 0, 1; 6 rows of other settings are not shown)" in module("table_10").caption(after)


def test_a_setting_that_came_later_has_its_default_in_old_rows(few):
    old = row("llm_bridge", [2, 0, 0, 0], setup="3", composition="arrow", prompting="steps")
    del old["settings"]["adapter"]
    write(few, old)
    cell = table_of("table_10", few).droplevel(["expert 1", "expert 2"]).loc[("3", "Arrow", "pocket")]
    assert cell["row"] == old["hash"]


def test_two_models_of_one_name_are_two_models(few):
    other = row("llm_bridge", [2, 2, 2, 2], setup="2", composition="arrow", prompting="steps", weights="fedcba9876543210")
    table = table_of("table_10", write(few, other)).droplevel(["expert 1", "expert 2"])
    assert table.loc[("2", "Arrow", "pocket (01234567)")]["hits"] == 7
    assert table.loc[("2", "Arrow", "pocket (fedcba98)")]["hits"] == 8
    assert table.loc[("3", "Arrow", "pocket (fedcba98)")]["fill"] == f"python -m llm.bridge model=pocket out={few}"


def test_the_bridge_fills_the_mlp_of_table_9(few):
    table = table_of("table_09", few)
    assert table.loc[("pocket", "arrow", "setup 2, MLP layers")]["experiment"] == "llm_bridge"
    assert table.loc[("pocket", "arrow", "setup 2, MLP+Attention layers")]["experiment"] == "llm_placement"
    write(few, row("llm_placement", [0, 0, 0, 0], setup="2", layers="mlp", composition="arrow", prompting="steps", seed=1))
    cell = table_of("table_09", few).loc[("pocket", "arrow", "setup 2, MLP layers")]
    assert (cell["seeds"], cell["total"]) == (2, 16), "a seed that both have counts once"


@pytest.mark.parametrize("name", NAMES)
def test_missing_cells_say_commands_that_work(name, few, capsys):
    from llm.protocol import main

    table = table_of(name, few)
    missing = table[table["row"] == ""]
    assert (missing["fill"] != "").all()
    assert (table[table["row"] != ""]["fill"] == "").all()
    text = tables.markdown(table, "caption")
    for command in missing["fill"].unique():
        assert f"`{command}`" in text
        _, _, protocol, *words = shlex.split(command)
        assert main(importlib.import_module(protocol).PROTOCOL, [*words, "dry_run=true"]) == 0, command
    assert text.count("*no rows (") == len(missing)
    capsys.readouterr()


@pytest.mark.parametrize("name", NAMES)
def test_a_table_without_rows_is_all_commands(name, tmp_path):
    without_rows(name, tmp_path)


def without_rows(name, folder):
    if name in ("compositions", "methods"):  # of measured models alone
        with pytest.raises(MissingRows, match=r"make them with `python -m llm\."):
            table_of(name, folder)
        return
    table = table_of(name, folder)
    assert (table["fill"] != "").all()
    assert all(tables.texts(table, module(name).caption(table)).values())
    assert "No model of this table was measured here." in module(name).caption(table)


def unescaped(text, char):
    return len(re.findall(rf"(?<!\\)(?:\\\\)*{re.escape(char)}", text))


@pytest.mark.parametrize("name", NAMES)
def test_latex_is_well_formed(name, few):
    text = tables.latex(table_of(name, few), module(name).caption(table_of(name, few)))
    body = text.split("\\hline")[1:-1]
    columns = len(re.findall(r"\\begin\{tabular\}\{(l+)\}", text)[0])
    lines = [line for part in body for line in part.strip().splitlines()]
    assert len(lines) > 1
    assert {unescaped(line, "&") for line in lines} == {columns - 1}
    assert unescaped(text, "{") == unescaped(text, "}")
    assert not unescaped(text, "#")
    assert not unescaped(text, "%")
    assert set(re.findall(r"[^\x00-\x7f]", text)) == set()
    outside = re.sub(r"\$[^$]*\$", "", text)
    assert not unescaped(outside, "_")
    assert text.count("\\begin{") == text.count("\\end{")


def test_latex_escapes():
    assert tables._tex("50 % of R_1 & ~$x^{2}$ #1 \\a <b> ≤ λ") == (
        r"50 \% of R\_1 \& \textasciitilde{}\$x\textasciicircum{}\{2\}\$ \#1 \textbackslash{}a \textless{}b\textgreater{} $\leq$ $\lambda$"
    )
    assert tables._md("a|b_c*d") == r"a\|b\_c\*d"


@pytest.mark.parametrize("name", NAMES)
def test_markdown_has_whole_lines_and_links_that_lead_somewhere(name, few):
    table = table_of(name, few)
    text = tables.markdown(table, module(name).caption(table))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {unescaped(line, "|") for line in lines} == {len(lines[0].split("|")) - 1}
    for anchor in re.findall(r"\]\(#([\w-]+)\)", text):
        assert f'<a id="{anchor}"></a>' in text
    for one in table[table["row"] != ""].to_dict("records"):
        assert all(f"`{name}`" in text for name in one["rows"].split())
        assert f"`{one['command']}`" in text


def test_csv_has_a_line_a_cell(few, tmp_path):
    table = table_of("table_10", few)
    path = tmp_path / "table.csv"
    path.write_text(tables.texts(table, "")["csv"])
    again = pandas.read_csv(path, dtype={"setup": str, "reported": str}, keep_default_na=False, na_values={"percent": [""]})
    assert len(again) == len(table)
    assert list(again["reported"]) == list(table["reported"])
    assert again["percent"].dropna().tolist() == pytest.approx(table["percent"].dropna().tolist(), rel=1e-5)


def test_marks_go_on_after_z():
    assert [tables._letters(number) for number in (0, 25, 26, 27, 52)] == ["a", "z", "aa", "ab", "ba"]


@pytest.mark.parametrize(("name", "lines"), [("figure_1", 42 + 2 * 18), ("figure_2", 28)])
def test_figures_show_the_numbers_of_the_tables(name, lines, few):
    figure = importlib.import_module(f"figures.{name}")
    shown = figure.data(Rows(few, figure.NEEDS))
    assert len(shown) == lines
    source = table_of({"figure_1": "table_07", "figure_2": "table_09"}[name], few)
    for line in shown.to_dict("records"):
        setup, _, rule = line["series"].partition(", ")
        if name == "figure_1":
            cell = source.loc[(line["dataset"], line["model"], "step by step", line["series"])]
        else:
            cell = source.loc[(line["model"], rule, f"{setup}, MLP layers")]
        assert (line["row"] if isinstance(line["row"], str) else "") == cell["row"]
        assert line["reported"] == pytest.approx(float(cell["reported"] or "nan"), nan_ok=True)
        assert line["percent"] == pytest.approx(cell["percent"], nan_ok=True)


@pytest.mark.parametrize("models", [1, 9])
@pytest.mark.parametrize("name", ["figure_1", "figure_2"])
def test_figures_of_many_models_and_missing_cells_keep_apart(name, models, few):
    figure = importlib.import_module(f"figures.{name}")
    for i in range(models - 1):
        other: dict[str, Any] = {"model": f"someone/a-model-with-a-rather-long-name-{i}-7B", "prompting": "steps", "composition": "arrow"}
        write(few, row("llm_two_hop", [1, 0, 2, 0], dataset="H", library="3-combination", **other))
        write(few, row("llm_bridge", [1, 1, 0, 0], setup="2", **other))
    table = figure.data(Rows(few, figure.NEEDS))
    with registry.picture(figure, table) as drawn:
        drawn.draw_without_rendering()
        whole = drawn.bbox.padded(1)
        texts = [text for axes in drawn.axes for text in (*(child for child in axes.get_children() if isinstance(child, Text)), axes.yaxis.label)]
        texts += [text for legend in drawn.legends for text in legend.get_texts()]
        for text in (text for text in texts if text.get_text()):
            assert whole.contains(*text.get_window_extent().min), text
            assert whole.contains(*text.get_window_extent().max), text
        for axes in drawn.axes:
            assert axes.patches
            boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
            assert not [pair for pair in itertools.combinations(boxes, 2) if Bbox.intersection(*pair)]
    assert "nan" not in figure.caption(table)


@pytest.mark.parametrize("name", ["figure_1", "figure_2"])
def test_figures_without_rows_say_which_command_makes_them(name, tmp_path):
    figure = importlib.import_module(f"figures.{name}")
    with pytest.raises(MissingRows, match=r"make them with `python -m llm\."):
        figure.data(Rows(tmp_path, figure.NEEDS))


def test_every_setting_of_the_paper_s_models_has_a_hub_name():
    assert set(_cells.PAPER) == set(load(7)["base_model"])
