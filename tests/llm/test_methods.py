"""Table 2 for every method: what is asked of what, and one run of it."""

import pytest

from lora_reuse.llm.data.mixtures import SETUPS, pair
from lora_reuse.llm.methods import GIVEN, PROTOCOL, THE_SAME, Methods, library, main, reported, sensible
from lora_reuse.llm.protocols.dials import LEARNED
from lora_reuse.runs.rows import load_rows
from lora_reuse.runs.settings import grid
from tests.llm.tiny import tiny

POINTS = {p for p in map(sensible, grid(Methods, {})) if p is not None}


def test_every_method_is_asked_on_both_setups_and_both_ways():
    asked = {(p.composition, p.setup, p.prompting) for p in POINTS if p.library == "pair"}
    wanted = {(c, s, q) for c in (*GIVEN, *LEARNED) if c != "base" for s in ("0", "2") for q in ("direct", "steps")}
    assert asked == wanted


def test_lori_s_merges_are_for_lori_s_adapters():
    assert {p.adapter for p in POINTS if p.composition.startswith("lori")} == {"lori_d", "lori_s"}
    assert {p.composition for p in POINTS if p.adapter != "lora"} == {"lori_concat", "lori_linear"}


def test_a_pair_is_the_bridge_s_and_the_others_are_one_expert():
    assert library(Methods(setup="2")) == pair(SETUPS["2"])
    assert [library(Methods(library=name))[0][0] for name in THE_SAME] == [("R12",), ("R12-CoT",)]
    ((own, bridge, _),) = library(Methods(library="data_mix", setup="2"))
    assert set(own) == {"R1", "R2"}
    assert set(bridge) == set(pair(SETUPS["2"])[0][1])
    assert {p.composition for p in POINTS if p.library in ("data_mix", *THE_SAME)} == {"alone"}
    assert sum(p.library in THE_SAME for p in POINTS) == 4


def test_the_paper_s_numbers_stand_by_their_cells():
    said = lambda **others: reported(Methods(prompting="steps", model="x", **others))  # noqa: E731
    assert said(composition="cat:two_hop") == "21 %"
    assert said(composition="lori_concat", adapter="lori_d") == "13 %"
    assert said(composition="cat:own") == ""
    assert said(composition="uniform", setup="2") == ""


def test_a_run_says_what_a_method_cost(tmp_path, capsys):
    tiny("qwen2", tmp_path / "base")
    words = [
        "triplets=2",
        "steps=2",
        "learn_steps=1",
        "learn_tries=2",
        "rank=2",
        "answer_tokens=3",
        "step_tokens=3",
        "workers=1",
        "log_probs=false",
    ]
    chosen = [
        "composition=sum,cat:own,lori_linear",
        "setup=0",
        "prompting=direct",
        "adapter=lora,lori_d",
        "library=pair",
    ]
    code = main(PROTOCOL, [f"model={tmp_path}/base", f"out={tmp_path}/out", *words, *chosen])
    assert code == 0
    rows = {row["settings"]["composition"]: row for row in load_rows(tmp_path / "out", "llm_methods")}
    assert set(rows) == {"sum", "cat:own", "lori_linear"}
    assert "extra_parameters" not in rows["sum"]["measured"]
    assert rows["cat:own"]["measured"]["extra_parameters"] % 2 == 0
    assert rows["cat:own"]["measured"]["examples_used"] > 0
    assert all(row["provenance"]["compose_seconds"] >= 0 for row in rows.values())
    assert "numbers" in capsys.readouterr().out


@pytest.mark.parametrize("words", ["composition=cta:own", "composition=arrow:swapped", "adapter=lori", "setup=1"])
def test_what_is_not_in_table_2_is_refused(words, capsys):
    assert main(PROTOCOL, [words]) == 2
    assert "allowed" in capsys.readouterr().err
