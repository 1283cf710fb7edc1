"""The forecast as text, and as numbers for a program."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lora_reuse.llm.forecast import letters, listed
from lora_reuse.llm.forecast.decision import FITTED_ON, Decision, decide
from lora_reuse.llm.forecast.measure import Measured, Prompts
from lora_reuse.llm.forecast.plot import best_multiples, by_layer
from lora_reuse.llm.forecast.subspace import layers
from lora_reuse.llm.forecast.verdict import Forecast, as_whom, bridge, restates, restating, signs
from lora_reuse.llm.scoring.intervals import wilson


def loudness(measured: Measured, name: str) -> list[float]:
    """For each adapter ‖ΔW h‖ over the geometric mean of all adapters' there, and of this the geometric mean over
    modules and the tokens of the answers to the hoped-for prompts. It says whether one adapter drowns the others."""
    typical = [torch.stack([keys.square().sum(-1).mean().sqrt() for keys in own.keys.values()]) for own in measured.own]
    sizes = torch.cat(
        [
            torch.stack([(o.size * t).clamp_min(1e-9) for o, t in zip(answer.overlaps, typical, strict=True)])
            for answer in measured.composed[name].answers
        ],
        dim=1,
    ).log()
    return (sizes - sizes.mean(0)).mean((1, 2)).exp().tolist()


def decision(measured: Measured, forecasts: Mapping[str, Forecast]) -> Decision:
    """What to do, of the compositions that were forecast; the base composes nothing."""
    composed = {name: f for name, f in forecasts.items() if name != "base"} or forecasts
    routers = [name for name in composed if measured.composed[name].answers[0].routing is not None]
    return decide(composed, [own.confidence for own in measured.own], all(restating(measured)), routers)


def text(measured: Measured, forecasts: Mapping[str, Forecast], names: Sequence[str]) -> str:
    """The forecast as the command prints it."""
    called = letters(len(names))
    of_each = lambda values: listed([f"{value} of {name}" for name, value in zip(called, values, strict=True)])  # noqa: E731
    gains = [f"+{sum(own.gain) / len(own.gain):.2f} ({name})" for name, own in zip(called, measured.own, strict=True)]
    leaks = [
        f"{max(float(leak.best.mean()) for j, leak in enumerate(leaked) if j != i):.2f}"
        for i, leaked in enumerate(measured.leaks)
    ]
    changes = loudness(measured, next(iter(forecasts)))
    loud = [f"{value:.2f} ({name})" for name, value in zip(called, changes, strict=True)]
    first, *others = [f"{restates(measured, i):.2f}" for i in range(len(called))]
    passed = [f"a's answers alone set off {first} of every adapter"]
    passed += [f"{name}'s {value}" for name, value in zip(called[1:], others, strict=True)]
    lines = [
        ", ".join(f"{letter} = {name}" for letter, name in zip(called, names, strict=True)),
        "",
        str(decision(measured, forecasts)),
        f"  bridge: {bridge(restating(measured))}",
        f"  the numbers are from {FITTED_ON}",
        "",
        f"on the prompts they were made for, their tokens get {listed(gains)} probability over the base",
        f"leakage: another's prompts set off {of_each(leaks)} (1: as their own do; of several the most)",
        f"loudness: on the hoped-for prompts the adapters' changes are {listed(loud)} times their geometric mean",
        f"restating: {listed(passed)} (1: as its own prompts do)",
        "",
    ]
    head = ["composition", "verdict, of prompts", "score", "hidden"]
    head += [f"{what} {name}" for what in ("keeps", "scale") for name in called]
    head += ["cross", *(f"{name}'s" for name in called), "nobody's"]
    rows = [head, *(_row(name, f, measured) for name, f in forecasts.items())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def _row(name: str, f: Forecast, measured: Measured) -> list[str]:
    found = [signs(answer) for answer in measured.composed[name].answers]
    left = torch.cat([answer.scales.left for answer in measured.composed[name].answers]).mean()
    share, count = f.whose[f.verdict], len(found)
    low, high = wilson(round(share * count), count)
    tail = [sum(values) / count for values in zip(*((*s.own, s.nobody) for s in found), strict=True)]
    return [
        name,
        f"{as_whom(len(f.kept))[f.verdict]} {share:.0%} [{100 * low:.0f}, {100 * high:.0f}]",
        f"{f.score:+.2f}",
        f"{f.hidden:+.2f}",
        *(f"{kept:.0%}" for kept in f.kept),
        *(f"{scale:.2f}" for scale in f.own_scale),
        f"{float(left):.0%}",
        *(f"{value:+.2f}" for value in tail),
    ]


def numbers(measured: Measured, forecasts: Mapping[str, Forecast], prompts: Prompts) -> dict[str, Any]:
    """The forecast and its measurements as JSON values. Lists with a number a layer have the order of `layers`."""
    rounded = lambda values: [round(float(v), 4) for v in values]  # noqa: E731
    called = letters(len(measured.own))
    found: dict[str, Any] = {
        "decision": dataclasses.asdict(decision(measured, forecasts)),
        "layers": list(layers(measured.modules)),
        "own": {
            name: {"gain": rounded(own.gain), "token": own.token}
            for name, own in zip(called, measured.own, strict=True)
        },
        "leaks": {
            f"{name} on {other}": rounded(by_layer(measured, leak.multiple.mean(0)))
            for name, leaked in zip(called, measured.leaks, strict=True)
            for other, leak in zip(called, leaked, strict=True)
        },
        "restates": rounded(restates(measured, i) for i in range(len(called))),
        "compositions": {},
    }
    for name, f in forecasts.items():
        composed = measured.composed[name]
        found["compositions"][name] = {
            "verdict": f.verdict,
            **{key: value for key, value in f._asdict().items() if key != "whose"},
            "whose": f.whose,
            "loudness": rounded(loudness(measured, name)),
            "overlap": [rounded(by_layer(measured, best_multiples(composed.answers, i))) for i in range(len(called))],
            "answers": [
                {"prompt": a.prompt, "answer": a.text, **signs(a).numbers(), "whose": signs(a).whose}
                | {"tokens": a.tokens, "p_base": rounded(a.base), "p_composed": rounded(a.composed)}
                | {f"p_{letter}": rounded(a.alone[:, i]) for i, letter in enumerate(called)}
                | {f"overlap_{letter}": rounded(a.overlaps[i].best) for i, letter in enumerate(called)}
                | {f"scale_{letter}": rounded(a.scales.each[:, i]) for i, letter in enumerate(called)}
                | {
                    f"routed_{letter}": rounded(a.routing[:, i])
                    for i, letter in enumerate(called)
                    if a.routing is not None
                }
                for a in composed.answers
            ],
        }
    return found | {"prompts": {name: list(asked) for name, asked in prompts.items()}}
