"""Tables by their names, and rows made up of which each of them has some."""

import importlib
import itertools
from typing import Any

from lora_reuse.figures.rows import Rows
from tests.rows_of_models import row

PAPER = "results/paper"
TWO_HOPS = "compositions methods table_01 table_02 table_07 table_08 table_09 table_10 table_12".split()
EXAMS = "skills table_03 table_04 table_13 table_14 table_15 table_16 table_17 table_18 table_19 table_20".split()
NAMES = TWO_HOPS + EXAMS


def module(name):
    return importlib.import_module(f"lora_reuse.figures.tables.{name}")


def table_of(name, folder):
    return module(name).table(Rows(folder, module(name).NEEDS))


def two_hops():
    """Rows of two models and two seeds, with cells that are missing; the second model is one of the paper's."""
    model = "somewhere/Qwen2.5-14B-Instruct"
    rows = [
        row("llm_bridge", [2, 1, 0, seed], seed=seed, setup=s, composition=c, prompting="steps")
        for s in "02"
        for c in ("uniform", "arrow")
        for seed in (0, 1)
    ]
    for experiment, layers in (("llm_bridge", "mlp"), ("llm_placement", "attention")):
        asked: dict[str, Any] = {"setup": "2", "composition": "arrow", "prompting": "steps", "layers": layers}
        rows += [row(experiment, [2, 2, 2, 2], model=model, **asked)]
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
    return rows


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
