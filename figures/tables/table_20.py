"""Table 20: shared adapters asked for places, and for their continents

HotpotQA's questions for a city or a country, in their own words and for the continent, under one shared adapter, four,
and five (A.6)."""

import functools

from lora_reuse.figures.tables._side_by_side import Choice, Line, Measured, Settings, captioned, choices, side_by_side
from lora_reuse.paper_checks.reported import load

NEEDS = {"llm_continent": "python -m llm.continent"}
PAPER = {"Phi-2": "microsoft/phi-2"}
QUESTIONS = {
    said: Choice({"prompting": said.split()[0].lower()}, {"question": f"Phi2 / {said}"})
    for said in ("Original Question", "Continent Prompt")
}
ADAPTERS = tuple(load(18)["library"].unique())
ONE = "kilt_tasks_hotpotqa_straighforward_qa"
LIBRARIES = {
    ONE: (ONE,),
    "all 4 hotpotqa (excl. formulate)": tuple(name for name in ADAPTERS if not name.endswith("formulate")),
    "all 5 hotpot qa": ADAPTERS,
}
"""The paper's libraries -> their adapters."""
READING = (
    "A cell has how many of all answers are right, and their share with a 95 % interval over seeds where there are"
    " several; below it stands the paper's number, where there is one. A line of a model on our own people is a"
    " stand-in, with experts on homes and on places of study: its numbers say nothing about HotpotQA, and the paper's"
    " do not stand beside them. FILE holds HotpotQA's or KILT's questions, FOLDER the adapters (`python -m"
    " llm.continent --help`). Theory has no prediction here: nobody knows what facts these adapters store."
)
places = functools.partial(
    side_by_side, experiment="llm_continent", axes=("library", "prompting", "composition"), brought="data=FILE"
)
"""`side_by_side` of these rows."""


def label_of(library: str) -> str:
    """The paper's name for a library of these adapters, wherever they lie; else its own."""
    names = {name.rstrip("/").split("/")[-1].rsplit(":")[-1] for name in library.split("+")}
    return next((label for label, wanted in LIBRARIES.items() if names == set(wanted)), library)


def words(asked: Settings) -> str:
    """What makes `llm.continent` measure a library: the paper's by its adapters, another by its own name."""
    label = label_of(asked["library"])
    named = "+".join(f"FOLDER/{name}" for name in LIBRARIES.get(label, ())) or label
    return "composition=base,uniform,arrow" + ("" if label == "own" else f" library={named}")


def libraries(measured: Measured, line: Line) -> dict[str, Choice]:
    """The paper's libraries, of its model, and those that were asked."""
    known = {label: label for label in LIBRARIES if line.labels[0] in PAPER}
    known |= {label_of(one["library"]): one["library"] for one in measured if one["library"] != "none"}
    return {label: Choice({"library": name}, {"library": label}) for label, name in (known or {"own": "own"}).items()}


def compositions(measured: Measured, line: Line) -> dict[str, Choice]:
    """The base has no library and stands with the first."""
    rules = ("Base", "Uniform", "Arrow")[line.labels[1] != next(iter(libraries(measured, line))) :]
    return choices("composition", {rule.lower(): rule for rule in rules})


def recorded(asked: Settings, measured: Measured) -> Settings:
    """The base without a library; and of a single adapter, which is every composition, that adapter alone."""
    if asked["composition"] == "base":
        return {**asked, "library": "none"}
    alone = any(one["library"] == asked["library"] and one["composition"] == "alone" for one in measured)
    return {**asked, "composition": "alone"} if alone else asked


table = places(
    20,
    columns={"model": PAPER, "library": libraries, "question": QUESTIONS, "composition": compositions},
    recorded=recorded,
    words=words,
)
caption = captioned(
    "HotpotQA's questions whose answer is a city or a country are asked in their own words and for the continent (Table"
    " 20, A.6). The paper has one model, and the base once. Its claim is that accuracy drops sharply when the continent"
    " is asked for. An answer is right that names the place, or that continent and no other."
    f" {READING}"
)
