"""The forecast as text, and as numbers for a program."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lora_reuse.llm.forecast.decision import FITTED_ON, Decision, decide
from lora_reuse.llm.forecast.measure import SETS, Measured, Prompts
from lora_reuse.llm.forecast.plot import best_multiples, by_layer
from lora_reuse.llm.forecast.subspace import layers
from lora_reuse.llm.forecast.verdict import WORDS, Forecast, bridge, restates, restating, signs
from lora_reuse.llm.scoring.intervals import wilson


def loudness(measured: Measured, name: str) -> float:
    """‖ΔW_a h‖/‖ΔW_b h‖, the geometric mean over modules and the tokens of the answers to the hoped-for prompts. It
    says whether one adapter drowns the other."""
    typical = [torch.stack([keys.square().sum(-1).mean().sqrt() for keys in own.keys.values()]) for own in measured.own]
    ratios = [
        (a.overlaps[0].size * typical[0]).clamp_min(1e-9) / (a.overlaps[1].size * typical[1]).clamp_min(1e-9)
        for a in measured.composed[name].answers
    ]
    return float(torch.cat(ratios).log().mean().exp())


def decision(measured: Measured, forecasts: Mapping[str, Forecast]) -> Decision:
    """What to do, of the compositions that were forecast; the base composes nothing."""
    composed = {name: f for name, f in forecasts.items() if name != "base"} or forecasts
    routers = [name for name in composed if measured.composed[name].answers[0].routing is not None]
    return decide(composed, [own.confidence for own in measured.own], all(restating(measured)), routers)


def text(measured: Measured, forecasts: Mapping[str, Forecast], names: Sequence[str]) -> str:
    """The forecast as the command prints it."""
    gains = [sum(own.gain) / len(own.gain) for own in measured.own]
    leaks = [float(measured.leaks[i][1 - i].best.mean()) for i in range(2)]
    first = next(iter(forecasts))
    lines = [
        f"a = {names[0]}, b = {names[1]}",
        "",
        str(decision(measured, forecasts)),
        f"  bridge: {bridge(restating(measured))}",
        f"  the numbers are from {FITTED_ON}",
        "",
        f"on the prompts they were made for, their tokens get +{gains[0]:.2f} (a) and +{gains[1]:.2f} (b) probability "
        "over the base",
        f"leakage: b's prompts set off {leaks[0]:.2f} of a, a's prompts {leaks[1]:.2f} of b (1: as their own do)",
        f"loudness: on the hoped-for prompts a changes {loudness(measured, first):.2f} times as much as b",
        f"restating: alone, a's answers set off {restates(measured, 0):.2f} of both adapters, b's "
        f"{restates(measured, 1):.2f}",
        "",
    ]
    head = "composition|verdict, of prompts|score|hidden|keeps a|keeps b|scale a|scale b|cross|a's|b's|nobody's".split(
        "|"
    )
    rows = [head, *(_row(name, f, measured) for name, f in forecasts.items())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def _row(name: str, f: Forecast, measured: Measured) -> list[str]:
    found = [signs(answer) for answer in measured.composed[name].answers]
    left = torch.cat([answer.scales.left for answer in measured.composed[name].answers]).mean()
    share, count = f.whose[f.verdict], len(found)
    low, high = wilson(round(share * count), count)
    tail = [sum(getattr(s, field) for s in found) / len(found) for field in ("a", "b", "nobody")]
    return [
        name,
        f"{WORDS[f.verdict]} {share:.0%} [{100 * low:.0f}, {100 * high:.0f}]",
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
    found: dict[str, Any] = {
        "decision": dataclasses.asdict(decision(measured, forecasts)),
        "layers": list(layers(measured.modules)),
        "own": {SETS[i]: {"gain": rounded(own.gain), "token": own.token} for i, own in enumerate(measured.own)},
        "leaks": {
            f"{'ab'[i]} on {'ab'[j]}": rounded(by_layer(measured, measured.leaks[i][j].multiple.mean(0)))
            for i in range(2)
            for j in range(2)
        },
        "restates": rounded(restates(measured, i) for i in range(2)),
        "compositions": {},
    }
    for name, f in forecasts.items():
        composed = measured.composed[name]
        found["compositions"][name] = {
            "verdict": f.verdict,
            **{key: value for key, value in f._asdict().items() if key != "whose"},
            "whose": f.whose,
            "loudness": loudness(measured, name),
            "overlap": [rounded(by_layer(measured, best_multiples(composed.answers, i))) for i in range(2)],
            "answers": [
                {"prompt": a.prompt, "answer": a.text, **signs(a)._asdict(), "whose": signs(a).whose}
                | {
                    "tokens": a.tokens,
                    "p_base": rounded(a.base),
                    "p_a": rounded(a.alone[:, 0]),
                    "p_b": rounded(a.alone[:, 1]),
                }
                | {
                    "p_composed": rounded(a.composed),
                    "overlap_a": rounded(a.overlaps[0].best),
                    "overlap_b": rounded(a.overlaps[1].best),
                }
                | {"scale_a": rounded(a.scales.each[:, 0]), "scale_b": rounded(a.scales.each[:, 1])}
                | ({} if a.routing is None else {"routed_a": rounded(a.routing[:, 0])})
                for a in composed.answers
            ],
        }
    return found | {"prompts": {name: list(prompts[name]) for name in SETS}}
