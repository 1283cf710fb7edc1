"""The tables of the paper, each cell with what was measured here, what the paper reports and what theory predicts.

A table is indexed by its labels, the last of which heads the column; its columns are `figures._cells.COLUMNS`. It is written as Markdown and as
LaTeX (plain `tabular`, no package) in the paper's form, and as CSV with a line a cell.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas

UNMEASURED = "†"
"""A cell whose positive control no row measures."""
READING = (
    "Each cell: right answers of all and their share, with a 95 % interval over seeds where there are several; what the paper reports; what one"
    " layer of theory predicts. A cell is void where its positive control was right in less than half: the experts' own hops under the same"
    f" composition, or the oracle asked in the same way. {UNMEASURED}: no rows measure the control."
)
NOT_MEASURED = "no rows"
SPACE = "\N{NO-BREAK SPACE}"


def texts(table: pandas.DataFrame, caption: str) -> dict[str, str]:
    """What is written of a table, by ending."""
    return {"md": markdown(table, caption), "tex": latex(table, caption), "csv": table.to_csv(lineterminator="\n", float_format="%.6g")}


def markdown(table: pandas.DataFrame, caption: str) -> str:
    """The caption, the table, the commands that would fill what is missing, and for each number its rows and the command that made them."""
    head, lines = _wide(table, lambda cell, note: _cell_markdown(cell, note))
    width = table.index.nlevels - 1
    rule = ["---"] * len(head)
    text = [caption, "", *("| " + " | ".join(line) + " |" for line in [[_md(name) for name in head], rule])]
    text += ["| " + " | ".join([*map(_md, line[:width]), *line[width:]]) + " |" for line in lines]
    if notes := _notes(table):
        text += ["", "No rows yet; these commands would make them:", "", *(f"- ({mark}) `{command}`" for command, mark in notes.items())]
    return "\n".join([*text, "", *_rows(table)])


def latex(table: pandas.DataFrame, caption: str) -> str:
    """A `table` with a `tabular` in it."""
    head, lines = _wide(table, lambda cell, note: _cell_latex(cell, note))
    width = table.index.nlevels - 1
    body = [" & ".join([*map(_tex, line[:width]), *line[width:]]) + r" \\" for line in lines]
    notes = "".join(rf"\\ ({mark}) \texttt{{{_tex(command)}}}" for command, mark in _notes(table).items())
    return "\n".join(
        [
            *(r"\begin{table}", r"\scriptsize", rf"\begin{{tabular}}{{{'l' * len(head)}}}", r"\hline"),
            *(" & ".join(map(_tex, head)) + r" \\", r"\hline", *body, r"\hline", r"\end{tabular}"),
            *(rf"\caption{{{_tex(caption)}{' No rows yet:' + notes if notes else ''}}}", r"\end{table}", ""),
        ]
    )


Cell = Mapping[str, Any]


def _wide(table: pandas.DataFrame, render: Callable[[Cell, str], str]) -> tuple[list[str], list[list[str]]]:
    """The head, and the lines in the order of their first cells; a label is said once while it does not change."""
    notes, columns = _notes(table), list(dict.fromkeys(key[-1] for key in table.index))
    lines: dict[tuple, dict[str, str]] = {}
    for key, cell in zip(table.index, _records(table), strict=True):
        lines.setdefault(key[:-1], {})[key[-1]] = render(cell, notes.get(cell["fill"], ""))
    said, last = [], ()
    for labels, cells in lines.items():
        same = list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(labels, last, strict=False)))
        said.append(["" if i < len(same) else str(label) for i, label in enumerate(labels)] + [cells.get(name, "") for name in columns])
        last = labels
    return [*map(str, table.index.names[:-1]), *map(str, columns)], said


def _records(table: pandas.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in line.items()} for line in table.to_dict("records")]


def _notes(table: pandas.DataFrame) -> dict[str, str]:
    """Each command that would fill cells, with its mark: a, b, ..."""
    return {command: _letters(i) for i, command in enumerate(dict.fromkeys(command for command in table["fill"] if command))}


def _letters(number: int) -> str:
    return (_letters(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)


def _share(percent: float) -> str:
    return f"{percent:.3g}{SPACE}%"


def _parts(cell: Cell, note: str) -> list[str]:
    """Measured, reported, predicted, each where there is one."""
    low, high = cell["predicted_low"], cell["predicted_high"]
    if cell["fill"]:
        parts = [f"{NOT_MEASURED} ({note})"]
    else:
        interval = "" if math.isnan(cell["low"]) else f" [{cell['low']:.0f},{SPACE}{cell['high']:.0f}]"
        share = _share(cell["percent"]) + interval + (UNMEASURED if cell["unmeasured"] else "")
        parts = [f"{cell['hits']:.0f}/{cell['total']:.0f}", f"void: {cell['void']}" if cell["void"] else share]
    parts += [f"paper {cell['reported']}{SPACE}%"] if cell["reported"] else []
    if not math.isnan(high):
        parts += [f"theory ≤{SPACE}{_share(high)}" if math.isnan(low) else f"theory {_share(low)}" + (f" to {_share(high)}" if high > low else "")]
    return parts


def _cell_markdown(cell: Cell, note: str) -> str:
    first, *others = _parts(cell, note)
    if cell["fill"]:
        return "<br>".join([f"*{first}*", *others])
    return "<br>".join([f"[{first}](#row-{cell['row']}) {others[0]}", *others[1:]])


def _cell_latex(cell: Cell, note: str) -> str:
    first, *others = map(_tex, _parts(cell, note))
    lines = [rf"\emph{{{first}}}", *others] if cell["fill"] else [f"{first}, {others[0]}", *others[1:]]
    return lines[0] if len(lines) == 1 else r"\shortstack[l]{" + r" \\ ".join(lines) + "}"


def _rows(table: pandas.DataFrame) -> list[str]:
    """A line a number: the rows it was counted from, and the command that made them."""
    measured = _records(table[table["row"] != ""].drop_duplicates("row"))
    if not measured:
        return []
    lines = [f'- <a id="row-{cell["row"]}"></a>`{cell["experiment"]}.jsonl` {_hashes(cell["rows"])}: `{cell["command"]}`' for cell in measured]
    return ["## Rows", "", *lines, ""]


def _hashes(rows: str) -> str:
    return ", ".join(f"`{name}`" for name in rows.split())


def _md(text: str) -> str:
    """Text that Markdown would take for something else."""
    return "".join("\\" + c if c in "\\|*_`[]<>" else c for c in str(text))


_TEX = {
    **{c: "\\" + c for c in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}"},
    **{"≤": r"$\leq$", "λ": r"$\lambda$", "→": r"$\to$", "∞": r"$\infty$", "–": "--", "†": r"$\dagger$", SPACE: "~", "`": r"\textasciigrave{}"},
}


def _tex(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_TEX.get(c, c) for c in str(text))
