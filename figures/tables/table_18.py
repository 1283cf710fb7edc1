"""Table 18: the shared adapters, each alone

What each adapter of Table 20 was trained on, and what it answers before it is composed (A.6). The paper's table has
words only."""

from lora_reuse.figures.tables import table_20
from lora_reuse.figures.tables._side_by_side import Choice, Measured, Settings, captioned
from lora_reuse.paper_checks.reported import load

NEEDS = table_20.NEEDS
TASKS = load(18).query("column == 'Task description'").set_index("library")["value"]


def recorded(asked: Settings, measured: Measured) -> Settings:
    """The adapter as rows have it, wherever it lies."""
    named = (one["library"] for one in measured if one["library"].rstrip("/").endswith(asked["library"]))
    return {**asked, "library": next(named, asked["library"])}


table = table_20.places(
    None,
    columns={
        ("adapter", "trained on"): {(name, TASKS[name]): Choice({"library": name}) for name in table_20.ADAPTERS},
        "model": table_20.PAPER,
        "question": table_20.QUESTIONS,
    },
    asked={"composition": "alone"},
    fixed={"composition": "alone"},
    recorded=recorded,
    words=lambda asked: f"composition=uniform library=FOLDER/{asked['library']}",
)
caption = captioned(
    "Each of the five adapters that Table 20 composes is asked alone (Table 18, A.6, which has no numbers). What the"
    " paper says each was trained on stands in a summary's words. `python -m llm.mttl` makes a folder of each. An"
    f" answer is right that names the place, or that continent and no other. {table_20.READING}"
)
