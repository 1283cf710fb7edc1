"""Where the paper's printed numbers disagree with each other and with its text."""

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

import pandas

from lora_reuse.paper_checks import reported
from lora_reuse.paper_checks.reported.rules import REPEATED, STATEMENTS, Cells, Rule
from lora_reuse.runs.settings import SettingError

Cell = dict[str, str]
Tables = Mapping[str, pandas.DataFrame]

_RELATIONS = {"=": operator.eq, "~": operator.eq, "<": operator.lt, "<=": operator.le}


@dataclass(frozen=True)
class Disagreement:
    """Two places of the paper that cannot both be right, and why they should agree."""

    where_a: str
    value_a: str
    where_b: str
    value_b: str
    why: str


def select(which: Cells, tables: Tables) -> list[Cell]:
    """The cells that `which` names; a SettingError if there is none."""
    wanted = {label: (value,) if isinstance(value, str) else value for label, value in which.labels.items()}
    records: list[Cell] = tables[which.table].to_dict("records")  # pyright: ignore[reportAssignmentType]
    if unknown := wanted.keys() - set(tables[which.table].columns):
        raise SettingError(which.table, ", ".join(sorted(unknown)), ", ".join(tables[which.table].columns))
    found = [
        cell | {"table": which.table}
        for cell in records
        if all(cell[label] in values for label, values in wanted.items())
    ]
    if not found:
        raise SettingError(which.table, dict(which.labels), "labels that some cell has")
    return found


def pairs(rule: Rule, tables: Tables) -> list[tuple[Cell, Cell]]:
    """The pairs of cells that `rule` compares."""
    key = lambda cell: tuple(cell[label].casefold() for label in rule.by)  # noqa: E731
    right = select(rule.b, tables)
    return [(a, b) for a in select(rule.a, tables) for b in right if key(a) == key(b)]


def repeated_numbers() -> list[Disagreement]:
    """Numbers printed in more than one place, in tables (`rules.REPEATED`) or in the text (`running_text.csv`), that
    differ."""
    tables = reported.tables()
    return _broken(REPEATED, tables) + [found for line in text_lines(tables) for found in _quoted(line, tables)]


def statements() -> list[Disagreement]:
    """Comparisons that the running text makes (`rules.STATEMENTS`) and that cells of its tables contradict."""
    return _broken(STATEMENTS, reported.tables())


def text_lines(tables: Tables) -> list[Cell]:
    """The numbers of the running text that a table should hold too."""
    return [line for line in select(Cells("running_text", {}), tables) if line["of_table"] != "none"]


def quoted_cells(line: Cell, tables: Tables) -> list[Cell]:
    """The cells that a line of the running text speaks of."""
    return select(Cells(line["of_table"], dict(_split(part) for part in line["where"].split("; "))), tables)


def _broken(rules: Iterable[Rule], tables: Tables) -> list[Disagreement]:
    return [
        Disagreement(place(a), a[rule.field], place(b), b[rule.field], rule.why)
        for rule in rules
        for a, b in pairs(rule, tables)
        if not _RELATIONS[rule.relation](_value(a[rule.field], a["unit"]), _value(b[rule.field], b["unit"]))
    ]


def _quoted(line: Cell, tables: Tables) -> list[Disagreement]:
    return [
        Disagreement(
            place(cell),
            cell["value"],
            f"section {line['row']}",
            f"{line['relation']} {line['value']} {line['unit']}",
            line["column"],
        )
        for cell in quoted_cells(line, tables)
        if not _RELATIONS[line["relation"]](
            _value(cell["value"], cell["unit"]), _value(line["value"], line["unit"], cell["unit"])
        )
    ]


def _value(text: str, unit: str, into: str = "") -> Decimal | str:
    """`text` as a number (a fraction of 1 as a percentage where `into` is one), or as words without letter case."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text.casefold()
    return 100 * number if unit == "fraction" and into == "%" else number


def _split(part: str) -> tuple[str, str]:
    label, _, value = part.partition("=")
    return label, value


def place(cell: Cell) -> str:
    """A cell in words."""
    name = cell["table"].replace("table_0", "table_").replace("table_", "Table ")
    return f"{name}: {cell['row']} / {cell['column']}"
