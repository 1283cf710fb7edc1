"""The final table of a protocol: this run beside the paper's number for the nearest model and what theory allows; which
cells are void, because a positive control failed."""

from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np

from lora_reuse.llm.protocols.controls import point_of, verdicts
from lora_reuse.llm.protocols.dials import IN_ROWS, reads
from lora_reuse.llm.protocols.protocol import Protocol, Row
from lora_reuse.llm.scoring.differences import compared
from lora_reuse.llm.scoring.intervals import Limits, over_seeds
from lora_reuse.runs.rows import by_setting, row_hash
from lora_reuse.runs.table import aligned, value, varying

ALONE = "An interval is that of its difference alone"
"""What Holm's p-values beside it are not."""


def table(protocol: Protocol, rows: Sequence[Row], known: Sequence[Row] = ()) -> str:
    """One line a setting: hits over all seeds, an interval over seeds (`llm.scoring.intervals`), and the columns of the
    protocol. Columns without a value in any line are left out.

    Controls are looked for among the rows and others that are `known`; below the table is which failed.
    """
    groups = list(by_setting(rows).values())
    if not groups:
        return "no rows"
    names = varying(groups)
    lines = [[*names, "seeds", "hits/total", "share [95 %]", "control", *protocol.columns, "paper", "theory"]]
    once = {row_hash(protocol.experiment, row["settings"]): row for row in (*known, *rows)}
    judged = dict(zip(once, verdicts(protocol, list(once.values())), strict=True))
    reasons: dict[str, str] = {}
    without = dict[str, None]()
    for group in sorted(groups, key=lambda g: _order(g[0]["settings"], names)):
        settings = group[0]["settings"]
        void, unmeasured = judged[row_hash(protocol.experiment, settings)]
        said = f"void ({reasons.setdefault(void, str(len(reasons) + 1))})" if void else ""
        control = said or ("not measured" if unmeasured else "")
        without |= dict.fromkeys(filter(None, unmeasured.split(", ")))
        cells = ["" if name in _unread(settings) else value(settings, name) for name in names]
        lines.append([*cells, str(len(group)), *_cells(protocol, group, control)])
    notes = [f"({mark}) void: {reason}" for reason, mark in reasons.items()]
    notes += [f"not measured: some of these controls have no rows: {', '.join(without)}"] if without else []
    parts = (aligned(lines), "\n".join(notes), differences(rows, names), protocol.below(rows))
    return "\n\n".join(part for part in parts if part)


def _unread(settings: Mapping[str, Any]) -> Set[str]:
    """The dials that a row leaves out because its rule has none of that name."""
    return IN_ROWS - reads(settings.get("composition", "")) - settings.keys()


def _order(settings: Mapping[str, Any], names: Sequence[str]) -> list[tuple[bool, bool, Any]]:
    """Numbers by their size; lists and words, which a dial may hold beside them, by their text."""
    values = [(name in settings, settings.get(name)) for name in names if name != "composition"]
    return [
        (said, True, value) if isinstance(value, int | float) else (said, False, str(value)) for said, value in values
    ]


def _cells(protocol: Protocol, group: Sequence[Row], control: str) -> list[str]:
    found = pooled(group)
    bound = [row["predicted"]["at_most"] for row in group if "at_most" in row["predicted"]]
    return [
        *((f"{found.hits}/{found.total}", found.share) if "hits" in group[0]["measured"] else ("", "")),
        control,
        *(column(group) for column in protocol.columns.values()),
        protocol.reported(point_of(protocol, group[0]["settings"])),
        f"<= {100 * sum(bound) / found.total:.0f} %" if bound else "",
    ]


def differences(rows: Sequence[Row], settings: Sequence[str]) -> str:
    """Where several rules were asked the same in several seeds: by how much the best of them is better than each
    other."""
    found = compared(rows)
    if not found:
        return ""
    names = [name for name in settings if name not in {"composition", *IN_ROWS}]
    lines = [[*names, "best", "against", "seeds", "points [95 %]", "p"]]
    for pair in found:
        mean, low, high, _ = pair.difference
        points = f"{100 * mean:+.0f} [{100 * low:+.0f}, {100 * high:+.0f}]"
        told = f"{pair.p:.3f}" if pair.p >= 0.001 else "< 0.001"
        lines.append(
            [*(value(pair.settings, name) for name in names), pair.best, pair.other, str(pair.seeds), points, told]
        )
    head = f"Differences paired over seeds and questions. {ALONE}; p is Holm's, over all pairs of rules of a setting."
    return f"{head}\n{aligned(lines)}"


class Pooled(NamedTuple):
    """Hits and total over seeds, and the interval of their share; None for one seed."""

    hits: int
    total: int
    limits: Limits | None

    @property
    def share(self) -> str:
        """The share in percent, with its interval where there is one."""
        said = f"{100 * self.hits / self.total:.0f} %"
        return said + (f" [{100 * self.limits.low:.0f}, {100 * self.limits.high:.0f}]" if self.limits else "")


def pooled(group: Sequence[Row], mark: str = "hits") -> Pooled:
    """Rows of a setting that differ in the seed alone: how many answers have a mark, of how many. What varies together
    within a seed is a triplet, or where questions are problems a group of them."""
    hits, total = (np.array([row["measured"].get(name, 0) for row in group], dtype=float) for name in (mark, "total"))
    alike = sum(len(row["measured"].get("by_group", row["measured"].get("by_triplet", ()))) for row in group)
    return Pooled(int(hits.sum()), int(total.sum()), over_seeds(hits, total, alike))
