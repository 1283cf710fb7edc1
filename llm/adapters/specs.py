"""What makes an expert: what it learns, its training and its seed. torch is not needed to say it."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lora_reuse.llm.adapters.places import of_expert
from lora_reuse.llm.data.graphs import facts_of
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.protocols.settings import Training
from lora_reuse.runs.grid import settings_of

if TYPE_CHECKING:
    from lora_reuse.llm.decoding.models import Base

FORMAT = 1
"""Goes into every expert's hash; a change of what the same settings make raises it."""
Pairs = Sequence[tuple[str, str]]
"""Prompts and the answers that are learned."""


@dataclass(frozen=True)
class Spec:
    """All that makes an expert, apart from the base: its own subset, its bridge's, how many triplets of each, the
    training, the seed.

    `role` (1 or 2 for two experts of a library) draws their initial A and batches apart.
    """

    own: tuple[str, ...]
    bridge: tuple[str, ...]
    triplets: int
    bridge_triplets: int
    training: Training
    seed: int
    role: int

    def key(self, base: "Base") -> str:
        """16 hex digits of what made the expert."""
        made = _base(base) | dataclasses.asdict(self)
        made["training"] = _trained(self.training)
        if not self.bridge:
            made |= {"bridge_triplets": 0}
        return _digest(made)

    def pairs(self) -> tuple[Pairs, Pairs]:
        """The training examples: the expert's own, and the bridge's."""
        own, bridge = (
            [(e.question, e.answer) for subset in subsets for e in examples(subset, facts_of(subset, count, self.seed))]
            for subsets, count in ((self.own, self.triplets), (self.bridge, self.bridge_triplets))
        )
        return own, bridge


@runtime_checkable
class Source(Protocol):
    """What an expert learns: a frozen dataclass that can find its questions and answers in any process."""

    @property
    def name(self) -> str: ...
    def pairs(self) -> Pairs: ...


@dataclass(frozen=True)
class Lessons(Spec):
    """An expert on the questions and answers of a source, with those of another as a bridge if there is one."""

    source: Source
    beside: Source | None = None

    def key(self, base: "Base") -> str:
        """16 hex digits of what made the expert: the questions and answers themselves, wherever they came from."""
        made = {
            "lessons": self.source.pairs(),
            "training": _trained(self.training),
            "seed": self.seed,
            "role": self.role,
        }
        return _digest(_base(base) | made | ({"bridge": self.beside.pairs()} if self.beside else {}))

    def pairs(self) -> tuple[Pairs, Pairs]:
        """The training examples: its own, and the bridge's."""
        return self.source.pairs(), self.beside.pairs() if self.beside else []


@dataclass(frozen=True)
class Bridged(Spec):
    """An expert on its own subsets with the bridge of a source."""

    source: Source

    def key(self, base: "Base") -> str:
        """16 hex digits of what made the expert: its bridge's questions and answers themselves."""
        made = {name: getattr(self, name) for name in ("own", "triplets", "seed", "role")}
        return _digest(_base(base) | made | {"bridge": self.source.pairs(), "training": _trained(self.training)})

    def pairs(self) -> tuple[Pairs, Pairs]:
        """The training examples: the expert's own, and the source's."""
        return super().pairs()[0], self.source.pairs()


def _base(base: "Base") -> dict[str, Any]:
    return {"format": FORMAT, "base": base.digest, "chat": base.chat, "dtype": str(base.model.dtype)}


def _trained(training: Training) -> dict[str, Any]:
    """What of the training makes an expert: a dial of its kind of adapter counts where it has not its default."""
    own = training_of(training)
    said = settings_of((own, 0))
    return {name: value for name, value in dataclasses.asdict(own).items() if name in said}


def _digest(made: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]


Mixture = tuple[tuple[str, ...], tuple[str, ...], int]
"""An expert by its own subsets, its bridge's subsets, and its role."""


def trained(point: Any, seed: int, mixtures: Sequence[Mixture]) -> list[Spec]:
    """The experts that learn subsets (`llm.data.subsets`) with the training of a point."""
    return [
        Spec(own, bridge, point.triplets, point.bridge_triplets if bridge else 0, _training(point, role), seed, role)
        for own, bridge, role in mixtures
    ]


def lessons(source: Source, point: Any, seed: int, role: int, beside: Source | None = None) -> Lessons:
    """The expert that learns a source, and a bridge beside it, with the training of a point."""
    bridge = (beside.name,) if beside else ()
    return Lessons((source.name,), bridge, 0, 0, _training(point, role), seed, role, source, beside)


def training_of(point: Any) -> Training:
    """How the experts of a point are trained."""
    return Training(**{f.name: getattr(point, f.name) for f in dataclasses.fields(Training)})


def _training(point: Any, role: int) -> Training:
    """How one expert of a point is trained: in its own place, where layers= has one for each."""
    return dataclasses.replace(training_of(point), layers=of_expert(point.layers, role))
