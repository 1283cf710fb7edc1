"""lora-reuse figures only=theorem_2

Draws every figure and table from rows on disk. Each is a PDF, a PNG, a CSV and a caption, the same bytes from the same
rows. `report=true` makes one page of them, `readme=README.md` writes the README."""

import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_reuse.runs.command import begin, settings_are_right, with_options
from lora_reuse.runs.settings import Flag, Place, SettingError, Text, did_you_mean, setting


@dataclass(frozen=True)
class Options:
    """What to draw:"""

    only: str = setting("all", Text("names joined by +, or all"), "which figures and tables")
    rows: str = setting("results/paper", Place("a folder"), "where the rows are")
    out: str = setting("results/figures", Place("a folder"), "where the files go")
    list: bool = setting(False, Flag(), "say what there is, and which commands make its rows; draw nothing")
    report: bool = setting(False, Flag(), "draw everything, then write the page")
    readme: str = setting("", Text("a file"), "write the README there, its numbers from the rows")


def main(words: Sequence[str]) -> int:
    """Runs the command; returns its exit code: 0 done, 2 a mistake in the settings or rows that only= needs and that
    are missing."""
    return with_options("figures", _main, Options, words, "what is drawn is on disk, whole")


def _main(options: Options) -> int:
    from lora_reuse.figures import registry

    items = registry.items()
    if options.list:
        begin()
        for item in items.values():
            needs = "".join(f"\n      {experiment}: {made_by}" for experiment, made_by in item.module.NEEDS.items())
            print(f"{item.name} ({item.kind})\n    {item.title}{needs}")
        return 0
    if options.report and options.only != "all":
        raise SettingError("report", f"true with only={options.only}", "report=true with everything", "leave out only=")
    names = list(items) if options.only == "all" else options.only.split("+")
    for name in names:
        if name not in items:
            raise SettingError("only", repr(name), ", ".join(items), did_you_mean(name, items))
    settings_are_right(options.out)
    if not Path(options.rows).is_dir():
        raise SettingError(
            "rows",
            options.rows,
            "a folder that is there",
            "make sweep fills results/, results/paper comes with the repository",
        )
    begin(options.out)
    # A full collection of garbage goes through all rows, none of which is garbage: at Python's thresholds that is a
    # quarter of the time this command takes.
    gc.set_threshold(200_000, 20, 100)
    draw = registry.draw_or_say if options.only == "all" else registry.draw
    drawn = []
    for name in names:
        drawn.append(draw(items[name], options.rows, options.out))
        print(f"{name}: {drawn[-1].missing or ', '.join(map(str, drawn[-1].files.values()))}")
    from lora_reuse.figures import report

    if options.readme:
        report.readme(Path(options.rows), Path(options.readme))
    return report.main(Path(options.rows), Path(options.out), drawn) if options.report else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
