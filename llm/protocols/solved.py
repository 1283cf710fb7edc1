"""The final table of a protocol whose questions are problems: this run beside the paper's number for the same model and
data."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lora_reuse.llm.protocols.table import pooled
from lora_reuse.runs.rows import by_setting
from lora_reuse.runs.table import aligned, value, varying

Row = Mapping[str, Any]


def solved(rows: Sequence[Row], columns: Sequence[str], reported: Callable[[Mapping[str, Any]], str]) -> str:
    """One line a setting, with hits over all seeds and an interval over seeds; `columns` are shares of all answers."""
    groups = list(by_setting(rows).values())
    if not groups:
        return "no rows"
    names = varying(groups)
    lines = [[*names, "seeds", "hits/total", "share [95 %]", *columns, "paper"]]
    for group in groups:
        settings = group[0]["settings"]
        found = pooled(group)
        counts = [sum(row["measured"].get(name, 0) for row in group) for name in columns]
        shares = [f"{100 * count / found.total:.0f} %" if count else "" for count in counts]
        said = [str(len(group)), f"{found.hits}/{found.total}", found.share]
        lines.append([*(value(settings, name) for name in names), *said, *shares, reported(settings)])
    return aligned(lines)
