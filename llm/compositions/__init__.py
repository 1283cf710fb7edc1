"""Rules that make one update of a library of experts: one rule a function, known by its name, with the names and
formulas of `theory.compositions`.

A rule gets the experts (dicts of LowRank, one a module) and returns what each module adds to its output: a LowRank, or
a routed update that looks at each token first. No rule but PEFT's merges that end in `_svd` forms ΔW. The dials of a
rule are its keyword-only arguments (`lora_reuse.runs.dials`): from them come the axes of the protocols, the options of
`llm.compose`, `llm.harness` and `llm.forecast`, and the card of a saved composition. To add a rule, write the function
in a module of this package, put `@rule(...)` over it and say what it promises; the checks that fit are then run on it
by name. A dial of one name is one dial: rules that share it share its annotation and its default. Rules with numbers to
learn are in `llm.learned`."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from lora_reuse.llm.adapters.each import Each
from lora_reuse.llm.adapters.folders import complete
from lora_reuse.llm.adapters.lowrank import Expert, Inputs, LowRank
from lora_reuse.llm.adapters.places import LayerWeights, in_layer, refuse_idle
from lora_reuse.llm.protocols.dials import GIVEN
from lora_reuse.runs.dials import Declared, Dial, check, dials, import_all, refuse_name
from lora_reuse.runs.settings import SettingError, Whole, did_you_mean

Library = Sequence[Expert]
Enrolled = TypeVar("Enrolled")
Weights = tuple[int | float, ...]
Weighting = Annotated[
    Weights | Mapping[str, Weights] | str | None,
    LayerWeights(),
    "one weight an expert, for all layers or by ranges of them (in Python also by module); none: the rule's own",
]
Seed = Annotated[int, Whole(0), "of what is drawn at random"]


@runtime_checkable
class Delta(Protocol):
    """What one module gets: it turns inputs into the change of the outputs, in the dtype of the inputs."""

    @property
    def shape(self) -> tuple[int, int]: ...
    def __call__(self, x: Inputs) -> Float[Tensor, "*batch outputs"]: ...
    def to(self, device: torch.device, dtype: torch.dtype) -> "Delta": ...


@runtime_checkable
class Factored(Delta, Protocol):
    """A delta whose last step is a product with `out`, delta(x) = inner(x) outᵀ, which can then be added to the base's
    output as it is made."""

    @property
    def out(self) -> Tensor: ...
    def inner(self, x: Inputs) -> Float[Tensor, "*batch ranks"]: ...


@runtime_checkable
class RoutedDelta(Delta, Protocol):
    """A delta with a weight an expert for each token: delta(x) = mix(x, weights(x))."""

    def weights(self, x: Inputs) -> Float32[Tensor, "*batch experts"]: ...
    def mix(self, x: Inputs, weights: Float32[Tensor, "*batch experts"]) -> Float[Tensor, "*batch outputs"]: ...


Composition = Mapping[str, Delta]  # an Expert is one


def weights_for(
    given: Weights | Mapping[str, Weights] | str | None, module: str, experts: int, default: float
) -> Weights:
    """One weight an expert. Raises SettingError when their numbers differ, or when weights by layer or module leave
    this one out."""
    if given is None:
        return (default,) * experts
    if isinstance(given, str):
        given = in_layer(given, module)
    if isinstance(given, Mapping):
        if module not in given:
            raise SettingError("weights", f"none for {module}", "weights for every module", did_you_mean(module, given))
        given = given[module]
    if len(given) != experts:
        raise SettingError("weights", len(given), f"one for each of the {experts} experts")
    return given


Rule = Callable[..., Composition]
"""From a library, with the rule's dials by keyword."""


@dataclass(frozen=True)
class Registered:
    """A rule, its dials by name, and what it promises where they have their defaults: `static`, its deltas are LowRank,
    so they can be saved as one adapter; `gauge_free`, it depends on each ΔW and not on its factors; `alone`, a library
    of one expert gives that expert; `symmetric`, the order of the experts does not matter."""

    rule: Rule
    dials: Mapping[str, Dial]
    static: bool
    gauge_free: bool
    alone: bool
    symmetric: bool


RULES: dict[str, Registered] = {}
KINDS: dict[str, type] = {"LowRank": LowRank}
"""The updates that a saved composition can hold, by the names that its file calls them by."""


def kind(cls: type[Enrolled]) -> type[Enrolled]:
    """Enrols a dataclass that is a Delta under its own name, so that compositions of it can be saved and loaded."""
    KINDS[cls.__name__] = cls
    return cls


def rule(*, static: bool, gauge_free: bool, alone: bool, symmetric: bool) -> Callable[[Rule], Rule]:
    """Enrols a function under its own name (a trailing underscore is dropped), in a module of this package or in a
    notebook. Raises SettingError for the name of another module's rule, and TypeError for a dial that does not say
    what it is."""

    def enrol(function: Rule) -> Rule:
        name, found = function.__name__.rstrip("_"), dials(function)
        promises = {"static": static, "gauge_free": gauge_free, "alone": alone, "symmetric": symmetric}
        refuse_name(name, RULES[name].rule if name in RULES else function, function)
        RULES[name] = Registered(function, found, **promises)
        if not function.__module__.startswith(__name__):  # those of the package are read from their files
            GIVEN[name] = Declared(found, promises, function.__doc__ or "")
        return function

    return enrol


def compose(name: str, library: Library, **dials: Any) -> Composition:
    """What rule `name` makes of the library with these dials. In a module that an expert does not change its ΔW is 0.
    Raises SettingError for an unknown rule, a dial that the rule does not have or that is out of range, weights of
    layers in which there is no module, an empty library or experts of different bases."""
    return dict(streamed(name, library, **dials))


def streamed(name: str, library: Library, **dials: Any) -> Composition:
    """`compose`, where the rule goes module by module (`each_module`) with updates that are made anew whenever they are
    asked for: one module at a time is in memory. What is wrong in a module is raised when it is asked for."""
    if name not in RULES:
        raise SettingError("composition", repr(name), " | ".join(RULES), did_you_mean(name, RULES))
    check(name, RULES[name].dials, dials)
    library = complete(library)
    if isinstance(weights := dials.get("weights"), str):
        refuse_idle(weights, library[0])
    return RULES[name].rule(library, **dials)


def each_module(library: Library, merge: Callable[[str, list[LowRank]], Delta]) -> Composition:
    """`merge(name, updates)` for each module, with the updates of all experts there, when it is asked for."""
    return Each(library[0], lambda name: merge(name, [expert[name] for expert in library]))


def generator(seed: int, *words: object) -> torch.Generator:
    """Random numbers of their own for each seed and words, so that no draw depends on the order of modules."""
    key = hashlib.sha256(repr((seed, *words)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(key[:8], "big", signed=True))


import_all(__name__, *__path__)
