"""The libraries of the bench: cells of protocols that are there, each with its floor and its ceiling. torch is not
needed to read it."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lora_reuse.llm.decoding.names import place_of
from lora_reuse.llm.pocket import switches
from lora_reuse.llm.protocols.by_name import protocol_of
from lora_reuse.llm.protocols.protocol import Protocol
from lora_reuse.llm.protocols.settings import with_preset

Settings = Mapping[str, Any]


class Asked(NamedTuple):
    """A cell of a protocol: its name, and the settings that are not the model's own."""

    protocol: str
    settings: Settings


class Own(NamedTuple):
    """The experts' own questions under the same rule: the settings in which their row differs from that of the library,
    and the mark of the right answers there."""

    settings: Settings
    mark: str = "hits"


@dataclass(frozen=True, eq=False)
class Library:
    """Experts that a rule composes, and what is asked of them.

    `floor` are the settings in which the control differs: what is right there, is so without composing. `ceiling` is
    one adapter on the data of all experts, or where such a one answers nothing either, an expert on the answers; of a
    known fact it is the fact's expert alone. `known` says of a base whether the precondition is known of it."""

    name: str
    about: str
    asked: Asked
    ceiling: Asked
    floor: Settings = field(default_factory=lambda: {"composition": "random"})
    own: tuple[Own, ...] = ()
    known: Callable[[str], bool] = lambda model: True


TEST = {"split": "test"}
DIRECT = TEST | {"prompting": "direct"}
HOPS = (Own({"prompting": "first"}), Own({"prompting": "second"}))
"""The one-hop questions of both experts."""
KEPT = (Own({}, "first_kept"), Own({}, "second_kept"))
"""The same, where a row has them beside its two-hop questions."""
ORACLE = Asked("two_hop", DIRECT | {"dataset": "R", "library": "oracle", "composition": "alone"})


def _steps(protocol: str, setup: str, **others: Any) -> Asked:
    return Asked(protocol, TEST | {"setup": setup, "prompting": "steps"} | others)


def _mixed(setup: str) -> Asked:
    """One expert on the data of both experts of a setup. Setup 4 has those of setup 2."""
    return _steps("methods", setup, adapter="lora", library="data_mix", composition="alone")


def _chained(model: str) -> bool:
    """Whether a base says that its pretraining had steps of the relations that `llm.exposed` takes for chained."""
    return switches(place_of(model)).get("skill", "none") != "none"


LIBRARIES = (
    Library(
        "facts",
        "two facts of a chain in two experts, asked at once: no rule is expected to",
        Asked(
            "latent",
            TEST
            | {"dataset": "R", "triplets": 20, "library": "2-combination", "second": "right", "prompting": "direct"},
        ),
        ORACLE,
        {"second": "dealt"},
        KEPT,
    ),
    Library(
        "no bridge",
        "two facts of a chain in two experts, asked step by step: nobody has learned steps",
        _steps("bridge", "0"),
        _mixed("0"),
    ),
    Library(
        "bridge in one",
        "the first expert has learned steps on other facts",
        _steps("bridge", "4"),
        _mixed("2"),
        own=HOPS,
    ),
    Library(
        "bridge in both",
        "both experts have learned steps on other facts",
        _steps("methods", "2", adapter="lora", library="pair"),
        _mixed("2"),
        own=HOPS,
    ),
    Library(
        "exposed",
        "the base was pretrained on steps of such chains, in the words that ask; no expert has learned any",
        Asked("exposed", TEST | {"relations": "chained", "library": "2-combination", "prompting": "steps"}),
        Asked(
            "exposed",
            TEST | {"relations": "chained", "library": "mixed", "composition": "alone", "prompting": "steps"},
        ),
        own=HOPS,
        known=_chained,
    ),
    Library(
        "skills",
        "one expert knows the fact, the other the form of the answer",
        Asked("skills", TEST | {"library": "both", "asked": "both", "formats": "known"}),
        Asked("skills", TEST | {"library": "mixed", "composition": "alone", "asked": "both", "formats": "known"}),
        own=(Own({"asked": "first"}), Own({"asked": "second"})),
    ),
    Library(
        "known fact",
        "the first hop is in an expert, the second in the base; another expert is on something else",
        Asked("semi_synthetic", DIRECT | {"names": "fake", "library": "2-combination"}),
        Asked(
            "semi_synthetic",
            DIRECT | {"names": "fake", "library": "1", "composition": "alone"},
        ),
        own=KEPT,
    ),
    Library(
        "three experts",
        "two have a hop each, the third the answers",
        Asked("two_hop", DIRECT | {"dataset": "R", "library": "3-combination"}),
        ORACLE,
        own=HOPS,
    ),
)


def libraries(model: str) -> tuple[Library, ...]:
    """The libraries whose precondition is known of a base."""
    return tuple(library for library in LIBRARIES if library.known(model))


class Cell(NamedTuple):
    """A point of a protocol, to be asked with every seed."""

    protocol: Protocol
    point: Any


def cell(asked: Asked, model: str, others: Settings) -> Cell | None:
    """The cell of a model, with other settings where they are named; None where the protocol does not ask it, as a rule
    that takes other kinds of experts."""
    protocol = protocol_of(f"llm_{asked.protocol}")
    given = {"model": model, **asked.settings, **others}
    axes = with_preset(protocol.axes, {name: (value,) for name, value in given.items()})
    point = protocol.sensible(protocol.axes(**{name: values[0] for name, values in axes.items()}))
    return None if point is None else Cell(protocol, point)


class Cells(NamedTuple):
    """What is measured of a rule in a library."""

    asked: Cell
    floor: Cell
    ceiling: Cell
    own: tuple[Cell, ...]

    @property
    def every(self) -> tuple[Cell, ...]:
        return (self.asked, self.floor, self.ceiling, *self.own)


@functools.cache
def cells(library: Library, rule: str, model: str) -> Cells | None:
    """The cells of a rule; None where a protocol does not ask the rule."""
    others = [library.floor, *(own.settings for own in library.own)]
    asked, floor, *own = (cell(library.asked, model, {"composition": rule, **settings}) for settings in ({}, *others))
    ceiling = cell(library.ceiling, model, {})
    if asked is None or floor is None or ceiling is None or asked.point.composition != rule:
        return None
    return Cells(asked, floor, ceiling, tuple(one for one in own if one is not None))
