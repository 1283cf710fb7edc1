"""The final table of a protocol whose questions are problems: this run beside the paper's number for the same model and data."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from llm.intervals import by_triplet
from runs.rows import by_setting
from runs.settings import short

Row = Mapping[str, Any]


def solved(rows: Sequence[Row], columns: Sequence[str], reported: Callable[[Mapping[str, Any]], str]) -> str:
    """One line a setting, seeds pooled; intervals are bootstrapped by group of questions; `columns` are shares of all answers."""
    groups = list(by_setting(rows).values())
    if not groups:
        return "no rows"
    varying = [name for name in groups[0][0]["settings"] if name != "seed" and len({str(g[0]["settings"].get(name)) for g in groups}) > 1]
    lines = [[*varying, "seeds", "hits/total", "share [95 %]", *columns, "paper"]]
    for group in groups:
        settings = group[0]["settings"]
        hits, total, low, high = pooled(group)
        counts = [sum(row["measured"].get(name, 0) for row in group) for name in columns]
        shares = [f"{100 * count / total:.0f} %" if count else "" for count in counts]
        interval = f"{100 * hits / total:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
        lines.append([*(short(settings[name]) for name in varying), str(len(group)), f"{hits}/{total}", interval, *shares, reported(settings)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    kept = [i for i in range(len(widths)) if any(line[i] for line in lines[1:])]
    return "\n".join("  ".join(line[i].ljust(widths[i]) for i in kept).rstrip() for line in lines)


def pooled(group: Sequence[Row]) -> tuple[int, int, float, float]:
    """Hits and total over seeds, and the interval of the share; a group of questions of a seed is a cluster."""
    measured = [row["measured"] for row in group]
    hits = np.concatenate([m["by_group"] for m in measured]).astype(int)
    sizes = np.concatenate([m["group_sizes"] for m in measured]).astype(int)
    right = np.concatenate([np.arange(size) < hit for hit, size in zip(hits, sizes, strict=True)])
    low, high = by_triplet(right, np.repeat(np.arange(len(sizes)), sizes), seed=0)
    return int(hits.sum()), int(sizes.sum()), low, high
