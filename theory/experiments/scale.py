"""Scaling adapters by w: where an edited fact flips, and where a composed one would.

On its own prompt `x_i r1` an expert that fits its facts exactly moves i_{r1(x)} to i_y by w: old answer 1 − w, new
answer w. So one-hop facts flip at w = 1/2 exactly, at any width, for any n, whatever the other expert adds to other
entities. Hence the average of two experts (w = 1/2) sits on the edge, where chance or noise decides, and the factor
average of eq. 27, in which each update enters with 1/4, below it.

Composed prompts `x_i r1 r2` get w C on every new answer (`many_facts`): the old answer, at 1, gives way at w = 1/C at
the earliest (1/0.573 = 1.745 for one fact), to n answers that tie.

- `one_hop_accuracy`: over both experts' own prompts; `two_hop_accuracy`: over the composed prompts; ties shared.
- `experts=1`: each expert alone, and the second alone on composed prompts; `experts=2`: both, each scaled by w.

Accuracies have no error bars (they are steps); at width = inf the measurement is the prediction.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from lora_reuse.theory.compositions import Features
from lora_reuse.theory.experiments import Result, Values
from lora_reuse.theory.library import Scene, draw_scene, prepared, wins
from lora_reuse.theory.settings import INF, Scale, at_infinite_dim


def run(setting: Scale, seeds: Sequence[int], advance: Callable[[int], object] | None = None) -> list[Result]:
    """One Result a seed."""
    scene = draw_scene(setting.facts)
    at_limit = at_infinite_dim(replace(setting, width=INF))
    predicted = (
        {}
        if at_limit is None
        else quantities(setting, scene, prepared(scene.prompts, at_limit, [0], basis_free=True)[0])
    )
    return [
        Result(quantities(setting, scene, phi), dict(predicted), {})
        for phi in prepared(scene.prompts, setting, seeds, True, advance)
    ]


def quantities(setting: Scale, scene: Scene, phi: Features) -> Values:
    """Both accuracies at one w."""
    first, second = (setting.scale * expert for expert in scene.experts(phi))
    e = scene.edits
    own = [(scene.first, e.r1x, e.y, first, second), (scene.second, e.r2y, e.z, second, first)]
    right = []
    for prompts, old, new, expert, other in own:
        change = expert @ phi[:, prompts]
        if setting.experts == 2:
            change = change + other @ phi[:, prompts]
        right.append(wins(scene.one_hot(old) + change, new).mean())
    asked = second @ phi[:, scene.two_hop]
    if setting.experts == 2:
        asked = asked + first @ phi[:, scene.two_hop]
    return {
        "one_hop_accuracy": float(np.mean(right)),
        "two_hop_accuracy": float(wins(scene.two_hop_outputs(asked), e.z).mean()),
    }
