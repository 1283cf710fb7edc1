"""What theory allows: each protocol says it for its own points, and the committed rows say the same unless that is
withdrawn."""

import csv
import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from lora_reuse.figures.rows import Rows
from lora_reuse.llm.protocols.by_name import protocol_of
from lora_reuse.llm.protocols.dials import LEARNED
from lora_reuse.llm.protocols.settings import PROMPTINGS
from lora_reuse.runs.rows import WITHDRAWN, load_rows
from tests.rows_of_models import row, write

PAPER = Path(__file__).parents[2] / "results/paper"
NAMES = (
    "two_hop bridge placement methods large_library bridge_minimum bridge_examples scale edit latent chains exposed"
).split()
FACTS: dict[str, Any] = {"triplets": 10, "prompting": "direct"}


def protocol(name):
    return protocol_of(f"llm_{name}")


def point(name, **settings):
    return protocol(name).axes(**{key: value for key, value in settings.items() if key != "seed"})


def disagreeing(name, rows, bound=None):
    """Hashes of the rows whose bound, in hits, is not what the protocol's says of their settings."""
    found = set()
    for one in rows:
        share = (bound or protocol(name).bound)(point(name, **one["settings"]))
        said = one["predicted"].get("at_most")
        if said != (None if share is None else pytest.approx(share * one["measured"]["total"])):
            found.add(one["hash"])
    return found


def stored(name):
    """The committed rows as they are on disk, with what is withdrawn."""
    return [json.loads(line) for line in (PAPER / f"llm_{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_rows_have_the_bound_of_their_protocol(name):
    rows = load_rows(PAPER, f"llm_{name}")
    assert rows
    assert disagreeing(name, rows) == set()


def withdrawn():
    """The lines of the rows whose bound does not count."""
    with (PAPER / WITHDRAWN).open() as file:
        return [line for line in csv.DictReader(file) if line["field"] == "predicted.at_most"]


def test_withdrawn_are_just_the_rows_whose_stored_bound_is_not_the_protocol_s():
    lines = withdrawn()
    wrong = {hash for name in NAMES for hash in disagreeing(name, stored(name))}
    assert {line["hash"] for line in lines} == wrong
    assert len(lines) == len(wrong) == 17
    by_hash = {row["hash"]: row for row in stored("methods")}
    assert all(by_hash[line["hash"]]["provenance"]["commit"] == line["commit"] for line in lines)
    kept = {row["hash"]: row for row in load_rows(PAPER, "llm_methods")}
    assert len(kept) == len(by_hash)
    for line in lines:
        row, measurement = kept[line["hash"]], by_hash[line["hash"]]["measured"]
        assert (row["predicted"], row["measured"]) == ({}, measurement)


def test_a_bound_guessed_from_the_names_of_settings_would_not_pass():
    """The mistake that these rows were made with: all of setup 0 is two one-hop experts, whatever the library."""

    def guess(point):
        return (
            1 / point.triplets
            if (point.setup, point.prompting) == ("0", "direct") and point.composition not in ("base", "random")
            else None
        )

    wrong = {line["hash"] for line in withdrawn()}
    assert wrong <= disagreeing("methods", load_rows(PAPER, "llm_methods"), guess)
    assert wrong.isdisjoint(disagreeing("methods", stored("methods"), guess)), "they were made with the mistake"


WITH = {
    "two_hop": {"library": "2-combination"},
    "bridge": {"setup": "0"},
    "placement": {"setup": "0"},
    "methods": {"setup": "0", "library": "pair"},
    "large_library": {"library": "2-combination"},
    "bridge_minimum": {"bridge_triplets": 0},
    "bridge_examples": {"examples": 0},
    "scale": {"library": "2-combination"},
    "edit": {"library": "2-combination"},
    "latent": {"library": "2-combination", "second": "dealt"},
    "chains": {"library": "experts", "bridge": "none", "hops": 3},
    "exposed": {"relations": "apart"},
}
WITHOUT: list[tuple[str, dict[str, Any]]] = [
    *(("two_hop", {"library": library}) for library in ("none", "3-combination", "oracle", "mixed")),
    *((name, {"setup": setup}) for name in ("bridge", "placement") for setup in "12345678"),
    *(
        ("methods", {"setup": setup, "library": library})
        for setup, library in (("2", "pair"), ("0", "oracle"), ("0", "data_mix"))
    ),
    *(("large_library", {"library": library}) for library in ("10-combination", "5-combination", "oracle")),
    ("bridge_minimum", {"bridge_triplets": 1}),
    ("bridge_examples", {"examples": 1}),
    *((name, {"library": library}) for name in ("scale", "edit") for library in "12"),
    *(("latent", {"library": library}) for library in ("none", "mixed", "document")),
    *(("chains", {"library": library, "bridge": "none"}) for library in ("none", "joint", "oracle")),
    ("chains", {"library": "experts", "bridge": "all"}),
    *(("exposed", {"relations": "apart", "library": library}) for library in ("none", "mixed")),
    ("exposed", {"relations": "chained"}),
]


@pytest.mark.parametrize("name", NAMES)
def test_two_one_hop_experts_are_right_once_in_n_at_most(name):
    rule = "cat" if name == "scale" else "sum"
    of = lambda **other: protocol(name).bound(point(name, **FACTS | {"composition": rule} | WITH[name] | other))  # noqa: E731
    assert of() == 1 / 10
    assert [of(prompting=prompting) for prompting in PROMPTINGS[1:]] == [None] * 3
    if name not in ("scale", "edit"):  # which have no rules
        assert of(composition="cat:own") == of()
        seen = [rule for rule in LEARNED if rule.endswith(":two_hop")]
        assert [of(composition=rule) for rule in ("base", "random", *seen)] == [None] * (2 + len(seen))
        assert of(pool="random") is None


@pytest.mark.parametrize(("name", "settings"), WITHOUT)
def test_others_may_be_right_always(name, settings):
    rule = {"composition": "cat" if name == "scale" else "sum"}
    assert protocol(name).bound(point(name, **FACTS | rule | settings)) is None


def test_these_are_all_protocols_with_a_bound():
    named = [path.stem for path in Path(PAPER.parents[1] / "llm").glob("*.py") if "\nPROTOCOL = " in path.read_text()]
    default = next(f.default for f in dataclasses.fields(type(protocol("two_hop"))) if f.name == "bound")
    assert {name for name in named if protocol(name).bound is not default} == set(NAMES)


def test_a_table_has_no_bound_where_it_is_withdrawn():
    methods = importlib.import_module("lora_reuse.figures.tables.methods")
    high = (
        methods.table(Rows(PAPER, methods.NEEDS))["predicted_high"]
        .xs("setup 0, direct", level=-1)
        .sort_index()
        .loc[("pocket", "LoRA")]
    )
    assert high[["one expert on the pair", "one expert on the union", "cat:two_hop"]].isna().all()
    assert high[["sum", "arrow", "cat:own"]].tolist() == [5.0, 5.0, 5.0]


def test_a_withdrawal_is_read_anew_once_it_is_written(tmp_path):
    made = row("llm_methods", [0, 0], composition="sum", predicted={"at_most": 2.0})
    rows = Rows(write(tmp_path, made), {"llm_methods": ""})
    assert rows.all("llm_methods")["predicted.at_most"].tolist() == [2.0]
    (tmp_path / WITHDRAWN).write_text(
        f"hash,commit,field,reason\n{made['hash']},{made['provenance']['commit']},predicted.at_most,why\n"
    )
    assert "predicted.at_most" not in rows.all("llm_methods")
