"""Table 19: the question in its own words and for the continent, and what counts as right

The two ways of asking with one of the paper's examples, and what answers are right when one reads them loosely or
strictly (A.6)."""

import math
from typing import Any

import pandas
from lora_reuse.figures import _cells
from lora_reuse.figures.rows import Rows
from lora_reuse.figures.tables import table_20
from lora_reuse.paper_checks.reported import load

NEEDS = table_20.NEEDS
EXAMPLE = "Op. 5"
EXAMPLES = {"original": ("Original question", "Original answer"), "continent": ("Continent Prompt question", "answer")}
MARKS = {"lenient": "named, among others", "hits": "right", "exact": "and nothing else"}


def table(rows: Rows) -> pandas.DataFrame:
    """The cells, by question, example, model, library, composition and mark; without rows, of the base of the paper's
    model."""
    groups, about = _cells.grouped(rows, ["llm_continent"], table_20.AXES)
    found = {mark: _cells.of_groups(groups, about, mark) for mark in MARKS}
    models = _cells.models(found["hits"], table_20.PAPER)
    words = load(19).query("example == @EXAMPLE").set_index("column")["value"]
    made: dict[tuple[str, ...], dict[str, Any]] = {}
    for prompting, question in table_20.QUESTIONS.items():
        example = " → ".join(words[column] for column in EXAMPLES[prompting])
        for label, model in models.items():
            measured = [key[1:] for key in found["hits"].cells if key[0] == model and key[2] == prompting]
            for library, _, rule in measured or [("none", prompting, "base")]:
                for mark, said in MARKS.items():
                    fill = _cells.fill(rows, f"{NEEDS['llm_continent']} composition=base", model, table_20.BROUGHT)
                    cell = _cells.cell(found[mark], (model, library, prompting, rule), "", (math.nan, math.nan), fill)
                    made[question, example, label, table_20.label_of(library), rule, said] = cell
    return _cells.frame(
        made, ("question", "the paper's example", "model", "library", "composition", "counted"), found["hits"]
    )


def caption(table: pandas.DataFrame) -> str:
    """What a cell is."""
    return (
        "Both ways of asking stand with one of the paper's examples in a summary's words (Table 19, A.6, which has no numbers). The paper does not"
        " say how it reads an answer, and the columns show how much depends on it. The place or continent is named, among other continents too; or"
        f" it is the only one named; or it is all that the answer says. {table_20.READING} {_cells.about(table)}"
    )
