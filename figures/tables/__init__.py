"""The tables of the paper, each cell with what was measured here, what the paper reports and what theory predicts.

A table is indexed by its labels, the last of which heads the column; its columns are `figures._cells.COLUMNS`. It is
written as Markdown, as LaTeX that fits the page (`figures.tables._latex`) and as CSV with a line a cell."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas

from lora_reuse.figures import style
from lora_reuse.figures.tables import _latex

UNMEASURED = "†"
"""A cell whose positive control no row measures."""
READING = (
    "A cell has how many of all answers are right, and their share with a 95 % interval over seeds where there are"
    " several. Below it stand the paper's number and what one layer of theory predicts, where there are such. A cell is"
    " void where its positive control was right in less than half: the experts' own hops under the same composition, or"
    f" an oracle that was trained on such answers. A {UNMEASURED} marks a cell whose control no row measures."
)
NOT_MEASURED = "–"
"""Before the mark of the command that would make the cell's rows."""
LEFT_OUT = (
    "Columns without a measurement are left out here, and lines with neither one nor a number of the paper's; Markdown"
    " and CSV have them."
)
SPACE = "\N{NO-BREAK SPACE}"


def texts(table: pandas.DataFrame, caption: str) -> dict[str, str]:
    """What is written of a table, by ending."""
    return {
        "md": markdown(table, caption),
        "tex": latex(table, caption),
        "csv": table.to_csv(lineterminator="\n", float_format="%.6g"),
    }


def markdown(table: pandas.DataFrame, caption: str) -> str:
    """The caption, the table, the commands that would fill what is missing, and for each number its rows and the
    command that made them."""
    head, lines = _wide(table, _cell_markdown, "")
    width = table.index.nlevels - 1
    rule = ["---"] * len(head)
    text = [caption, "", *("| " + " | ".join(line) + " |" for line in [[_md(name) for name in head], rule])]
    text += ["| " + " | ".join([*map(_md, line[:width]), *line[width:]]) + " |" for line in lines]
    if notes := _notes(table):
        text += [
            "",
            f"{NOT_MEASURED}: not measured here; these commands would make the rows:",
            "",
            *(f"- ({mark}) `{command}`" for command, mark in notes.items()),
        ]
    return "\n".join([*text, "", *_rows(table)])


def latex(table: pandas.DataFrame, caption: str) -> str:
    """A `table` of one or more `tabular`s that fit the page's width. Columns without rows are left out where another
    has some, and lines that have neither rows nor a number of the paper's."""
    shown = _shown(table)
    head, lines = _wide(shown, _parts, [])
    width = shown.index.nlevels - 1
    notes = "".join(rf"\\ ({mark}) {_latex.command(command)}" for command, mark in _notes(shown).items())
    left = f" {LEFT_OUT}" if len(shown) < len(table) else ""
    missing = f" {NOT_MEASURED}: not measured here:" if notes else ""
    said = f"{_latex.escaped(caption + left + missing)}{notes}"
    labels, cells = [line[:width] for line in lines], [line[width:] for line in lines]
    return _latex.floats(_latex.tabulars(head[:width], labels, head[width:], cells, _latex.above(said)), said)


def _shown(table: pandas.DataFrame) -> pandas.DataFrame:
    """The cells that LaTeX prints."""
    measured = table["row"] != ""
    if not measured.any():
        return table
    heads = table.index.get_level_values(-1)
    kept = table[heads.isin(heads[measured])]
    told = {key[:-1] for key in kept.index[(kept["row"] != "") | (kept["reported"] != "")]}
    return kept[[key[:-1] in told for key in kept.index]]


Cell = Mapping[str, Any]


def _wide(table: pandas.DataFrame, render: Callable[[Cell, str], Any], empty: Any) -> tuple[list[str], list[list[Any]]]:
    """The head, and the lines in the order of their first cells; a label is said once while it does not change; `empty`
    where there is no cell."""
    notes, columns = _notes(table), list(dict.fromkeys(key[-1] for key in table.index))
    lines: dict[tuple, dict[str, Any]] = {}
    for key, cell in zip(table.index, _records(table), strict=True):
        lines.setdefault(key[:-1], {})[key[-1]] = render(cell, notes.get(cell["fill"], ""))
    said, last = [], ()
    for labels, cells in lines.items():
        same = list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(labels, last, strict=False)))
        said.append(
            ["" if i < len(same) else str(label) for i, label in enumerate(labels)]
            + [cells.get(name, empty) for name in columns]
        )
        last = labels
    return [*map(str, table.index.names[:-1]), *map(str, columns)], said


def _records(table: pandas.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in line.items()} for line in table.to_dict("records")]


def _notes(table: pandas.DataFrame) -> dict[str, str]:
    """Each command that would fill cells, with its mark: a, b, ..."""
    commands = dict.fromkeys(command for command in table["fill"] if command)
    return dict(zip(commands, style.letters(), strict=False))


def _share(percent: float) -> str:
    return f"{percent:.3g}{SPACE}%"


def _parts(cell: Cell, note: str) -> list[str]:
    """Measured, reported, predicted, each where there is one; the number alone of what is not a count."""
    low, high = cell["predicted_low"], cell["predicted_high"]
    if cell["fill"]:
        parts = [f"{NOT_MEASURED} ({note})"]
    else:
        interval = "" if math.isnan(cell["low"]) else f" [{cell['low']:.0f},{SPACE}{cell['high']:.0f}]"
        share = _share(cell["percent"]) + interval + (UNMEASURED if cell["unmeasured"] else "")
        counts = [] if math.isnan(cell["total"]) else [f"{cell['hits']:.0f}/{cell['total']:.0f}"]
        parts = [*counts, f"void: {cell['void']}" if cell["void"] else share]
    parts += [f"paper {cell['reported']}{SPACE}%"] if cell["reported"] else []
    if not math.isnan(high):
        parts += [
            f"theory ≤{SPACE}{_share(high)}"
            if math.isnan(low)
            else f"theory {_share(low)}" + (f" to {_share(high)}" if high > low else "")
        ]
    return parts


def _cell_markdown(cell: Cell, note: str) -> str:
    first, *others = _parts(cell, note)
    if cell["fill"]:
        return "<br>".join([first, *others])
    linked = f"[{first}](#row-{cell['row']})"
    return "<br>".join([linked, *others] if math.isnan(cell["total"]) else [f"{linked} {others[0]}", *others[1:]])


def _rows(table: pandas.DataFrame) -> list[str]:
    """A line a number: the rows it was counted from, and the command that made them."""
    measured = _records(table[table["row"] != ""].drop_duplicates("row"))
    if not measured:
        return []
    lines = [
        f'- <a id="row-{cell["row"]}"></a>`{cell["experiment"]}.jsonl` {_hashes(cell["rows"])}: `{cell["command"]}`'
        for cell in measured
    ]
    return ["## Rows", "", *lines, ""]


def _hashes(rows: str) -> str:
    return ", ".join(f"`{name}`" for name in rows.split())


def _md(text: str) -> str:
    """Text that Markdown would take for something else."""
    return "".join("\\" + c if c in "\\|*_`[]<>" else c for c in str(text))
