"""Every dial of every experiment on one page; read before jax is imported, so that `--help` is quick."""

import math
from dataclasses import dataclass

from runs.settings import Choice, Flag, Number, SettingError, Text, Whole, setting

INF = math.inf
LARGEST_EXPLICIT_WIDTH = 2**16


@dataclass(frozen=True)
class Point:
    """One point of an experiment's grid: a frozen dataclass of settings that also knows what it costs."""

    def features(self) -> int:
        """How many random features one seed draws."""
        return 0

    def prompts_and_rank(self) -> tuple[int, int]:
        """How many prompts each feature is evaluated on, and the normals it takes: the rank of their hidden states, at most."""
        return 4, 4


@dataclass(frozen=True)
class Model(Point):
    """The transformer: every experiment has these settings (a comma list is a grid axis)."""

    width: int | float = setting(4096, Whole(1, 2**46, infinite=True), "hidden units m of the MLP; inf is the arc-cosine kernel")
    dim: int | float = setting(INF, Whole(1, 2**24, infinite=True), "embedding dimension d; inf makes tokens exactly orthogonal")
    init_scale: str = setting("std", Choice("std", "variance"), "what 1/sqrt(d) is in the paper's N(0, 1/sqrt(d))")
    attention: str = setting("uniform", Choice("uniform", "softmax"), "eq. 5, or eq. 4 with random K and Q")
    mask: str = setting("strict", Choice("strict", "causal"), "attention without (eq. 4) or with (eq. 21) the current token")
    activation: str = setting("relu", Choice("relu", "linear"), "the MLP's nonlinearity, or none (A.1.2)")

    def __post_init__(self) -> None:
        if self.attention == "softmax" and self.dim == INF:
            raise SettingError(
                "dim", "inf with attention=softmax", "a finite dim", "its limit is attention=uniform if init_scale=std, and none otherwise"
            )

    def features(self) -> int:
        return 0 if self.width == INF else int(self.width)


def _world_prompts(entities: int, relations: int) -> tuple[int, int]:
    """All one-hop and two-hop prompts of a world, and the rank of their hidden states: images of |X| + |R| tokens, |R| residuals."""
    prompts = entities * relations * (1 + relations)
    return prompts, min(prompts, entities + 2 * relations)


def _at_least(model: Model, rank: int) -> None:
    """Refuses a dim in which the experiment's prompts cannot be told apart linearly: its error bars need full rank."""
    if model.dim < rank:
        raise SettingError("dim", model.dim, f"at least {rank}, the rank of the prompts' hidden states, or inf")


@dataclass(frozen=True)
class KernelLimit(Model):
    """experiment=kernel_limit: two edits seen by the two-hop prompt, as width grows into the kernel (eq. 13-15, 19)."""

    width: int | float = setting(
        4096, Whole(1, 2**46, infinite=True), "hidden units m of the MLP; inf is the arc-cosine kernel", grid=(2**8, 2**10, 2**12, 2**14, 2**16)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, 4)


@dataclass(frozen=True)
class Proposition1(Model):
    """experiment=proposition_1: one edited fact in a model that knows a small world (eq. 1, 6), and the same edit by gradients."""

    width: int | float = setting(
        4096, Whole(1, 2**46, infinite=True), "hidden units m of the MLP; inf is the arc-cosine kernel", grid=(2**8, 2**10, 2**12, 2**14)
    )
    entities: int = setting(8, Whole(6, 64), "|X|")
    relations: int = setting(2, Whole(2, 8), "|R|")
    rank: int = setting(1, Whole(1, 64), "rank of the adapter trained by gradients")
    train: bool = setting(True, Flag(), f"also train the edit by gradients (width at most 2**{LARGEST_EXPLICIT_WIDTH.bit_length() - 1})")

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, 4)
        if self.activation == "linear":
            raise SettingError("activation", "linear", "relu", "a linear model cannot hold the world to be edited; see experiment=capacity")
        if self.width < (least := 2 * self.prompts_and_rank()[0]):
            raise SettingError("width", self.width, f"at least {least}, twice the facts the base model stores before one is edited, or inf")
        if self.train and self.width > LARGEST_EXPLICIT_WIDTH:
            raise SettingError("train", f"true at width={self.width}", f"width up to {LARGEST_EXPLICIT_WIDTH}", "add train=false")

    def prompts_and_rank(self) -> tuple[int, int]:
        return _world_prompts(self.entities, self.relations)


@dataclass(frozen=True)
class Capacity(Model):
    """experiment=capacity: which facts the minimum-norm readout stores at a width; the threshold is the number of prompts."""

    width: int | float = setting(
        4096,
        Whole(1, 2**14, infinite=True),
        "hidden units m of the MLP; inf is the arc-cosine kernel",
        grid=(24, 48, 72, 88, 94, 96, 98, 104, 128, 192, 384),
    )
    entities: int = setting(16, Whole(2, 128), "|X|")
    relations: int = setting(2, Whole(2, 8), "|R|")
    defined: float = setting(1.0, Number(0.0, 1.0), "probability that a relation is defined on an entity")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (prompts := self.prompts_and_rank()[0]) > 4096:
            raise SettingError("entities", f"{self.entities} with {self.relations} relations, {prompts} prompts", "up to 4096 prompts")

    def prompts_and_rank(self) -> tuple[int, int]:
        return _world_prompts(self.entities, self.relations)


@dataclass(frozen=True)
class Attention(Point):
    """experiment=attention: how uniform the softmax of eq. 4 is under the two readings of N(0, 1/sqrt(d))."""

    dim: int = setting(1024, Whole(2, 2**24), "embedding dimension d", grid=(2**6, 2**8, 2**10, 2**12))
    init_scale: str = setting("std", Choice("std", "variance"), "what 1/sqrt(d) is in the paper's N(0, 1/sqrt(d))", grid=("std", "variance"))


EXPERIMENTS: dict[str, type[Point]] = {
    "kernel_limit": KernelLimit,
    "proposition_1": Proposition1,
    "capacity": Capacity,
    "attention": Attention,
}


@dataclass(frozen=True)
class Options:
    """The sweep (one value each):"""

    experiment: str = setting("kernel_limit", Choice(*EXPERIMENTS), "what to run; --help with experiment=... lists its own settings")
    seeds: int = setting(16, Whole(1, 100_000), "repetitions of every grid point, seeds 0 .. seeds-1")
    first_seed: int = setting(0, Whole(0, 2**31 - 1), "where the seeds start")
    out: str = setting("results", Text(), "folder for the rows; what is there already is not run again")
    shard: str = setting("1/1", Text("i/N with 1 <= i <= N", r"[1-9]\d{0,5}/[1-9]\d{0,5}"), "run the i-th of N parts of the grid")
    launcher: str = setting("none", Choice("none", "local", "slurm"), "run here, in local processes, or as a Slurm array (submitit)")
    jobs: int = setting(2, Whole(1, 10_000), "number of shards that launcher= starts")
    slurm: str = setting(
        "", Text("name:value+name:value", r"(\w+:[^+]+(\+\w+:[^+]+)*)?"), "submitit parameters, as slurm_partition:gpu+timeout_min:60"
    )
    dry_run: bool = setting(False, Flag(), "print the grid and its cost, and run nothing")
