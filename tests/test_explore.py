"""The page of rows in a real browser: what it shows is what the rows say. A keyboard chooses, a screen reader is told,
the address keeps the choice, and nothing that a model wrote becomes part of the page."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest

from lora_reuse.figures import _cells, _groups, explore
from lora_reuse.figures._html import DIGITS
from lora_reuse.figures._views import cells_of
from lora_reuse.figures.rows import Rows, sources
from lora_reuse.llm.scoring.intervals import over_seeds
from tests.browser import browser as browser
from tests.browser import faults, shown
from tests.rows_of_models import row, write

PAPER = Path(__file__).parents[1] / "results" / "paper"
RIGHT = {"sum": 1, "arrow": 0, "average": 3}
"""Each rule's own pattern of right answers, out of two a triplet."""
EVIL = "Bern <script>document.title = 'mine'</script><img src=x onerror=\"document.title = 'mine'\"> & so on"


def planted(rule, setup, way, seed):
    """Hits of eight triplets: setup 2 under average is void, whose hops are lost."""
    if way in ("first", "second"):
        return [0] * 8 if rule == "average" else [2] * 7 + [seed % 2]
    return [(i * RIGHT[rule] + seed + int(setup)) % 3 % 2 for i in range(8)]


@pytest.fixture(scope="module")
def rows():
    kinds = [(rule, setup, way) for rule in RIGHT for setup in ("0", "2") for way in ("steps", "first", "second")]
    return [
        row(
            "llm_bridge",
            planted(rule, setup, way, seed),
            seed=seed,
            triplets=8,
            setup=setup,
            composition=rule,
            prompting=way,
            model=model,
        )
        for rule, setup, way in kinds
        for model, seeds in (("pocket", 3), ("results/other", 1))
        for seed in range(seeds)
    ]


@pytest.fixture(scope="module")
def page(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explore")
    write(folder / "paper", *rows)
    name = next(r["hash"] for r in rows if is_(r, model="pocket", composition="sum", setup="2", prompting="steps"))
    said = [{"question": "Where is <b>A</b>'s spouse?", "gold": "Bern", "answer": EVIL, "hit": False}]
    line = {"row": name, "command": "python -m llm.bridge", "commit": "c", "asked": 16, "answers": said}
    (folder / "paper" / "answers").mkdir()
    (folder / "paper" / "answers" / "llm_bridge.jsonl").write_text(json.dumps(line) + "\n")
    return written(folder / "paper", folder / "explore.html")


@pytest.fixture(scope="module")
def whole():
    """The page of all committed rows as `make figures` has made it, which `make fresh` does before these tests."""
    return PAPER.parent / "figures" / "explore.html"


def written(rows, path):
    path.write_text(explore.page(rows, path.parent, list(sources(rows).values())))
    return path


def is_(one, **settings):
    return settings.items() <= one["settings"].items()


def expected(rows, **settings):
    """Of each rule what the page should say, counted from the rows themselves."""
    found = {}
    for rule in RIGHT:
        group = [one for one in rows if is_(one, composition=rule, **settings)]
        hits, asked = (np.array([one["measured"][name] for one in group], dtype=float) for name in ("hits", "total"))
        kept = [
            sum(one["measured"]["hits"] for one in rows if is_(one, composition=rule, **settings | {"prompting": way}))
            for way in ("first", "second")
        ]
        limits = over_seeds(hits, asked, 8 * len(group))
        interval = f" [{100 * limits.low:.0f}, {100 * limits.high:.0f}]" if limits else " (one seed)"
        total = int(asked.sum())
        share = f"{100 * hits.sum() / total:.0f} %{interval}"
        if hits.sum() < total / 2 and kept[0] < total / 2:
            share = f"void: first hop kept {kept[0]} of {total}"
        found[rule] = {"hits": f"{hits.sum():.0f}/{total}", "share [95 %]": share}
        found[rule] |= {name: f"{of}/{total}" for name, of in zip(("first hop", "second hop"), kept, strict=True)}
        if len(group) > 1:
            found[rule]["each seed"] = ", ".join(f"{one:.0f}" for one in hits) + " of 16"
    return found


LINES = """
const lines = [...document.querySelector("#shown table").tBodies[0].rows]
return lines.map(line => Object.fromEntries([...line.cells].map(cell => [cell.dataset.head, cell.textContent])))
"""
SAID = "return document.getElementById('said').textContent"
CHOSEN = "return Object.fromEntries([...document.querySelectorAll('select')].map(list => [list.name, list.value]))"


def opened(browser, path, **wanted):
    """The lines of the table that an address shows, by rule, and what the browser complains of."""
    browser.get("about:blank")  # a change of the fragment alone would not load the page anew
    browser.get(path.as_uri() + (f"#{urlencode(wanted)}" if wanted else ""))
    return {line.pop("rule").partition(",")[0]: line for line in browser.execute_script(LINES)}


def unlike(browser, path, rows, **settings):
    """The rules whose line is not what the rows say."""
    wanted = expected(rows, **settings)
    found = opened(browser, path, protocol="bridge", **settings | {"model": settings["model"].split("/")[-1]})
    assert found.keys() == wanted.keys()
    return [
        rule for rule, line in wanted.items() if line.items() - {name: found[rule].get(name) for name in line}.items()
    ]


@pytest.mark.parametrize("model", ["pocket", "results/other"])
@pytest.mark.parametrize("setup", ["0", "2"])
def test_lines_are_counted_from_their_rows(browser, page, rows, model, setup):
    assert unlike(browser, page, rows, model=model, setup=setup, prompting="steps") == []


def test_rules_that_are_swapped_are_found(browser, page, rows, tmp_path):
    text = page.read_text()
    mutant = text.replace('"average":"","sum":"","arrow":""', '"average":"","arrow":"","sum":""')
    assert mutant != text
    (tmp_path / "mutant.html").write_text(mutant)
    found = unlike(browser, tmp_path / "mutant.html", rows, model="pocket", setup="2", prompting="steps")
    assert found == ["sum", "arrow"]


def test_marks_lie_at_their_shares(browser, page, rows):
    opened(browser, page, protocol="bridge", model="pocket", setup="2", prompting="steps")
    draw = """
    const ticks = [...document.querySelectorAll('svg .grid[x1]')].map(line => +line.getAttribute('x1'))
    const at = (mark, name) => (mark.getAttribute(name) - ticks[0]) / (ticks.at(-1) - ticks[0])
    const all = (kind, ...names) => [...document.querySelectorAll(kind)].map(mark => names.map(name => at(mark, name)))
    return {share: all('svg .share', 'cx'), interval: all('svg .interval', 'x1', 'x2'), seed: all('svg .seed', 'cx'),
            chance: all('svg .chance', 'x1'), hatched: document.querySelectorAll('svg rect').length}
    """
    drawn = browser.execute_script(draw)
    found = {"share": [], "interval": [], "seed": []}
    for rule in ("sum", "arrow"):  # that of average is void
        group = [one for one in rows if is_(one, model="pocket", composition=rule, setup="2", prompting="steps")]
        hits, asked = (np.array([one["measured"][name] for one in group], dtype=float) for name in ("hits", "total"))
        found["share"].append([hits.sum() / asked.sum()])
        found["interval"].append([*(over_seeds(hits, asked, 24) or ())])
        found["seed"] += [[share] for share in hits / asked]
    for name, wanted in found.items():
        assert drawn[name] == [pytest.approx(places, abs=1e-3) for places in wanted]
    assert (drawn["chance"], drawn["hatched"]) == ([pytest.approx([1 / 8], abs=1e-3)], 1)


def test_one_rule_stands_beside_its_controls(browser, page, rows):
    found = opened(browser, page, protocol="bridge", model="pocket", setup="2", prompting="steps", composition="arrow")
    assert list(found) == ["arrow", "first hop", "second hop"]
    hits = {
        way: sum(
            one["measured"]["hits"]
            for one in rows
            if is_(one, model="pocket", composition="arrow", setup="2", prompting=way)
        )
        for way in ("steps", "first")
    }
    assert (found["arrow"]["hits"], found["first hop"]["hits"]) == (f"{hits['steps']}/48", f"{hits['first']}/48")
    assert f"arrow answers {hits['steps']} of 48, " in browser.execute_script(SAID)


def test_a_control_is_counted_by_its_own_mark(browser, tmp_path):
    """An expert on code has its form in four answers and a value that the base knows in one; the second counts where no
    fact is asked."""
    alone: dict[str, Any] = {"composition": "alone"}
    known = [
        row("llm_skill_sets", [2, 2], asked="homes", library="homes", **alone),
        row("llm_skill_sets", [1, 0], asked="code", library="code", measured={"code": 4}, **alone),
        row("llm_skill_sets", [0, 0], asked="call", library="call", measured={"call": 2}, **alone),
        *(row("llm_skill_sets", [0, 0], asked=asked, composition="sum") for asked in ("homes+code", "code+call")),
    ]
    path = written(write(tmp_path / "rows", *known), tmp_path / "explore.html")
    with_fact = opened(browser, path, protocol="skill_sets", asked="homes+code", library="asked")["sum"]
    assert (with_fact["homes alone"], with_fact["code alone"], with_fact["hits"]) == ("4/4", "4/4", "0/4")
    assert not with_fact["share [95 %]"].startswith("void")
    without = opened(browser, path, protocol="skill_sets", asked="code+call", library="asked")["sum"]
    assert (without["code alone"], without["call alone"]) == ("1/4", "0/4")
    assert without["share [95 %]"] == "void: code alone got 1 of 4"


def test_the_rows_behind_a_number_are_told_by_hash_and_seed(browser, tmp_path):
    """Also where seeds are not one after the other."""
    known = [row("llm_bridge", [2, 2], seed=seed) for seed in (5, 0, 2, 3)]
    path = written(write(tmp_path / "rows", *known), tmp_path / "explore.html")
    opened(browser, path, protocol="bridge")
    said = browser.execute_script("return document.getElementById('rows').textContent")
    told = re.findall(r"(\w{9}) \(seed (\d+) of llm_bridge\.jsonl\)", said)
    lines = map(json.loads, (tmp_path / "rows" / "llm_bridge.jsonl").read_text().splitlines())
    assert {(name, int(seed)) for name, seed in told} == {(one["hash"][:9], one["settings"]["seed"]) for one in lines}
    assert len(told) == 4


@pytest.mark.parametrize(
    ("experiment", "model", "wanted"),
    [
        ("llm_bridge", "pocket", {"setup": "2", "prompting": "steps"}),
        ("llm_bridge", "pocket", {"setup": "4", "prompting": "direct"}),
        ("llm_two_hop", "pocket", {"dataset": "R", "library": "2-combination", "prompting": "direct"}),
        ("llm_latent", "smollm2", {"triplets": "20", "library": "2-combination", "second": "dealt"}),
    ],
)
def test_lines_of_committed_rows_are_those_of_the_tables(browser, whole, experiment, model, wanted):
    groups, about = _groups.grouped(Rows(PAPER, {experiment: ""}), [experiment], (*wanted, "composition"))
    found = _cells.of_groups(groups, about)
    lines = opened(
        browser, whole, protocol=experiment.removeprefix("llm_"), model=found.names[model], split="test", **wanted
    )
    assert browser.execute_script(SAID).startswith(f"{experiment.removeprefix('llm_')}, {found.names[model]}: ")
    cells = {key[-1]: cell for key, cell in found.cells.items() if key[:-1] == (model, *wanted.values())}
    assert lines.keys() == cells.keys()
    assert len(lines) >= 4
    for rule, cell in cells.items():
        interval = f"[{cell['low']:.0f}, {cell['high']:.0f}]" if cell["seeds"] > 1 else "(one seed)"
        share = f"{cell['percent']:.0f} % {interval}"
        assert lines[rule]["hits"] == f"{cell['hits']}/{cell['total']}"
        assert lines[rule]["share [95 %]"] == (f"void: {cell['void']}" if cell["void"] else share)


def test_every_cell_can_be_reached_and_every_row_is_there_once(whole):
    data = json.loads(*re.findall(r'<script id="data"[^>]*>(.*)</script>', whole.read_text()))
    hashes = []
    for protocol in data["protocols"]:
        cells = cells_of(protocol)
        assert len({tuple(cell["at"]) for cell in cells}) == len(cells)
        hashes += [one.split()[0] for cell in cells for one in cell["rows"].split(";")]
    asked = [
        name[:DIGITS]
        for name, (_, _, one) in sources(PAPER).items()
        if one["experiment"].startswith("llm_") and one["experiment"] != "llm_forecast" and "hits" in one["measured"]
    ]
    assert sorted(hashes) == sorted(asked)
    assert len(set(hashes)) == len(hashes)  # so that an address of a row leads to one


def test_the_keyboard_chooses_and_the_choice_is_said_and_kept_in_the_address(browser, page, rows):
    from selenium.webdriver.common.keys import Keys

    opened(browser, page)
    first = browser.execute_script(SAID)
    at = lambda: browser.execute_script("return document.activeElement.id")  # noqa: E731
    for name in ("", "protocol", "model", "setup", "prompting", "composition"):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        if name and at() != f"choose-{name}":  # a list of one value is not shown
            assert name == "protocol"
            browser.switch_to.active_element.send_keys(Keys.SHIFT, Keys.TAB)
    assert at() == "choose-composition"
    browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert at() == "choose-composition"
    assert browser.execute_script(CHOSEN)["composition"] == "sum"
    said = browser.execute_script(SAID)
    assert said != first
    assert "sum answers " in said
    lines, address = browser.execute_script(LINES), browser.current_url
    assert "composition=sum" in address
    browser.get("about:blank")
    browser.get(address)
    assert browser.execute_script(SAID) == said
    assert browser.execute_script(LINES) == lines


def test_another_address_shows_another_view_without_loading_again(browser, page):
    opened(browser, page, setup="0")
    browser.execute_script("window.same = true; location.hash = 'setup=2&model=other'")
    wait(browser, lambda: browser.execute_script(CHOSEN)["setup"] == "2")
    assert browser.execute_script(CHOSEN)["model"] == "other"
    assert browser.execute_script("return window.same")


def wait(browser, what):
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 10).until(lambda _: what())


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"setup": "9"}, "No rows here have setup 9; 2 is shown. bridge, "),
        ({"protocol": "bridges"}, "There is no protocol bridges; bridge is shown. "),
        ({"composition": "product"}, "No rows here have composition product; every rule is shown. "),
    ],
)
def test_an_address_of_what_is_not_there_is_answered(browser, page, wanted, said):
    opened(browser, page, **wanted)
    assert browser.execute_script(SAID).startswith(said)


def test_a_number_leads_to_its_rows_and_a_row_to_its_number(browser, page, rows):
    opened(browser, page, model="pocket", setup="0")
    browser.execute_script("document.querySelector('td a[href^=\"#row-\"]').click()")
    wait(browser, lambda: browser.execute_script("return document.activeElement.id").startswith("row-"))
    assert browser.execute_script("return document.getElementById('rows').open")
    one = next(
        one for one in rows if is_(one, model="pocket", composition="arrow", setup="2", prompting="first", seed=1)
    )
    browser.get("about:blank")
    browser.get(f"{page.as_uri()}#row-{one['hash']}")
    assert browser.execute_script("return document.activeElement.textContent") == one["hash"][:DIGITS]
    chosen = browser.execute_script(CHOSEN)
    assert (chosen["model"], chosen["setup"], chosen["prompting"]) == ("pocket", "2", "first")
    said = browser.execute_script("return document.activeElement.nextSibling.textContent")
    assert said == f" (seed {one['settings']['seed']} of "
    browser.get("about:blank")
    browser.get(f"{page.as_uri()}#row-0123")
    assert browser.execute_script(SAID).startswith("There is no row 0123. ")


def test_what_a_model_wrote_is_shown_and_not_obeyed(browser, page):
    opened(browser, page, model="pocket", setup="2", prompting="steps", composition="sum")
    assert EVIL in browser.execute_script("return document.getElementById('shown').textContent")
    assert "Where is <b>A</b>'s spouse?" in browser.execute_script("return document.querySelector('h3').textContent")
    assert browser.title == "Explore the rows"
    assert browser.execute_script("return document.querySelectorAll('#shown script, #shown img, #shown b').length") == 0
    assert "The first 1 of 16 questions of seed 0, " in browser.execute_script("return document.body.textContent")


def test_without_a_sample_the_page_says_so(browser, page):
    opened(browser, page, model="pocket", setup="0", prompting="steps")
    assert "No answers of these rows are kept" in browser.execute_script("return document.body.innerText")


def test_without_scripts_the_first_table_is_there(browser, whole):
    ((head, body),) = re.findall(r"<thead>(.*?)</thead>\s*<tbody>(.*?)</tbody>", whole.read_text(), re.DOTALL)
    heads = re.findall("<th>(.*?)</th>", head)
    lines = [[unescape(cell) for cell in re.findall("<td>(.*?)</td>", line)] for line in body.split("</tr>")[:-1]]
    browser.get("about:blank")
    browser.get(whole.as_uri())
    assert [dict(zip(heads, line, strict=True)) for line in lines] == browser.execute_script(LINES)
    assert len(lines) == 11


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_a_browser_shows_the_page_whole(browser, whole, width, scheme):
    assert faults(browser, whole, width, scheme) == []


@pytest.mark.parametrize("width", [390, 1280])
def test_a_screen_reader_is_told_what_each_thing_is(browser, whole, width):
    shown(browser, whole, width)
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    kinds = {}
    for node in nodes:
        if not node["ignored"]:
            kinds.setdefault(node["role"]["value"], []).append(node)
    name = lambda node: node.get("name", {}).get("value", "")  # noqa: E731
    lists = [node for node in kinds["combobox"] if name(node)]
    assert [name(node) for node in lists][:4] == ["protocol", "model", "setup", "prompting"]
    assert name(lists[-1]) == "rule"
    assert len(lists) == len(kinds["combobox"])
    assert all(node["description"]["value"] for node in lists)
    (status,) = kinds["status"]
    assert {"name": "live", "value": {"type": "token", "value": "polite"}} in status["properties"]
    assert len(kinds["rowheader"]) > 20  # also where cells are stacked
    assert len(kinds["cell"]) > 60
    assert [name(node) for node in kinds["image"]] == ["The shares of the table as a dot plot from 0 to 100 %"]


def test_the_page_is_small_and_loads_nothing(whole):
    text = whole.read_text()
    assert len(text.encode()) < 1_100_000
    assert not re.search(
        r"""(?:src|href)=["']?(?:https?:)?//|@import|url\(\S*//|\bfetch\(|XMLHttpRequest|import\(""", text
    )


def test_without_rows_the_page_says_so(browser, tmp_path):
    path = written(tmp_path, tmp_path / "explore.html")
    assert faults(browser, path, 1280) == []
    assert "No rows of language models are in " in browser.execute_script("return document.body.innerText")
