"""Every dial of every experiment; read before jax is imported, so that `--help` is quick."""

from dataclasses import dataclass

from lora_reuse.runs.settings import Choice, Flag, Text, Whole, setting
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
)
from lora_reuse.theory.settings.features import Attention, Capacity, KernelLimit, Proposition1

__all__ = [
    "COMPOSITIONS",
    "EXPERIMENTS",
    "INF",
    "LARGEST_BASIS_WIDTH",
    "LARGEST_EXPLICIT_WIDTH",
    "Attention",
    "Bridge",
    "Capacity",
    "KernelLimit",
    "LargeLibrary",
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
    "at_infinite_dim",
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
}


@dataclass(frozen=True)
class Options:
    """The sweep (one value each):"""

    experiment: str = setting(
        "kernel_limit", Choice(*EXPERIMENTS), "what to run; --help with experiment=... lists its own settings"
    )
    seeds: int = setting(16, Whole(1, 100_000), "repetitions of every grid point, seeds 0 .. seeds-1")
    first_seed: int = setting(0, Whole(0, 2**31 - 1), "where the seeds start")
    out: str = setting("results", Text(), "folder for the rows; what is there already is not run again")
    shard: str = setting(
        "1/1", Text("i/N with 1 <= i <= N", r"[1-9]\d{0,5}/[1-9]\d{0,5}"), "run the i-th of N parts of the grid"
    )
    launcher: str = setting(
        "none", Choice("none", "local", "slurm"), "run here, in local processes, or as a Slurm array (submitit)"
    )
    jobs: int = setting(2, Whole(1, 10_000), "number of shards that launcher= starts")
    slurm: str = setting(
        "",
        Text("name:value+name:value", r"(\w+:[^+]+(\+\w+:[^+]+)*)?"),
        "submitit parameters, as slurm_partition:gpu+timeout_min:60",
    )
    dry_run: bool = setting(False, Flag(), "print the grid and its cost, and run nothing")
