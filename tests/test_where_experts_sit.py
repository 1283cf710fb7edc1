"""The matrices of where the two experts sit, from committed rows and from rows with the two experts exchanged."""

import pytest

from tests.drawn_figures import committed, module, table_of, write

NAME = "where_experts_sit"


def matrix(table, world):
    part = table[(table["world"].str.contains(world)) & (table["facts"] == table["facts"].max())]
    return part.set_index("placement")


def test_of_two_blocks_it_is_the_matrix_of_their_own_figure():
    ours, own = table_of(NAME), table_of("layers")
    own = own[(own["scale"] == 1) & (own["alignment"] == 1) & (own["facts"] == 4) & (own["width"] == 2**12)]
    among = own[own["quantity"] == "accuracy_among_new"].set_index("placement")["measured"]
    two = ours[ours["world"] == "two blocks that compose"].set_index("placement")["measured"]
    assert set(two.index) == set(among.index)
    for placement, share in two.items():
        assert share == pytest.approx(100 * among[placement])


def test_of_a_model_a_cell_has_the_hits_of_its_own_placement(tmp_path):
    """By hand from the rows; and rows in which expert 1 and expert 2 change places change the two cells."""
    rows = [
        row
        for row in committed("llm_latent")
        if row["settings"]["layers"] in ("lower/upper", "upper/lower") and row["settings"]["split"] == "test"
        if row["settings"]["model"] == "smollm2" and row["settings"]["triplets"] == 20
    ]
    found = {
        layers: [row for row in rows if row["settings"]["layers"] == layers]
        for layers in ("lower/upper", "upper/lower")
    }
    by_hand = [
        100 * sum(r["measured"]["hits"] for r in group) / sum(r["measured"]["total"] for r in group)
        for group in found.values()
    ]
    table = matrix(table_of(NAME, write(tmp_path / "rows", "llm_latent", rows)), "SmolLM2")
    assert list(table.loc[["first_below", "second_below"], "measured"]) == pytest.approx(by_hand)
    for row in rows:
        row["settings"]["layers"] = "/".join(reversed(row["settings"]["layers"].split("/")))
    table = matrix(table_of(NAME, write(tmp_path / "exchanged", "llm_latent", rows)), "SmolLM2")
    assert list(table.loc[["first_below", "second_below"], "measured"]) == pytest.approx(by_hand[::-1])


def test_a_cell_that_loses_an_experts_own_hop_is_void(tmp_path):
    rows = [row for row in committed("layers") if row["settings"]["facts"] == 4]
    whole = matrix(table_of(NAME, write(tmp_path / "rows", "layers", rows)), "two blocks")
    assert not whole["void"].any()
    for row in rows:
        if row["settings"]["placement"] == "both_upper":
            row["measured"]["second_kept"] = 0.25
    lost = matrix(table_of(NAME, write(tmp_path / "lost", "layers", rows)), "two blocks")
    assert list(lost[lost["void"]].index) == ["both_upper"]
    assert "1 of 4 cells are void" in module(NAME).caption(lost.reset_index())
