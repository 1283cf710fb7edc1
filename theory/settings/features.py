"""Settings of the experiments on features, edits and storage."""

from dataclasses import dataclass

from lora_reuse.runs.settings import Choice, Flag, Number, SettingError, Whole, setting
from lora_reuse.theory.settings.base import (
    ACTIVATIONS,
    DECAY,
    INF,
    LARGEST_EXPLICIT_WIDTH,
    Model,
    Point,
    at_least,
    one_block,
    world_prompts,
)
from lora_reuse.theory.settings.composed import wide_enough

HOPS = "k, relations in the prompt x r1 ... rk and edits that it needs; the paper has two"


@dataclass(frozen=True)
class KernelLimit(Model):
    """experiment=kernel_limit: two edits seen by the two-hop prompt, as width grows into the kernel (eq. 13-15, 19)."""

    width: int | float = setting(
        4096,
        Whole(1, 2**46, infinite=True),
        "hidden units m of the MLP; inf is the arc-cosine kernel",
        grid=(2**8, 2**10, 2**12, 2**14, 2**16),
    )
    hops: int = setting(2, Whole(2, 4), HOPS, omitted=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_block(self)
        at_least(self, self.hops + 2)
        wide_enough(self, 16)  # a ReLU key vanishes, and the row with it, with probability 2^-width

    def prompts_and_rank(self) -> tuple[int, int]:
        return self.hops + 2, self.hops + 2


@dataclass(frozen=True)
class Proposition1(Model):
    """experiment=proposition_1: one edited fact in a model that knows a small world (eq. 1, 6), and the same edit by
    gradients."""

    width: int | float = setting(
        4096,
        Whole(1, 2**46, infinite=True),
        "hidden units m of the MLP; inf is the arc-cosine kernel",
        grid=(2**8, 2**10, 2**12, 2**14),
    )
    entities: int = setting(8, Whole(6, 64), "|X|")
    relations: int = setting(2, Whole(2, 8), "|R|")
    rank: int = setting(1, Whole(1, 64), "rank of the adapter trained by gradients")
    train: bool = setting(
        True, Flag(), f"also train the edit by gradients (width at most 2**{LARGEST_EXPLICIT_WIDTH.bit_length() - 1})"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        one_block(self)
        at_least(self, 4)
        if self.activation != "relu":
            why = "linear and quadratic features cannot hold the world, and the closed form of training is that of relu"
            raise SettingError("activation", self.activation, "relu", why)
        if self.attention == "softmax" and self.init_scale == "variance":
            mend = "attention then picks one token, and many prompts of the world become the same"
            raise SettingError("init_scale", "variance with attention=softmax", "std", mend)
        if self.width < (least := 2 * self.prompts_and_rank()[0]):
            raise SettingError(
                "width",
                self.width,
                f"at least {least}, twice the facts the base model stores before one is edited, or inf",
            )
        if self.train and self.width > LARGEST_EXPLICIT_WIDTH:
            raise SettingError(
                "train", f"true at width={self.width}", f"width up to {LARGEST_EXPLICIT_WIDTH}", "add train=false"
            )

    def prompts_and_rank(self) -> tuple[int, int]:
        return world_prompts(self.entities, self.relations)


@dataclass(frozen=True)
class Capacity(Model):
    """experiment=capacity: which facts the minimum-norm readout stores at a width; the threshold is the number of
    prompts."""

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
        one_block(self)
        if (prompts := self.prompts_and_rank()[0]) > 4096:
            raise SettingError(
                "entities", f"{self.entities} with {self.relations} relations, {prompts} prompts", "up to 4096 prompts"
            )

    def prompts_and_rank(self) -> tuple[int, int]:
        return world_prompts(self.entities, self.relations)


@dataclass(frozen=True)
class Attention(Point):
    """experiment=attention: how uniform the softmax of eq. 4 is under the two readings of N(0, 1/sqrt(d))."""

    dim: int = setting(1024, Whole(2, 2**24), "embedding dimension d", grid=(2**6, 2**8, 2**10, 2**12))
    init_scale: str = setting(
        "std", Choice("std", "variance"), "what 1/sqrt(d) is in the paper's N(0, 1/sqrt(d))", grid=("std", "variance")
    )


@dataclass(frozen=True)
class Depth(Point):
    """experiment=depth: two edits seen by the two-hop prompt in networks of L blocks, drawn in full, as n = d = m
    grows."""

    width: int | float = setting(
        512,
        Whole(8, 2**13, infinite=True),
        "n, the embedding dimension and the hidden units",
        grid=(256, 512, 1024, INF),
    )
    depth: int = setting(1, Whole(1, 64), "L, blocks of attention and MLP", grid=(1, 2, 3, 4, 8))
    adapted: str = setting(
        "readout", Choice("readout", "all"), "LoRA on the W of the top block, or of all", grid=("readout", "all")
    )
    norm: str = setting("none", Choice("none", "rms"), "RMSNorm of what attention and MLP read", grid=("none", "rms"))
    mask: str = setting("strict", Choice("strict", "causal"), "attention without or with the current token")
    decay: float = setting(1.0, Number(0.01, 100.0), DECAY, omitted=True)
    activation: str = setting("relu", Choice(*ACTIVATIONS), "the MLP's nonlinearity; linear is none")
    lower_rate: float = setting(1.0, Number(0.0, 1e6), "learning rate of the W below the top over that of the top")
    hops: int = setting(2, Whole(2, 4), HOPS, omitted=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.limit  # refuses what a Model refuses
        if self.width != INF and self.depth * self.width**2 > (most := 2**28):
            got = f"{self.width} with depth={self.depth}"
            raise SettingError("width", got, f"depth * width**2 up to {most}, because the matrices are drawn in full")

    @property
    def limit(self) -> Model:
        """The same model at d = m = ∞."""
        named = ("depth", "adapted", "norm", "mask", "decay", "activation", "lower_rate")
        return Model(width=INF, **{name: getattr(self, name) for name in named})

    def features(self) -> int:
        return 0 if self.width == INF else self.depth * int(self.width)

    def prompts_and_rank(self) -> tuple[int, int]:
        return self.hops + 2, 4 * self.hops
