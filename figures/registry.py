"""Which figures and tables there are, and how one is drawn and written."""

import contextlib
import importlib
import io
import logging
import pkgutil
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import matplotlib
import pandas
from matplotlib.figure import Figure
from PIL import Image

from lora_reuse import figures
from lora_reuse.figures import style
from lora_reuse.figures.rows import MissingRows, Rows
from lora_reuse.runs.files import write
from lora_reuse.runs.settings import SettingError

FRAMEWORK = ("explore", "registry", "report", "rows", "style", "tables")
DOTS_PER_INCH = 180


@dataclass(frozen=True)
class Item:
    """A figure or a table by its name."""

    name: str
    kind: str

    @property
    def module(self) -> ModuleType:
        return importlib.import_module(f"lora_reuse.figures.{'tables.' if self.kind == 'table' else ''}{self.name}")

    @property
    def title(self) -> str:
        """The first line of the module's docstring."""
        return (self.module.__doc__ or self.name).strip().splitlines()[0]


@dataclass(frozen=True)
class Drawn:
    """What came of an item: its files by ending, or in `missing` why there are none."""

    name: str
    kind: str
    title: str
    caption: str = ""
    files: Mapping[str, Path] = field(default_factory=dict)
    missing: str = ""


def items() -> dict[str, Item]:
    """Every figure, then every table, by name, in the order of their names; read from the folder, imported when
    used."""
    own = [name for _, name, package in pkgutil.iter_modules(figures.__path__) if not package and name not in FRAMEWORK]
    found = {name: Item(name, "figure") for name in own if not name.startswith("_")}
    folder = [str(Path(path) / "tables") for path in figures.__path__]
    tables = [name for _, name, _ in pkgutil.iter_modules(folder) if not name.startswith("_")]
    return found | {name: Item(name, "table") for name in tables}


def draw(item: Item, rows: Path | str, out: Path | str) -> Drawn:
    """Draws one figure, or makes one table, and writes its files into `out`, each whole or not at all.

    Raises MissingRows if rows it needs are not there, SettingError if `out` cannot be written.
    """
    module = item.module
    source = Rows(rows, module.NEEDS)
    if item.kind == "table":
        table = module.table(source)
        caption = module.caption(table)
        contents = {
            ending: text.encode()
            for ending, text in importlib.import_module("lora_reuse.figures.tables").texts(table, caption).items()
        }
    else:
        table = module.data(source)
        caption = module.caption(table)
        contents = _rendered(module, table) | {
            "csv": table.to_csv(index=False, lineterminator="\n", float_format="%.12g").encode()
        }
        contents["md"] = _page(item, caption, _sources(source, table)).encode()
    files = {ending: Path(out) / f"{item.name}.{ending}" for ending in contents}
    try:
        for ending, path in files.items():
            write(path, contents[ending])
    except OSError as error:
        raise SettingError("out", f"{out} ({error.strerror})", "a folder that can be written") from None
    return Drawn(item.name, item.kind, item.title, caption, files)


def draw_or_say(item: Item, rows: Path | str, out: Path | str) -> Drawn:
    """As `draw`; when rows are missing, a Drawn that says so and which command makes them."""
    try:
        return draw(item, rows, out)
    except MissingRows as error:
        return Drawn(item.name, item.kind, item.title, missing=str(error))


@contextlib.contextmanager
def picture(module: ModuleType, table: pandas.DataFrame) -> Iterator[Figure]:
    """The drawn figure, under matplotlib's defaults and this project's style, whatever the person's own are, until the
    context ends."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style.RC)
        figure = Figure(figsize=(style.WIDTH, style.HEIGHT), layout="constrained")
        module.draw(table, figure)
        yield figure


def _rendered(module: ModuleType, table: pandas.DataFrame) -> dict[str, bytes]:
    """PDF and PNG without a date or a version in them; the PNG has a palette of 64 colours, for a page that is not
    large."""
    logging.getLogger("fontTools").setLevel(logging.ERROR)  # it finds the creation date of STIX odd
    pdf, drawn, png = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with picture(module, table) as figure:
        figure.savefig(pdf, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
        figure.savefig(drawn, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(64, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            png, "PNG", optimize=True
        )
    return {"pdf": pdf.getvalue(), "png": png.getvalue()}


def _page(item: Item, caption: str, sources: str) -> str:
    paragraph = textwrap.fill(" ".join(caption.split()), 150, break_long_words=False, break_on_hyphens=False)
    files = f"[PDF]({item.name}.pdf), [the numbers]({item.name}.csv)"
    drawn = f"Drawn by `python -m figures only={item.name}`; {files}."
    return f"# {item.title}\n\n![{item.title}]({item.name}.png)\n\n{paragraph}\n\n{drawn}\n{sources}"


def _sources(source: Rows, table: pandas.DataFrame) -> str:
    """The commands that made the rows in the table's column `row`."""
    if "row" not in table:
        return ""
    made = source.made_by(table["row"].dropna())
    lines = [f"- `{experiment}.jsonl`: `{command}` (commit {commit[:7]})" for experiment, command, commit in made]
    return "\n".join(["", "The rows it stands on were made by", "", *lines, ""]) if lines else ""
