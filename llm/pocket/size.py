"""What a pocket model is: the switches of its corpus, its size, and how long it is trained."""

import math
from dataclasses import dataclass
from typing import Any

from lora_reuse.runs.grid import settings_of
from lora_reuse.runs.settings import Choice, Flag, Number, SettingError, Whole, setting

ROW, ROWS = 192, 16
"""Tokens a row, rows a step."""


@dataclass(frozen=True)
class Corpus:
    """What the corpus holds; each switch changes what adapters on the model can do, so rows record them all."""

    skill: str = setting(
        "other",
        Choice("none", "other", "same"),
        "step-by-step answers: none, on other relation pairs, or on the tested pair too",
    )
    words: bool = setting(True, Flag(), "whether the words of the bridge's prompt occur, in styles of the corpus's own")
    restating: bool = setting(
        True, Flag(), "whether step-by-step answers restate each sub-question before they answer it"
    )
    recall: float = setting(
        1.5,
        Number(0, 100),
        "weight of documents of several unrelated questions in a row, so that facts are recalled anywhere in a text",
    )
    packing: str = setting(
        "longest",
        Choice("longest", "drawn"),
        "what fills a step: the longest of twice as many documents, so that few questions stand alone; or all drawn",
    )
    conflict: bool = setting(False, Flag(), "whether the corpus holds spouses and homes that contradict R")
    coverage: float = setting(1.0, Number(0.0, 1.0), "share of R's people about whom the corpus says anything")
    exposure: float = setting(
        0.0,
        Number(0.0, 1.0),
        "share of those with a spouse and a home who are chained: asked two-hop questions about the tested pair",
        omitted=True,
    )
    direct: float = setting(
        0.0,
        Number(0, 100),
        "weight of documents of several two-hop questions in a row, answered directly",
        omitted=True,
    )

    def __post_init__(self) -> None:
        """Raises SettingError for an exposure beside skill=same, which chains everybody."""
        if self.skill == "same" and self.exposure:
            raise SettingError("exposure", f"{self.exposure:g} with skill=same", "exposure=1, which is the same, alone")


@dataclass(frozen=True)
class Size(Corpus):
    """A pocket model: its corpus, its shape, its training."""

    width: int = setting(256, Whole(32, 4096), "hidden size")
    layers: int = setting(4, Whole(1, 64), "decoder layers")
    heads: int = setting(4, Whole(1, 64), "attention heads; they divide width")
    feed_forward: int = setting(768, Whole(32, 16384), "MLP size")
    tokens: int = setting(4_000_000, Whole(10_000, 10**10), "tokens of pretraining")
    seed: int = setting(0, Whole(0), "of the world, the documents and the initial weights")

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return math.ceil(self.tokens / (ROW * ROWS))

    @property
    def recorded(self) -> dict[str, Any]:
        """The settings as a model's files and rows name them: without those that are younger than the first models
        where they have their defaults."""
        return settings_of((self, self.seed))
