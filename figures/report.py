"""One page of everything: what was found, every figure and table, the claims, the predictions, and where each number
came from.

The page is Markdown, `report.md`. `report.html` is the same text rendered: its pictures are in it and it needs no
network; PDF, CSV and LaTeX are links to the files beside it. What is written by hand is `report_text.md`, whose numbers
are placeholders (`figures._placeholders`), and so is the README, `readme_text.md`."""

import os
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas

from lora_reuse.figures import explore
from lora_reuse.figures._html import anchor, rendered, row_anchors
from lora_reuse.figures._text import fill
from lora_reuse.figures.registry import Drawn, write
from lora_reuse.figures.rows import sources
from lora_reuse.runs.rows import Source
from lora_reuse.runs.settings import SettingError

TEXT, README = (Path(__file__).with_name(name) for name in ("report_text.md", "readme_text.md"))
ORDER = (
    "kernel_limit proposition_1 capacity theorem_2 theorem_3 many_facts scale bridge large_library activations"
    " hops_and_attention depth layers trained figure_1 direct_answers links figure_2 bridge_controls wordings"
    " bridge_minimum bridge_examples semi_synthetic exposure chains own_answers skill_sets model_capacity familiarity"
    " model_scale model_probabilities model_overlap bench"
).split()
"""How figures follow one another on the page: the theory, then the models; others come after them, tables by their
names."""
LONGEST = 60
"""A table of more lines is on its own page alone, with its rows."""
MADE_BY = {"ledger": "python -m paper_checks", "predictions": "python -m paper_checks.predictions"}


def main(rows: Path, out: Path, drawn: Sequence[Drawn]) -> int:
    """Writes report.md, report.html and explore.html into `out`; returns the exit code. Raises SettingError if they
    cannot be written."""
    found = sources(rows)
    text = page(rows, out, drawn, found)
    try:
        write(out / "explore.html", explore.page(rows, out, list(found.values())).encode())
        write(out / "report.md", text.encode())
        write(out / "report.html", rendered(text, out).encode())
    except OSError as error:
        raise SettingError("out", f"{out} ({error.strerror})", "a folder that can be written") from None
    print(f"report: {out / 'report.md'}, {out / 'report.html'}, {out / 'explore.html'}")
    return 0


def readme(rows: Path, path: Path) -> None:
    """Writes the README with its numbers. Raises SettingError if it cannot be written."""
    try:
        write(path, _wrapped(fill(README.read_text(encoding="utf-8"), rows).text).encode())
    except OSError as error:
        raise SettingError("readme", f"{path} ({error.strerror})", "a file that can be written") from None
    print(f"readme: {path}")


def _wrapped(text: str) -> str:
    """Paragraphs and points of lists at the width of the repository's lines; code, tables, pictures and headings as
    they are."""
    fenced = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    for i in range(0, len(fenced), 2):
        blocks = re.split(r"(\n\n|\n(?=- ))", fenced[i])
        for j in range(0, len(blocks), 2):
            if blocks[j] and blocks[j].strip() and blocks[j].lstrip()[0] not in "|#!":
                indent = "  " if blocks[j].startswith("- ") else ""
                said = " ".join(blocks[j].split())
                blocks[j] = textwrap.fill(
                    said, 150, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
                )
        fenced[i] = "".join(blocks)
    return "".join(fenced).rstrip() + "\n"


def page(rows: Path, out: Path, drawn: Sequence[Drawn], found: Mapping[str, Source]) -> str:
    """The page as Markdown; its links are relative to `out`. `found` are all rows by their hashes."""
    filled = fill(TEXT.read_text(encoding="utf-8"), rows, linked=True)
    text, cited = filled.text, filled.cited
    places = {name: place for place, name in enumerate(ORDER)}
    drawn = sorted(
        drawn, key=lambda item: (places.get(item.name, len(places)), not item.name.startswith("table_"), item.name)
    )
    parts = {
        "ledger": _written(rows, "ledger", "The paper's claims", "Every claim with its evidence"),
        "predictions": _written(rows, "predictions", "Predictions", "Every prediction with its evidence"),
        "figures": "\n".join(["## Figures", "", *(_figure(item) for item in drawn if item.kind == "figure")]),
        "tables": "\n".join(["## Tables", "", *(_table(item) for item in drawn if item.kind == "table")]),
    }
    for item in drawn:
        for first, others in _rows_of(item) if item.kind == "figure" or _shown(item) else ():
            cited.setdefault(first, others)
    parts |= {"provenance": _provenance(found.values()), "rows": _rows(cited, found, os.path.relpath(rows, out))}
    for name, part in parts.items():
        text = text.replace(f"<!-- {name} -->", part.strip())
    heads = re.findall(r"^## (.+)$", text, re.MULTILINE)
    return row_anchors(text.replace("<!-- contents -->", " · ".join(f"[{head}](#{anchor(head)})" for head in heads)))


def _written(rows: Path, name: str, head: str, fold: str) -> str:
    """A page of `paper_checks`: its summary under a heading of this page, what comes under its own headings folded."""
    path = rows / f"{name}.md"
    if not path.is_file():
        return f"## {head}\n\nNone in {rows}; `{MADE_BY[name]}` writes them."
    _, _, text = path.read_text(encoding="utf-8").partition("\n")
    summary, _, details = text.partition("\n## ")
    folded = (
        f"<details><summary>{fold}</summary>\n\n{_demoted('## ' + details).strip()}\n\n</details>" if details else ""
    )
    return f"## {head}\n{_demoted(summary)}\n{folded}"


def _demoted(text: str) -> str:
    """Headings one level down, as part of a page."""
    return re.sub(r"^(#{1,5} )", r"#\1", text, flags=re.MULTILINE)


def _figure(item: Drawn) -> str:
    if item.missing:
        return f"### {item.title}\n\nNot drawn: {item.missing}\n"
    text = re.sub(
        r"^(!\[.*\]\((.+\.png)\))$", r"[\1](\2)", item.files["md"].read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    return _demoted(_demoted(text)).rstrip() + f"\n\n<!-- numbers {item.files['csv'].name} -->\n"


def _table(item: Drawn) -> str:
    if item.missing:
        return f"### {item.title}\n\nNot made: {item.missing}\n"
    text, _, _ = item.files["md"].read_text(encoding="utf-8").partition("\n## Rows\n")
    if not _shown(item):
        caption, count = text.partition("\n\n| ")[0], _lines(text)
        text = f"{caption}\n\nThe table, {count} lines, is on [its own page]({item.files['md'].name})."
    links = f"[LaTeX]({item.files['tex'].name}), [the numbers]({item.files['csv'].name})"
    return f"### {item.title}\n\n{text.strip()}\n\n{links}\n"


def _shown(item: Drawn) -> bool:
    """Whether the page has the table and not a link to it."""
    return (
        bool(item.files) and _lines(item.files["md"].read_text(encoding="utf-8").partition("\n## Rows\n")[0]) <= LONGEST
    )


def _lines(text: str) -> int:
    """Of a table in Markdown, without its head."""
    return max(0, len(re.findall(r"^\|", text, re.MULTILINE)) - 2)


def _rows_of(item: Drawn) -> Iterator[tuple[str, list[str]]]:
    """Of each number of a figure or table, the hash of its first row, and the hashes it says it stands on."""
    if "csv" in item.files:
        table = pandas.read_csv(item.files["csv"], dtype=str, keep_default_na=False)
        if "row" in table:
            together = table["rows"] if "rows" in table else table["row"]
            yield from ((first, every.split()) for first, every in zip(table["row"], together, strict=True) if first)


def _provenance(sources: Iterable[Source]) -> str:
    """A line an experiment: how many rows, of what, on what, with which versions."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for source in sources:
        groups.setdefault(source.row["experiment"], []).append(source.row)
    head = ("experiment", "rows", "seeds", "models", "device", "numbers", "commits", "versions")
    lines = ["## Provenance", "", "| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for experiment, rows in groups.items():
        made = [row["provenance"] for row in rows]
        seeds = len({row["settings"].get("seed") for row in rows})
        versions = [" ".join(f"{name} {version}" for name, version in source["versions"].items()) for source in made]
        commits = [
            f"{(source['commit'] or 'no commit')[:7]}{' and changes not committed' if source['dirty'] else ''}"
            for source in made
        ]
        cells = [
            *(experiment, str(len(rows)), str(seeds), _each(row["settings"].get("model", "") for row in rows)),
            *(
                _each(f"{source.get('device', '')}" for source in made),
                _each(source.get("dtype", "") for source in made),
            ),
            *(_each(commits), _each(versions)),
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _each(values: Iterable[Any]) -> str:
    return "<br>".join(escape(value) for value in dict.fromkeys(map(str, values)))


def _rows(cited: dict[str, list[str]], sources: Mapping[str, Source], folder: str) -> str:
    """Every row that a number on this page stands on, by the command that made it."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for first, hashes in cited.items():
        if first in sources:
            source = sources[first]
            found = [sources[name] for name in hashes if name in sources]
            places = [f"{other.line}" + (f" ({other.file})" if other.file != source.file else "") for other in found]
            key = (source.row["experiment"], source.row["provenance"]["command"], source.file)
            groups.setdefault(key, []).append(f'<a id="row-{first}"></a>{" ".join(places)}')
    lines = [
        "## Rows",
        "",
        "The numbers of the tables, of the figures and of the text stand on these rows, by the command that made "
        "them. Of each row its line in the file is given; the rows of one point differ in the seed, and the point's "
        "address has the hash of the first.",
        "",
        "<details><summary>All rows cited on this page</summary>",
    ]
    for (experiment, command, file), cells in groups.items():
        lines += ["", f"`{command}` ({experiment}, [{file}]({folder}/{file}))", "", *(f"- {cell}" for cell in cells)]
    return "\n".join([*lines, "", "</details>"])
