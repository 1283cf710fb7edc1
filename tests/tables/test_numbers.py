"""The paper's numbers, the theory's and LoRA Soups' stand in their places, beside what was measured in the same way."""

import json
import math
import shutil
from pathlib import Path

import pytest

from lora_reuse.figures import _cells, _groups, tables
from lora_reuse.figures.rows import Rows
from lora_reuse.llm import skills
from lora_reuse.llm.scoring import gains as scored
from lora_reuse.paper_checks.reported import load
from tests.rows_of_models import write
from tests.tables.planted import EXAMS, KILT, PAPER, module, table_of


@pytest.mark.parametrize("number", [1, 2, 3, 4, 7, 8, 9, 10, 12, 13, 14, 15, 16, 17, 20])
def test_every_number_of_the_paper_stands_in_its_table(number, made):
    """As often as the paper has it; the cells over uniform and arrow stand once in ours too."""
    ours = [value for value in made(f"table_{number:02d}")["reported"] if value]
    assert sorted(ours) == sorted(load(number)["value"])


def test_numbers_of_the_paper_are_in_their_places(made, cells, shared):
    """A few, read off the paper."""
    seven = made("table_07")["reported"]
    assert seven["H", "DeepSeek-R1-Distill-Llama-70B", "step by step", "3-combination, uniform"] == "42.2"
    assert seven["F", "Qwen2.5-14B-Instruct", "step by step", "3-combination, arrow"] == "70"
    eight = made("table_08")["reported"]
    assert eight["Qwen2.5-14B-Instruct", "MLP + Attention layers", "3-combination, arrow"] == "65"
    nine = made("table_09")["reported"]
    assert nine["DeepSeek-R1-Distill-Qwen-14B", "arrow", "setup 1, MLP layers"] == "64.7"
    assert nine["Qwen2.5-3B-Instruct", "uniform", "setup 2, MLP+Attention layers"] == "6.9"
    ten = made("table_10")["reported"].droplevel(["expert 1", "expert 2"])
    assert ten["5", "Arrow", "Qwen2.5-7B-Instruct"] == "35.3"
    twelve = made("table_12")["reported"]
    assert twelve["DeepSeek-R1-Distill-Qwen-7B", "direct", "arrow", "Shared Graphs"] == "13.8"
    assert made("table_03")["reported"]["Uniform", "Qwen2.5-Math-7B-Inst"] == "34"
    assert made("table_04")["reported"]["MLP", "Uniform", "Qwen2.5-Math-1.5B-Inst"] == "20"
    assert made("table_04")["reported"]["none", "Base", "Qwen2.5-Math-7B-Inst"] == "47"
    assert made("table_13")["reported"]["GSM-P1", "Qwen2.5-Math-7B-Inst"] == "76.8"
    assert made("table_14")["reported"]["8-shot", "Arrow", "Qwen2.5-Math-7B-Inst"] == "6"
    fifteen = cells("table_15")["reported"]["Qwen2.5-Math-1.5B-Inst"]
    assert fifteen["Base", "a judge", "Solution Types: Unident."] == "1"
    assert fifteen["Uniform", "a judge", "Error Types: Calc. Error"] == "56"
    assert made("table_16")["reported"]["Phi-2", "Translation (L_2)"] == "36.0"
    assert made("table_17")["reported"]["Qwen2.5-14B-Instruct", "Coding (L_1)"] == "89.0"
    assert made("table_20")["reported"]["Phi-2", "all 5 hotpot qa", "Original Question", "Arrow"] == "11.30"


@pytest.mark.parametrize("name", EXAMS)
def test_no_number_of_a_paper_stands_beside_our_own_data(name, made):
    table = made(name)
    ours = [", own " in " ".join(labels) for labels in table.index]
    assert any(ours) or name == "table_18"  # an adapter alone, of which our own has none
    assert set(table[ours]["reported"]) <= {""}
    assert "stand-in" in module(name).caption(table)
    assert not any("FOLDER" in command or "FILE" in command for command in table[ours]["fill"])
    text = tables.markdown(table, "")
    assert any(ours) == any(f"pocket, {what}" in text for data in _groups.OWN.values() for what in data.values())


def test_a_model_of_the_paper_on_its_data_has_its_number_beside_ours(cells):
    cell = cells("table_03").loc[("Uniform", "Qwen2.5-Math-1.5B-Inst")]
    assert (cell["hits"], cell["total"], cell["reported"]) == (2, 8, "24")
    cell = cells("table_20").loc[("Phi-2", "all 4 hotpotqa (excl. formulate)", "Continent Prompt", "Uniform")]
    assert (cell["hits"], cell["total"], cell["reported"]) == (3, 8, "5.15")
    alone = cells("table_20").loc[("Phi-2", f"{KILT}_straighforward_qa", "Original Question")]
    assert alone.loc["Uniform", "row"] == alone.loc["Arrow", "row"] != alone.loc["Base", "row"]
    assert cells("table_20").loc[("Phi-2", "mine+yours", "Original Question", "Uniform"), "hits"] == 4


def test_kinds_and_errors_are_those_of_the_answers(cells):
    table = cells("table_15")
    cell = table.loc[("pocket, own word problems", "Arrow", "rules", "Solution Types: Code")]
    assert (cell["hits"], cell["total"], cell["seeds"]) == (6, 16, 2)
    assert table.loc[("pocket, own word problems", "Arrow", "rules", "Error Types: Semantic")]["hits"] == 0
    judged = table.loc[("Qwen2.5-Math-1.5B-Inst", "Base", "a judge")]["hits"]
    assert judged["Solution Types: Natural Lang."] == 7
    assert judged["Agreement"] == 6


def test_what_is_more_than_both_experts_gains(few, cells):
    """Against the command's own numbers, and by hand for CAT: 14 right of 16, the base 2, the experts 4 and 4, so 12
    more, and 14 - 4 - 4 + 2 = 8."""
    rows = [
        one
        for one in map(json.loads, (few / "llm_skills.jsonl").read_text().splitlines())
        if one["settings"]["composition"] != "ties"
    ]
    gains = {found["composition"]: found for found in scored.gains(rows, "both", lambda settings: skills.SKILLS)}
    table = cells("skills").loc[("pocket, own homes and code", "known")]
    for rule in ("sum", "cat:own"):
        cell = table.loc[(rule, "more than both experts' gains")]
        assert (cell["percent"], cell["low"], cell["high"]) == pytest.approx(
            [100 * gains[rule][name] for name in ("more", "low", "high")]
        )
        assert table.loc[(rule, "gain over the base"), "percent"] == pytest.approx(100 * gains[rule]["gain"])
    assert table.loc[("cat:own", "gain over the base"), ["hits", "total"]].tolist() == [12, 16]
    assert table.loc[("cat:own", "more than both experts' gains"), ["hits", "total"]].tolist() == [8, 16]
    assert table.loc[("sum", "gain over the base"), "hits"] == 0
    assert table.loc[("one expert on both skills' data", "gain over the base"), "hits"] == 6
    same = table.loc[("random", "gain over the base")]  # as the base, question by question
    # By hand: √(1/8 questions / 8) = 1/8, times t = 12.706 of one degree of freedom, is more than everything.
    assert (same["percent"], same["low"], same["high"]) == (0, -100, 100)
    assert ("base", "gain over the base") not in table.index
    assert ("one expert on both skills' data", "more than both experts' gains") not in table.index
    # A seed that the others do not have is in the answers alone; so is one whose base is missing.
    assert table.loc[("ties", "gain over the base"), ["seeds", "hits", "total"]].tolist() == [1, 7, 8]
    some = [one for one in rows if one["settings"]["composition"] != "base"]
    (few / "llm_skills.jsonl").write_text("".join(json.dumps(one) + "\n" for one in some))
    cell = table_of("skills", few).loc[("pocket, own homes and code", "known", "cat:own", "gain over the base")]
    assert cell["row"] == ""
    assert cell["fill"] == f"python -m llm.skills model=pocket out={few}"


def test_numbers_of_lora_soups_are_in_their_places(cells):
    reported = cells("skills")["reported"]["Llama-7b", "known"]
    assert {key: value for key, value in reported.items() if value} == {
        ("cat:own", "right answers"): "21",
        ("expert on the first skill", "gain over the base"): "8",
        ("expert on the second skill", "gain over the base"): "2",
    }
    caption = module("skills").caption(cells("skills"))
    for said in (
        "257 % of it with both skills against 140 % and 36 %",
        "at most 16 %",
        "CAT is 43 % better",
        "12 % better than data mixing",
    ):
        assert said in caption


def test_a_model_of_the_paper_has_its_number_beside_ours(cells):
    cell = cells("table_10").droplevel(["expert 1", "expert 2"]).loc[("2", "Arrow", "Qwen2.5-14B-Instruct")]
    assert (cell["hits"], cell["total"], cell["reported"]) == (8, 8, "94.1")
    text = tables.markdown(cells("table_10"), "")
    assert f"[8/8](#row-{cell['row']}) 100 %<br>paper 94.1 %" in text.replace("\N{NO-BREAK SPACE}", " ")


def test_theory_bounds_direct_answers_and_spans_step_by_step_ones(few):
    shutil.copy(f"{PAPER}/bridge.jsonl", few)
    table = table_of("compositions", few)
    direct = table.loc[("pocket", "direct", "0", "arrow")]
    assert math.isnan(direct["predicted_low"])
    assert direct["predicted_high"] == 25  # 2 of 8
    rows = [json.loads(line) for line in Path(f"{PAPER}/bridge.jsonl").read_text().splitlines()]
    chains = [
        one["predicted"]["two_hop_step_by_step"]
        for one in rows
        if [one["settings"][name] for name in ("width", "facts", "setup", "composition")] == ["inf", 8, 0, "sum"]
    ]
    steps = table.loc[("pocket", "step by step", "0", "sum")]
    assert [steps["predicted_low"], steps["predicted_high"]] == [100 * min(chains), 100 * max(chains)]
    assert math.isnan(table.loc[("pocket", "step by step", "0", "uniform")]["predicted_high"])


def test_theory_beside_a_model_is_that_of_the_default_settings(tmp_path):
    asked = {"setup": "0", "graph": "disjoint", "composition": "sum"}
    for experiment, predicted, prompting, of in (
        ("bridge", "two_hop_step_by_step", "steps", _cells.chain),
        ("large_library", "accuracy", "direct", module("table_12").one_layer),
    ):
        rows = [json.loads(line) for line in Path(f"{PAPER}/{experiment}.jsonl").read_text().splitlines()]
        others = [
            one
            | {"hash": one["hash"][::-1], "settings": one["settings"] | {"mask": "causal"}}
            | {"predicted": one["predicted"] | {predicted: 7.0}}
            for one in rows
        ]
        needs = {experiment: ""}
        alone = of(Rows(write(tmp_path / "alone", *rows), needs), asked | {"prompting": prompting})
        assert of(Rows(write(tmp_path / "both", *rows, *others), needs), asked | {"prompting": prompting}) == alone
        assert not any(map(math.isnan, alone))


def test_every_setting_of_the_paper_s_models_has_a_hub_name():
    assert set(_cells.PAPER) == set(load(7)["base_model"])
