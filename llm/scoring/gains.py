"""Whether a composition gains more over the base than its experts gain alone, summed (LoRA Soups: super-linear).

With n experts it is Σ_i (alone_i − base) that is taken from (composed − base), of the questions that need all of
them."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lora_reuse.llm.scoring.differences import asked_of, named, rule_of
from lora_reuse.llm.scoring.intervals import difference

Row = Mapping[str, Any]
Settings = Mapping[str, Any]


def gains(rows: Sequence[Row], composed: str, alone: Callable[[Settings], Sequence[str]]) -> list[dict[str, Any]]:
    """Of each composition of the library `composed`: its `gain` over the base, that of each expert alone by the name of
    its library, and by how much it is `more` than their sum, in shares of the questions. `low` and `high` are the 95 %
    interval of `intervals.difference` over the seeds that all of them have; NaN for one seed.

    `alone` says of settings which libraries are the experts alone. What lacks a row of one of them is left out. A
    composition is called with its dials where rows differ in them (`differences.named`)."""
    found: dict[str, dict[str, dict[str, dict[int, Row]]]] = {}
    for row in rows:
        asked = asked_of(row["settings"])
        library, seed = asked.pop("library"), row["settings"]["seed"]
        of_library = found.setdefault(json.dumps(asked, sort_keys=True), {}).setdefault(library, {})
        of_library.setdefault(rule_of(row["settings"]), {})[seed] = row
    results = []
    for asked, libraries in found.items():
        settings = json.loads(asked)
        experts = alone(settings)
        cells = {
            library: {name: _shares(each) for name, each in named(of).items()} for library, of in libraries.items()
        }
        singles = [cells.get(one, {}).get(how, {}) for one, how in (("none", "base"), *((e, "alone") for e in experts))]
        for how, cell in cells.get(composed, {}).items():
            seeds = sorted(set(cell).intersection(*singles))
            if not seeds:
                continue
            whole, base, *parts = ([part[seed] for seed in seeds] for part in (cell, *singles))
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


def _shares(rows: Sequence[Row]) -> dict[int, np.ndarray]:
    """The shares of each seed by group."""
    measured = {row["settings"]["seed"]: row["measured"] for row in rows}
    return {seed: np.array(m["by_group"]) / np.array(m["group_sizes"]) for seed, m in measured.items()}


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
