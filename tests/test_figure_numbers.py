"""What each figure of the theory shows, as its numbers must bear it out; falsified rows must not bear it out."""

import itertools
import math

import numpy as np
import pytest

from lora_reuse.figures import _theory
from lora_reuse.figures.rows import MissingRows
from lora_reuse.theory.facts import ROLES
from tests.drawn_figures import committed, module, table_of, write


def quantity(table, name):
    return table[table["quantity"] == name]


def kernel_limit(table):
    slope, half = module("kernel_limit").slope_of_error(table)
    assert abs(slope + 0.5) < 1.5 * half
    for name, limit in (("c_first", 0.412232), ("c_second", 0.573036)):
        part = quantity(table, name)
        assert (np.abs(part["predicted"] - limit) < 1 / part["width"] + 1e-6).all()  # of a width, which nears the limit
        assert np.abs((part["measured"] - part["predicted"]) / part["stderr"] * np.sqrt(part["seeds"])).max() < 4
        error = quantity(table, f"{name}_error")
        assert np.allclose(error["predicted"] * np.sqrt(error["width"]), error["predicted"].iloc[0] * 16, rtol=0.01)
        assert np.abs(np.log(error["measured"] / error["predicted"])).max() < 5 / np.sqrt(2 * error["seeds"].min())


def proposition_1(table):
    assert np.allclose(quantity(table, "efficacy")["measured"], 1, atol=1e-9)
    for name, limit in (
        ("leakage_same_relation", 0.608998),
        ("leakage_same_entity", 0.608998),
        ("leakage_unrelated", 1 / math.pi),
    ):
        part = quantity(table, name)
        assert np.allclose(part["predicted"], limit, atol=1e-6)
        assert np.abs((part["measured"] - limit) / part["stderr"] * np.sqrt(part["seeds"])).max() < 4
    assert (quantity(table, "norm_rome")["measured"] > 5).all()


def capacity(table):
    assert (table["prompts"] == 96).all()
    exact = quantity(table, "stored_exactly").set_index("width")["measured"]
    assert exact[exact.index < 96].max() < 0.01
    assert exact[exact.index >= 104].min() == 1
    unstored = quantity(table, "unstored")
    below = unstored[unstored["width"] < 96]
    assert np.allclose(below["measured"], below["predicted"], atol=0.01)


def theorem_2(table):
    outputs = {name: quantity(table, f"output_{name}").iloc[0] for name in ("old", "y", "z", "r1x", "r2y")}
    assert outputs["old"]["measured"] == 1
    assert [round(outputs[name]["predicted"], 3) for name in ("y", "z", "r1x", "r2y")] == [0.412, 0.573, -0.412, -0.573]
    margins = quantity(table, "margin_old_over_new").set_index("coincide")
    assert set(margins[margins["high"] < 0].index) == {"r2y=r2r1x", "y=r1x"}
    assert set(margins.index) == {"none", *(f"{a}={b}" for a, b in itertools.combinations(ROLES, 2))}
    borderline = margins[(margins["predicted"] > 0) & (margins["predicted"] < margins["stderr"])]
    assert set(borderline.index) == {"y=z", "r1x=r2r1x"}  # where c₁ + c₂ = 0.985 of the 1 that z needs
    free = margins[margins["stderr"] > 0]
    assert np.abs((free["measured"] - free["predicted"]) / free["stderr"] * np.sqrt(free["seeds"])).max() < 4


def theorem_3(table):
    margins = quantity(table, "margin_old_over_new")
    assert set(margins[margins["predicted"] < 0]["composition"]) == {"oracle"}
    widest = margins[margins["width"] == margins["width"].max()].set_index("composition")
    assert len(widest) == 13
    assert np.abs(widest["measured"] - widest["predicted"]).max() < 0.05
    assert widest.drop("oracle")["measured"].min() > 0


def many_facts(table):
    accuracy = quantity(table, "accuracy")
    best = accuracy[(accuracy["composition"] == "best") & np.isinf(accuracy["width"])]
    assert np.allclose(best["measured"], 1 / best["facts"])
    assert (accuracy[~accuracy["composition"].isin(["best", "oracle", "linear"])]["measured"] == 0).all()
    rotated = accuracy[
        (accuracy["composition"] == "linear") & (accuracy["gauge"] == "random") & (accuracy["facts"] > 1)
    ]
    assert (rotated["low"] <= rotated["closed_form"]).sum() >= len(rotated) - 1
    coefficient = quantity(table, "coefficient_second")
    assert np.allclose(
        *(coefficient[np.isinf(coefficient["width"])][c] for c in ("measured", "closed_form")), rtol=1e-9
    )


def scale(table):
    one_hop = quantity(table, "one_hop_accuracy")
    assert set(map(tuple, one_hop[["scale", "measured"]].to_numpy())) == {
        (w, 0.0 if w < 0.5 else 0.5 if w == 0.5 else 1.0) for w in one_hop["scale"].unique()
    }
    composed = quantity(table, "two_hop_accuracy")
    flips = 1 / _theory.coefficients()[1]
    single = composed[composed["facts"] == 1]
    assert (single["measured"] == (single["scale"] > flips)).all()
    assert composed[composed["facts"] == 4]["measured"].max() == 0.25


def bridge(table):
    for hop in ("hop_1", "hop_2"):
        part = quantity(table, hop)
        part = part[(part["locality"] - part["threshold"]).abs() > 1e-9]
        assert ((part["measured"] > 0.5) == (part["locality"] > part["threshold"])).all()
        own = quantity(table, f"c_{hop}").set_index(["facts", "locality"])["measured"]
        assert (
            (own > 0.5) == (part.set_index(["facts", "locality"])["measured"].reindex(own.index).fillna(1) > 0.5)
        ).all()
    assert (quantity(table, "two_hop_direct")["measured"] == 0).all()
    stars = {
        name: part.groupby("facts")["threshold"].first()
        for name, part in table.groupby("quantity")
        if name.startswith("hop")
    }
    assert round(stars["hop_2"][8], 2) == 0.34
    assert stars["hop_1"][1] == 0


def large_library(table):
    by_line = table.set_index(["quantity", "graph", "composition"]).sort_index()
    for name, chance in module("large_library").CHANCES.items():
        apart = by_line.loc[f"{name}_above_chance"]
        assert apart["measured"].to_numpy() == pytest.approx(
            (by_line.loc[name]["measured"] - by_line.loc[chance]["measured"]).to_numpy(), abs=1e-12
        )
        assert (apart["low"] <= 1e-9).all()
    assert by_line.loc["accuracy"]["measured"].max() < 0.25
    assert round(by_line.loc[("coefficient_right", "disjoint", "sum"), "measured"], 3) == 0.109


def depth(table):
    assert abs(module("depth").slope_of_rate(table) + 0.5) < 0.15
    rate = quantity(table, "rate")
    assert np.abs(rate["measured"] / rate["predicted"] - 1).max() < 0.3
    means = table[np.isfinite(table["width"]) & (table["quantity"] != "rate")]
    assert np.abs((means["measured"] - means["predicted"]) / means["stderr"] * np.sqrt(means["seeds"])).max() < 4.5
    limit = table[np.isinf(table["width"])].set_index(["quantity", "adapted", "norm", "depth"])["measured"]
    assert limit["c_first", "readout", "none", 8] < 1 < limit["c_first", "readout", "none", 12]
    others = table[np.isinf(table["width"]) & ((table["adapted"] == "all") | (table["norm"] == "rms"))]
    assert others["measured"].max() < 1


def layers(table):
    among = quantity(table, "accuracy_among_new")
    among = among[(among["alignment"] == 1) & (among["scale"] == 1)]
    below = among["placement"] == "first_below"
    assert np.allclose(among[below]["measured"], 1)
    limit = among[~below & np.isinf(among["width"])]
    assert np.allclose(limit["measured"] * limit["facts"], 1)
    finite = among[~below & np.isfinite(among["width"]) & (among["facts"] > 1)]
    assert np.abs((finite["measured"] - 1 / finite["facts"]) / finite["stderr"] * np.sqrt(finite["seeds"])).max() < 4
    wins = quantity(table, "accuracy")
    wins = wins[(wins["placement"] == "first_below") & (wins["facts"] == 4) & np.isinf(wins["width"])]
    edge = wins["scale"] > 1.7133
    assert (wins[edge]["measured"] == 1).all()
    assert (wins[~edge]["measured"] == 0).all()


def trained(table):
    at = table[table["depth"] == 2].set_index(["quantity", "alpha", "placement"])["measured"].sort_index()
    assert at["held_out", 0.1].min() > 0.9
    assert at["held_out", 100].max() < 0.3
    assert at["linear_error", 100].max() < 0.02
    assert at["linear_error", 0.1].min() > 0.3
    assert at["found", 0.1, "first_below"] > 0.9 > 0.5 > at["found", 0.1, "second_below"]
    for name in ("own_first", "own_second"):
        assert (quantity(table, name)["measured"] == 1).all()


CLAIMS = [
    kernel_limit,
    proposition_1,
    capacity,
    theorem_2,
    theorem_3,
    many_facts,
    scale,
    bridge,
    large_library,
    depth,
    layers,
    trained,
]
FALSE = {  # name: which rows, which measured value, and what it is falsified to
    "kernel_limit": (lambda s: s["width"] == 2**24, "c_first", lambda v: v * 1.001),
    "proposition_1": (lambda s: s["width"] == 2**16, "leakage_unrelated", lambda v: v * 1.05),
    "capacity": (lambda s: s["width"] == 94, "stored_exactly", lambda v: 0.5),
    "theorem_2": (lambda s: s["coincide"] == "x=y", "margin_old_over_new", lambda v: -v),
    "theorem_3": (lambda s: s["composition"] == "cat" and s["width"] == 2**14, "margin_old_over_new", lambda v: v - 1),
    "many_facts": (lambda s: s["composition"] == "best" and s["facts"] == 8, "accuracy", lambda v: 0.25),
    "scale": (lambda s: s["facts"] == 1 and s["scale"] == 1.7, "two_hop_accuracy", lambda v: 1.0),
    "bridge": (
        lambda s: s["facts"] == 8 and s["locality"] == 0.25 and s["composition"] == "sum",
        "hop_2",
        lambda v: 1.0,
    ),
    "depth": (lambda s: s["width"] == 1024 and s["depth"] == 4, "c_first", lambda v: v * 1.2),
    "large_library": (
        lambda s: s["graph"] == "shared" and s["composition"] == "sum",
        "accuracy_within_u3",
        lambda v: v + 0.2,
    ),
    "layers": (
        lambda s: s["placement"] == "both_upper" and s["facts"] == 4 and s["scale"] == 1,
        "accuracy_among_new",
        lambda v: v + 0.5,
    ),
    "trained": (lambda s: s["placement"] == "second_below" and s["alpha"] == 0.1, "found", lambda v: 1.0),
}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
def test_the_numbers_bear_out_the_claim(claim):
    claim(table_of(claim.__name__))


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
def test_false_numbers_do_not(claim, tmp_path):
    name = claim.__name__
    chosen, quantity_, falsified = FALSE[name]
    rows = committed(name)
    for row in rows:
        if chosen(row["settings"]):
            row["measured"][quantity_] = falsified(row["measured"][quantity_])
    with pytest.raises(AssertionError):
        claim(table_of(name, write(tmp_path / "rows", name, rows)))


def test_the_closed_form_is_that_of_the_rows():
    rows = {row["settings"]["facts"]: row for row in committed("many_facts") if row["settings"]["composition"] == "sum"}
    first, second, other = _theory.coefficients()
    assert rows[1]["predicted"]["coefficient_second"] == pytest.approx(second, rel=1e-9)
    assert rows[8]["predicted"]["coefficient_second"] == pytest.approx(second / (1 + 7 * other), rel=1e-9)
    assert committed("theorem_2")[-1]["predicted"]["c_first"] == pytest.approx(first, rel=1e-9)


def test_the_slope_is_that_of_the_sweep(tmp_path):
    from lora_reuse.runs.rows import by_setting
    from lora_reuse.theory.table import log_log_slope

    rows = [
        row
        for row in committed("kernel_limit")
        if row["settings"]["dim"] == "inf" and row["settings"]["init_scale"] == "std"
    ]
    rows = [row for row in rows if row["settings"]["width"] != "inf" and row["settings"]["activation"] == "relu"]
    rows = [row for row in rows if not {"hops", "decay"} & row["settings"].keys()]
    expected = log_log_slope(list(by_setting(rows).values()), "kernel_relative_rms")
    assert module("kernel_limit").slope_of_error(table_of("kernel_limit")) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("kept", "missing"), [({2, 3}, ""), ({2, 4}, ""), ({2}, "hops=3"), ({3}, "hops=2")], ids=str)
def test_hops_are_compared_where_rows_of_two_numbers_are_there(kept, missing, tmp_path):
    rows = [row for row in committed("kernel_limit") if row["settings"].get("hops", 2) in kept]
    folder = write(tmp_path / "rows", "kernel_limit", rows)
    if missing:
        with pytest.raises(MissingRows, match=f"with {missing}"):
            table_of("hops_and_attention", folder)
    else:
        drawn = table_of("hops_and_attention", folder)
        assert set(drawn[drawn["panel"] == "hops"]["hops"]) == kept


def test_over_seeds_against_a_hand_made_table():
    import pandas

    table = pandas.DataFrame(
        {
            "settings.width": [4, 4, 4, 8, 16],
            "measured.c": [math.nan, 1.0, 3.0, 5.0, math.nan],  # two rows do not have it
            "predicted.c": [9.0, 2.0, 2.0, 6.0, 9.0],
            "hash": ["z", "a", "b", "c", "d"],
        }
    )
    first, second = _theory.over_seeds(table, ["width"], ["c"]).to_dict("records")
    assert (first["measured"], first["seeds"], first["row"], first["predicted"]) == (2.0, 2, "a", 2.0)
    assert first["high"] - 2 == pytest.approx(
        12.706 * math.sqrt(2) / math.sqrt(2), rel=1e-4
    )  # t with one degree of freedom
    assert (second["measured"], second["seeds"]) == (5.0, 1)
    assert math.isnan(second["low"])
