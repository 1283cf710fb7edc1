"""A zero whose positive control failed is void: planted controls that fail, that hold, and that nobody measured, for
every protocol."""

# ruff: noqa: E501 (a planted row a line)

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from lora_reuse.figures import _cells, tables
from lora_reuse.figures.rows import Rows
from lora_reuse.llm import two_hop
from lora_reuse.llm.protocols import controls
from lora_reuse.llm.protocols.by_name import protocol_of
from lora_reuse.llm.protocols.controls import verdicts
from lora_reuse.llm.protocols.table import table
from lora_reuse.runs.rows import load_rows
from lora_reuse.runs.settings import SettingError
from tests.rows_of_models import row, write

PAPER = Path(__file__).parents[2] / "results/paper"
ZERO, HALF, LESS, ALL = [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0], [2, 2, 2, 2]

Settings = dict[str, Any]
TWO: Settings = {"library": "2-combination", "composition": "sum", "dataset": "R"}
TEN: Settings = {"library": "10-combination", "composition": "sum", "graph": "shared", "triplets": 4}
PAIR: Settings = {"library": "pair", "composition": "sum"}
ORACLE: Settings = {"library": "oracle", "composition": "alone"}
STEPPED: Settings = {"library": "oracle_steps", "composition": "alone"}
MIXED: Settings = {"library": "mixed", "composition": "alone"}
HOPS: tuple[Settings, Settings] = ({"prompting": "first"}, {"prompting": "second"})
# protocol, a cell, and of each of its controls the settings that are not the cell's
CELLS: list[tuple[str, Settings, tuple[Settings, ...]]] = [
    ("two_hop", TWO | {"prompting": "direct"}, (*HOPS, ORACLE)),
    ("two_hop", TWO | {"prompting": "steps"}, (*HOPS, STEPPED)),
    ("two_hop", TWO | {"prompting": "steps", "library": "3-combination"}, (*HOPS, STEPPED)),
    ("two_hop", TWO | {"prompting": "steps", "library": "3-combination_steps"}, (STEPPED,)),
    ("two_hop", TWO | {"prompting": "direct", "library": "3-combination_steps"}, (*HOPS, ORACLE)),
    ("two_hop", TWO | {"prompting": "direct", "library": "3-combination"}, (ORACLE,)),
    ("two_hop", MIXED | {"prompting": "direct"}, (*HOPS, ORACLE)),
    ("two_hop", TWO | {"prompting": "first"}, (MIXED,)),
    *((name, {"setup": setup, "composition": "arrow", "prompting": "steps"}, HOPS) for name in ("bridge", "placement") for setup in "02"),
    ("bridge", {"setup": "0", "composition": "arrow:swapped", "prompting": "direct"}, HOPS),
    ("bridge_minimum", {"bridge_triplets": 1, "composition": "arrow", "prompting": "steps"}, HOPS),
    ("bridge_examples", {"examples": 16, "composition": "sum", "prompting": "steps"}, HOPS),
    ("methods", PAIR | {"setup": "0", "prompting": "steps"}, (*HOPS, STEPPED)),
    ("methods", PAIR | {"setup": "2", "prompting": "direct"}, (*HOPS, ORACLE | {"setup": "0"})),
    ("methods", PAIR | {"setup": "2", "prompting": "steps"}, HOPS),
    ("methods", PAIR | {"adapter": "lori_s", "composition": "lori_concat", "setup": "0"}, (*HOPS, ORACLE | {"adapter": "lora"})),
    ("methods", {"library": "data_mix", "composition": "alone", "setup": "0", "prompting": "direct"}, (*HOPS, ORACLE)),
    *(("large_library", TEN | {"prompting": way}, (*HOPS, ORACLE | {"pairs": way})) for way in ("direct", "steps")),
    ("scale", {"library": "2-combination", "prompting": "direct", "scale": 0.25}, HOPS),
    ("scale", {"library": "2-combination", "prompting": "second", "scale": 0.25}, ({"library": "2", "scale": 1.0},)),
    ("scale", {"library": "1", "prompting": "first", "scale": 0.25}, ({"scale": 1.0},)),
]  # fmt: skip
NONE: list[tuple[str, Settings]] = [
    ("two_hop", {"composition": "base", "library": "none", "prompting": "steps"}),
    ("two_hop", {"composition": "random", "library": "2-combination", "prompting": "steps"}),
    *(("two_hop", oracle | {"prompting": "steps"}) for oracle in (ORACLE, STEPPED)),
    ("two_hop", MIXED | {"prompting": "first"}),
    *(("bridge", {"composition": "sum", "prompting": prompting}) for prompting in ("first", "second")),
    *(("bridge", {"composition": rule, "prompting": "steps"}) for rule in ("base", "random")),
    *(("methods", oracle | {"setup": "0", "prompting": "steps"}) for oracle in (ORACLE, STEPPED)),
    ("methods", PAIR | {"prompting": "first"}),
    ("large_library", ORACLE | {"prompting": "steps", "triplets": 4}),
    ("scale", {"library": "1", "prompting": "first", "scale": 1.0}),
    ("scale", {"library": "1", "prompting": "direct", "scale": 0.25}),
]  # fmt: skip


def of(name, rows):
    """The verdict on the cell of the first row."""
    return verdicts(protocol_of(f"llm_{name}"), rows)[0]


def planted(name, cell, *others):
    """A cell without a right answer, and rows of its controls: settings that are not its own, and how many are
    right."""
    own = [row(f"llm_{name}", ZERO, **cell)]
    return own + [row(f"llm_{name}", right, **cell | settings) for settings, right in others]


@pytest.mark.parametrize(("name", "cell", "wanted"), CELLS)
def test_a_control_that_fails_voids_and_one_that_holds_does_not(name, cell, wanted):
    assert of(name, planted(name, cell, *((settings, HALF) for settings in wanted))) == ("", "")
    for failed in wanted:
        rows = planted(name, cell, *((settings, LESS if settings is failed else ALL) for settings in wanted))
        void, unmeasured = of(name, rows)
        assert void.endswith(" 3 of 8")
        assert unmeasured == ""
        rest = planted(name, cell, *((settings, ALL) for settings in wanted if settings is not failed))
        assert of(name, rest).void == ""
        assert of(name, rest).unmeasured != ""


@pytest.mark.parametrize(("name", "cell"), NONE)
def test_a_finding_about_a_hop_or_a_control_itself_needs_none(name, cell):
    assert of(name, planted(name, cell)) == ("", "")


STEPS: Settings = TWO | {"prompting": "steps"}
GOOD: list[tuple[Settings, list[int]]] = [(HOPS[0], ALL), (HOPS[1], ALL), (STEPPED, ALL)]


def test_the_reason_says_what_was_kept():
    assert of("two_hop", planted("two_hop", STEPS, (HOPS[0], LESS), *GOOD[1:])).void == "first hop kept 3 of 8"
    assert of("two_hop", planted("two_hop", STEPS, GOOD[0], (HOPS[1], ZERO), GOOD[2])).void == "second hop kept 0 of 8"
    assert of("two_hop", planted("two_hop", STEPS, *GOOD[:2], (STEPPED, ZERO))).void == "oracle of steps got 0 of 8"
    assert of("two_hop", planted("two_hop", STEPS)) == ("", "first hop, second hop, oracle of steps")


def test_controls_are_pooled_over_seeds_and_are_of_the_same_dials_and_weights():
    seeds = [row("llm_two_hop", right, seed=seed, **STEPS | HOPS[0]) for seed, right in enumerate((ZERO, ZERO, ALL))]
    assert of("two_hop", planted("two_hop", STEPS, *GOOD[1:]) + seeds).void == "first hop kept 8 of 24"
    others: list[Settings] = [
        {"rank": 4},
        {"dataset": "F"},
        {"composition": "uniform"},
        {"split": "dev"},
        {"weights": "another"},
        {"model": "other"},
    ]
    for other in others:
        rows = [*planted("two_hop", STEPS, *GOOD[1:]), row("llm_two_hop", ZERO, **STEPS | HOPS[0] | other)]
        assert of("two_hop", rows) == ("", "first hop"), other
        assert of("two_hop", [*rows, row("llm_two_hop", ALL, **STEPS | HOPS[0])]) == ("", ""), other


def test_an_expert_alone_is_the_control_whatever_the_dials_of_the_rule():
    cell = STEPS | {"composition": "ties", "density": 0.5}
    hops = [(settings, ALL) for settings in HOPS]
    assert of("two_hop", planted("two_hop", cell, *hops, (STEPPED | {"density": 0.2}, ZERO))).void.startswith("oracle")
    other = planted("two_hop", cell, *((settings | {"density": 0.2}, ALL) for settings in HOPS))
    assert of("two_hop", other).unmeasured.startswith("first hop, second hop"), "which are hops of the same dials"


def test_what_is_right_anyhow_is_not_void():
    rows = planted("two_hop", STEPS, (HOPS[0], ZERO), *GOOD[1:])
    assert of("two_hop", [row("llm_two_hop", LESS, **STEPS), *rows[1:]]).void
    assert of("two_hop", [row("llm_two_hop", HALF, **STEPS), *rows[1:]]) == ("", "")


def test_a_setting_that_is_younger_than_a_control_s_row_is_at_its_default():
    old = row("llm_two_hop", ZERO, **STEPS | HOPS[0])
    del old["settings"]["adapter"]
    assert of("two_hop", [*planted("two_hop", STEPS, *GOOD[1:]), old]).void == "first hop kept 0 of 8"


def test_a_control_that_accepts_everything_would_show(monkeypatch):
    monkeypatch.setattr(controls, "ENOUGH", 0.0)
    with pytest.raises(AssertionError):
        test_the_reason_says_what_was_kept()


def test_the_committed_zeros_of_the_pocket_model_step_by_step_are_no_matter_of_the_prompting():
    """On R the oracle of steps answers 120 of 120, so that a zero of experts whose own hops are kept says something."""
    rows = [
        one
        for one in load_rows(PAPER, "llm_two_hop")
        if one["settings"]["model"] == "pocket" and one["settings"]["dataset"] == "R"
    ]
    judged = verdicts(protocol_of("llm_two_hop"), rows)
    of_cell = {
        tuple(one["settings"][name] for name in ("library", "composition", "prompting")): verdict
        for one, verdict in zip(rows, judged, strict=True)
    }
    for rule in ("average", "sum", "arrow", "arrow_after"):
        assert of_cell["2-combination", rule, "steps"] == ("", "")
    assert of_cell["2-combination", "uniform", "steps"].void == "first hop kept 24 of 200"
    assert of_cell["3-combination", "average", "steps"].void == "first hop kept 97 of 240"
    assert of_cell["2-combination", "sum", "direct"] == ("", "")
    assert of_cell["2-combination", "uniform", "direct"].void == "first hop kept 24 of 200"
    assert of_cell["2-combination", "uniform", "first"] == ("", ""), "how much is kept is the finding"


def test_the_terminal_table_says_void_and_why():
    void, kept, open_ = (STEPS | {"composition": rule} for rule in ("uniform", "sum", "arrow"))
    rows = planted("two_hop", void, (HOPS[0], LESS)) + planted("two_hop", kept, *GOOD) + planted("two_hop", open_)
    shown = [
        one for one in rows if one["settings"]["prompting"] == "steps" and one["settings"]["library"] == "2-combination"
    ]
    for one in rows:
        one["measured"]["lenient"] = 0
    text = table(two_hop.PROTOCOL, shown, rows).splitlines()
    lines = {line.split()[0]: line for line in text if line}
    assert "0/8         0 %           void (1)" in lines["uniform"]
    assert lines["sum"].split()[:5] == ["sum", "1", "0/8", "0", "%"]
    assert "void" not in lines["sum"]
    assert "not measured" not in lines["sum"]
    assert "not measured" in lines["arrow"]
    assert "(1) void: first hop kept 3 of 8" in text
    wanted = "not measured: some of these controls have no rows: first hop, second hop"
    assert text[-1] == wanted
    assert "void" not in table(two_hop.PROTOCOL, shown), "without the rows of the controls nothing is known of them"


def test_tables_and_frames_of_figures_say_void_and_why(tmp_path):
    """Setup 2 under Arrow is void, setup 3 has no control measured, setup 4 has one that holds; the count stays
    visible."""
    made = []
    for setup, right in (("2", LESS), ("3", None), ("4", ALL)):
        cell = {"setup": setup, "composition": "arrow", "prompting": "steps"}
        made += planted("bridge", cell, *((hop, right) for hop in HOPS if right))
    module = importlib.import_module("lora_reuse.figures.tables.table_10")
    frame = module.table(Rows(write(tmp_path, *made), module.NEEDS))
    cells = {key[0]: cell for key, cell in zip(frame.index, tables._records(frame), strict=True) if cell["row"]}
    assert [cells[setup]["void"] for setup in "234"] == ["first hop kept 3 of 8", "", ""]
    assert [cells[setup]["unmeasured"] for setup in "234"] == ["", "first hop, second hop", ""]
    texts = {setup: tables._cell_markdown(cells[setup], "").replace("\N{NO-BREAK SPACE}", " ") for setup in "234"}
    assert texts["2"].startswith(f"[0/8](#row-{cells['2']['row']}) void: first hop kept 3 of 8")
    assert texts["3"].startswith(f"[0/8](#row-{cells['3']['row']}) 0 %†")
    assert texts["4"].startswith(f"[0/8](#row-{cells['4']['row']}) 0 %")
    assert "†" not in texts["4"]
    latex = tables.latex(frame, "").replace(r" \\ ", " ").replace("~", " ")
    assert re.search(r"0/8,? void: first hop kept 3 of 8", latex)
    assert r"0 \%$\dagger$" in latex
    written = tables.texts(frame, module.caption(frame))
    assert "half" in written["md"].splitlines()[0]
    assert "first hop kept 3 of 8" in written["csv"]
    assert "void" in _cells.COLUMNS


def test_rows_of_two_experiments_are_void_where_either_is(tmp_path):
    """Table 9's MLP column takes bridge's rows, whose controls are measured, and a seed of placement's, whose are
    not."""
    cell = {"setup": "2", "composition": "arrow", "prompting": "steps"}
    extra = row("llm_placement", ZERO, seed=1, layers="mlp", **cell)
    for right, void in ((ALL, ""), (ZERO, "first hop kept 0 of 8")):
        rows = planted("bridge", cell, *((hop, right) for hop in HOPS))
        module = importlib.import_module("lora_reuse.figures.tables.table_09")
        found = module.table(Rows(write(tmp_path / str(right[0]), *rows, extra), module.NEEDS)).loc[
            ("pocket", "arrow", "setup 2, MLP layers")
        ]
        assert (found["seeds"], found["void"], found["unmeasured"]) == (2, void, "")


@pytest.mark.parametrize("experiment", ["bridge", "llm_benchmark", "llm_forecast", "llm_no_such", "kernel_limit"])
def test_rows_that_no_protocol_makes_are_refused_in_a_line(experiment):
    assert protocol_of("llm_bridge").experiment == "llm_bridge"
    with pytest.raises(SettingError, match=f"^experiment: got {experiment}; allowed: llm_"):
        protocol_of(experiment)
