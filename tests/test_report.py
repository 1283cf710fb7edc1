"""The page: its numbers are its rows', its links lead somewhere, and a real browser shows it whole and legible, narrow
and wide, light and dark."""

import base64
import io
import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_reuse.figures import _html, registry, report
from lora_reuse.figures.rows import sources
from lora_reuse.llm.data.mixtures import SETUPS
from lora_reuse.llm.protocols.settings import COMPOSITIONS
from lora_reuse.runs.settings import SettingError
from tests.browser import browser as browser
from tests.browser import faults, picture, shown
from tests.rows_of_models import row, write

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "results" / "paper"
ITEMS = {
    "figure_1": "figure",
    "figure_2": "figure",
    "theorem_2": "figure",
    "table_01": "table",
    "table_10": "table",
    "compositions": "table",
}


FIRST = [
    *("The question", "What was found", "On which model, and how far it carries", "Which rule, and by how much"),
    *("Your model", "What does not agree"),
]


def rows_of(folder):
    return [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]


def asked(rows, **settings):
    """The hits and total of the only row with these settings, of the pocket model if not of another."""
    wanted = {"model": "pocket"} | settings
    (row,) = [row for row in rows if row["experiment"] == "llm_bridge" and wanted.items() <= row["settings"].items()]
    return f"{row['measured']['hits']}/{row['measured']['total']}", row["hash"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A repository in small: committed rows of the theory, made-up ones of a model, the ledger, verdicts, and the page
    of some figures and tables."""
    folder = tmp_path_factory.mktemp("page")
    rows, out = folder / "paper", folder / "figures"
    rows.mkdir()
    for name in ("bridge.jsonl", "theorem_2.jsonl", "ledger.md"):
        shutil.copy(PAPER / name, rows)
    asked_how = itertools.product(SETUPS, COMPOSITIONS, ("steps", "direct"))
    right = lambda setup, rule: [(int(setup) * len(rule) + i) % 3 for i in range(8)]  # noqa: E731
    write(
        rows,
        *(
            row("llm_bridge", right(setup, rule), setup=setup, composition=rule, prompting=how)
            for setup, rule, how in asked_how
        ),
    )
    write(rows, row("llm_exposed", [1] * 8, composition="average", relations="chained", prompting="steps"))
    others = itertools.product(("results/pocket-1", "results/pocket-same"), ("0", "2", "3"))
    write(
        rows,
        *(
            row("llm_bridge", [1] * 8, model=name, setup=setup, composition="arrow_after", prompting="steps")
            for name, setup in others
        ),
    )
    verdicts = [
        "# Theory against language models",
        "",
        "| prediction | pocket |",
        "|---|---|",
        "| [P1](#p1) | [undecided](#p1-pocket) |",
    ]
    evidence = ['<a id="p1"></a>', "", "## P1, pocket: undecided", "", '<a id="p1-pocket"></a>', "", "3 of 40"]
    (rows / "predictions.md").write_text("\n".join([*verdicts, "", *evidence, ""]))
    drawn = [registry.draw_or_say(registry.Item(name, kind), rows, out) for name, kind in ITEMS.items()]
    assert report.main(rows, out, drawn) == 0
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "figures" / "report.md").read_text()


def test_the_page_has_every_part(page):
    heads = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert heads == [
        *FIRST,
        *(
            "Words",
            "More than one layer",
            "Findings one by one",
            "Figures",
            "Tables",
            "The paper's claims",
            "Predictions",
            "Provenance",
            "Rows",
        ),
    ]
    assert set(re.findall("<!-- .+? -->", page)) == {"<!-- numbers figure_2.csv -->", "<!-- numbers theorem_2.csv -->"}
    assert "[The question](#the-question) · [What was found](#what-was-found) · " in page
    assert (
        page.index("### The sum of two experts")
        < page.index("### Figure 1")
        < page.index("### Table 1:")
        < page.index("### Every composition")
    )
    assert page.count("![") == 2
    assert "Not drawn: rows: got no rows of llm_two_hop" in page
    assert "| [P1](#p1) | [undecided](#p1-pocket) |" in page
    assert "### P1, pocket: undecided" in page


def test_a_very_long_table_is_on_its_own_page_with_its_rows(folder, page, monkeypatch):
    item = registry.Item("compositions", "table")
    drawn = registry.draw(item, folder / "paper", folder / "figures")
    lines = [line for line in drawn.files["md"].read_text().splitlines() if line.startswith("| ")][2:]
    monkeypatch.setattr(report, "LONGEST", len(lines))
    short = report.page(folder / "paper", folder / "figures", [drawn], sources(folder / "paper"))
    assert lines[0].partition("(#row-")[0] in short
    monkeypatch.setattr(report, "LONGEST", len(lines) - 1)
    long = report.page(folder / "paper", folder / "figures", [drawn], sources(folder / "paper"))
    assert f"The table, {len(lines)} lines, is on [its own page](compositions.md)." in long
    assert lines[0].partition("(#row-")[0] not in long
    assert "Every composition is asked every setup" in long
    assert long.count('<a id="row-') < short.count('<a id="row-')


def test_links_lead_somewhere(folder, page):
    out = folder / "figures"
    anchors = set(re.findall(r'<a id="([\w.-]+)"></a>', page)) | {
        re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    }
    links = re.findall(r"\]\(([^)\s]+)\)", page)
    assert len(links) > 100
    for link in links:
        path, _, fragment = link.partition("#")
        if not path:
            assert fragment in anchors, link
        else:
            assert (out / path).is_file(), link
    for name, path, line in re.findall(r"\[(\w{16})\]\(([\w./]+)#L(\d+)\)", page):
        assert json.loads((out / path).read_text().splitlines()[int(line) - 1])["hash"] == name
    assert len(re.findall(r'<a id="(row-\w+)"', page)) == len(set(re.findall(r'<a id="(row-\w+)"', page)))


def test_numbers_in_the_text_are_those_of_their_rows(folder, page):
    rows = rows_of(folder / "paper")
    for setup, composition in (("2", "arrow_after"), ("0", "arrow_after")):
        share, name = asked(rows, setup=setup, composition=composition, prompting="steps", seed=0)
        hits, total = map(int, share.split("/"))
        assert f"[{100 * hits / total:.0f} % (one seed)](#row-{name[: _html.DIGITS]})" in page
    assert not re.search(r"\{\w+ \w+", page)


def test_another_row_another_number(folder, tmp_path):
    rows = tmp_path / "paper"
    rows.mkdir()
    lines = [json.loads(line) for line in (folder / "paper" / "llm_bridge.jsonl").read_text().splitlines()]
    for one in lines:
        one["measured"]["hits"] += 1
    (rows / "llm_bridge.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    text = report.page(rows, tmp_path / "out", [], sources(rows))
    _, name = asked(lines, model="results/pocket-1", setup="0", composition="arrow_after", prompting="steps")
    assert f"[9/16](#row-{name[: _html.DIGITS]})" in text
    assert f"[8/16](#row-{name[: _html.DIGITS]})" in (folder / "figures" / "report.md").read_text()


def test_without_ledger_and_verdicts_the_commands_are_said(tmp_path):
    text = report.page(tmp_path, tmp_path / "out", [], {})
    assert "`python -m paper_checks` writes them" in text
    assert "`python -m paper_checks.predictions` writes them" in text
    assert (
        "- **Setup 1.** Not measured yet: `python -m llm.bridge setup=1 composition=arrow prompting=steps`.\n- **"
        in text
    )
    assert "The pocket model under `arrow` answers" not in text
    assert "### What was not measured\n\nThe paper's models were " in text


def test_provenance_says_what_was_measured_on_what(folder, page):
    rows = [row for row in rows_of(folder / "paper") if row["experiment"] == "llm_bridge"]
    (line,) = [line for line in page.splitlines() if line.startswith("| llm_bridge |")]
    assert f"| {len(rows)} |" in line
    made = rows[0]["provenance"]
    for said in (made["device"], made["dtype"], made["commit"][:7], "torch 2", "pocket"):
        assert said in line


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match=r"^out: got .*file/out"):
        report.main(tmp_path, tmp_path / "file" / "out", [])


def test_the_html_loads_nothing(folder):
    out = folder / "figures"
    text = (out / "report.html").read_text()
    outside = re.sub(r"<code>.*?</code>", "", text)
    assert all(source.startswith("data:") for source in re.findall(r"""src=["']([^"']+)["']""", outside))
    for link in re.findall(r"""href=["']([^"']+)["']""", outside):
        assert link.startswith(("data:", "#")) or (out / link.partition("#")[0]).is_file(), link[:80]
    assert not re.search(r"@import|url\(|<script src|<link rel=.stylesheet", text)
    assert text.count("<table>") == text.count("<div class='wide' tabindex='0'><table>")


def test_pictures_are_in_the_page(folder):
    text = (folder / "figures" / "report.html").read_text()
    inside = re.findall(r'src="data:image/webp;base64,([^"]+)" alt="[^"]*" width="(\d+)" height="(\d+)"', text)
    assert len(inside) == 2
    for name, (source, width, height) in zip(("theorem_2", "figure_2"), inside, strict=True):
        embedded = Image.open(io.BytesIO(base64.b64decode(source)))
        with Image.open(folder / "figures" / f"{name}.png") as picture:
            assert picture.size == (int(width), int(height))
            assert picture.convert("RGB").tobytes() == embedded.tobytes()


def test_long_tables_are_folded(folder):
    text = (folder / "figures" / "report.html").read_text()
    for before, table in re.findall(r"(.{60})<div class='wide' tabindex='0'><table>(.*?)</table>", text, re.DOTALL):
        assert ("lines</summary>" in before) == (table.count("<tr>") - 1 > _html.LONG)


def test_the_whole_page_is_less_than_two_megabytes(whole):
    assert whole.stat().st_size < 2_000_000


def test_the_whole_page_is_that_of_its_text(whole):
    """But for the pictures in it, whose bytes another machine's compressor writes."""
    bare = lambda page: re.sub(r"data:image/webp;base64,[^\"]+", "a picture", page)  # noqa: E731
    assert "a picture" in bare(whole.read_text())
    assert bare(whole.read_text()) == bare(_html.rendered(whole.with_suffix(".md").read_text(), whole.parent))


def test_each_number_of_a_figure_has_its_row(folder):
    text = (folder / "figures" / "report.html").read_text()
    lines = (folder / "figures" / "theorem_2.csv").read_text().splitlines()
    anchors = set(re.findall(r"<li id=(row-\w+)>", text))
    cited = re.findall(r"<a href=#(row-\w+)>", text)
    assert set(cited) <= anchors
    assert len([name for name in cited if name.removeprefix("row-") in "".join(lines)]) >= len(lines) - 1


def test_the_same_page_from_the_same_rows(folder, tmp_path):
    out = folder / "figures"
    text = (out / "report.html").read_bytes()
    assert _html.rendered((out / "report.md").read_text(), out).encode() == text


@pytest.fixture(scope="module")
def whole():
    """The page of all committed rows as `make figures` has drawn it, which `make fresh` does before these tests."""
    return ROOT / "results" / "figures" / "report.html"


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (768, "light"), (1280, "dark")])
def test_a_browser_shows_the_page_whole(browser, whole, width, scheme):
    assert faults(browser, whole, width, scheme) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_first_screen_is_text_on_its_ground(browser, whole, width, scheme):
    shown(browser, whole, width, scheme)
    seen = picture(browser)
    assert seen.shape == (900, width, 3)
    ground = seen[-1, 0]
    assert (ground.mean() > 200) == (scheme == "light")
    ink = np.abs(seen - ground).max(axis=2) > 60
    assert 0.02 < ink.mean() < 0.3
    assert ink[450:].mean() > 0.01


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_stand_on_white_in_both_schemes(browser, whole, scheme):
    shown(browser, whole, 1280, scheme)
    browser.execute_script("document.images[0].scrollIntoView()")
    assert (picture(browser)[:300, 200:800].min(axis=2) > 250).mean() > 0.5


def test_the_first_two_screens_answer_a_stranger(browser, whole):
    shown(browser, whole, 1280)
    top = (
        "return [...document.querySelectorAll('h2')].map(head => [head.textContent, head.getBoundingClientRect().top])"
    )
    places = dict(browser.execute_script(top))
    assert list(places)[:6] == FIRST
    assert places["What does not agree"] < 1900


def test_a_narrow_screen_shows_every_column(browser, whole):
    """Verdicts, too: the cells of a line stand under one another, each beside its column's name."""
    shown(browser, whole, 390)
    cells = """
    const table = [...document.querySelectorAll('table')].find(table => table.textContent.includes('verdict'))
    const said = cell => getComputedStyle(cell, '::before').content
    const cells = [...table.tBodies[0].rows[0].cells]
    return cells.map(cell => [cell.dataset.head, cell.getBoundingClientRect().right, said(cell)])
    """
    found = browser.execute_script(cells)
    assert "verdict" in [head for head, _, _ in found]
    assert all(0 < right <= 390 and said == f'"{head}"' for head, right, said in found)


def test_a_link_to_a_row_opens_the_fold_that_holds_it(browser, folder):
    browser.get((folder / "figures" / "report.html").as_uri())
    open_ = (
        "const link = document.querySelector(\"td a[href^='#row-']\"); link.click(); return"
        " link.getAttribute('href').slice(1)"
    )
    name = browser.execute_script(open_)
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 10).until(
        lambda it: it.execute_script(f"return document.getElementById('{name}').getClientRects().length > 0")
    )


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("<script>console.error('broken')</script>", "console: "),
        ("<img src='nowhere.png' alt='gone'>", "a picture does not load: gone"),
        ("<img src='data:,' alt='gone'>", "a picture does not load: gone"),
        (
            "<img src='data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=' alt='wide' width=900>",
            "outside the window: IMG",
        ),
        (
            "<img src='data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=' alt='wide' width=90>",
            "a picture is small",
        ),
        ("<table><tr><td style='min-width: 900px'>words</td></tr></table>", "the page is"),
        (
            "<div style='overflow-x: auto'><table><tr><td style='min-width: 900px'>words</td></tr></table></div>",
            "outside the window",
        ),
        ("<p style='color: #888'>words</p>", "contrast 3.5: "),
        ("<p style='background: #333'><span style='color: #111'>words</span></p>", "contrast 1."),
        (
            "<div style='overflow-x: auto'><table style='font-size: 9px'><tr><td>words</td></tr></table></div>",
            "a table is too small",
        ),
        ("<div style='overflow-x: auto'><table><tr><td>a</td></tr></table></div>", "a column is too narrow"),
    ],
)
def test_a_fault_is_found(browser, tmp_path, body, fault):
    path = tmp_path / "bad.html"
    path.write_text(
        "<!doctype html><meta name='viewport' content='width=device-width'><link rel='icon'"
        f" href='data:,'><body>{body}</body>"
    )
    assert any(found.startswith(fault) for found in faults(browser, path, 400))
