"""What is written of a table: LaTeX that fits the page, Markdown whose links lead somewhere, and CSV."""

import contextlib
import math
import re

import pandas
import pytest

from lora_reuse.figures import tables
from lora_reuse.figures.rows import MissingRows
from lora_reuse.figures.tables import _latex
from tests.tables.planted import NAMES, PAPER, module, table_of


def unescaped(text, char):
    return len(re.findall(rf"(?<!\\)(?:\\\\)*{re.escape(char)}", text))


def tabulars(text):
    """Of each `tabular` its lines, each a list of cells, each a list of lines as they read."""
    found = []
    for body in re.findall(r"\\begin\{tabular\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        lines = [line.removesuffix(r" \\") for line in body.splitlines() if line.endswith(r" \\")]
        found.append([[_read(cell) for cell in re.split(r"(?<!\\)&", line)] for line in lines])
    return found


def _read(cell):
    stacked = re.fullmatch(r"\\shortstack\[l\]\{(.*)\}", cell.strip())
    signs = {escape: sign for sign, escape in _latex._TEX.items()}
    sign = "|".join(map(re.escape, sorted(signs, key=len, reverse=True)))
    return [
        re.sub(sign, lambda match: signs[match[0]], line.strip())
        for line in (stacked[1] if stacked else cell).split(r"\\")
    ]


def points(lines):
    """The width of a `tabular`."""
    return sum(
        max(_latex.width(line) for cell in column for line in cell) + 2 * _latex.SEPARATION
        for column in zip(*lines, strict=True)
    )


@pytest.mark.parametrize("name", NAMES)
def test_latex_is_well_formed(name, made):
    text = tables.latex(made(name), module(name).caption(made(name)))
    columns = [len(columns) for columns in re.findall(r"\\begin\{tabular\}\{(l+)\}", text)]
    parts = tabulars(text)
    assert [{len(line) for line in lines} for lines in parts] == [{count} for count in columns]
    assert all(len(lines) > 1 for lines in parts)
    assert unescaped(text, "{") == unescaped(text, "}")
    assert not unescaped(text, "#")
    assert not unescaped(text, "%")
    assert set(re.findall(r"[^\x00-\x7f]", text)) == set()
    outside = re.sub(r"\$[^$]*\$", "", text)
    assert not unescaped(outside, "_")
    assert text.count("\\begin{") == text.count("\\end{")
    assert len(re.findall(r"\\caption\{(?!\(continued\))", text)) == 1


@pytest.mark.parametrize("name", NAMES)
def test_latex_fits_the_page(name, made):
    """Rows made up, and the committed ones, of more models."""
    found = [made(name)]
    with contextlib.suppress(MissingRows):
        found.append(table_of(name, PAPER))
    for table in found:
        parts = tabulars(tables.latex(table, "caption"))
        assert max(map(points, parts)) <= 468
        rows = table[table["row"] != ""]
        told = {" ".join(cell) for lines in parts for line in lines for cell in line}
        counts = {f"{hits:.0f}/{total:.0f}" for hits, total in zip(rows["hits"], rows["total"], strict=True)}
        assert all(any(count in cell for cell in told) for count in counts), "nothing that is measured is left out"


def test_a_table_in_one_piece_does_not_fit(monkeypatch):
    """As it was: Table 10 beside one another with its labels in one line is twice the page."""
    for name, value in {"TEXT": math.inf, "LABELS": (math.inf,), "HEAD": math.inf, "CELL": math.inf}.items():
        monkeypatch.setattr(_latex, name, value)
    (lines, *_) = tabulars(tables.latex(table_of("table_10", PAPER), "caption"))
    assert points(lines) > 468


LATEX = {
    "125/200": 27.90,
    "62.5\N{NO-BREAK SPACE}% [50,\N{NO-BREAK SPACE}73]": 51.61,
    "not measured here (aa)": 81.28,
    "theory ≤\N{NO-BREAK SPACE}5\N{NO-BREAK SPACE}%": 47.30,
    "DeepSeek-R1-Distill-Llama-70B": 110.53,
    "kilt_tasks_hotpotqa_straighforward_qa": 131.31,
    "R_1, F_1 + F_2 + F_12 CoT (B_F)": 121.37,
    "arrow_after:swapped": 70.79,
    "Error Types: None (Correct)": 101.29,
}
"""Points by pdfTeX 3.141592653-2.6-1.40.25, \\settowidth in \\scriptsize of article at 10 points."""


@pytest.mark.parametrize(("text", "points"), LATEX.items())
def test_widths_are_those_of_latex(text, points):
    assert points <= _latex.width(text) <= 1.03 * points


def test_latex_escapes():
    assert _latex.escaped("50 % of R_1 & ~$x^{2}$ #1 \\a <b> ≤ λ") == (
        r"50 \% of R\_1 \& \textasciitilde{}\$x\textasciicircum{}\{2\}\$ \#1 \textbackslash{}a"
        r" \textless{}b\textgreater{} $\leq$ $\lambda$"
    )
    assert tables._md("a|b_c*d") == r"a\|b\_c\*d"


@pytest.mark.parametrize("name", NAMES)
def test_markdown_has_whole_lines_and_links_that_lead_somewhere(name, made):
    table = made(name)
    text = tables.markdown(table, module(name).caption(table))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {unescaped(line, "|") for line in lines} == {len(lines[0].split("|")) - 1}
    for anchor in re.findall(r"\]\(#([\w-]+)\)", text):
        assert f'<a id="{anchor}"></a>' in text
    for one in table[table["row"] != ""].to_dict("records"):
        assert all(f"`{name}`" in text for name in one["rows"].split())
        assert f"`{one['command']}`" in text


def test_csv_has_a_line_a_cell(made, tmp_path):
    table = made("table_10")
    path = tmp_path / "table.csv"
    path.write_text(tables.texts(table, "")["csv"])
    again = pandas.read_csv(
        path, dtype={"setup": str, "reported": str}, keep_default_na=False, na_values={"percent": [""]}
    )
    assert len(again) == len(table)
    assert list(again["reported"]) == list(table["reported"])
    assert again["percent"].dropna().tolist() == pytest.approx(table["percent"].dropna().tolist(), rel=1e-5)
