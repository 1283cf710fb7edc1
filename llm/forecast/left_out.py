"""Compositions by the same rule with one adapter left out. An answer that stays the same without an adapter does not
need it, whatever the others make of it together."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from lora_reuse.llm.adapters.lowrank import Expert
from lora_reuse.llm.compositions import Composition, compose

T = TypeVar("T")
Weights = str | Sequence[float] | Mapping[str, Sequence[float]]


def left_out(library: Sequence[Expert], rule: str, dials: Mapping[str, Any]) -> list[Composition]:
    """The composition of three experts or more without each of them, in their order; weights of an expert go with it.

    Raises SettingError where the rule refuses so few, as one that takes some of them for general knowledge may."""
    return [compose(rule, rest(library, i), **_of_the_rest(dials, i, len(library))) for i in range(len(library))]


def rest(every: Sequence[T], i: int) -> list[T]:
    """All but the i-th."""
    return [*every[:i], *every[i + 1 :]]


def _of_the_rest(dials: Mapping[str, Any], i: int, experts: int) -> dict[str, Any]:
    """The dials without what is of expert i. No token goes to more experts than there are."""
    found = dict(dials)
    if "top_k" in found:
        found["top_k"] = min(found["top_k"], experts - 1)
    if found.get("weights") is not None:
        found["weights"] = _weights(found["weights"], i)
    return found


def _weights(given: Weights, i: int) -> Weights:
    """One for all modules; by ranges of layers, as 0-14=1:0:1/15-29=0:1:1; or by module."""
    if isinstance(given, str):
        ranges = [part.rpartition("=") for part in given.split("/")]
        return "/".join(f"{layers}{equals}{':'.join(rest(own.split(':'), i))}" for layers, equals, own in ranges)
    if isinstance(given, Mapping):
        return {name: tuple(rest(own, i)) for name, own in given.items()}
    return tuple(rest(given, i))
