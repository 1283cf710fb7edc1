"""The page: its numbers are its rows', its links lead somewhere, and a real browser shows it whole at 1280 and at 400 pixels."""

import base64
import itertools
import json
import re
import shutil
from pathlib import Path

import pytest

from figures import registry, report
from figures._cells import measured
from figures.rows import Rows
from llm.data.mixtures import SETUPS
from llm.settings import COMPOSITIONS
from runs.settings import SettingError
from tests.rows_of_models import row, write

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "results" / "paper"
ITEMS = {"figure_1": "figure", "figure_2": "figure", "theorem_2": "figure", "table_01": "table", "table_10": "table", "compositions": "table"}


def rows_of(folder):
    return [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]


def asked(rows, **settings):
    """The hits and total of the only row with these settings, of the pocket model if not of another."""
    wanted = {"model": "pocket"} | settings
    (row,) = [row for row in rows if row["experiment"] == "llm_bridge" and wanted.items() <= row["settings"].items()]
    return f"{row['measured']['hits']}/{row['measured']['total']}", row["hash"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A repository in small: committed rows of the theory, made-up ones of a model, the ledger, verdicts, and the page of some figures and tables."""
    folder = tmp_path_factory.mktemp("page")
    rows, out = folder / "paper", folder / "figures"
    rows.mkdir()
    for name in ("bridge.jsonl", "theorem_2.jsonl", "ledger.md"):
        shutil.copy(PAPER / name, rows)
    asked_how = itertools.product(SETUPS, COMPOSITIONS, ("steps", "direct"))
    right = lambda setup, rule: [(int(setup) * len(rule) + i) % 3 for i in range(8)]  # noqa: E731
    write(rows, *(row("llm_bridge", right(setup, rule), setup=setup, composition=rule, prompting=how) for setup, rule, how in asked_how))
    others = itertools.product(("results/pocket-1", "results/pocket-same"), ("0", "2", "3"))
    write(rows, *(row("llm_bridge", [1] * 8, model=name, setup=setup, composition="arrow_after", prompting="steps") for name, setup in others))
    verdicts = ["# Theory against language models", "", "| prediction | pocket |", "|---|---|", "| **P1** at chance | [holds](#p1) |"]
    (rows / "predictions.md").write_text("\n".join([*verdicts, "", '<a id="p1"></a>', "", "## P1, pocket: holds", "", "3 of 40", ""]))
    drawn = [registry.draw_or_say(registry.Item(name, kind), rows, out) for name, kind in ITEMS.items()]
    assert report.main(rows, out, drawn) == 0
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "figures" / "report.md").read_text()


def test_the_page_has_every_part(page):
    heads = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert heads == [
        *("The question", "The theory in five lines", "The claims of the paper, checked", "Predictions of the theory for language models"),
        *("The figures", "The tables, side by side", "What does not agree, and what that means", "What was measured on what", "Rows"),
    ]
    assert set(re.findall("<!-- .+? -->", page)) == {"<!-- numbers figure_2.csv -->", "<!-- numbers theorem_2.csv -->"}
    assert "[The question](#the-question) · [The theory in five lines](#the-theory-in-five-lines) · " in page
    assert page.index("### The sum of two experts") < page.index("### Figure 1") < page.index("### Table 1:") < page.index("### Every composition")
    assert page.count("![") == 2
    assert "Not drawn: rows: got no rows of llm_two_hop" in page
    assert "| **P1** at chance | [holds](#p1) |" in page
    assert "### P1, pocket: holds" in page


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
    for setup, composition in (("4", "sum"), ("5", "sum"), ("4", "arrow"), ("5", "arrow"), ("1", "arrow"), ("2", "sum"), ("2", "arrow")):
        share, name = asked(rows, setup=setup, composition=composition, prompting="steps", seed=0)
        assert f"[{share}](#row-{name})" in page
    assert not re.search(r"\{\w+ \w+=", page)
    assert "(no rows of" not in page


def test_what_the_text_says_of_them_holds():
    """On the committed rows, pooled as the page pools them; where this fails, the text of the page has to be written anew."""
    found = measured(Rows(PAPER, {"llm_bridge": ""}), ["llm_bridge"], ("setup", "composition", "prompting"), layers="mlp", adapter="lora")
    share = {key[1:3]: cell["percent"] / 100 for key, cell in found.cells.items() if key[0] == "pocket" and key[-1] == "steps"}
    for setup in ("4", "5"):
        assert share[setup, "sum"] > max(0.5, 2 * share[setup, "arrow"])
    assert share["1", "arrow"] < 0.1
    assert share["2", "sum"] < 0.1 < share["2", "arrow"] - 0.1
    for model in ("results/pocket-1", "results/pocket-same"):
        hits = {key[1]: cell["hits"] for key, cell in found.cells.items() if key[0] == model and key[2:] == ("arrow_after", "steps")}
        assert hits["0"] == hits["3"] == 0 < hits["2"]


def test_a_number_without_rows_says_so(tmp_path):
    assert report._number(tmp_path, "llm_bridge", ["model=pocket", "setup=4"], {}) == "(no rows of llm_bridge with model=pocket setup=4)"


def test_another_row_another_number(folder, tmp_path):
    rows = tmp_path / "paper"
    rows.mkdir()
    lines = [json.loads(line) for line in (folder / "paper" / "llm_bridge.jsonl").read_text().splitlines()]
    for one in lines:
        one["measured"]["hits"] += 1
    (rows / "llm_bridge.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    text = report.page(rows, tmp_path / "out", [])
    before, after = (asked(one, setup="4", composition="sum", prompting="steps", seed=0)[0] for one in (rows_of(folder / "paper"), lines))
    assert before != after
    assert f"[{after}](#row-" in text
    assert f"[{before}](#row-" not in text


def test_without_ledger_and_verdicts_the_commands_are_said(tmp_path):
    text = report.page(tmp_path, tmp_path / "out", [])
    assert "`python -m paper_checks` writes them" in text
    assert "`python -m paper_checks.predictions` writes them" in text
    missing = "(no rows of llm_bridge with model=pocket setup=4 composition=sum prompting=steps)"
    assert f"- **Between the paper and the pocket model: one-sided bridges.** Not measured {missing}.\n- **" in text
    assert "the plain sum answers" not in text
    assert "- **What was not measured.** The paper's models, " in text


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


def test_the_html_needs_nothing_else(folder):
    text = (folder / "figures" / "report.html").read_text()
    outside = re.sub(r"<code>.*?</code>", "", text)
    for link in re.findall(r"""(?:src|href)=["']([^"']+)["']""", outside):
        assert link.startswith(("data:", "#", "../paper/")), link[:80]
    assert not re.search(r"@import|url\(|<script src|<link rel=.stylesheet", text)
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert base64.b64decode(pictures[1]) == (folder / "figures" / "figure_2.png").read_bytes()
    assert text.count("<table>") == text.count("<div class='wide' tabindex='0'><table>")


def test_each_number_of_a_figure_has_its_row(folder):
    text = (folder / "figures" / "report.html").read_text()
    lines = (folder / "figures" / "theorem_2.csv").read_text().splitlines()
    anchors = set(re.findall(r'<a id="(row-\w+)"', text))
    cited = re.findall(r'<a href="#(row-\w+)">', text)
    assert set(cited) <= anchors
    assert len([name for name in cited if name.removeprefix("row-") in "".join(lines)]) >= len(lines) - 1


def test_the_same_page_from_the_same_rows(folder, tmp_path):
    out = folder / "figures"
    text = (out / "report.html").read_bytes()
    assert report.html((out / "report.md").read_text(), out).encode() == text


INSTALL = "apt-get update && apt-get install -y --no-install-recommends chromium chromium-driver"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium from Debian's packages, with an empty profile."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver):
        pytest.fail(f"the page is tested in a real browser, which is not here; on Debian: {INSTALL}")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver))
    yield found
    found.quit()


def faults(browser, path, width):
    """What a person would find wrong with the page at a width."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600})
    browser.get(path.as_uri())
    found = [f"console: {entry['message']}" for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    return found + browser.execute_script(
        """
        const found = []
        for (const fold of document.querySelectorAll('details')) fold.open = true
        const seen = document.documentElement.clientWidth
        if (document.documentElement.scrollWidth > seen) found.push(`the page is ${document.documentElement.scrollWidth} wide in ${seen}`)
        for (const image of document.images) {
            if (!(image.complete && image.naturalWidth > 0)) found.push('a picture does not load: ' + image.alt)
            if (!image.alt) found.push('a picture has no words')
            const scrolls = ['auto', 'scroll'].includes(getComputedStyle(image.parentElement).overflowX)
            if (image.getBoundingClientRect().right > seen + 1 && !scrolls) found.push('a picture is cut: ' + image.alt)
        }
        for (const table of document.querySelectorAll('table')) {
            const box = table.parentElement, name = table.textContent.trim().slice(0, 40)
            const scrolls = ['auto', 'scroll'].includes(getComputedStyle(box).overflowX)
            if (table.scrollWidth > box.clientWidth + 1 && !scrolls) found.push('a table does not scroll: ' + name)
            if (parseFloat(getComputedStyle(table).fontSize) < 12) found.push('a table is too small to read: ' + name)
            for (const row of table.rows) for (const cell of row.cells) {
                if (cell.textContent.trim() && cell.clientWidth < 40) { found.push('a column is too narrow: ' + name); break }
                if (cell.scrollWidth > cell.clientWidth + 1) { found.push('a cell runs over: ' + cell.textContent); break }
            }
        }
        for (const at of performance.getEntriesByType('resource')) if (!at.name.startsWith('data:')) found.push('loads ' + at.name)
        return [...new Set(found)]
        """
    )


@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_shows_the_page_whole(browser, folder, width):
    assert faults(browser, folder / "figures" / "report.html", width) == []


def test_a_link_to_a_row_opens_the_fold_that_holds_it(browser, folder):
    browser.get((folder / "figures" / "report.html").as_uri())
    open_ = "const link = document.querySelector(\"td a[href^='#row-']\"); link.click(); return link.getAttribute('href').slice(1)"
    name = browser.execute_script(open_)
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 10).until(lambda it: it.execute_script(f"return document.getElementById('{name}').getClientRects().length > 0"))


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("<script>console.error('broken')</script>", "console: "),
        ("<img src='nowhere.png' alt='gone'>", "a picture does not load: gone"),
        ("<img src='data:,' alt='gone'>", "a picture does not load: gone"),
        ("<img src='data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=' alt='wide' width=900>", "a picture is cut: wide"),
        ("<table><tr><td style='min-width: 900px'>words</td></tr></table>", "the page is"),
        ("<table><tr><td style='min-width: 900px'>words</td></tr></table>", "a table does not scroll"),
        ("<div style='overflow-x: auto'><table style='font-size: 9px'><tr><td>words</td></tr></table></div>", "a table is too small"),
        ("<div style='overflow-x: auto'><table><tr><td>a</td></tr></table></div>", "a column is too narrow"),
    ],
)
def test_a_fault_is_found(browser, tmp_path, body, fault):
    path = tmp_path / "bad.html"
    path.write_text(f"<!doctype html><meta name='viewport' content='width=device-width'><link rel='icon' href='data:,'><body>{body}</body>")
    assert any(found.startswith(fault) for found in faults(browser, path, 400))
