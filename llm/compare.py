"""lora-reuse compare rows=results experiment=bridge where=setup:2+prompting:steps

Says which rule is better, from rows that are there. Rules that were asked the same questions of the same experts are
compared in pairs over seeds and questions: by how many points the best of a setting is ahead of each other one, the
95 % interval, and the p-value after Holm's correction over all pairs of rules of the setting. The best is ahead of each
other one over the seeds that both have. A rule at another value of its dial is a rule of its own. composition= names
the rules to compare; with two of them there is one pair, and nothing to correct. Rows of any protocol do, those of a
protocol in a file of one's own too."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_reuse.runs.command import begin, settings_are_right, with_options
from lora_reuse.runs.settings import Place, SettingError, Text, did_you_mean, setting

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Options:
    """Which rows to compare."""

    rows: str = setting("results", Place("a folder"), "the folder of the rows")
    experiment: str = setting("", Text("a protocol's name"), "two_hop, bridge, ...; none: all whose rows are there")
    where: str = setting("", Text("setting:value pairs joined by +"), "rows with these settings alone")
    composition: str = setting("", Text("rules joined by commas"), "the rules to compare; none: all")


def main(words: Sequence[str]) -> int:
    """Runs the command; returns its exit code: 0 done, 2 a mistake in the settings or no rows to compare."""
    return with_options("llm.compare", _main, Options, words, bare=False)


def _main(options: Options) -> int:
    from lora_reuse.llm.protocols.table import differences
    from lora_reuse.runs.rows import by_setting, load_rows
    from lora_reuse.runs.table import varying

    settings_are_right()
    if not Path(options.rows).is_dir():
        raise SettingError("rows", options.rows, "a folder with rows")
    known = [row for row in load_rows(options.rows) if row["experiment"].startswith("llm_")]
    there = {row["experiment"].removeprefix("llm_"): None for row in known}
    wanted = options.experiment.removeprefix("llm_")
    if wanted and wanted not in there:
        allowed = f"protocols with rows in {options.rows}: {', '.join(there) or 'none'}"
        raise SettingError("experiment", options.experiment, allowed, did_you_mean(wanted, there))
    begin()
    shown = 0
    for name in [wanted] if wanted else there:
        rows = _chosen([row for row in known if row["experiment"] == f"llm_{name}"], options, bool(wanted))
        text = differences(rows, varying(list(by_setting(rows).values())))
        if text:
            print("\n" * bool(shown) + f"{name}\n{text}")
            shown += 1
    if not shown:
        raise SettingError("rows", options.rows, "two rules or more that were asked the same in two seeds or more")
    return 0


def _chosen(rows: list[Row], options: Options, strict: bool) -> list[Row]:
    """The rows that `where` and `composition` name. Raises SettingError for a name or value that no row has, unless
    others may have it."""
    pairs = [pair.partition(":") for pair in options.where.split("+") if pair]
    for name, colon, text in pairs:
        values = {str(row["settings"][name]) for row in rows if name in row["settings"]}
        if strict and not (colon and text in values):
            allowed = ", ".join(sorted(values)) or ", ".join(dict.fromkeys(n for row in rows for n in row["settings"]))
            raise SettingError("where", f"{name}{colon}{text}", allowed, did_you_mean(text, values))
        rows = [row for row in rows if str(row["settings"].get(name)) == text]
    rules = [name for name in options.composition.split(",") if name]
    values = {row["settings"].get("composition") for row in rows} - {None}
    for rule in rules:
        if strict and rule not in values:
            raise SettingError("composition", rule, ", ".join(sorted(values)), did_you_mean(rule, values))
    return [row for row in rows if not rules or row["settings"].get("composition") in rules]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
