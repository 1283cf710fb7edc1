"""A page of Markdown rendered as one HTML file, with its pictures in it."""

import base64
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import pandas
from markdown_it import MarkdownIt
from markdown_it.token import Token
from PIL import Image

PAGE, STYLE = (Path(__file__).with_name(name) for name in ("report_page.html", "page.css"))
LONG = 30
"""A table of more lines is folded."""
MOST = 60
"""A figure of more numbers does not list them in the page; they are in its CSV file."""
DIGITS = 9
"""Of a row's hash in its anchor, for short pages: two of 2500 rows have these alike once in 22 000 pages."""


def row_anchors(text: str) -> str:
    """The text with its anchors of rows, and the links to them, cut to `DIGITS`."""
    return re.sub(rf'((?:#|id=")row-\w{{{DIGITS}}})\w+', r"\1", text)


def anchor(head: str) -> str:
    """A heading's own anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-")


def rendered(text: str, out: Path) -> str:
    """The page as one HTML file: pictures of `out` are in it, with the numbers of figures; long tables are folded."""
    text = re.sub(r"<!-- numbers ([\w.]+) -->", lambda match: _numbers(out / match[1]), text)
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    parser.add_render_rule(
        "table_open", lambda _, tokens, i, *__: tokens[i].meta["before"] + "<div class='wide' tabindex='0'><table>\n"
    )
    parser.add_render_rule("table_close", lambda _, tokens, i, *__: "</table></div>" + tokens[i].meta["after"] + "\n")
    tokens = parser.parse(text)
    for token, inside in itertools.pairwise(tokens):
        if token.type == "heading_open":
            token.attrSet("id", anchor(inside.content))
    _fold(tokens)
    for part in (child for token in tokens for child in token.children or []):
        if part.type == "image":
            for name, value in _picture(out / str(part.attrGet("src"))).items():
                part.attrSet(name, value)
    title = next((inside.content for token, inside in itertools.pairwise(tokens) if token.tag == "h1"), "")
    # What HTML lets one leave out: end tags are a twentieth of the page, quotes and elements of anchors a hundredth.
    body = re.sub(r"</(?:t[dhr]|thead|tbody|li)>\n?", "", parser.renderer.render(tokens, parser.options, {}))
    body = re.sub(r'<li><a id="(row-\w+)"></a>', r"<li id=\1>", body)
    body = re.sub(r'<a href="(#row-\w+)">', r"<a href=\1>", body)
    return filled(PAGE, title=escape(title), body=body)


def filled(template: Path, **parts: str) -> str:
    """A template of a page with the style that all have, and its parts in the places of `<!-- NAME -->`."""
    text = template.read_text(encoding="utf-8")
    for name, part in {"style": STYLE.read_text(encoding="utf-8"), **parts}.items():
        text = text.replace(f"<!-- {name} -->", part)
    return text


def _numbers(path: Path) -> str:
    """A figure's numbers, folded, each line with its row; of very many, where they are."""
    table = pandas.read_csv(path, dtype=str, keep_default_na=False)
    if len(table) > MOST:
        return f"The numbers are the {len(table)} lines of [{path.name}]({path.name})."
    table = table.drop(columns=["rows", "command"], errors="ignore")  # the first row's place has both
    table = table.loc[:, (table != "").any()]  # no line has anything in the other columns
    lines = [list(table), ["---"] * len(table.columns)]
    for line in table.to_dict("records"):
        cells = (
            f"[row](#row-{text[:DIGITS]})" if name == "row" and text else _short(text) for name, text in line.items()
        )
        lines.append([*cells])
    return "\n".join(
        [
            "<details><summary>The numbers</summary>",
            "",
            *("| " + " | ".join(line) + " |" for line in lines),
            "",
            "</details>",
        ]
    )


def _short(text: str) -> str:
    """A number to six digits; other text so that Markdown leaves it alone."""
    try:
        return f"{float(text):.6g}"
    except ValueError:
        return "".join("\\" + c if c in "\\|*_`[]<>" else c for c in text)


def _fold(tokens: Sequence[Token]) -> None:
    """Long tables get a fold around them."""
    start = 0
    for i, token in enumerate(tokens):
        if token.type == "table_open":
            start = i
        elif token.type == "table_close":
            lines = sum(inside.type == "tr_open" for inside in tokens[start:i]) - 1
            folded = lines > LONG
            tokens[start].meta["before"] = f"<details><summary>The table, {lines} lines</summary>" if folded else ""
            token.meta["after"] = "</details>" if folded else ""


def _picture(path: Path) -> Mapping[str, str]:
    """What an image of the page says: the picture itself, as lossless WebP, which takes three quarters of the PNG's
    bytes, and its size, so that the page does not move while it loads."""
    made = io.BytesIO()
    with Image.open(path) as picture:
        size = {"width": str(picture.width), "height": str(picture.height)}
        picture.convert("RGB").save(made, "WEBP", lossless=True, quality=100)
    return {"src": f"data:image/webp;base64,{base64.b64encode(made.getvalue()).decode()}"} | size
