"""Every rule on sets of skills, from two experts to five

One expert is on facts and four are on forms of an answer. A cell is all sets of so many skills together."""

import pandas

from lora_reuse.figures import _cells, skill_sets
from lora_reuse.figures.rows import Rows
from lora_reuse.figures.skill_sets import as_one, together

NEEDS = skill_sets.NEEDS
WITH = {"fact": "{} skills, the fact among them", "forms": "{} forms"}
NUMBERS = {"2": "two", "3": "three", "4": "four", "5": "five"}


def table(rows: Rows) -> pandas.DataFrame:
    """The cells, by model, composition and how many skills of which kind are asked in one answer."""
    sets, about = together(rows)
    sets = {key: own for key, own in sets.items() if key[1] in WITH}
    found = _cells.of_groups({key: as_one(own) for key, own in sets.items()}, about)
    columns = sorted({key[1:3] for key in sets})
    lines = {}
    for label, model in _cells.models(found, {}).items():
        for rule in dict.fromkeys(key[3] for key in sets if key[0] == model):
            fill = _cells.fill(rows, f"{NEEDS['llm_skill_sets']} composition={rule}", model)
            for kind, count in columns:
                key = (model, kind, count, rule)
                cell = _cells.cell(found, key, "", _cells.NO_PREDICTION, fill)
                lines[label, rule, WITH[kind].format(NUMBERS[count])] = cell | {"rows": cell["row"]}  # hundreds of rows
    return _cells.frame(lines, ("model", "composition", "asked at once"), found)


def caption(table: pandas.DataFrame) -> str:
    """What a cell is."""
    return (
        "Experts of one skill each are composed by each of these rules and asked for all of their skills in one answer,"
        " which is right if its value is right and it has every form. A cell has all sets of so many skills together,"
        " of twenty questions each, of which one row is named; a set is left out where an expert alone does not have"
        " its own skill, and a cell is void where all sets are. joint is one expert on all data mixed, oracle one that"
        " was trained on such answers. Intervals are of 95 %, over seeds. Theory has no prediction here."
        f" {_cells.about(table)}"
    )
