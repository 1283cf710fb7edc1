"""The final table of a sweep: measured ± standard error, predicted, z, and what follows from all of them together.

A prediction that is an expansion in the width leaves something out. Where the estimated size of that is more than a
quarter of the standard error of the mean over seeds, a large z would say little about the theory: such a line is
outside the range of the prediction and has no z. Seeds lower the standard error and not what is left out, so the range
at each width is a number of seeds.

One row is not normal: the error of the Gram matrix is skewed at every width, and multiples are at small ones. A mean of
eight is near enough to normal, so fewer seeds have a z and no verdict."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from lora_reuse.runs.rows import by_setting
from lora_reuse.runs.settings import short
from lora_reuse.runs.table import value, varying
from lora_reuse.theory.experiments import REMAINDER

Row = Mapping[str, Any]
FALSE_ALARM = 0.01  # of a right table, over all of its lines
LEFT_OUT = 0.25  # of the standard error of the mean, what a prediction may leave out
FEWEST = 8  # seeds of a line that a verdict counts


class Line(NamedTuple):
    """One quantity at one setting: the rows that have it, with a prediction if any row has one, and how many then have
    none; of those the rows with a predicted error; z, where the prediction is in range; the most seeds for which it
    is."""

    rows: Sequence[Row]
    unpredicted: int
    with_error: Sequence[Row]
    z: float | None
    most: float


def table(rows: Sequence[Row]) -> str:
    """One block a measured quantity, one line a setting, seeds averaged."""
    groups = list(by_setting(rows).values())
    labels = varying(groups) or [name for name in ("width", "dim") if name in groups[0][0]["settings"]]
    names = dict.fromkeys(name for row in rows for name in row["measured"])
    blocks = {name: [line for group in groups if (line := _line(group, name))] for name in names}
    compared = sum(len(_compared(lines)) for lines in blocks.values())
    limit = float(stats.norm.isf(FALSE_ALARM / 2 / max(compared, 1)))
    printed = [text for name, lines in blocks.items() for text in (*_block(name, lines, labels, limit), "")]
    return "\n".join([*printed, *_slopes(groups, labels)])


def _line(group: Sequence[Row], name: str) -> Line | None:
    rows = [row for row in group if name in row["measured"]]
    predicted = [row for row in rows if name in row["predicted"]]
    if not rows:
        return None
    known, most = _with_error(rows, name), seeds_in_range(rows, name)
    z = z_score(rows, name) if len(known) <= most else None
    return Line(predicted or rows, len(rows) - len(predicted) if predicted else 0, known, z, most)


def _compared(lines: Sequence[Line]) -> list[float]:
    """The z of the lines that a verdict counts."""
    return [line.z for line in lines if line.z is not None and len(line.with_error) >= FEWEST]


def _block(name: str, lines: Sequence[Line], labels: Sequence[str], limit: float) -> list[str]:
    settings = [line.rows[0]["settings"] for line in lines]
    widths = {label: max(len(label), *(len(value(each, label)) for each in settings)) for label in labels}
    head = "  ".join(f"{label:>{widths[label]}}" for label in labels)
    printed = [name, f"  {head}  seeds      measured ± se            predicted      z"]
    for line, each in zip(lines, settings, strict=True):
        values = np.array([row["measured"][name] for row in line.rows])
        expected = np.array([row["predicted"][name] for row in line.rows if name in row["predicted"]])
        # Seeds that draw E and V differ in what is predicted for them: the error that matters is that of the
        # difference.
        spread = values - expected if len(expected) else values
        error = f"± {spread.std(ddof=1) / math.sqrt(len(values)):.2g}" if len(values) > 1 else ""
        cells = [
            "  ".join(f"{value(each, label):>{widths[label]}}" for label in labels),
            f"{len(values):5d}",
            f"{values.mean():>12.6g} {error:11}",
            f"{np.mean(expected):>12.6g}" if len(expected) else "",
            "" if line.z is None else f"{line.z:+5.2f}",
        ]
        printed.append(("  " + "  ".join(cells)).rstrip())
    return [*printed, *_verdict(name, lines, limit), *_notes(lines, labels)]


def _verdict(name: str, lines: Sequence[Line], limit: float) -> list[str]:
    said, with_z = [], [line for line in lines if line.z is not None]
    if zs := _compared(lines):
        worst = max(map(abs, zs))
        said.append(
            f"  {'agrees' if worst <= limit else 'DISAGREES'}: largest |z| {worst:.2f}; about"
            f" {FALSE_ALARM * 100:.0f} of 100 right tables passes {limit:.2f} in some block"
        )
    elif with_z:
        said.append(f"  no verdict: a line needs {FEWEST} seeds, because single rows are not normal")
    single = [z for line in with_z for row in line.with_error if (z := z_score([row], name)) is not None]
    if len(single) > 2:
        said.append(
            f"  single rows: z has mean {np.mean(single):+.2f} and standard deviation {np.std(single, ddof=1):.2f}"
            " (predicted 0 and 1)"
        )
    return said


def _notes(lines: Sequence[Line], labels: Sequence[str]) -> list[str]:
    said = []
    for line in lines:
        where = ", ".join(f"{label}={value(line.rows[0]['settings'], label)}" for label in labels)
        if (seeds := len(line.with_error)) > line.most:
            most = f"at most {short(int(line.most))}" if line.most else "none"
            said.append(f"  outside the range of the prediction: {where} with {seeds} seeds; it holds for {most} there")
        if line.unpredicted:
            seeds = len(line.rows) + line.unpredicted
            said.append(f"  left out, without a prediction: {line.unpredicted} of {seeds} seeds at {where}")
    return said


def _with_error(rows: Sequence[Row], name: str) -> list[Row]:
    """The rows that have the quantity, its prediction and a predicted error."""
    return [
        row for row in rows if name in row["measured"] and name in row["predicted"] and row["stderr"].get(name, 0) > 0
    ]


def z_score(rows: Sequence[Row], name: str) -> float | None:
    """Σ(measured − predicted)/√Σ stderr² over seeds; None without predicted errors."""
    known = _with_error(rows, name)
    if not known:
        return None
    return sum(r["measured"][name] - r["predicted"][name] for r in known) / math.sqrt(
        sum(r["stderr"][name] ** 2 for r in known)
    )


def seeds_in_range(rows: Sequence[Row], name: str) -> float:
    """The most seeds for which the remainder of the prediction is within LEFT_OUT of the standard error of the mean:
    (LEFT_OUT · Σ stderr/Σ remainder)². Where the remainder is all of the standard error there are none."""
    known = _with_error(rows, name)
    left_out = sum(row["stderr"].get(name + REMAINDER, 0.0) for row in known)
    return (LEFT_OUT * sum(row["stderr"][name] for row in known) / left_out) ** 2 // 1 if left_out else math.inf


def _slopes(groups: Sequence[Sequence[Row]], labels: Sequence[str]) -> list[str]:
    """For every line of settings that differ in width alone: the log-log slope of the error, weighted by its predicted
    spread."""
    name = "kernel_relative_rms"
    lines: dict[str, list[Sequence[Row]]] = {}
    for group in groups:
        known = _with_error(group, name)
        if known and known[0]["settings"]["width"] != "inf":
            fixed = {k: v for k, v in known[0]["settings"].items() if k not in ("width", "seed")}
            lines.setdefault(str(fixed), []).append(known)
    out, named = [], [label for label in labels if label != "width"] or ["dim"]
    for line in lines.values():
        if len(line) > 1:
            slope, half = log_log_slope(line, name)
            where = ", ".join(f"{label}={value(line[0][0]['settings'], label)}" for label in named)
            out.append(f"{name} falls as width^s, s = {slope:.4f} ± {half:.4f} (95 %), predicted -0.5 ({where})")
    return out


def log_log_slope(groups: Sequence[Sequence[Row]], name: str) -> tuple[float, float]:
    """`weighted_slope` of the mean over each group's seeds against its width, with the predicted error of each mean."""
    widths = np.array([float(group[0]["settings"]["width"]) for group in groups])
    means = np.array([np.mean([row["measured"][name] for row in group]) for group in groups])
    errors = np.array([math.sqrt(sum(row["stderr"][name] ** 2 for row in group)) / len(group) for group in groups])
    return weighted_slope(widths, means, errors)


def weighted_slope(
    widths: Float[np.ndarray, " n"], means: Float[np.ndarray, " n"], errors: Float[np.ndarray, " n"]
) -> tuple[float, float]:
    """Weighted least squares of log(mean) on log(width) with the error of each mean; the slope and its 95 %
    half-width."""
    x, weights = np.log(widths), (errors / means) ** -2
    centre = np.average(x, weights=weights)
    slope = np.sum(weights * (x - centre) * np.log(means)) / np.sum(weights * (x - centre) ** 2)
    return float(slope), float(stats.norm.isf(0.025) / np.sqrt(np.sum(weights * (x - centre) ** 2)))
