"""The identity of what was measured: a command started again finds the committed rows, and the experts that made
them."""

import dataclasses
import hashlib
import importlib
import json
from itertools import islice
from pathlib import Path

import pytest

from lora_reuse.llm.adapters.specs import Spec
from lora_reuse.llm.decoding.models import load_base
from lora_reuse.llm.protocols.protocol import library_of
from lora_reuse.runs.grid import settings_of
from lora_reuse.runs.rows import load_rows, row_hash
from tests.llm.tiny import tiny

PAPER = Path(__file__).parents[2] / "results" / "paper"
FORECASTS = ("llm_forecast", "llm_merge_probe")
NAMES = sorted(path.stem for path in PAPER.glob("llm_*.jsonl") if path.stem not in FORECASTS)
EXPERTS = json.loads(Path(__file__).with_name("expert_hashes.json").read_text())
"""By experiment: how many of its first committed rows are meant, how many experts made them, and the SHA-256 of the
experts' sorted names, on a float32 base whose digest is zeros. Rows that come later change nothing here."""


def cells(experiment):
    protocol = importlib.import_module("lora_reuse." + experiment.replace("_", ".", 1)).PROTOCOL
    for row in load_rows(PAPER, experiment):
        settings = dict(row["settings"])
        seed = settings.pop("seed")
        yield protocol, row, (protocol.axes(**settings), seed)


@pytest.mark.parametrize("experiment", NAMES)
def test_committed_rows_are_found_again(experiment):
    for _, row, cell in cells(experiment):
        assert row_hash(experiment, settings_of(cell)) == row["hash"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return dataclasses.replace(
        load_base(str(tiny("llama", tmp_path_factory.mktemp("base"))), chat="off"), digest="0" * 16
    )


def experts(experiment, base, rows):
    first = islice(cells(experiment), rows)
    specs = dict.fromkeys(spec for protocol, _, (point, seed) in first for spec in library_of(protocol, point, seed))
    return sorted({spec.key(base) for spec in specs if isinstance(spec, Spec)})


def summary(experiment, base, rows):
    names = experts(experiment, base, rows)
    return [rows, len(names), hashlib.sha256(" ".join(names).encode()).hexdigest()]


@pytest.mark.parametrize("experiment", NAMES)
def test_their_experts_are_found_again(experiment, base):
    assert summary(experiment, base, EXPERTS[experiment][0]) == EXPERTS[experiment]
