"""Whether a composition gains more over the base than its experts gain alone, summed (LoRA Soups: super-linear).

With n experts it is Σ_i (alone_i − base) that is taken from (composed − base), of the questions that need all of
them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lora_reuse.llm.scoring.intervals import difference

Row = Mapping[str, Any]
Settings = Mapping[str, Any]


def gains(rows: Sequence[Row], composed: str, alone: Callable[[Settings], Sequence[str]]) -> list[dict[str, Any]]:
    """Of each composition of the library `composed`: its `gain` over the base, that of each expert alone by the name of
    its library, and by how much it is `more` than their sum, in shares of the questions. `low` and `high` are the 95 %
    interval of `intervals.difference` over the seeds that all of them have; NaN for one seed.

    `alone` says of settings which libraries are the experts alone. What lacks a row of one of them is left out."""
    found: dict[str, dict[tuple[str, str], dict[int, Any]]] = {}
    for row in rows:
        settings, measured = dict(row["settings"]), row["measured"]
        seed, how = settings.pop("seed"), (settings.pop("library"), settings.pop("composition"))
        shares = np.array(measured["by_group"]) / np.array(measured["group_sizes"])
        found.setdefault(str(settings), {}).setdefault(how, {})[seed] = (settings, shares)
    results = []
    for cells in found.values():
        settings = next(iter(next(iter(cells.values())).values()))[0]
        experts = alone(settings)
        singles = [cells.get(key, {}) for key in (("none", "base"), *((name, "alone") for name in experts))]
        for (name, how), cell in cells.items():
            seeds = sorted(set(cell).intersection(*singles))
            if name != composed or not seeds:
                continue
            whole, base, *parts = ([part[seed][1] for seed in seeds] for part in (cell, *singles))
            gain, *each = (float(np.mean(np.concatenate(part) - np.concatenate(base))) for part in (whole, *parts))
            # Divided by their number each side is a share, as `difference` wants it.
            n = len(parts)
            sides = (
                [(w + (n - 1) * b) / n for w, b in zip(whole, base, strict=True)],
                [np.mean(seed, axis=0) for seed in zip(*parts, strict=True)],
            )
            limits = difference(*sides)
            results.append(
                {"settings": settings, "composition": how, "gain": gain}
                | dict(zip(experts, each, strict=True))
                | {"more": gain - sum(each), "alone": each}
                | {"low": n * limits.low if limits else math.nan, "high": n * limits.high if limits else math.nan}
            )
    return results


def told(found: Sequence[Mapping[str, Any]], asked: Callable[[Settings], str]) -> str:
    """The gains in points, a line a composition, under what was `asked`; nothing where there are none."""
    lines = ["gain over the base, in points; what is more than the sum of the experts' own gains, with 95 %:"]
    for g in sorted(found, key=lambda g: (asked(g["settings"]), -g["more"])):
        *others, last = (f"{100 * gain:+.0f}" for gain in g["alone"])
        more, verdict = f"{100 * g['more']:+.0f}", "one seed has no interval"
        if not math.isnan(g["low"]):
            more += f" [{100 * g['low']:+.0f}, {100 * g['high']:+.0f}]"
            verdict = (
                "super-linear"
                if g["low"] > 0
                else "less than the sum"
                if g["high"] < 0
                else "not told apart from the sum"
            )
        alone = f"experts alone {', '.join(others)} and {last}"
        said = f"{g['composition']}: {100 * g['gain']:+.0f} ({alone}), more by {more}: {verdict}"
        lines.append(f"  {asked(g['settings'])}, {said}")
    return "\n".join(lines) if found else ""
