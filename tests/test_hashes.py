"""The identity of what the theory's experiments measured: a sweep started again finds the committed rows."""

import math
from pathlib import Path
from typing import Any

import pytest

from lora_reuse.runs.grid import settings_of
from lora_reuse.runs.rows import load_rows, row_hash
from lora_reuse.theory.settings import EXPERIMENTS, settled

PAPER = Path(__file__).parents[1] / "results" / "paper"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_committed_rows_are_found_again(experiment):
    rows = load_rows(PAPER, experiment)
    assert rows
    for row in rows:
        settings: dict[str, Any] = {
            name: math.inf if value == "inf" else value for name, value in row["settings"].items()
        }
        seed = settings.pop("seed")
        (point,) = settled([EXPERIMENTS[experiment](**settings)], {})
        assert row_hash(experiment, settings_of((point, seed))) == row["hash"]
