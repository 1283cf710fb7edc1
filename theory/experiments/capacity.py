"""How many facts a readout of m random features stores: none exactly below m = the number of prompts, all of them from
there on.

That is the law for features in general position. ReLU features are not quite: a feature that is zero on every prompt is
lost (`missing_rank` counts the loss, and moves the threshold up by as much), one that is active on a single prompt
stores that prompt.

- `stored_exactly`: the share of prompts whose output is the one-hot answer to 1e-6 in every entry.
- `stored_argmax`: the share whose largest output is the answer, which degrades gently.
- `unstored`: ‖WΦ − Y‖²_F/‖Y‖²_F, with the closed form of `readout.unstored_share`.
- `missing_rank`: min(m, prompts) − rank(Φ).
"""

from collections.abc import Callable, Sequence

import numpy as np

from lora_reuse.runs.settings import SettingError
from lora_reuse.theory.experiments import Result
from lora_reuse.theory.facts import draw_world
from lora_reuse.theory.gram import coordinates, feature_keys, geometry
from lora_reuse.theory.kernels import kernel
from lora_reuse.theory.readout import min_norm_readout, one_hot, unstored_share
from lora_reuse.theory.settings import INF, Capacity
from lora_reuse.theory.streaming import features


def run(setting: Capacity, seeds: Sequence[int], advance: Callable[[int], object] | None = None) -> list[Result]:
    """One Result a seed; each draws its world and its features."""
    results = []
    for seed in seeds:
        world = draw_world(
            seed, entities=setting.entities, relations=setting.relations, defined=setting.defined, edits=0
        )
        prompts, answers = world.known()
        if not prompts:
            got = f"{setting.defined:g} with {setting.entities} entities, which left seed {seed} without a fact"
            raise SettingError("defined", got, "worlds with a fact", "raise defined= or entities=")
        Y = one_hot(answers, world.entities)
        S = geometry(prompts, setting, [seed])[0]
        k = kernel(S, setting.activation)
        stream_key = feature_keys(setting, [seed])[0] if setting.width != INF else None
        keys = coordinates(k) if stream_key is None else features(S, int(setting.width), stream_key, setting.activation)
        outputs = min_norm_readout(keys, Y) @ keys
        measured = {
            "stored_exactly": float(np.mean(np.abs(outputs - Y).max(axis=0) < 1e-6)),
            "stored_argmax": float(np.mean(outputs.argmax(axis=0) == answers)),
            "unstored": float(np.sum((outputs - Y) ** 2) / np.sum(Y**2)),
            "missing_rank": float(min(keys.shape) - np.linalg.matrix_rank(keys, rtol=1e-9)),
        }
        unstored = unstored_share(k, Y, setting.width)
        least = min(len(k), setting.width)
        missing = least - min(least, np.linalg.matrix_rank(coordinates(k), rtol=1e-9))
        predicted = {"stored_exactly": float(unstored < 1e-9), "unstored": unstored, "missing_rank": float(missing)}
        results.append(Result(measured, predicted, {}))
        if advance is not None and setting.width != INF:
            advance(int(setting.width))
    return results
