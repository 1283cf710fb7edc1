"""The plot of a forecast: overlap by layer, the scale that each composition leaves each adapter, and one answer token
by token."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_reuse.llm.forecast import HALF, letters
from lora_reuse.llm.forecast.measure import Answer, Composed, Measured
from lora_reuse.llm.forecast.subspace import layers
from lora_reuse.llm.forecast.verdict import Forecast, signs
from lora_reuse.runs.files import replacing
from lora_reuse.runs.look import COLOURS, RC, WIDTH, series, title

MOST = 64
"""How many tokens of an answer fit in the width of the plot."""
BELOW: dict[str, Any] = {"ncols": 3, "loc": "upper center", "bbox_to_anchor": (0.5, -0.28), "columnspacing": 1.0}
"""A legend under its axes, where it covers nothing that is drawn."""


def plot(measured: Measured, forecasts: Mapping[str, Forecast], shown: str, folder: Path) -> list[Path]:
    """Writes forecast.png and forecast.pdf for the composition `shown`; returns the paths. Same numbers, same bytes."""
    with rc_context(RC):
        figure = Figure(figsize=(WIDTH, 6.0), layout="constrained")
        grid = figure.add_gridspec(2, 2, height_ratios=(1, 1.1))
        _layers(figure.add_subplot(grid[0, 0]), measured, measured.composed[shown])
        _scales(figure.add_subplot(grid[0, 1]), forecasts)
        told = max(measured.composed[shown].answers, key=lambda answer: signs(answer).composes)
        _tokens(figure.add_subplot(grid[1, :]), told, shown)
        paths = []
        for ending, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            path = folder / f"forecast.{ending}"
            with replacing(path) as scratch:
                figure.savefig(scratch, format=ending, dpi=200, metadata=metadata)
            paths.append(path)
    return paths


def by_layer(measured: Measured, values: torch.Tensor) -> list[float]:
    """The mean over the modules of each layer, from one number a module."""
    return [float(values[numbers].mean()) for numbers in layers(measured.modules).values()]


def best_multiples(answers: list[Answer], i: int) -> torch.Tensor:
    """For each module, how much of adapter i the token that sets off most of it does; the mean over answers."""
    return torch.stack([a.overlaps[i].multiple[a.overlaps[i].best.argmax()] for a in answers]).mean(0)


def _layers(axes: Axes, measured: Measured, composed: Composed) -> None:
    names = list(layers(measured.modules))
    called = letters(len(measured.own))
    for i, name in enumerate(called):
        axes.plot(
            names, by_layer(measured, best_multiples(composed.answers, i)), label=f"{name}, hoped for", **series(i)
        )
        others = {other: leak for j, (other, leak) in enumerate(zip(called, measured.leaks[i], strict=True)) if j != i}
        most = max(others, key=lambda other: float(others[other].best.mean()))
        axes.plot(
            names,
            by_layer(measured, others[most].multiple.mean(0)),
            label=f"{name}, on {most}'s own",
            linestyle=":",
            **series(i, markerfacecolor="white"),
        )
    axes.axhline(1, color="0.7", linewidth=0.6)
    axes.axhline(HALF, color="0.7", linewidth=0.6, linestyle=":")
    axes.set_xlabel("layer")
    axes.set_ylabel("multiple of its own change")
    axes.legend(**BELOW)
    title(axes, "a", "what is set off of each adapter")


def _scales(axes: Axes, forecasts: Mapping[str, Forecast]) -> None:
    places = torch.arange(len(forecasts)).tolist()
    called = letters(len(next(iter(forecasts.values())).kept))
    height = 0.8 / len(called)
    for i, name in enumerate(called):
        values = [f.own_scale[i] for f in forecasts.values()]
        axes.barh(
            [p - 0.4 + (i + 0.5) * height for p in places],
            values,
            height=0.9 * height,
            color=COLOURS[i % len(COLOURS)],
            label=name,
        )
    axes.axvline(HALF, color="0.4", linewidth=0.7, linestyle=":")
    axes.set_yticks(places, [f"{name}: {f.verdict}" for name, f in forecasts.items()])
    axes.invert_yaxis()
    axes.set_xlabel("effective scale on the own prompts of each")
    axes.legend(**BELOW)
    title(axes, "b", "what each composition leaves of them")


def _tokens(axes: Axes, answer: Answer, name: str) -> None:
    count = min(len(answer.tokens), MOST)
    places = list(range(count))
    called = letters(answer.alone.shape[1])
    for i, which in enumerate(called):
        axes.plot(places, answer.alone[:count, i], label=f"P under {which} alone", **series(i))
    axes.plot(places, answer.base[:count], label="P under the base", color="0.5", linewidth=0.8)
    for i, which in enumerate(called):
        multiple = answer.scales.each[:count, i] * answer.overlaps[i].best[:count]
        axes.plot(
            places,
            multiple.clamp(-0.2, 1.4),
            linestyle=":",
            linewidth=0.9,
            color=COLOURS[i % len(COLOURS)],
            label=f"scale x overlap of {which}",
        )
    if answer.routing is not None:
        axes.fill_between(places, answer.routing[:count, 0], step="mid", color="0.9", label=f"routed to {called[0]}")
    axes.set_xticks(
        places,
        [_label(token) for token in answer.tokens[:count]],
        rotation=90,
        fontsize=5,
    )
    axes.set_xlim(-0.5, count - 0.5)
    axes.legend(**BELOW)
    title(axes, "c", f"one answer under {name}")


def _label(token: str) -> str:
    """The token on one line, as matplotlib prints it: its fonts have nothing for a character that does not print."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in token.strip(" "))
    return shown.replace("$", r"\$") or "_"
