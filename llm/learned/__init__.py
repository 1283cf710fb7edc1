"""Compositions with numbers that are learned from examples: one rule a function, known by its name, with the names of
`theory.compositions`.

A rule is a function `build(library, parameters)` that makes a composition of the experts and of tensors by name, in
which it can be differentiated, and a `start` for those tensors; its dials are its keyword-only arguments, which `start`
has as well. `learn` finds them on a frozen base. To add one, write both, put `@learned(...)` over `build` in a module
of this package and say what it promises; the checks that fit are then run on it by name."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lora_reuse.llm.adapters.folders import complete
from lora_reuse.llm.adapters.packing import packing
from lora_reuse.llm.compositions import Composition, Library
from lora_reuse.llm.decoding.models import Base
from lora_reuse.llm.decoding.resident import Resident
from lora_reuse.llm.decoding.widened import widened
from lora_reuse.llm.learned.fitting import Learning, Loss, Parameters, answer_loss, descend, search
from lora_reuse.runs.dials import Dial, check, dials, import_all
from lora_reuse.runs.settings import SettingError, did_you_mean

Build = Callable[..., Composition]
"""From a library and parameters, with the rule's dials by keyword."""


@dataclass(frozen=True)
class Learnable:
    """A rule, where its learning starts, and what it promises: `static`, its deltas are LowRank, so that they can be
    saved as one adapter, and else a router runs with the model; `rate`, Adam's, or 0 for a search without gradients;
    `gauge_free`, with given parameters it depends on each ΔW and not on its factors; `alone`, one expert gives that
    expert, whatever is learned; `symmetric`, the order of the experts does not matter."""

    build: Build
    start: Callable[..., Parameters]
    dials: Mapping[str, Dial]
    static: bool
    rate: int | float
    gauge_free: bool
    alone: bool
    symmetric: bool


LEARNED: dict[str, Learnable] = {}


def learned(
    start: Callable[..., Parameters],
    *,
    static: bool,
    rate: int | float,
    gauge_free: bool,
    alone: bool,
    symmetric: bool,
) -> Callable[[Build], Build]:
    """Enrols a function under its own name."""

    def enrol(function: Build) -> Build:
        @functools.wraps(function)
        def build(*given: Any, **dials: Any) -> Composition:
            return dict(function(*given, **dials))

        LEARNED[function.__name__] = Learnable(
            build, start, dials(function), static, rate, gauge_free, alone, symmetric
        )
        return function

    return enrol


@dataclass(frozen=True)
class Learned:
    """A composition, and what it took: the numbers learned, on how many examples of what, in how many seconds.

    `LEARNED[name].build(library, parameters, **dials)` makes the composition again.
    """

    composition: Composition
    parameters: Parameters
    examples_used: int
    data_source: str
    seconds: float

    @property
    def extra_parameters(self) -> int:
        return sum(value.numel() for value in self.parameters.values())


def learn(
    name: str,
    library: Library,
    base: Base,
    examples: Sequence[tuple[list[int], list[int]]],
    data_source: str,
    learning: Learning | None = None,
    **dials: Any,
) -> Learned:
    """What rule `name` learns on the base from examples, pairs of tokens (`llm.decoding.models.example`): the prompt,
    and the answer to give.

    `data_source` says where they are from. Same arguments, same bits on the same machine. Raises SettingError for an
    unknown rule, a dial that the rule does not have, no example, an empty library or experts of different bases, and
    for a loss that is not finite."""
    began = time.perf_counter()
    library = [dict(expert) for expert in complete(library)]
    with Resident(base.model) as resident, packing(base.model, base.model), widened(base.model):
        here = [
            {module: update.to(base.device, torch.float32) for module, update in expert.items()} for expert in library
        ]
        parameters = fit(name, here, functools.partial(answer_loss, base, resident), examples, learning, **dials)
    parameters = {module: value.cpu() for module, value in parameters.items()}
    composition = LEARNED[name].build(library, parameters, **dials)
    return Learned(composition, parameters, len(examples), data_source, time.perf_counter() - began)


def fit(
    name: str, library: Library, loss: Loss, examples: Sequence[Any], learning: Learning | None = None, **dials: Any
) -> Parameters:
    """The parameters of rule `name` for any loss of a composition on examples. Raises SettingError as `learn` does."""
    learning = learning or Learning()
    if name not in LEARNED:
        raise SettingError("composition", repr(name), " | ".join(LEARNED), did_you_mean(name, LEARNED))
    check(name, LEARNED[name].dials, dials)
    library = [dict(expert) for expert in complete(library)]
    if not examples:
        raise SettingError("examples", "none", "a few to learn from")
    rule = LEARNED[name]
    build = functools.partial(rule.build, library, **dials)
    device = next(iter(library[0].values())).out.device
    start = {key: value.to(device) for key, value in rule.start(library, **dials).items()}
    if rule.rate == 0:
        return search(build, start, loss, examples, learning)
    return descend(build, start, loss, examples, learning.rate or rule.rate, learning)


import_all(__name__, *__path__)
