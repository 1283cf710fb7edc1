"""Experts on questions and answers of any source: what they learn is named by its content."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from lora_reuse.llm.adapters.training import FORMAT, Spec, Tokens
from lora_reuse.llm.decoding.models import Base, example
from lora_reuse.llm.protocols.settings import Training


@runtime_checkable
class Source(Protocol):
    """What an expert learns: a frozen dataclass that can find its questions and answers in any process."""

    @property
    def name(self) -> str: ...
    def pairs(self) -> Sequence[tuple[str, str]]: ...


@dataclass(frozen=True)
class Lessons(Spec):
    """An expert on the questions and answers of a source."""

    source: Source

    def key(self, base: Base) -> str:
        """16 hex digits of what made the expert: the questions and answers themselves, wherever they came from."""
        made = {
            "format": FORMAT,
            "base": base.digest,
            "chat": base.chat,
            "dtype": str(base.model.dtype),
            "lessons": self.source.pairs(),
        }
        made |= {
            "training": {f.name: getattr(self.training, f.name) for f in dataclasses.fields(Training)},
            "seed": self.seed,
            "role": self.role,
        }
        return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]

    def tokens(self, base: Base) -> tuple[list[Tokens], list[Tokens]]:
        """The training examples, all of them its own."""
        return [example(base, question, answer) for question, answer in self.source.pairs()], []


def lessons(source: Source, point: Any, seed: int, role: int) -> Lessons:
    """The expert that learns a source with the training of a point."""
    training = Training(**{f.name: getattr(point, f.name) for f in dataclasses.fields(Training)})
    return Lessons((source.name,), (), 0, 0, training, seed, role, source)
