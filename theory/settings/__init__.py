"""Every dial of every experiment; read before jax is imported, so that `--help` is quick."""

from dataclasses import dataclass

from lora_reuse.runs.grid import Run
from lora_reuse.runs.settings import Choice, Whole, setting
from lora_reuse.theory.settings.base import (
    INF,
    LARGEST_BASIS_WIDTH,
    LARGEST_EXPLICIT_WIDTH,
    Model,
    Point,
    at_infinite_dim,
)
from lora_reuse.theory.settings.composed import (
    COMPOSITIONS,
    Bridge,
    LargeLibrary,
    ManyFacts,
    Scale,
    Specificity,
    Storage,
    Theorem2,
    Theorem3,
    of_rule,
    settled,
)
from lora_reuse.theory.settings.features import Attention, Capacity, Depth, KernelLimit, Proposition1
from lora_reuse.theory.settings.layers import Layers
from lora_reuse.theory.settings.trained import Trained

__all__ = [
    "COMPOSITIONS",
    "EXPERIMENTS",
    "INF",
    "LARGEST_BASIS_WIDTH",
    "LARGEST_EXPLICIT_WIDTH",
    "Attention",
    "Bridge",
    "Capacity",
    "Depth",
    "KernelLimit",
    "LargeLibrary",
    "Layers",
    "ManyFacts",
    "Model",
    "Options",
    "Point",
    "Proposition1",
    "Scale",
    "Specificity",
    "Storage",
    "Theorem2",
    "Theorem3",
    "Trained",
    "at_infinite_dim",
    "of_rule",
    "settled",
]

EXPERIMENTS: dict[str, type[Point]] = {
    "kernel_limit": KernelLimit,
    "proposition_1": Proposition1,
    "capacity": Capacity,
    "attention": Attention,
    "theorem_2": Theorem2,
    "theorem_3": Theorem3,
    "many_facts": ManyFacts,
    "large_library": LargeLibrary,
    "specificity": Specificity,
    "storage": Storage,
    "scale": Scale,
    "bridge": Bridge,
    "depth": Depth,
    "layers": Layers,
    "trained": Trained,
}


@dataclass(frozen=True)
class Options(Run):
    """The sweep (one value each):"""

    experiment: str = setting(
        "kernel_limit", Choice(*EXPERIMENTS), "what to run; --help with experiment=... lists its own settings"
    )
    seeds: int = setting(
        16, Whole(1, 100_000), "repetitions of every grid point, seeds first_seed, first_seed + 1, ..."
    )
