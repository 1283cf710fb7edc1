"""The final table of a sweep: measured ± standard error, predicted, z, and what follows from all of them together.

A prediction that is an expansion in the width leaves something out. Where the estimated size of that is more than the
standard error of the mean over seeds, a large z would say nothing about the theory: such a line is outside the range of
the prediction and has no z. Seeds lower the standard error and not what is left out, so the range at each width is a
number of seeds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from lora_reuse.runs.rows import by_setting
from lora_reuse.runs.settings import short
from lora_reuse.runs.table import value, varying
from lora_reuse.theory.experiments import REMAINDER

Row = Mapping[str, Any]
FALSE_ALARM = 0.01


def table(rows: Sequence[Row]) -> str:
    """One block a measured quantity, one line a setting, seeds averaged."""
    groups = list(by_setting(rows).values())
    differing = varying(groups)
    labels = differing or [name for name in ("width", "dim") if name in groups[0][0]["settings"]]
    names = list(dict.fromkeys(name for row in rows for name in row["measured"]))
    lines: list[str] = []
    for name in names:
        lines += [*_block(name, [g for g in groups if name in g[0]["measured"]], labels), ""]
    return "\n".join([*lines, *_slopes(groups)])


def _block(name: str, groups: Sequence[Sequence[Row]], labels: Sequence[str]) -> list[str]:
    widths = {label: max(len(label), *(len(value(g[0]["settings"], label)) for g in groups)) for label in labels}
    head = "  ".join(f"{label:>{widths[label]}}" for label in labels)
    lines = [name, f"  {head}  seeds      measured ± se            predicted      z"]
    zs: list[float] = []
    single: list[float] = []
    outside: list[tuple[Sequence[Row], float]] = []
    for group in groups:
        values = np.array([row["measured"][name] for row in group])
        expected = np.array([row["predicted"][name] for row in group if name in row["predicted"]])
        # Seeds that draw E and V differ in what is predicted for them: the error that matters is that of the
        # difference.
        spread = values - expected if len(expected) else values
        error = float(spread.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
        z, most = z_score(group, name), seeds_in_range(group, name)
        if z is not None and len(group) > most:
            z, outside = None, [*outside, (group, most)]
        if z is not None:
            zs.append(z)
            single += [one for row in group if (one := z_score([row], name)) is not None]
        cells = [
            "  ".join(f"{value(group[0]['settings'], label):>{widths[label]}}" for label in labels),
            f"{len(group):5d}",
        ]
        cells.append(f"{values.mean():>12.6g} " + ("" if math.isnan(error) else f"± {error:.2g}").ljust(11))
        cells.append(f"{np.mean(expected):>12.6g}" if len(expected) else "")
        cells.append("" if z is None else f"{z:+5.2f}")
        lines.append(("  " + "  ".join(cells)).rstrip())
    if zs:
        limit = float(stats.norm.isf(FALSE_ALARM / 2 / len(zs)))
        worst = max(map(abs, zs))
        verdict = "agrees" if worst <= limit else "DISAGREES"
        lines.append(f"  {verdict}: largest |z| {worst:.2f}, which passes {limit:.2f} in 1 of 100 right tables")
        if len(single) > 2:
            lines.append(
                f"  single rows: z has mean {np.mean(single):+.2f} and standard deviation "
                f"{np.std(single, ddof=1):.2f} (predicted 0 and 1)"
            )
    for group, most in outside:
        where = ", ".join(f"{label}={value(group[0]['settings'], label)}" for label in labels)
        lines.append(
            f"  outside the range of the prediction: {where} with {len(group)} seeds; it holds for at most "
            f"{short(int(most))} there"
        )
    return lines


def z_score(rows: Sequence[Row], name: str) -> float | None:
    """Σ(measured − predicted)/√Σ stderr² over seeds; None without predicted errors."""
    known = [row for row in rows if row["stderr"].get(name, 0) > 0]
    if not known:
        return None
    return sum(r["measured"][name] - r["predicted"][name] for r in known) / math.sqrt(
        sum(r["stderr"][name] ** 2 for r in known)
    )


def seeds_in_range(rows: Sequence[Row], name: str) -> float:
    """The most seeds for which the remainder of the prediction is within the standard error of the mean: (Σ stderr/Σ
    remainder)²."""
    known = [row for row in rows if row["stderr"].get(name, 0) > 0]
    left_out = sum(row["stderr"].get(name + REMAINDER, 0.0) for row in known)
    return (sum(row["stderr"][name] for row in known) / left_out) ** 2 // 1 if left_out else math.inf


def _slopes(groups: Sequence[Sequence[Row]]) -> list[str]:
    """For every line of settings that differ in width alone: the log-log slope of the error, weighted by its predicted
    spread."""
    lines: dict[str, list[Sequence[Row]]] = {}
    for group in groups:
        if "kernel_relative_rms" in group[0]["measured"] and group[0]["settings"]["width"] != "inf":
            fixed = {k: v for k, v in group[0]["settings"].items() if k not in ("width", "seed")}
            lines.setdefault(str(fixed), []).append(group)
    out = []
    for line in lines.values():
        if len(line) > 1:
            slope, half = log_log_slope(line, "kernel_relative_rms")
            dim = short(line[0][0]["settings"]["dim"])
            out.append(
                f"kernel_relative_rms falls as width^s, s = {slope:.4f} ± {half:.4f} (95 %), predicted -0.5 (dim={dim})"
            )
    return out


def log_log_slope(groups: Sequence[Sequence[Row]], name: str) -> tuple[float, float]:
    """Weighted least squares of log(mean) on log(width) with the predicted error of each mean; the slope and its 95 %
    half-width."""
    x = np.log([float(group[0]["settings"]["width"]) for group in groups])
    means = np.array([np.mean([row["measured"][name] for row in group]) for group in groups])
    errors = (
        np.array([math.sqrt(sum(row["stderr"][name] ** 2 for row in group)) / len(group) for group in groups]) / means
    )
    weights = errors**-2
    centre = np.average(x, weights=weights)
    slope = np.sum(weights * (x - centre) * np.log(means)) / np.sum(weights * (x - centre) ** 2)
    return float(slope), float(stats.norm.isf(0.025) / np.sqrt(np.sum(weights * (x - centre) ** 2)))
