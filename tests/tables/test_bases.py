"""Rows of another base stand beside the pocket model's under the name that its file has, and change no number of it."""

import importlib

import pandas
import pytest
from matplotlib.text import Text

from lora_reuse.figures import registry
from lora_reuse.figures._text import fill
from lora_reuse.figures.rows import Rows
from tests.rows_of_models import row, write
from tests.tables.planted import module, table_of

SMOL = "SmolLM2-135M-Instruct, Q4_1, dequantised"


@pytest.fixture
def both(few):
    """The rows of a pocket model, and all right answers of another base."""
    made = {"model": "smollm2", "base": SMOL, "weights": "5" * 16, "seed": 3}
    asked = {"composition": "arrow", "prompting": "steps"}
    return write(
        few,
        *(row("llm_bridge", [2] * 4, setup=setup, **asked, **made) for setup in "02"),
        *(row("llm_two_hop", [2] * 4, library="3-combination", dataset=name, **asked, **made) for name in "FH"),
        row("llm_two_hop", [2] * 4, library="3-combination", composition="arrow", prompting="direct", **made),
        row("llm_placement", [2] * 4, setup="2", layers="both", **asked, **made),
        row("llm_latent", [2] * 4, library="2-combination", composition="sum", **made),
        row("llm_latent", [0] * 4, library="2-combination", composition="sum"),
    )


@pytest.mark.parametrize("name", ["compositions", "table_01", "table_07", "table_08", "table_09", "table_10"])
def test_tables_have_lines_of_either(name, shared, both):
    before, after = table_of(name, shared).drop(columns="fill"), table_of(name, both).drop(columns="fill")
    named = pandas.Series([SMOL in labels for labels in after.index], index=after.index)
    assert named.any()
    pandas.testing.assert_frame_equal(after[~named], before)
    measured = after[named & (after["row"] != "")]
    assert (measured["percent"] == 100).all()
    assert len(measured)
    caption = module(name).caption(table_of(name, both))
    assert f"; {SMOL} (seed 3)" in caption
    assert "pocket (seeds 0, 1" in caption


@pytest.mark.parametrize("name", ["figure_1", "figure_2", "direct_answers"])
def test_figures_draw_either(name, shared, both):
    figure = importlib.import_module(f"lora_reuse.figures.{name}")
    before, after = (figure.data(Rows(folder, figure.NEEDS)) for folder in (shared, both))
    named = after["model"] == SMOL
    assert (after[named]["percent"].dropna() == 100).all()
    assert named.any()
    pandas.testing.assert_frame_equal(after[~named].reset_index(drop=True), before.reset_index(drop=True))
    assert SMOL in figure.caption(after)
    with registry.picture(figure, after) as drawn:
        drawn.draw_without_rendering()
        assert any("SmolLM2" in text.get_text() for text in drawn.findobj(Text) if isinstance(text, Text))


def test_text_is_of_the_pocket_model_where_it_names_no_other(both):
    cell = "llm_latent composition=sum"
    said = {
        f"hits llm_bridge {words}setup=2 composition=arrow prompting=steps": hits
        for words, hits in {"": "7/16", "model=smollm2 ": "8/8"}.items()
    }
    said |= {f"rows {cell}": "1", f"rows {cell} model=smollm2": "1"}
    said |= {
        f"mean llm_latent measured.hits composition=sum{words}": hits
        for words, hits in {"": "0", " model=smollm2": "8"}.items()
    }
    assert {words: fill(f"{{{words}}}", both).text for words in said} == said
