"""A table is what its specification says: labels in order, numbers of rows beside those of the paper, and commands."""

import pytest

from lora_reuse.figures import _cells, _groups
from lora_reuse.figures.rows import MissingRows, Rows
from lora_reuse.figures.tables._side_by_side import STEPS_OR_DIRECT, Choice, captioned, choices, side_by_side

PAPER_MODEL = "Qwen2.5-14B-Instruct"
NEEDS = {"llm_bridge": "python -m llm.bridge"}


def specified(paper, **others):
    return side_by_side(
        10,
        "llm_bridge",
        ("setup", "composition", "prompting"),
        {"model": paper, "rule": choices("composition", {"arrow": "Arrow"}), "asked": STEPS_OR_DIRECT},
        asked={"setup": "2"},
        printed={"setup": "2"},
        fixed=_groups.PLAIN,
        **others,
    )


def test_a_table_is_its_specification(shared):
    paper = {PAPER_MODEL: _cells.PAPER[PAPER_MODEL]}
    table = specified(paper, words="workers=1")(Rows(shared, NEEDS))
    asked = ["step by step", "direct"]
    assert table.index.names == ["model", "rule", "asked"]
    assert table.index.tolist() == [(model, "Arrow", how) for model in ("pocket", PAPER_MODEL) for how in asked]
    assert table["hits"].tolist()[::2] == [7, 8]
    assert table["reported"].tolist() == ["", "", "94.1", ""]
    assert table["fill"].tolist()[1] == f"python -m llm.bridge workers=1 model=pocket out={shared}"
    assert captioned("Said.")(table).startswith("Said. Measured here: pocket (seeds 0, 1")


def test_what_the_paper_did_not_ask_is_shown_of_measured_models_alone(tmp_path):
    paper = {PAPER_MODEL: _cells.PAPER[PAPER_MODEL]}
    table = specified(paper)(Rows(tmp_path, NEEDS))
    assert table.index.tolist() == [(PAPER_MODEL, "Arrow", "step by step")]
    assert table["reported"].tolist() == ["94.1"]
    with pytest.raises(MissingRows, match=r"make them with `python -m llm\.bridge out="):
        specified({})(Rows(tmp_path, NEEDS))


def test_settings_may_be_recorded_otherwise_or_not_at_all(shared):
    paper = {PAPER_MODEL: _cells.PAPER[PAPER_MODEL]}
    elsewhere = specified(paper, recorded=lambda asked, measured: {**asked, "setup": "0"})(Rows(shared, NEEDS))
    assert elsewhere.loc[("pocket", "Arrow", "direct"), "hits"] == 1
    nowhere = specified(paper, recorded=lambda asked, measured: asked if asked["model"] != "pocket" else None)
    assert set(nowhere(Rows(shared, NEEDS)).index.get_level_values("model")) == {PAPER_MODEL}


def test_a_column_may_depend_on_what_was_asked_of_the_model(shared):
    def setups(measured, line):
        assert line.labels in (("pocket",), ("Qwen2.5-14B-Instruct",))
        return {f"setup {one}": Choice({"setup": one}) for one in sorted({asked["setup"] for asked in measured})}

    table = side_by_side(
        None,
        "llm_bridge",
        ("setup", "composition", "prompting"),
        {"model": {}, "setup": setups},
        asked={"composition": "arrow", "prompting": "steps"},
    )(Rows(shared, NEEDS))
    assert table.index.tolist() == [("pocket", "setup 0"), ("pocket", "setup 2"), (PAPER_MODEL, "setup 2")]
