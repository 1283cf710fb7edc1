import decimal
import re
from decimal import Decimal

import pandas
import pytest

from lora_reuse.paper_checks import reported
from lora_reuse.paper_checks.reported import agreement, counts
from lora_reuse.paper_checks.reported.arithmetic import arithmetic
from lora_reuse.paper_checks.reported.rules import REPEATED, STATEMENTS, Cells
from lora_reuse.runs.settings import SettingError

TABLES = reported.tables()
LINES = agreement.text_lines(TABLES)


def plant(monkeypatch, cell, value, field="value"):
    """Makes the checks read `value` where the cell is."""
    tables = {name: table.copy() for name, table in TABLES.items()}
    table = tables[cell["table"]]
    here = (table["row"] == cell["row"]) & (table["column"] == cell["column"])
    assert here.sum() == 1
    table.loc[here, field] = value
    monkeypatch.setattr(reported, "tables", lambda: tables)


def other(value):
    """Another value of the same kind."""
    try:
        return str(Decimal(value) + 1)
    except decimal.InvalidOperation:
        return "something else"


def cell(table, row, column):
    return {"table": table, "row": row, "column": column}


@pytest.mark.parametrize("name", reported.NAMES)
def test_a_file_loads_without_empty_values_and_each_cell_once(name):
    table = TABLES[name]
    assert list(table)[:2] == ["row", "column"]
    assert list(table)[-3:] == ["value", "unit", "note"]
    assert all(isinstance(text, str) and text == text.strip() != "" for column in table for text in table[column])
    assert not table.duplicated(["row", "column"]).any()
    assert not table.duplicated(
        [label for label in table if label not in ("row", "value", "unit", "note")]
        if name.startswith("table")
        else None
    ).any()


@pytest.mark.parametrize("name", reported.NAMES)
def test_the_number_of_cells_is_what_the_readme_says(name):
    said = re.search(rf"^\| .*\| `{name}\.csv` \| (\d+) \|", (reported.FOLDER / "README.md").read_text(), re.MULTILINE)
    assert said
    assert int(said[1]) == len(TABLES[name])


def test_the_folder_holds_these_files_and_no_other():
    assert {path.stem for path in reported.FOLDER.glob("*.csv")} == set(reported.NAMES)


def test_values_of_tables_are_numbers_of_their_unit():
    for name in reported.NAMES:
        table = TABLES[name]
        told = list(zip(table["value"], table["unit"], strict=True))
        assert all(Decimal(value) >= 0 for value, unit in told if unit != "text")
        assert all(Decimal(value) <= 100 for value, unit in told if unit == "%")
    assert list(reported.load(13)["value"])[3:6] == ["54.8", "75.8", "90.0"]


@pytest.mark.parametrize("number", [0, 21])
def test_an_unknown_table_is_refused(number):
    with pytest.raises(SettingError, match=f"table: got {number}; allowed: a whole number from 1 to 20"):
        reported.load(number)
    with pytest.raises(SettingError, match="did you mean 'table_10'"):
        reported.read("tabel_10")


@pytest.mark.parametrize(
    ("percent", "sizes", "expected"),
    [
        ("3.9", [102], [(4, 102)]),
        ("73.5", [102], [(75, 102)]),
        ("6.8", [102], [(7, 102)]),  # truncated only: 7/102 is 6.863
        ("3.8", [98, 100, 102], []),
        ("3", [98, 100, 102], [(3, 98), (3, 100), (3, 102), (4, 102)]),
        ("12", [8], [(1, 8)]),  # 12.5 half to even, or truncated
        ("13", [8], [(1, 8)]),  # 12.5 half up
        ("0", [97], [(0, 97)]),
        ("100", [97], [(97, 97)]),
    ],
)
def test_counts_of_percentages_worked_by_hand(percent, sizes, expected):
    assert counts.implied_counts(percent, counts.decimals(percent), sizes) == expected


def test_counts_are_those_of_the_decimal_module():
    for n in (8, 97, 102, 257):
        for places in (0, 1, 2):
            unit = Decimal(1).scaleb(-places)
            for k in range(n + 1):
                exact = Decimal(100 * k) / n
                for way, rounding in (
                    ("rounded", decimal.ROUND_HALF_UP),
                    ("rounded", decimal.ROUND_HALF_EVEN),
                    ("truncated", decimal.ROUND_DOWN),
                ):
                    printed = str(exact.quantize(unit, rounding))
                    assert (k, n) in counts.implied_counts(printed, places, [n])
                    assert way in counts.printed_as(printed, places, k, n)
                above = str(exact.quantize(unit, decimal.ROUND_UP) + unit)
                assert (k, n) not in counts.implied_counts(above, places, [n])


def test_a_percentage_finer_than_its_decimals_is_refused():
    with pytest.raises(SettingError, match=r"percent: got 3\.95; allowed: a multiple of 0\.1"):
        counts.implied_counts("3.95", 1, [102])


def test_the_repeated_numbers_of_the_paper_that_differ():
    found = [
        (one.where_a.split(":")[0], one.value_a, one.where_b.split(":")[0], one.value_b)
        for one in agreement.repeated_numbers()
    ]
    assert found == [
        ("Table 2", "3", "Table 10", "6.8"),
        ("Table 2", "3", "Table 7", "6.8"),
        ("Table 20", "6.10", "Table 20", "3.09"),
        ("Table 20", "2.06", "Table 20", "1.03"),
        ("lora_soups", "existing LoRA merging methods", "lora_soups", "data mixing"),
    ]


@pytest.mark.parametrize("rule", REPEATED, ids=lambda rule: f"{rule.a.table} {rule.b.table} {rule.field}")
@pytest.mark.parametrize("side", [0, 1])
def test_a_change_of_one_repeated_number_is_found(rule, side, monkeypatch):
    pair = agreement.pairs(rule, TABLES)[0]
    changed = other(pair[side][rule.field])
    plant(monkeypatch, pair[side], changed, rule.field)
    assert any(
        one.why == rule.why and (one.value_a, one.value_b)[side] == changed for one in agreement.repeated_numbers()
    )


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line['row']} {line['column']}")
@pytest.mark.parametrize("of", ["table", "text"])
def test_a_change_of_one_number_of_the_text_is_found(line, of, monkeypatch):
    before = agreement.repeated_numbers()
    quoted = agreement.quoted_cells(line, TABLES)
    assert len(quoted) == (36 if line["relation"] == "<" else 1)
    if of == "table":
        plant(monkeypatch, quoted[0], "77" if line["relation"] == "<" else other(quoted[0]["value"]))
    else:
        plant(monkeypatch, line, "0" if line["relation"] == "<" else other(line["value"]))
    assert any(
        one.where_b == f"section {line['row']}" and one.why == line["column"]
        for one in agreement.repeated_numbers()
        if one not in before
    )


def test_every_overlap_of_the_two_hop_tables_is_compared():
    compared = {(rule.a.table, rule.b.table): len(agreement.pairs(rule, TABLES)) for rule in REPEATED}
    assert compared["table_01", "table_10"] == 48
    assert compared["table_01", "table_07"] == 6
    assert compared["table_07", "table_10"] == 12
    assert compared["table_01", "table_09"] == 6
    assert compared["table_09", "table_10"] == 12
    assert compared["table_07", "table_08"] == 6
    assert compared["table_02", "table_10"] == compared["table_02", "table_07"] == 2


@pytest.mark.parametrize("rule", STATEMENTS, ids=lambda rule: f"{rule.a.table} {rule.why[:24]}")
def test_a_statement_of_the_text_can_be_contradicted(rule, monkeypatch):
    a, b = agreement.pairs(rule, TABLES)[0]
    plant(monkeypatch, a, "101")
    assert any(
        one.why == rule.why and one.value_a == "101" and one.value_b == b["value"] for one in agreement.statements()
    )


def test_the_statements_that_the_tables_contradict():
    assert [(one.why.split(":")[0], one.value_a, one.value_b) for one in agreement.statements()] == [
        ("Figure 1", "6", "0.8"),
        ("4.1.1", "19.6", "9.8"),
        ("4.1.1", "10.2", "0.8"),
        ("4.1.1", "19.6", "10.8"),
        ("4.1.1", "28.4", "23.5"),
        ("4.1.1", "5", "0.8"),
        ("A.2.2", "6.9", "3.9"),
        ("A.2.2", "4.9", "2"),
        ("A.4.2", "8", "0"),
        ("A.4.2", "5", "0"),
        ("A.5", "37.5", "34.9"),
        ("A.5", "37.5", "35.5"),
        ("A.5", "44.0", "39.1"),
        ("A.5", "44.0", "40.2"),
    ]


def test_the_arithmetic_of_the_paper_that_does_not_hold():
    assert [(one.where_a, one.value_a, one.where_b, one.value_b) for one in arithmetic()] == [
        ("seed templates x GSM-P2 questions sampled of each", "200", "GSM-P2 questions in all", "100"),
        ("triplets x test templates", "200", "Table 10", "74 of 96 cells are no k/200"),
    ]


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (cell("running_text", "A.2.1", "examples of a relation"), "4900"),
        (cell("running_text", "A.2.1", "training templates"), "45"),
        (cell("running_text", "A.3", "adapters in the library"), "11"),
        (cell("running_text", "A.4.1", "questions for evaluation"), "6"),
        (cell("table_15", "Arrow", "Solution Types | Code"), "1"),
        (cell("table_15", "None", "Error Types | Calc. Error"), "30"),
        (cell("table_15", "Arrow", "Agreement"), "97"),  # 15 and 19 right answers need four of 100 to differ
        (
            cell("table_15", "Uniform", "Agreement"),
            "99",
        ),  # an odd number of differing answers cannot leave equal counts
        (cell("table_14", "0-shot | Arrow", "Qwen2.5-Math-1.5B-Inst"), "21"),
        (cell("lora_soups", "Key Results | math word problems | math and code", "baseline"), "290"),
        (cell("lora_soups", "Mechanism 2 | math word problems | math", "base model"), "9"),
    ],
)
def test_a_change_that_breaks_the_arithmetic_is_found(where, value, monkeypatch):
    before = arithmetic()
    plant(monkeypatch, where, value)
    assert [one for one in arithmetic() if one not in before]


def test_every_percentage_of_the_tables_is_counted_once():
    counted = [
        (one["table"], one["row"], one["column"])
        for sizes in counts.SIZES
        for one in agreement.select(sizes.cells, TABLES)
    ]
    printed = [
        (name, *key)
        for name in reported.NAMES[:20]
        for key in TABLES[name].loc[TABLES[name]["unit"] == "%", ["row", "column"]].to_numpy()
    ]
    assert sorted(counted) == sorted(printed)
    options = counts.count_options()
    assert list(options) == ["table", "row", "column", "value", "k", "n", "how"]
    assert len(options.drop_duplicates(["table", "row", "column"])) + len(counts.counts()) == len(printed)


def test_the_percentages_that_are_no_count():
    unfit = pandas.Series([one.where_a.split(":")[0] for one in counts.counts()]).value_counts().to_dict()
    assert unfit == {
        "Table 1": 7,
        "Table 2": 1,
        "Table 7": 7,
        "Table 9": 2,
        "Table 10": 11,
        "Table 12": 12,
        "Table 16": 9,
        "Table 17": 4,
        "Table 20": 5,
    }


def test_a_planted_percentage_that_is_no_count_is_found(monkeypatch):
    where = cell("table_10", "R_1 | R_2 | Arrow", "Qwen2.5-7B-Instruct")
    plant(monkeypatch, where, "3.7")
    found = [one for one in counts.counts() if one.value_a == "3.7"]
    assert [(one.where_a, one.value_b) for one in found] == [
        ("Table 10: R_1 | R_2 | Arrow / Qwen2.5-7B-Instruct", "nearest 4/102 = 3.922")
    ]


def test_a_rule_that_names_no_cell_is_refused():
    with pytest.raises(SettingError, match="labels that some cell has"):
        agreement.select(Cells("table_10", {"setup": "9"}), TABLES)
    with pytest.raises(SettingError, match="table_10: got set_up; allowed: row, column"):
        agreement.select(Cells("table_10", {"set_up": "0"}), TABLES)
