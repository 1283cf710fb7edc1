"""Where adapters sit, as `layers=` says it: a place, or a place for each expert of a library.

A place is a part of every decoder layer (`mlp`, `attention`, `both`), or the part of some of the layers: `lower` and
`upper` are the two halves, and `0-14` the layers 0 to 14. Without a part it is the MLP (`attention:upper` is another).
`lower/upper` puts expert 1 into the lower half and expert 2 into the upper one. An adapter changes nothing outside of
its place: ΔW = 0 there, under every composition.

`weights=` says in the same words how much of each expert a rule takes: a weight an expert, or weights by layers. torch
is not needed to read it."""

import itertools
import re
from collections.abc import Iterable
from typing import NamedTuple

from lora_reuse.runs.settings import Numbers, SettingError, did_you_mean

PARTS = ("mlp", "attention", "both")
HALVES = ("lower", "upper")


class Layers:
    """What `layers=` may be, written in one way: `mlp:lower` is `lower`, `lower/lower` is `lower`. `others` are words
    of a protocol's own, such as `none`."""

    def __init__(self, *others: str):
        self.others = others
        self.words = (*others, *PARTS, *HALVES)

    @property
    def allowed(self) -> str:
        return f"{' | '.join(self.words)} | FIRST-LAST, attention:upper, or lower/upper for experts 1 and 2"

    def parse(self, text: str) -> str:
        if text in self.others:
            return text
        each = [str(place(word)) for word in text.split("/")]
        return each[0] if len(set(each)) == 1 else "/".join(each)


REST = "rest"
"""The modules of which no range of layers says anything, and those that are in no layer: head and embedding."""


class LayerWeights:
    """What `weights=` may be: numbers, one an expert, or such numbers for ranges of layers, of which the text is the
    value."""

    allowed = f"{Numbers.allowed}; by layers as 0-14=1:0/15-29=0:1, all others as /{REST}=1:1"

    def parse(self, text: str) -> tuple[float, ...] | str:
        if "=" not in text:
            return Numbers().parse(text)
        by_layers(text)
        return text


class Place(NamedTuple):
    """The `part` of decoder layers, and which of them: `layers` is "" for all, a half, or `FIRST-LAST`."""

    part: str
    layers: str = ""

    def __str__(self) -> str:
        return ":".join(filter(None, (self.part if self.part != "mlp" or not self.layers else "", self.layers)))

    def numbers(self, count: int) -> range:
        """The layers of a model that has `count`, counted from 0; of an odd number the middle one is in the upper half.
        Raises SettingError for layers that the model does not have."""
        if self.layers in ("", *HALVES):
            return range(count // 2 if self.layers == "upper" else 0, count // 2 if self.layers == "lower" else count)
        first, last = map(int, self.layers.split("-"))
        if last >= count:
            raise SettingError("layers", f"{self} for a model of {count} layers", f"layers from 0 to {count - 1}")
        return range(first, last + 1)


def place(text: str) -> Place:
    """The place of one expert. Raises ValueError for a text that names none."""
    part, colon, layers = text.partition(":") if ":" in text or text in PARTS else ("mlp", ":", text)
    if part not in PARTS or (colon and layers not in HALVES and not _ascending(layers)):
        raise ValueError
    first_last = "-".join(str(int(number)) for number in layers.split("-")) if "-" in layers else layers
    return Place(part, first_last)


def place_of_one(text: str) -> Place:
    """The place of one expert. Raises SettingError for a text that names none, or one for each of several."""
    try:
        return place(text)
    except ValueError:
        allowed = Layers().allowed.partition(", or ")[0]
        raise SettingError("layers", repr(text), allowed, did_you_mean(text, Layers().words)) from None


def of_expert(layers: str, role: int) -> str:
    """The place of the expert with this role, of a place or a place for each expert. Raises SettingError for a role
    that has none."""
    each = layers.split("/")
    if len(each) == 1:
        return layers
    if not 1 <= role <= len(each):
        got = f"{layers}, which says nothing of expert {role}"
        raise SettingError("layers", got, "one place for all, or one for each", "such as library=2-combination")
    return each[role - 1]


def second_below(layers: str) -> bool:
    """Whether expert 2 sits below expert 1, in other layers, whatever the depth of the model. Other experts may have
    places, too."""
    one, two, *_ = (place(word).layers for word in layers.split("/"))
    if one in HALVES or two in HALVES:
        return (one, two) == ("upper", "lower")
    return bool(one and two) and int(two.split("-")[1]) < int(one.split("-")[0])


def _ascending(layers: str) -> bool:
    found = re.fullmatch(r"([0-9]{1,4})-([0-9]{1,4})", layers)
    return bool(found) and int(found[1]) <= int(found[2])


def by_layers(text: str) -> tuple[list[tuple[range, tuple[float, ...]]], tuple[float, ...] | None]:
    """The ranges of layers that `0-14=1:0/15-29=0:1` names, each with its weights, and those of the rest, if it names
    it. Raises ValueError for another text, and for ranges that overlap."""
    found, rest = [], None
    for part in text.split("/"):
        layers, _, numbers = part.partition("=")
        if layers == REST and rest is None:
            rest = Numbers().parse(numbers)
            continue
        if not _ascending(layers):
            raise ValueError
        first, last = map(int, layers.split("-"))
        found.append((range(first, last + 1), Numbers().parse(numbers)))
    ends = sorted((layers.start, layers.stop) for layers, _ in found)
    if any(stop > start for (_, stop), (start, _) in itertools.pairwise(ends)):
        raise ValueError
    return found, rest


def in_layer(text: str, module: str) -> tuple[float, ...]:
    """The weights of a module, by the number of its layer in its name. Raises SettingError where the text says nothing
    of it."""
    number = _layer_of(module)
    ranges, rest = by_layers(text)
    weights = next((weights for layers, weights in ranges if number in layers), rest)
    if weights is None:
        where = f"layer {number}" if number is not None else "what is in no layer"
        got, mend = f"{text}, which says nothing of {module}", f"/{REST}= and weights for all that no range names"
        raise SettingError("weights", got, f"weights for {where}, too", mend)
    return weights


def refuse_idle(text: str, modules: Iterable[str]) -> None:
    """Raises SettingError for a range of layers in which there is none of the modules."""
    numbers = {number for module in modules if (number := _layer_of(module)) is not None}
    for layers, _ in by_layers(text)[0]:
        if numbers.isdisjoint(layers):
            got = f"{text}, and no adapter has a module in layers {layers.start}-{layers.stop - 1}"
            there = f"layers from {min(numbers)} to {max(numbers)}" if numbers else "one weight an expert"
            raise SettingError("weights", got, there)


def _layer_of(module: str) -> int | None:
    """The first number in a module's name; None for a module that is in no layer."""
    return next((int(word) for word in module.split(".") if word.isdecimal()), None)
