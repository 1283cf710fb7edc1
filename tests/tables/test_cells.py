"""Every cell is the sum over its rows, which are of what its labels say; a cell that is missing says what makes it."""

import importlib
import json
import math
import re
import shlex

import pytest

from lora_reuse.figures import tables
from lora_reuse.figures.rows import MissingRows
from lora_reuse.llm.protocols.table import pooled
from tests.tables.planted import KILT, NAMES, PAPER, module, table_of


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
    "SmolLM2-135M-Instruct, Q4_1, dequantised": "smollm2",
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
            {"library": "oracle" + "_steps" * method.endswith("step by step")}
            if method.startswith("one expert on the pair")
            else {"library": "none"}
            if method == "base"
            else {"setup": column.split(",")[0][-1]}
        ),
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
        **{"formats": formats, "asked": "both", "data": "capitals" if "capitals" in model else "own"},
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
    assert text.count("– (") == len(missing)
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
