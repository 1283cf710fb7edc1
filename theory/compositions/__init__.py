"""Rules that make one update of a library of experts: one rule a function, known by its name.

A rule gets the experts (LowRank updates of W) and a `Context`, and returns something that multiplies features: a
LowRank, a dense matrix, or a routed update that looks at the features first. The dials of a rule are its keyword-only
arguments (`lora_reuse.runs.dials`): from them come the axes of the experiments. To add a rule, write the function, put
`@rule(...)` over it in a module of this package and say what it leaves invariant; the checks that fit are then run on
it by name. A dial of one name is one dial: rules that share it share its annotation and its default."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float64

from lora_reuse.runs.dials import Dial, check, dials, import_all, refuse_name, refuse_names
from lora_reuse.runs.settings import SettingError, did_you_mean
from lora_reuse.theory.edits import LowRank
from lora_reuse.theory.settings.composed import SETTINGS

Library = Sequence[LowRank]
Features = Float64[np.ndarray, "features prompts"]
Outputs = Float64[np.ndarray, "outputs prompts"]


@runtime_checkable
class Update(Protocol):
    """What a rule returns: it turns features into the change of the outputs."""

    def __matmul__(self, features: Features) -> Outputs: ...


@dataclass(frozen=True)
class Examples:
    """Prompts to fit weights on: their features, and the change of output each should get."""

    features: Features
    changes: Outputs


@dataclass(frozen=True)
class Context:
    """What a rule may know besides the experts and its dials: the width, the row's seed, examples to fit on, keys that
    have nothing to do with the facts, and the composed prompts with the changes they should get."""

    width: int | float = np.inf
    seed: int = 0
    examples: Examples | None = None
    unrelated_keys: tuple[Features, ...] = ()
    composed: Examples | None = None


Rule = Callable[..., Update | np.ndarray]
"""From a library and a context, with the rule's dials by keyword."""
Ruled = TypeVar("Ruled", bound=Rule)


@dataclass(frozen=True)
class Registered:
    """A rule, its dials by name, and what it promises: `span`, its change lies in the span of the experts' answer
    differences; `gauge_free`, it depends on each ΔW and not on its factors; `basis_free`, it depends on features
    through inner products alone (so it has an exact infinite width); `alone`, a library of one expert gives that
    expert; `smooth`, its coefficients are smooth in the Gram matrix (so they have error bars). `draws`: it takes random
    numbers from the context's seed."""

    rule: Rule
    dials: Mapping[str, Dial]
    span: bool
    gauge_free: bool
    basis_free: bool
    alone: bool
    smooth: bool
    draws: bool = False


RULES: dict[str, Registered] = {}


def rule(
    *, span: bool, gauge_free: bool, basis_free: bool, alone: bool, smooth: bool, draws: bool = False
) -> Callable[[Ruled], Ruled]:
    """Enrols a function under its own name (a trailing underscore is dropped), in a module of this package or in a
    notebook. Raises SettingError for the name of another module's rule and for a dial with the name of a setting, and
    TypeError for a dial that does not say what it is."""

    def enrol(function: Ruled) -> Ruled:
        name = function.__name__.rstrip("_")
        found = dials(function)
        refuse_name(name, RULES[name].rule if name in RULES else function, function)
        refuse_names(name, found, SETTINGS)
        RULES[name] = Registered(function, found, span, gauge_free, basis_free, alone, smooth, draws)
        return function

    return enrol


def compose(name: str, library: Library, context: Context | None = None, **dials: Any) -> Update | np.ndarray:
    """The update that rule `name` makes of the library with these dials. Raises SettingError for an unknown rule, a
    dial that the rule does not have or that is out of range, or an empty library."""
    if name not in RULES:
        raise SettingError("composition", repr(name), " | ".join(RULES), did_you_mean(name, RULES))
    if not library:
        raise SettingError("library", "no expert", "at least one")
    check(name, RULES[name].dials, dials)
    return RULES[name].rule(library, context or Context(), **dials)


def dials_of(point: Any) -> dict[str, Any]:
    """The dials of the rule that a point of an experiment names, but those that the experiment does not set."""
    return {name: getattr(point, name) for name in RULES[point.composition].dials if hasattr(point, name)}


import_all(__name__, *__path__)
