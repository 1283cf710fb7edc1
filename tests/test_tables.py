"""The paper's tables and its Figures 1 and 2: every number is that of its rows, of the paper, or of the theory; what is
missing says so."""

import contextlib
import dataclasses
import functools
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
from lora_reuse.figures import _bars, _cells, registry, style, tables
from lora_reuse.figures.rows import MissingRows, Rows
from lora_reuse.figures.tables import _latex
from lora_reuse.llm import skills
from lora_reuse.llm.protocols.settings import PRESETS, Composed
from lora_reuse.llm.protocols.table import pooled
from lora_reuse.paper_checks.reported import load
from lora_reuse.runs.rows import load_rows
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from tests.rows_of_models import row, write

PAPER = "results/paper"
TWO_HOPS = "compositions methods table_01 table_02 table_07 table_08 table_09 table_10 table_12".split()
EXAMS = "skills table_03 table_04 table_13 table_14 table_15 table_16 table_17 table_18 table_19 table_20".split()
NAMES = TWO_HOPS + EXAMS


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def module(name):
    return importlib.import_module(f"lora_reuse.figures.tables.{name}")


def table_of(name, folder):
    return module(name).table(Rows(folder, module(name).NEEDS))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Rows of two models and two seeds, with cells that are missing; the second model is one of the paper's."""
    model = "somewhere/Qwen2.5-14B-Instruct"
    rows = [
        row("llm_bridge", [2, 1, 0, seed], seed=seed, setup=s, composition=c, prompting="steps")
        for s in "02"
        for c in ("uniform", "arrow")
        for seed in (0, 1)
    ]
    rows += [row("llm_bridge", [2, 2, 2, 2], model=model, setup="2", composition="arrow", prompting="steps")]
    rows += [
        row("llm_bridge", [0, 1, 0, 0], setup="0", composition="arrow", prompting="direct", predicted={"at_most": 2.0})
    ]
    for dataset, seed in itertools.product("FH", (0, 1)):
        place = {"dataset": dataset, "seed": seed, "prompting": "steps"}
        rows += [row("llm_two_hop", [2, 2, 1, 0], library="3-combination", composition="arrow", **place)]
        rows += [row("llm_two_hop", [0, 0, 0, 0], library="2-combination", composition="arrow", **place)]
        rows += [row("llm_two_hop", [2, 2, 2, 2], library="oracle", composition="alone", **place)]
    rows += [
        row(
            "llm_two_hop",
            [0, 1, 0, 0],
            library="2-combination",
            composition="arrow",
            dataset="F",
            prompting="direct",
            predicted={"at_most": 2.0},
        )
    ]
    rows += [
        row(
            "llm_two_hop",
            [1, 1, 0, 0],
            library="3-combination",
            composition="arrow",
            dataset="F",
            prompting="steps",
            layers="attention",
        )
    ]
    rows += [row("llm_placement", [1, 0, 0, 0], setup="2", layers="both", composition="arrow", prompting="steps")]
    rows += [
        row(
            "llm_large_library",
            [1, 0, 0, 0],
            graph="shared",
            library="10-combination",
            composition="arrow",
            prompting="direct",
            triplets=4,
        )
    ]
    bound = {"at_most": 2.0}
    rows += [row("llm_methods", [1, 0, 0, 0], adapter="lora", composition="cat:two_hop", prompting="steps")]
    rows += [
        row(
            "llm_methods",
            [0, 0, 0, 0],
            adapter="lori_d",
            composition="lori_concat",
            prompting="direct",
            predicted=bound,
        )
    ]
    rows += [row("llm_methods", [2, 2, 2, 2], library="oracle", composition="alone", prompting="steps")]
    return write(tmp_path_factory.mktemp("models") / "rows", *rows, *exams())


@pytest.fixture(scope="module")
def made(shared):
    """The table of these rows by its name, made once."""
    return functools.cache(lambda name: table_of(name, shared))


@pytest.fixture(scope="module")
def cells(made):
    """The same in the order of its labels, in which part of it is found at once."""
    return functools.cache(lambda name: made(name).sort_index())


@pytest.fixture(scope="module")
def committed(request):
    return load_rows(request.config.rootpath / PAPER)


@pytest.fixture
def few(shared, tmp_path):
    """The rows again, to add to."""
    return Path(shutil.copytree(shared, tmp_path / "rows"))


BASE: dict[str, Any] = {"composition": "base", "library": "none", "layers": "none"}
KILT = "kilt_tasks_hotpotqa"
FOUR = "+".join(
    f"x/{KILT}_{task}" for task in ("straighforward_qa", "complex_question", "combining_facts", "final_exam")
)


def exams():
    """Rows of problems: of the pocket model on our own data, two seeds of some, and of the papers' models on theirs."""
    maths: dict[str, Any] = {"model": "somewhere/Qwen2.5-Math-1.5B-Instruct", "data": "files"}
    ours: dict[str, Any] = {
        "marks": ["kind_text"] * 5 + ["kind_code"] * 3 + ["error_none"] * 3 + ["error_calculation"] * 5
    }
    for seed in (0, 1):
        yield row("llm_gsm", [2, 1, 0, seed], seed=seed, solutions="none", **BASE, **ours)
        yield row("llm_gsm", [0, 1, 0, seed], seed=seed, composition="arrow", **ours)
    yield row("llm_gsm", [0, 0, 0, 0], shots=8, composition="uniform")
    yield row("llm_gsm", [2, 0, 0, 0], asked="symbolic", solutions="none", **BASE)
    yield row("llm_gsm", [1, 0, 0, 0], prompting="tir", solutions="reusable", layers="mlp", composition="arrow")
    judged: dict[str, Any] = {
        "marks": ["kind_text"] * 8 + ["judged_kind_text"] * 7 + ["judged_error_semantic"] * 2 + ["agreed"] * 6,
        "judge": "gpt-4o",
    }
    yield row("llm_gsm", [2, 2, 0, 0], solutions="none", **BASE, **maths, **judged)
    yield row("llm_gsm", [2, 0, 0, 0], composition="uniform", **maths, **judged)
    phi: dict[str, Any]
    for phi in ({}, {"model": "microsoft/phi-2", "data": "files"}):
        yield row("llm_cross_lingual", [2, 0, 0, 0], composition="alone", library="coding", asked="english", **phi)
        yield row("llm_cross_lingual", [0, 0, 2, 0], composition="arrow", **phi)
        yield row("llm_cross_lingual", [0, 0, 0, 0], **BASE, **phi)
    phi = {"model": "microsoft/phi-2", "data": "hotpot.json", "marks": ["lenient"] * 4 + ["exact"]}
    yield row("llm_continent", [1, 1, 0, 0], composition="base", library="none", **phi)
    yield row("llm_continent", [1, 0, 0, 0], composition="alone", library=f"x/{KILT}_straighforward_qa", **phi)
    yield row("llm_continent", [1, 2, 0, 0], composition="uniform", library=FOUR, prompting="continent", **phi)
    yield row("llm_continent", [2, 2, 0, 0], composition="uniform", library="mine+yours", **phi)
    yield row("llm_continent", [2, 0, 0, 0], composition="uniform", marks=["lenient"] * 2)
    for seed, (library, rule, right) in itertools.product((0, 1), SKILLED):
        yield row("llm_skills", right[seed:] + right[:seed], library=library, composition=rule, seed=seed)
    yield row("llm_skills", [2, 2, 2, 2], library="both", composition="ties")


SKILLED = (
    ("none", "base", [0, 0, 1, 0]),
    ("first", "alone", [1, 0, 1, 0]),
    ("second", "alone", [0, 0, 1, 1]),
    ("mixed", "alone", [2, 0, 2, 0]),
    ("both", "sum", [1, 0, 0, 0]),
    ("both", "random", [0, 0, 1, 0]),
    ("both", "cat:own", [2, 2, 2, 1]),
)


def agrees(name, table, rows):
    """Every measured cell is the sum over its rows, which differ in nothing but the seed and are of what its labels
    say."""
    by_hash = {one["hash"]: one for one in rows}
    measured = table[table["row"] != ""]
    assert len(measured)
    if name == "skills":  # the other numbers are differences, which have a test of their own
        measured = measured[measured.index.get_level_values("number") == "right answers"]
    for labels, cell in zip(measured.index, measured.to_dict("records"), strict=True):
        group = [by_hash[name] for name in cell["rows"].split()]
        assert cell["row"] == group[0]["hash"]
        assert len({json.dumps(one["settings"] | {"seed": 0}, sort_keys=True) for one in group}) == 1
        assert cell["seeds"] == len({one["settings"]["seed"] for one in group}) == len(group)
        hits, total, limits = pooled(group, marked(name, labels))
        assert (cell["hits"], cell["total"], cell["percent"]) == (hits, total, pytest.approx(100 * hits / total))
        low, high = limits or (math.nan, math.nan)
        assert (cell["low"], cell["high"]) == pytest.approx((100 * low, 100 * high), nan_ok=True)
        assert math.isnan(cell["low"]) == (cell["seeds"] == 1)
        shares = [100 * one["measured"].get(marked(name, labels), 0) / one["measured"]["total"] for one in group]
        assert [float(share) for share in cell["by_seed"].split()] == pytest.approx(shares, rel=1e-3)
        assert SAYS[name](*labels).items() <= group[0]["settings"].items()


READ = {"named, among others": "lenient", "right": "hits", "and nothing else": "exact"}


def marked(name, labels):
    """The mark of answers that a cell counts."""
    return {"table_15": _kind, "table_19": lambda *labels: READ[labels[-1]]}.get(name, lambda *labels: "hits")(*labels)


def _kind(model, composition, who, share):
    columns = importlib.import_module("lora_reuse.figures.tables.table_15").SHARES
    mark = {column: mark for mark, column in columns.items()}.get(share, "agreed")
    return mark if who == "rules" or mark == "agreed" else f"judged_{mark}"


def _library(column):
    library, _, composition = column.partition(", ")
    return {"library": library, "composition": composition or "alone"}


ADAPTERS = {"LoRA": "lora", "LoRI-D": "lori_d", "LoRI-S": "lori_s"}
RULES = {"CAT": "cat:two_hop", "Concat": "lori_concat", "Linear": "lori_linear"}
ASKED = {"step by step": "steps", "direct": "direct"}
ALONE = {
    "base": {"composition": "base", "library": "none"},
    "expert on the first skill": {"composition": "alone", "library": "first"},
    "expert on the second skill": {"composition": "alone", "library": "second"},
    "one expert on both skills' data": {"composition": "alone", "library": "mixed"},
}
SPOKEN = {
    "Base Only": {"composition": "base"},
    "Coding (L_1)": {"composition": "alone", "library": "coding"},
    "Translation (L_2)": {"composition": "alone", "library": "translation"},
    "Merged (Uniform)": {"composition": "uniform", "library": "2-combination"},
    "Merged (Arrow)": {"composition": "arrow", "library": "2-combination"},
}


def _worded(model):
    return {"data": "own" if "own" in model else "files"}


def _rule(printed):
    return printed.split()[0].lower()


LAYERS = {
    "mlp layers": "mlp",
    "attention layers": "attention",
    "mlp + attention layers": "both",
    "mlp+attention layers": "both",
}
MODELS = {
    "pocket, pretraining seed 1": "results/pocket-1",
    "pocket, tested steps pretrained": "results/pocket-same",
    "pocket, half of the people known": "results/pocket-half",
    "pocket, none of the people known": "results/pocket-none",
    "pocket, width 128": "results/pocket-128",
    "Qwen2.5-14B-Instruct": "somewhere/Qwen2.5-14B-Instruct",
}
"""What a model is called -> its name in the rows."""
SAYS = {  # the settings that a cell's labels speak of
    "compositions": lambda model, prompting, setup, rule: {
        "model": MODELS.get(model, model),
        "prompting": ASKED[prompting],
        "setup": setup,
        "composition": rule,
    },
    "methods": lambda model, adapter, method, column: {
        "model": MODELS.get(model, model),
        **{"adapter": ADAPTERS[adapter], "prompting": ASKED[column.partition(", ")[2]]},
        **(
            {"library": "oracle"}
            if method == "one expert on the pair"
            else {"library": "none"}
            if method == "base"
            else {}
        ),
        **({"setup": column.split(",")[0][-1]} if method not in ("one expert on the pair", "base") else {}),
        **(
            {"library": "data_mix"}
            if method == "one expert on the union"
            else {"composition": method}
            if "one " not in method
            else {}
        ),
    },
    "table_01": lambda setup, one, two, model: {"setup": setup, "composition": "arrow", "prompting": "steps"},
    "table_02": lambda adaptation, rule, prompting, model: {
        **{"adapter": ADAPTERS[adaptation], "composition": RULES.get(rule, rule.lower())},
        **{"setup": "0", "library": "pair", "prompting": ASKED[prompting]},
    },
    "table_07": lambda data, model, prompting, column: (
        {"dataset": data, "prompting": ASKED[prompting], "layers": "mlp"} | _library(column)
    ),
    "table_08": lambda model, layers, column: (
        {"dataset": "F", "prompting": "steps", "layers": LAYERS[layers.lower()]} | _library(column)
    ),
    "table_09": lambda model, rule, column: {
        **{"composition": rule, "prompting": "steps", "setup": column.partition(", ")[0].split()[1]},
        "layers": LAYERS[column.partition(", ")[2].lower()],
    },
    "table_10": lambda setup, one, two, rule, model: {
        "setup": setup,
        "composition": rule.lower(),
        "prompting": "steps",
    },
    "skills": lambda model, formats, method, number: {
        **{"formats": formats, "asked": "both", "data": "own"},
        **ALONE.get(method, {"library": "both", "composition": method}),
    },
    "table_03": lambda rule, model: (
        _worded(model) | {"asked": "p2", "shots": 0, "prompting": "cot", "composition": _rule(rule)}
    ),
    "table_04": lambda layers, rule, model: (
        _worded(model) | {"prompting": "tir", "layers": layers.lower(), "composition": _rule(rule)}
    ),
    "table_13": lambda level, model: {"asked": level.lower().removeprefix("gsm-"), "composition": "base", "shots": 0},
    "table_14": lambda shots, rule, model: (
        _worded(model) | {"asked": "p2", "shots": int(shots[0]), "composition": _rule(rule)}
    ),
    "table_15": lambda model, rule, who, share: (
        _worded(model) | {"composition": _rule(rule), "shots": 0, "prompting": "cot"}
    ),
    "table_16": lambda model, column: (
        {"asked": "spanish", "data": "own" if "own" in model else "files"} | SPOKEN[column]
    ),
    "table_17": lambda model, column: (
        {"asked": "english", "data": "own" if "own" in model else "files"} | SPOKEN[column]
    ),
    "table_18": lambda adapter, task, model, question: {
        "library": f"x/{adapter}",
        "composition": "alone",
        "prompting": question.split()[0].lower(),
    },
    "table_19": lambda question, example, model, library, rule, counted: {
        "composition": rule,
        "prompting": question.split()[0].lower(),
    },
    "table_20": lambda model, library, question, rule: {
        **{"prompting": question.split()[0].lower(), "data": "own" if "own" in model else "hotpot.json"},
        **(
            {"composition": "base"}
            if rule == "Base"
            else {}
            if library.startswith(KILT)
            else {"composition": rule.lower()}
        ),
    },
    "table_12": lambda model, prompting, rule, graph: {
        "graph": graph.split()[0].lower(),
        "composition": rule,
        "prompting": ASKED[prompting],
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_their_rows(name, made, shared):
    rows = [one for path in shared.glob("*.jsonl") for one in map(json.loads, path.read_text().splitlines())]
    agrees(name, made(name), rows)


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_the_committed_rows(name, committed):
    if {one["experiment"] for one in committed} & {need for need in module(name).NEEDS if need.startswith("llm_")}:
        table = table_of(name, PAPER)
        if (table["row"] != "").any():
            agrees(name, table, committed)
    else:
        without_rows(name, PAPER)


def test_a_falsified_row_does_not_agree(made, shared):
    rows = [one for path in shared.glob("*.jsonl") for one in map(json.loads, path.read_text().splitlines())]
    table = made("table_10")
    for one in rows:
        one["measured"]["hits"] += 1
    with pytest.raises(AssertionError):
        agrees("table_10", table, rows)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 7, 8, 9, 10, 12, 13, 14, 15, 16, 17, 20])
def test_every_number_of_the_paper_stands_in_its_table(number, made):
    """As often as the paper has it; the cells over uniform and arrow stand once in ours too."""
    ours = [value for value in made(f"table_{number:02d}")["reported"] if value]
    assert sorted(ours) == sorted(load(number)["value"])


def test_numbers_of_the_paper_are_in_their_places(made, cells, shared):
    """A few, read off the paper."""
    seven = made("table_07")["reported"]
    assert seven["H", "DeepSeek-R1-Distill-Llama-70B", "step by step", "3-combination, uniform"] == "42.2"
    assert seven["F", "Qwen2.5-14B-Instruct", "step by step", "3-combination, arrow"] == "70"
    eight = made("table_08")["reported"]
    assert eight["Qwen2.5-14B-Instruct", "MLP + Attention layers", "3-combination, arrow"] == "65"
    nine = made("table_09")["reported"]
    assert nine["DeepSeek-R1-Distill-Qwen-14B", "arrow", "setup 1, MLP layers"] == "64.7"
    assert nine["Qwen2.5-3B-Instruct", "uniform", "setup 2, MLP+Attention layers"] == "6.9"
    ten = made("table_10")["reported"].droplevel(["expert 1", "expert 2"])
    assert ten["5", "Arrow", "Qwen2.5-7B-Instruct"] == "35.3"
    twelve = made("table_12")["reported"]
    assert twelve["DeepSeek-R1-Distill-Qwen-7B", "direct", "arrow", "Shared Graphs"] == "13.8"
    assert made("table_03")["reported"]["Uniform", "Qwen2.5-Math-7B-Inst"] == "34"
    assert made("table_04")["reported"]["MLP", "Uniform", "Qwen2.5-Math-1.5B-Inst"] == "20"
    assert made("table_04")["reported"]["none", "Base", "Qwen2.5-Math-7B-Inst"] == "47"
    assert made("table_13")["reported"]["GSM-P1", "Qwen2.5-Math-7B-Inst"] == "76.8"
    assert made("table_14")["reported"]["8-shot", "Arrow", "Qwen2.5-Math-7B-Inst"] == "6"
    fifteen = cells("table_15")["reported"]["Qwen2.5-Math-1.5B-Inst"]
    assert fifteen["Base", "a judge", "Solution Types: Unident."] == "1"
    assert fifteen["Uniform", "a judge", "Error Types: Calc. Error"] == "56"
    assert made("table_16")["reported"]["Phi-2", "Translation (L_2)"] == "36.0"
    assert made("table_17")["reported"]["Qwen2.5-14B-Instruct", "Coding (L_1)"] == "89.0"
    assert made("table_20")["reported"]["Phi-2", "all 5 hotpot qa", "Original Question", "Arrow"] == "11.30"


@pytest.mark.parametrize("name", EXAMS)
def test_no_number_of_a_paper_stands_beside_our_own_data(name, made):
    table = made(name)
    ours = [", own " in " ".join(labels) for labels in table.index]
    assert any(ours) or name == "table_18"  # an adapter alone, of which our own has none
    assert set(table[ours]["reported"]) <= {""}
    assert "stand-in" in module(name).caption(table)
    assert not any("FOLDER" in command or "FILE" in command for command in table[ours]["fill"])
    text = tables.markdown(table, "")
    assert any(ours) == any(f"pocket, {what}" in text for what in _cells.OWN.values())


def test_a_model_of_the_paper_on_its_data_has_its_number_beside_ours(cells):
    cell = cells("table_03").loc[("Uniform", "Qwen2.5-Math-1.5B-Inst")]
    assert (cell["hits"], cell["total"], cell["reported"]) == (2, 8, "24")
    cell = cells("table_20").loc[("Phi-2", "all 4 hotpotqa (excl. formulate)", "Continent Prompt", "Uniform")]
    assert (cell["hits"], cell["total"], cell["reported"]) == (3, 8, "5.15")
    alone = cells("table_20").loc[("Phi-2", f"{KILT}_straighforward_qa", "Original Question")]
    assert alone.loc["Uniform", "row"] == alone.loc["Arrow", "row"] != alone.loc["Base", "row"]
    assert cells("table_20").loc[("Phi-2", "mine+yours", "Original Question", "Uniform"), "hits"] == 4


def test_kinds_and_errors_are_those_of_the_answers(cells):
    table = cells("table_15")
    cell = table.loc[("pocket, own word problems", "Arrow", "rules", "Solution Types: Code")]
    assert (cell["hits"], cell["total"], cell["seeds"]) == (6, 16, 2)
    assert table.loc[("pocket, own word problems", "Arrow", "rules", "Error Types: Semantic")]["hits"] == 0
    judged = table.loc[("Qwen2.5-Math-1.5B-Inst", "Base", "a judge")]["hits"]
    assert judged["Solution Types: Natural Lang."] == 7
    assert judged["Agreement"] == 6


def test_what_is_more_than_both_experts_gains(few, cells):
    """Against the command's own numbers, and by hand for CAT: 14 right of 16, the base 2, the experts 4 and 4, so 12
    more, and 14 - 4 - 4 + 2 = 8."""
    rows = [
        one
        for one in map(json.loads, (few / "llm_skills.jsonl").read_text().splitlines())
        if one["settings"]["composition"] != "ties"
    ]
    gains = {found["composition"]: found for found in skills.gains(rows)}
    table = cells("skills").loc[("pocket, own homes and code", "known")]
    for rule in ("sum", "cat:own"):
        cell = table.loc[(rule, "more than both experts' gains")]
        assert (cell["percent"], cell["low"], cell["high"]) == pytest.approx(
            [100 * gains[rule][name] for name in ("more", "low", "high")]
        )
        assert table.loc[(rule, "gain over the base"), "percent"] == pytest.approx(100 * gains[rule]["gain"])
    assert table.loc[("cat:own", "gain over the base"), ["hits", "total"]].tolist() == [12, 16]
    assert table.loc[("cat:own", "more than both experts' gains"), ["hits", "total"]].tolist() == [8, 16]
    assert table.loc[("sum", "gain over the base"), "hits"] == 0
    assert table.loc[("one expert on both skills' data", "gain over the base"), "hits"] == 6
    same = table.loc[("random", "gain over the base")]  # as the base, question by question
    # By hand: √(1/8 questions / 8) = 1/8, times t = 12.706 of one degree of freedom, is more than everything.
    assert (same["percent"], same["low"], same["high"]) == (0, -100, 100)
    assert ("base", "gain over the base") not in table.index
    assert ("one expert on both skills' data", "more than both experts' gains") not in table.index
    # A seed that the others do not have is in the answers alone; so is one whose base is missing.
    assert table.loc[("ties", "gain over the base"), ["seeds", "hits", "total"]].tolist() == [1, 7, 8]
    some = [one for one in rows if one["settings"]["composition"] != "base"]
    (few / "llm_skills.jsonl").write_text("".join(json.dumps(one) + "\n" for one in some))
    cell = table_of("skills", few).loc[("pocket, own homes and code", "known", "cat:own", "gain over the base")]
    assert cell["row"] == ""
    assert cell["fill"] == f"python -m llm.skills model=pocket out={few}"


def test_numbers_of_lora_soups_are_in_their_places(cells):
    reported = cells("skills")["reported"]["Llama-7b", "known"]
    assert {key: value for key, value in reported.items() if value} == {
        ("cat:own", "right answers"): "21",
        ("expert on the first skill", "gain over the base"): "8",
        ("expert on the second skill", "gain over the base"): "2",
    }
    caption = module("skills").caption(cells("skills"))
    for said in (
        "257 % of it with both skills against 140 % and 36 %",
        "at most 16 %",
        "CAT is 43 % better",
        "12 % better than data mixing",
    ):
        assert said in caption


def test_a_model_of_the_paper_has_its_number_beside_ours(cells):
    cell = cells("table_10").droplevel(["expert 1", "expert 2"]).loc[("2", "Arrow", "Qwen2.5-14B-Instruct")]
    assert (cell["hits"], cell["total"], cell["reported"]) == (8, 8, "94.1")
    text = tables.markdown(cells("table_10"), "")
    assert f"[8/8](#row-{cell['row']}) 100 %<br>paper 94.1 %" in text.replace("\N{NO-BREAK SPACE}", " ")


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


def test_seeds_are_pooled_and_each_is_said(cells):
    cell = cells("table_10").droplevel(["expert 1", "expert 2"]).loc[("2", "Arrow", "pocket")]
    assert (cell["hits"], cell["total"], cell["seeds"], cell["by_seed"]) == (7, 16, 2, "37.5 50")


def test_a_count_of_one_seed_has_no_interval(cells):
    table = cells("table_10")
    one, two = (table[table["seeds"] == seeds] for seeds in (1, 2))
    assert len(one)
    assert len(two)
    assert one[["low", "high"]].isna().all(axis=None)
    assert two[["low", "high"]].notna().all(axis=None)
    for part, there in ((one, False), (two, True)):
        assert {"[" in " ".join(tables._parts(cell, "")) for cell in tables._records(part)} == {there}


def test_an_interval_that_is_not_there_is_not_drawn():
    table = pandas.DataFrame(
        {"series": ["a", "a"], "model": ["one", "two"], "reported": [math.nan] * 2, "percent": [50.0, 60.0]}
    )
    table = table.assign(low=[math.nan, 40.0], high=[math.nan, 80.0])
    axes = Figure().subplots()
    table = table.assign(hits=1, total=2, seeds=[1, 2], by_seed=["50", "55 65"], void="", chance=math.nan)
    _bars.grouped(axes, table, "model", ["one", "two"], {"a": ("sum", "")})
    drawn = [
        segment
        for lines in axes.collections
        if isinstance(lines, LineCollection)
        for segment in lines.get_segments()
        if len(segment)
    ]
    assert [segment[:, 1].tolist() for segment in drawn] == [[40.0, 80.0]]


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


def test_a_pretrained_folder_has_the_settings_of_the_pocket_model(few):
    preset = {
        name: value
        for name, value in PRESETS["pocket"].items()
        if name in {f.name for f in dataclasses.fields(Composed)}
    }
    made = {"width": 256, "feed_forward": 768, "skill": "same"}
    write(
        few,
        row(
            "llm_bridge",
            [2, 2, 2, 2],
            model="results/pocket-same",
            setup="2",
            composition="arrow",
            prompting="steps",
            pocket=made,
            **preset,
        ),
    )
    assert "pocket, tested steps pretrained (seed 0)" in module("table_10").caption(table_of("table_10", few))


def test_a_setting_that_came_later_has_its_default_in_old_rows(few):
    old = row("llm_bridge", [2, 0, 0, 0], setup="3", composition="arrow", prompting="steps")
    del old["settings"]["adapter"]
    write(few, old)
    cell = table_of("table_10", few).droplevel(["expert 1", "expert 2"]).loc[("3", "Arrow", "pocket")]
    assert cell["row"] == old["hash"]


def test_two_models_of_one_name_are_two_models(few):
    other = row(
        "llm_bridge", [2, 2, 2, 2], setup="2", composition="arrow", prompting="steps", weights="fedcba9876543210"
    )
    table = table_of("table_10", write(few, other)).droplevel(["expert 1", "expert 2"])
    assert table.loc[("2", "Arrow", "pocket (01234567)")]["hits"] == 7
    assert table.loc[("2", "Arrow", "pocket (fedcba98)")]["hits"] == 8
    assert table.loc[("3", "Arrow", "pocket (fedcba98)")]["fill"] == f"python -m llm.bridge model=pocket out={few}"


def test_the_bridge_fills_the_mlp_of_table_9(few):
    table = table_of("table_09", few)
    assert table.loc[("pocket", "arrow", "setup 2, MLP layers")]["experiment"] == "llm_bridge"
    assert table.loc[("pocket", "arrow", "setup 2, MLP+Attention layers")]["experiment"] == "llm_placement"
    write(
        few, row("llm_placement", [0, 0, 0, 0], setup="2", layers="mlp", composition="arrow", prompting="steps", seed=1)
    )
    cell = table_of("table_09", few).loc[("pocket", "arrow", "setup 2, MLP layers")]
    assert (cell["seeds"], cell["total"]) == (2, 16), "a seed that both have counts once"


@pytest.mark.parametrize("name", NAMES)
def test_missing_cells_say_commands_that_work(name, made, capsys, monkeypatch):
    from lora_reuse.llm.protocols.protocol import main

    table = made(name)
    missing = table[table["row"] == ""]
    assert (missing["fill"] != "").all()
    assert (table[table["row"] != ""]["fill"] == "").all()
    text = tables.markdown(table, "caption")
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    for command in missing["fill"].unique():
        assert f"`{command}`" in text
        _, _, protocol, *words = shlex.split(command)
        code = main(importlib.import_module(protocol).PROTOCOL, [*words, "dry_run=true"])
        # What a person has to bring is not here: all words before that are understood. Nor can every machine confine
        # programs.
        brings = r"^llm\.\w+: (data: got F(OLDER|ILE)|allow_code_execution: got true where)"
        assert code == 0 or re.match(brings, capsys.readouterr().err), command
    assert text.count("*not measured here (") == len(missing)
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


def tabulars(text):
    """Of each `tabular` its lines, each a list of cells, each a list of lines as they read."""
    found = []
    for body in re.findall(r"\\begin\{tabular\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        lines = [line.removesuffix(r" \\") for line in body.splitlines() if line.endswith(r" \\")]
        found.append([[_read(cell) for cell in re.split(r"(?<!\\)&", line)] for line in lines])
    return found


def _read(cell):
    stacked = re.fullmatch(r"\\shortstack\[l\]\{(.*)\}", cell.strip())
    signs = {escape: sign for sign, escape in _latex._TEX.items()}
    sign = "|".join(map(re.escape, sorted(signs, key=len, reverse=True)))
    return [
        re.sub(sign, lambda match: signs[match[0]], line.strip())
        for line in (stacked[1] if stacked else cell).split(r"\\")
    ]


def points(lines):
    """The width of a `tabular`."""
    return sum(
        max(_latex.width(line) for cell in column for line in cell) + 2 * _latex.SEPARATION
        for column in zip(*lines, strict=True)
    )


@pytest.mark.parametrize("name", NAMES)
def test_latex_is_well_formed(name, made):
    text = tables.latex(made(name), module(name).caption(made(name)))
    columns = [len(columns) for columns in re.findall(r"\\begin\{tabular\}\{(l+)\}", text)]
    parts = tabulars(text)
    assert [{len(line) for line in lines} for lines in parts] == [{count} for count in columns]
    assert all(len(lines) > 1 for lines in parts)
    assert unescaped(text, "{") == unescaped(text, "}")
    assert not unescaped(text, "#")
    assert not unescaped(text, "%")
    assert set(re.findall(r"[^\x00-\x7f]", text)) == set()
    outside = re.sub(r"\$[^$]*\$", "", text)
    assert not unescaped(outside, "_")
    assert text.count("\\begin{") == text.count("\\end{")
    assert len(re.findall(r"\\caption\{(?!\(continued\))", text)) == 1


@pytest.mark.parametrize("name", NAMES)
def test_latex_fits_the_page(name, made):
    """Rows made up, and the committed ones, of more models."""
    found = [made(name)]
    with contextlib.suppress(MissingRows):
        found.append(table_of(name, PAPER))
    for table in found:
        parts = tabulars(tables.latex(table, "caption"))
        assert max(map(points, parts)) <= 468
        rows = table[table["row"] != ""]
        told = {" ".join(cell) for lines in parts for line in lines for cell in line}
        counts = {f"{hits:.0f}/{total:.0f}" for hits, total in zip(rows["hits"], rows["total"], strict=True)}
        assert all(any(count in cell for cell in told) for count in counts), "nothing that is measured is left out"


def test_a_table_in_one_piece_does_not_fit(monkeypatch):
    """As it was: Table 10 beside one another with its labels in one line is twice the page."""
    for name, value in {"TEXT": math.inf, "LABELS": (math.inf,), "HEAD": math.inf, "CELL": math.inf}.items():
        monkeypatch.setattr(_latex, name, value)
    (lines, *_) = tabulars(tables.latex(table_of("table_10", PAPER), "caption"))
    assert points(lines) > 468


LATEX = {
    "125/200": 27.90,
    "62.5\N{NO-BREAK SPACE}% [50,\N{NO-BREAK SPACE}73]": 51.61,
    "not measured here (aa)": 81.28,
    "theory ≤\N{NO-BREAK SPACE}5\N{NO-BREAK SPACE}%": 47.30,
    "DeepSeek-R1-Distill-Llama-70B": 110.53,
    "kilt_tasks_hotpotqa_straighforward_qa": 131.31,
    "R_1, F_1 + F_2 + F_12 CoT (B_F)": 121.37,
    "arrow_after:swapped": 70.79,
    "Error Types: None (Correct)": 101.29,
}
"""Points by pdfTeX 3.141592653-2.6-1.40.25, \\settowidth in \\scriptsize of article at 10 points."""


@pytest.mark.parametrize(("text", "points"), LATEX.items())
def test_widths_are_those_of_latex(text, points):
    assert points <= _latex.width(text) <= 1.03 * points


def test_latex_escapes():
    assert _latex.escaped("50 % of R_1 & ~$x^{2}$ #1 \\a <b> ≤ λ") == (
        r"50 \% of R\_1 \& \textasciitilde{}\$x\textasciicircum{}\{2\}\$ \#1 \textbackslash{}a \textless{}b\textgreater{} $\leq$ $\lambda$"
    )
    assert tables._md("a|b_c*d") == r"a\|b\_c\*d"


@pytest.mark.parametrize("name", NAMES)
def test_markdown_has_whole_lines_and_links_that_lead_somewhere(name, made):
    table = made(name)
    text = tables.markdown(table, module(name).caption(table))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {unescaped(line, "|") for line in lines} == {len(lines[0].split("|")) - 1}
    for anchor in re.findall(r"\]\(#([\w-]+)\)", text):
        assert f'<a id="{anchor}"></a>' in text
    for one in table[table["row"] != ""].to_dict("records"):
        assert all(f"`{name}`" in text for name in one["rows"].split())
        assert f"`{one['command']}`" in text


def test_csv_has_a_line_a_cell(made, tmp_path):
    table = made("table_10")
    path = tmp_path / "table.csv"
    path.write_text(tables.texts(table, "")["csv"])
    again = pandas.read_csv(
        path, dtype={"setup": str, "reported": str}, keep_default_na=False, na_values={"percent": [""]}
    )
    assert len(again) == len(table)
    assert list(again["reported"]) == list(table["reported"])
    assert again["percent"].dropna().tolist() == pytest.approx(table["percent"].dropna().tolist(), rel=1e-5)


def test_marks_go_on_after_z():
    assert [tables._letters(number) for number in (0, 25, 26, 27, 52)] == ["a", "z", "aa", "ab", "ba"]


@pytest.mark.parametrize(("name", "lines"), [("figure_1", 42 + 2 * 18), ("figure_2", 28), ("direct_answers", 1)])
def test_figures_show_the_numbers_of_the_tables(name, lines, shared):
    figure = importlib.import_module(f"lora_reuse.figures.{name}")
    shown = figure.data(Rows(shared, figure.NEEDS))
    assert len(shown) == lines
    source = table_of({"figure_1": "table_07", "figure_2": "table_09", "direct_answers": "table_07"}[name], shared)
    for line in shown.to_dict("records"):
        if name == "direct_answers":
            cell = source.loc[(line["dataset"], line["model"], "direct", f"{line['library']}, {line['composition']}")]
            assert line["at_most"] == cell["predicted_high"]
        elif name == "figure_1":
            cell = source.loc[(line["dataset"], line["model"], "step by step", line["series"])]
        else:
            setup, _, rule = line["series"].partition(", ")
            cell = source.loc[(line["model"], rule, f"{setup}, MLP layers")]
        assert (line["row"] if isinstance(line["row"], str) else "") == cell["row"]
        assert line.get("reported", math.nan) == pytest.approx(float(cell["reported"] or "nan"), nan_ok=True)
        assert line["percent"] == pytest.approx(cell["percent"], nan_ok=True)
        assert line["by_seed"] == cell["by_seed"]


@pytest.mark.parametrize("models", [1, 9])
@pytest.mark.parametrize("name", ["figure_1", "figure_2", "direct_answers"])
def test_figures_of_many_models_and_missing_cells_keep_apart(name, models, few):
    figure = importlib.import_module(f"lora_reuse.figures.{name}")
    for i in range(models - 1):
        other: dict[str, Any] = {
            "model": f"someone/a-model-with-a-rather-long-name-{i}-7B",
            "prompting": "steps",
            "composition": "arrow",
        }
        write(few, row("llm_two_hop", [1, 0, 2, 0], dataset="H", library="3-combination", **other))
        write(
            few,
            row("llm_two_hop", [2, 2, 2, 2], dataset="R", library="3-combination", **{**other, "prompting": "direct"}),
        )
        write(few, row("llm_bridge", [1, 1, 0, 0], setup="2", **other))
    table = figure.data(Rows(few, figure.NEEDS))
    with registry.picture(figure, table) as drawn:
        drawn.draw_without_rendering()
        whole = drawn.bbox.padded(1)
        texts = [
            text
            for axes in drawn.axes
            for text in (*(child for child in axes.get_children() if isinstance(child, Text)), axes.yaxis.label)
        ]
        texts += [text for legend in drawn.legends for text in legend.get_texts()]
        for text in (text for text in texts if text.get_text()):
            assert whole.contains(*text.get_window_extent().min), text
            assert whole.contains(*text.get_window_extent().max), text
        assert drawn.get_figheight() <= style.PAGE
        for axes in drawn.axes:
            assert axes.patches or axes.lines
            boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
            assert not [pair for pair in itertools.combinations(boxes, 2) if Bbox.intersection(*pair)]
    assert "nan" not in figure.caption(table)


def test_a_model_of_one_s_own_stands_among_the_models_on_h_only_if_asked_there(few):
    point: dict[str, Any] = {"library": "3-combination", "composition": "arrow", "prompting": "steps"}
    write(
        few,
        row("llm_two_hop", [1, 0, 0, 0], dataset="R", model="mine", **point),
        row("llm_two_hop", [1, 0, 0, 0], dataset="H", model="yours", **point),
    )
    figure = importlib.import_module("lora_reuse.figures.figure_1")
    shown = figure.data(Rows(few, figure.NEEDS)).groupby("panel")["model"].unique()
    assert {"yours", *_cells.PAPER} <= set(shown["a"])
    assert {"mine", "yours"} <= set(shown["b"])
    assert "mine" not in set(shown["a"])


@pytest.mark.parametrize("name", ["figure_1", "figure_2", "direct_answers"])
def test_figures_without_rows_say_which_command_makes_them(name, tmp_path):
    figure = importlib.import_module(f"lora_reuse.figures.{name}")
    with pytest.raises(MissingRows, match=r"make them with `python -m llm\."):
        figure.data(Rows(tmp_path, figure.NEEDS))


def test_every_setting_of_the_paper_s_models_has_a_hub_name():
    assert set(_cells.PAPER) == set(load(7)["base_model"])
