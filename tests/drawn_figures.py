"""Figures by their names, the committed rows that they are drawn from, and whether a drawn one is whole."""

import importlib
import itertools
import json
from pathlib import Path

from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from lora_reuse.figures.rows import Rows
from lora_reuse.runs.rows import load_rows

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "results" / "paper"
NAMES = (
    *"kernel_limit proposition_1 capacity theorem_2 theorem_3 many_facts scale bridge large_library".split(),
    *"depth layers trained".split(),
)


def module(name):
    return importlib.import_module(f"lora_reuse.figures.{name}")


def committed(name):
    return load_rows(PAPER, name)


def write(folder, name, rows):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def few(name):
    """Two seeds, and of a long grid every other point, so that cells are missing; and a row of another mask, or
    norm, that must not be drawn."""
    rows = [row for row in committed(name) if row["settings"]["seed"] < 2]
    axis = {"kernel_limit": "width", "bridge": "locality", "scale": "scale"}.get(name)
    if axis:
        values = sorted(
            {
                float(row["settings"][axis])
                for row in rows
                if row["settings"]["facts" if name == "bridge" else "seed"] in (0, 1)
            }
        )
        kept = set(values[::2])
        rows = [row for row in rows if float(row["settings"][axis]) in kept]
    other = json.loads(json.dumps(rows[0]))
    other["hash"] = "0" * 16
    other["settings"] |= {"norm": "none"} if name == "trained" else {"mask": "causal"}
    other["measured"] = dict.fromkeys(other["measured"], 1e6)
    return [*rows, other]


def table_of(name, folder=PAPER):
    return module(name).data(Rows(folder, module(name).NEEDS))


def whole(figure):
    """Nothing overlaps, is clipped or empty."""
    figure.draw_without_rendering()
    inside = figure.bbox.padded(1)
    for axes in figure.axes:
        assert axes.lines or axes.collections or axes.patches, "no empty panel"
        texts = [child for child in axes.get_children() if isinstance(child, Text) and child.get_text()]  # titles too
        legends = [child for child in axes.get_children() if isinstance(child, Legend)]
        for artist in (*texts, *legends, axes.xaxis.label, axes.yaxis.label):
            box = artist.get_window_extent()
            assert box.width == 0 or (inside.contains(*box.min) and inside.contains(*box.max)), artist
        for axis in (axes.xaxis, axes.yaxis):
            boxes = [
                label.get_window_extent()
                for label in axis.get_ticklabels()
                if label.get_text() and label.get_visible() and not label.get_rotation()  # a box is not turned
            ]
            assert not [pair for pair in itertools.combinations(boxes, 2) if Bbox.intersection(*pair)]
        for legend in legends:
            assert not covered(axes, legend.get_window_extent()), "the legend hides points"
    titles = [
        title.get_window_extent()
        for axes in figure.axes
        for title in (axes.title, axes._left_title)
        if title.get_text()
    ]
    assert not [pair for pair in itertools.combinations(titles, 2) if Bbox.intersection(*pair)]


def covered(axes, box):
    """The points of the lines that lie under the box; error bars and markers are lines too."""
    points = [axes.transData.transform(line.get_xydata()) for line in axes.lines if len(line.get_xydata()) > 2]
    return [point for line in points for point in line if box.contains(*point)]
