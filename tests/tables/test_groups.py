"""Rows that differ in the seed alone are one cell, and no others are."""

import dataclasses

import pandas

from lora_reuse.figures import tables
from lora_reuse.llm.protocols.settings import PRESETS, Composed
from tests.rows_of_models import row, write
from tests.tables.planted import module, table_of


def test_seeds_are_pooled_and_each_is_said(cells):
    cell = cells("table_10").droplevel(["expert 1", "expert 2"]).loc[("2", "Arrow", "pocket")]
    assert (cell["hits"], cell["total"], cell["seeds"], cell["by_seed"]) == (7, 16, 2, "37.5 50")


def test_a_count_of_one_seed_has_no_interval(cells):
    table = cells("table_10")
    one, two = (table[table["seeds"] == seeds] for seeds in (1, 2))
    assert len(one)
    assert len(two)
    assert one[["low", "high"]].isna().all(axis=None)
    assert two[["low", "high"]].notna().all(axis=None)
    for part, there in ((one, False), (two, True)):
        assert {"[" in " ".join(tables._parts(cell, "")) for cell in tables._records(part)} == {there}


def test_sweeps_do_not_mix_with_the_rows_of_a_table(few):
    before = table_of("table_10", few)
    write(
        few,
        *(
            row("llm_bridge", [2, 2, 2, 2], setup="2", composition="arrow", prompting="steps", rank=rank, seed=seed)
            for rank in (4, 64)
            for seed in range(3)
        ),
    )
    write(few, row("llm_bridge", [2, 2, 2, 2], setup="2", composition="arrow", prompting="steps", split="dev"))
    after = table_of("table_10", few)
    pandas.testing.assert_frame_equal(before, after)
    assert "pocket (seeds 0, 1; 6 rows of other settings are not shown)" in module("table_10").caption(after)


def test_a_pretrained_folder_has_the_settings_of_the_pocket_model(few):
    preset = {
        name: value
        for name, value in PRESETS["pocket"].items()
        if name in {f.name for f in dataclasses.fields(Composed)}
    }
    made = {"width": 256, "feed_forward": 768, "skill": "same"}
    write(
        few,
        row(
            "llm_bridge",
            [2, 2, 2, 2],
            model="results/pocket-same",
            setup="2",
            composition="arrow",
            prompting="steps",
            pocket=made,
            **preset,
        ),
    )
    assert "pocket, tested steps pretrained (seed 0)" in module("table_10").caption(table_of("table_10", few))


def test_a_setting_that_came_later_has_its_default_in_old_rows(few):
    old = row("llm_bridge", [2, 0, 0, 0], setup="3", composition="arrow", prompting="steps")
    del old["settings"]["adapter"]
    write(few, old)
    cell = table_of("table_10", few).droplevel(["expert 1", "expert 2"]).loc[("3", "Arrow", "pocket")]
    assert cell["row"] == old["hash"]


def test_two_models_of_one_name_are_two_models(few):
    other = row(
        "llm_bridge", [2, 2, 2, 2], setup="2", composition="arrow", prompting="steps", weights="fedcba9876543210"
    )
    table = table_of("table_10", write(few, other)).droplevel(["expert 1", "expert 2"])
    assert table.loc[("2", "Arrow", "pocket (01234567)")]["hits"] == 7
    assert table.loc[("2", "Arrow", "pocket (fedcba98)")]["hits"] == 8
    assert table.loc[("3", "Arrow", "pocket (fedcba98)")]["fill"] == f"python -m llm.bridge model=pocket out={few}"


def test_the_bridge_fills_the_mlp_of_table_9(few):
    other = row("llm_bridge", [2] * 4, model="other", setup="2", composition="arrow", prompting="steps")
    table = table_of("table_09", write(few, other))
    assert "other" not in table.index.get_level_values("model"), "asked about no other place"
    assert table.loc[("pocket", "arrow", "setup 2, MLP layers")]["experiment"] == "llm_bridge"
    assert table.loc[("pocket", "arrow", "setup 2, MLP+Attention layers")]["experiment"] == "llm_placement"
    write(
        few, row("llm_placement", [0, 0, 0, 0], setup="2", layers="mlp", composition="arrow", prompting="steps", seed=1)
    )
    cell = table_of("table_09", few).loc[("pocket", "arrow", "setup 2, MLP layers")]
    assert (cell["seeds"], cell["total"]) == (2, 16), "a seed that both have counts once"
