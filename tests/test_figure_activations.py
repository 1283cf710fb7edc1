"""The figure of activations: drawn whole, and its numbers held to the closed forms."""

import numpy as np
import pytest

from lora_reuse.figures.rows import MissingRows
from tests.drawn_figures import committed, module, table_of, write

NAME = "activations"


def claim(table):
    """Every mean lies at the closed form (z below 4 at 32 seeds), and no multiple reaches the one of the old answer."""
    z = (table["measured"] - table["limit"]) / table["stderr"] * np.sqrt(table["seeds"])
    assert np.abs(z).max() < 4  # 26 right means pass once in 600
    assert table["limit"].max() < 1
    second = table[(table["quantity"] == "c_second") & (table["input_variance"] == 1)].set_index("activation")["limit"]
    assert second["quadratic"] < 0.5 < second["gelu"] < second["relu"]
    np.testing.assert_allclose(second[["erf", "linear"]], 0.5)


def test_the_numbers_bear_out_the_claim():
    table = table_of(NAME)
    assert set(table["activation"]) == {"relu", "gelu", "erf", "linear", "quadratic"}
    claim(table)


def test_false_numbers_do_not(tmp_path):
    rows = committed("kernel_limit")
    for row in rows:
        if row["settings"]["activation"] == "erf":
            row["measured"]["c_first"] *= 1.05
    with pytest.raises(AssertionError):
        claim(table_of(NAME, write(tmp_path / "false", "kernel_limit", rows)))


def test_the_caption_says_which_activations_tie():
    table = table_of(NAME)
    assert "ties with the old answer for erf, linear" in " ".join(module(NAME).caption(table).split())


def test_without_another_activation_it_says_which_rows_are_missing(tmp_path):
    rows = [row for row in committed("kernel_limit") if row["settings"]["activation"] == "relu"]
    with pytest.raises(MissingRows, match="activation=erf"):
        table_of(NAME, write(tmp_path / "relu", "kernel_limit", rows))
