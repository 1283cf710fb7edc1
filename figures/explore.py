"""The page of rows, `explore.html`: a reader chooses a protocol, a model, what varies and a rule, and sees hits with
their intervals, each seed, and a sample of the questions with their answers.

It is a page of its own because it would take the page of results, which is read from its top to its end, beyond the
size that a test allows. What is chosen stands in the address, as `explore.html#protocol=bridge&setup=2`, and
`explore.html#row-HASH` shows the cell of a row. All numbers come from `figures._views`; what the page does with them is
in `explore_page.html`. Without JavaScript it shows one table."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lora_reuse.figures._html import DIGITS, filled
from lora_reuse.figures._views import PLACES, RULE, SHARED_FIELDS, cells_of, views
from lora_reuse.runs.rows import Source

PAGE = Path(__file__).with_name("explore_page.html")
START = {"protocol": "bridge", "model": "pocket", "setup": "2", "prompting": "steps", "split": "test"}
"""What is shown before anything is chosen, where there are rows of it; of the rest, what has the most rows."""


def page(rows: Path, out: Path, sources: Sequence[Source]) -> str:
    """The page; its links are relative to `out`, the rows lie in the folder `rows`."""
    shown = {view["name"]: view for view in views(sources, rows)}
    if not shown:
        return filled(PAGE, start=f"<p>No rows of language models are in {escape(str(rows))}.</p>", data="null")
    start = START | {"protocol": START["protocol"] if START["protocol"] in shown else next(iter(shown))}
    data = {
        "shared": SHARED_FIELDS,
        "places": PLACES,
        "folder": os.path.relpath(rows, out),
        "start": start,
        "digits": DIGITS,
    }
    data |= {"protocols": list(shown.values())}
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return filled(PAGE, start=_table(shown[start["protocol"]]), data=text)


def _each(cell: Mapping[str, Any]) -> str:
    """The hits of each seed, where there are several."""
    of = "" if isinstance(cell["of"], list) or not cell["each"] else f" of {cell['of']}"
    return ", ".join(map(str, cell["each"])) + of


def _table(view: Mapping[str, Any]) -> str:
    """The lines that are shown first, as the page's own script makes them."""
    cells = cells_of(view)
    kept, said = cells, []
    for i, axis in enumerate(axis for axis in view["axes"] if axis["name"] != RULE):
        values, counts = list(axis["values"]), Counter[int]()
        for cell in kept:
            counts[cell["at"][i]] += len(cell["rows"].split(";"))
        usual = values.index(START[axis["name"]]) if START.get(axis["name"]) in values else -1
        place = usual if usual in counts else max(sorted(counts), key=lambda at: counts[at])
        kept = [cell for cell in kept if cell["at"][i] == place]
        said.append(f"{axis['name']} {values[place]}")
    kept.sort(key=lambda cell: cell["at"][-1])
    rules = [f"{rule}, {words}" if words else rule for rule, words in view["axes"][-1]["values"].items()]
    controls = list(dict.fromkeys(view["controls"][name] for cell in kept for name, *_ in cell["controls"]))
    lines = []
    for cell in kept:
        of = {
            view["controls"][name]: f"{marked[0] if marked else cells[at]['hits']}/{cells[at]['total']}"
            for name, at, *marked in cell["controls"]
        }
        lines.append(
            {"rule": rules[cell["at"][-1]], "hits": f"{cell['hits']}/{cell['total']}"}
            | {"share [95 %]": cell["share"]}
            | {"each seed": _each(cell), **{name: of.get(name, "") for name in controls}}
            | {"theory": cell["theory"], "paper": cell["paper"]}
        )
    heads = [head for head in lines[0] if any(line[head] for line in lines)]
    body = "".join(f"<tr>{''.join(f'<td>{escape(line[head])}</td>' for head in heads)}</tr>\n" for line in lines)
    head = "".join(f"<th>{escape(head)}</th>" for head in heads)
    caption = f"{view['name']}: {', '.join(said)}"
    return (
        f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>\n"
        "<p>This is one table of many: with JavaScript, the page shows every other, and draws it.</p>"
    )
