"""Table 20: shared adapters asked for places, and for their continents

HotpotQA's questions for a city or a country, in their own words and for the continent, under one shared adapter, four,
and five (A.6)."""

import math
from typing import Any

import pandas
from lora_reuse.figures import _cells
from lora_reuse.figures.rows import Rows
from lora_reuse.paper_checks.reported import load

NEEDS = {"llm_continent": "python -m llm.continent"}
PAPER = {"Phi-2": "microsoft/phi-2"}
AXES = ("library", "prompting", "composition")
QUESTIONS = {"original": "Original Question", "continent": "Continent Prompt"}
RULES = {"base": "Base", "uniform": "Uniform", "arrow": "Arrow"}
ONE, FOUR, FIVE = "kilt_tasks_hotpotqa_straighforward_qa", "all 4 hotpotqa (excl. formulate)", "all 5 hotpot qa"
BROUGHT = "data=FILE"
READING = (
    "Each cell: right answers of all and their share, with a 95 % interval over seeds where there are several; what the paper reports. A line"
    " of a model on our own people is a stand-in, with experts on homes and on places of study: its numbers say nothing about HotpotQA, and the"
    " paper's do not stand beside them. FILE holds HotpotQA's or KILT's questions, FOLDER the adapters (`python -m llm.continent --help`). Theory"
    " has no prediction here: nobody knows what facts these adapters store."
)


def adapters() -> list[str]:
    """The names of the shared adapters (Table 18)."""
    return load(18)["library"].unique().tolist()


def libraries() -> dict[str, tuple[str, ...]]:
    """The paper's libraries -> their adapters."""
    return {
        ONE: (ONE,),
        FOUR: tuple(name for name in adapters() if not name.endswith("formulate")),
        FIVE: tuple(adapters()),
    }


def label_of(library: str) -> str:
    """The paper's name for a library of these adapters, wherever they lie; else its own."""
    names = {name.rstrip("/").split("/")[-1].rsplit(":")[-1] for name in library.split("+")}
    return next((label for label, wanted in libraries().items() if names == set(wanted)), library)


def words(library: str) -> str:
    """A library as the command has it: the paper's by its adapters, another by its own name."""
    adapters = [f"FOLDER/{name}" for name in libraries().get(library, ())]
    return "" if library == "own" else f" library={'+'.join(adapters) or library}"


def table(rows: Rows) -> pandas.DataFrame:
    """The cells, by model, library, question and composition. Of a single adapter every composition is that adapter;
    the base has no library and stands with the first."""
    found = _cells.measured(rows, ["llm_continent"], AXES)
    made: dict[tuple[str, ...], dict[str, Any]] = {}
    for label, model in _cells.models(found, PAPER).items():
        measured = {label_of(key[1]): key[1] for key in found.cells if key[0] == model and key[1] != "none"}
        known = dict.fromkeys(libraries() if label in PAPER else (), "") | measured
        for i, (library, name) in enumerate((known or {"own": "own"}).items()):
            for prompting, question in QUESTIONS.items():
                for rule, said in RULES.items():
                    if i and rule == "base":
                        continue
                    key = (
                        model,
                        "none" if rule == "base" else name,
                        prompting,
                        "base" if rule == "base" else _rule(found, model, name, rule),
                    )
                    wanted = {"library": library, "question": f"Phi2 / {question}", "composition": said}
                    value = _cells.reported(20, **wanted) if label in PAPER else ""
                    made_by = f"{NEEDS['llm_continent']} composition=base,uniform,arrow{words(library)}"
                    made[label, library, question, said] = _cells.cell(
                        found, key, value, (math.nan, math.nan), _cells.fill(rows, made_by, model, BROUGHT)
                    )
    return _cells.frame(made, ("model", "library", "question", "composition"), found)


def _rule(found: _cells.Found, model: str, library: str, rule: str) -> str:
    """The composition as rows have it: alone, where the library is of one."""
    return "alone" if any(key[:2] == (model, library) and key[-1] == "alone" for key in found.cells) else rule


def caption(table: pandas.DataFrame) -> str:
    """What a cell is."""
    return (
        "HotpotQA's questions whose answer is a city or a country are asked in their own words and for the continent (Table 20, A.6). The paper has"
        " one model, and the base once. Its claim is that accuracy drops sharply when the continent is asked for. An answer is right that names the"
        f" place, or that continent and no other. {READING} {_cells.about(table)}"
    )
