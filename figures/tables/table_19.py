"""Table 19: the question in its own words and for the continent, and what counts as right

The two ways of asking with one of the paper's examples, and what answers are right when one reads them loosely or
strictly (A.6)."""

from lora_reuse.figures.tables import table_20
from lora_reuse.figures.tables._side_by_side import Choice, Line, Measured, captioned, choices
from lora_reuse.paper_checks.reported import load

NEEDS = table_20.NEEDS
WORDS = load(19).query("example == 'Op. 5'").set_index("column")["value"]
EXAMPLES = {
    question: " → ".join(WORDS[column] for column in columns)
    for question, columns in zip(
        table_20.QUESTIONS,
        (("Original question", "Original answer"), ("Continent Prompt question", "answer")),
        strict=True,
    )
}


def compositions(measured: Measured, line: Line) -> dict[tuple[str, str], Choice]:
    """What was asked so; of a model without rows, the base."""
    found = [one for one in measured if one["prompting"] == line.choice.asked["prompting"]]
    pairs = [(one["library"], one["composition"]) for one in found] or [("none", "base")]
    return {
        (table_20.label_of(library), rule): Choice({"library": library, "composition": rule}) for library, rule in pairs
    }


table = table_20.places(
    None,
    columns={
        ("question", "the paper's example"): {(said, EXAMPLES[said]): one for said, one in table_20.QUESTIONS.items()},
        "model": table_20.PAPER,
        ("library", "composition"): compositions,
        "counted": choices("counted", {"lenient": "named, among others", "hits": "right", "exact": "and nothing else"}),
    },
    words="composition=base",
)
caption = captioned(
    "Both ways of asking stand with one of the paper's examples in a summary's words (Table 19, A.6, which has no"
    " numbers). The paper does not say how it reads an answer, and the columns show how much depends on it. The place"
    " or continent is named, among other continents too; or it is the only one named; or it is all that the answer"
    f" says. {table_20.READING}"
)
