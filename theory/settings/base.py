"""What every experiment's settings share: the transformer."""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from lora_reuse.runs.settings import Choice, Number, SettingError, Whole, checked, did_you_mean, setting

INF = math.inf
ACTIVATIONS = (
    "relu",
    *sorted({p.stem for p in (Path(__file__).parents[1] / "activations").glob("[!_]*.py")} - {"relu"}),
)
"""The classes of `theory.activations`, by their files' names."""
DECAY = "attention on a token over that on the next; below 1 the nearest has most, above 1 the first"
LARGEST_EXPLICIT_WIDTH = 2**16
# Above this width a rule that needs the features themselves, and not their inner products, would need gigabytes.
LARGEST_BASIS_WIDTH = 2**14


@dataclass(frozen=True)
class Point:
    """One point of an experiment's grid: a frozen dataclass of settings that also knows what it costs."""

    def __new__(cls, *_: Any, **named: Any):
        known = [f.name for f in fields(cls)]
        for name in named.keys() - set(known):
            raise SettingError(name, "an unknown setting", ", ".join(known), did_you_mean(name, known))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        checked(self)

    def features(self) -> int:
        """How many random features one seed draws."""
        return 0

    def prompts_and_rank(self) -> tuple[int, int]:
        """How many prompts each feature is evaluated on, and the normals it takes: the rank of their hidden states, at
        most."""
        return 4, 4

    def flops(self) -> float:
        """What one seed costs: each feature is a product with every prompt, and each pair of prompts with it."""
        prompts, rank = self.prompts_and_rank()
        return self.features() * (2.0 * prompts * rank + 2.0 * prompts**2)


@dataclass(frozen=True)
class Model(Point):
    """The transformer: every experiment has these settings (a comma list is a grid axis).

    A wrong name or value is one line: `SettingError: width: got 0; allowed: a whole number from 1 to 2**46 or inf`. In
    Python `width=2**20`, `1e6`, `float("inf")` and `"inf"` are widths."""

    width: int | float = setting(
        4096, Whole(1, 2**46, infinite=True), "hidden units m of the MLP; inf is the arc-cosine kernel"
    )
    dim: int | float = setting(
        INF, Whole(1, 2**24, infinite=True), "embedding dimension d; inf makes tokens exactly orthogonal"
    )
    init_scale: str = setting("std", Choice("std", "variance"), "what 1/sqrt(d) is in the paper's N(0, 1/sqrt(d))")
    attention: str = setting("uniform", Choice("uniform", "softmax"), "eq. 5, or eq. 4 with random K and Q")
    mask: str = setting(
        "strict", Choice("strict", "causal"), "attention without (eq. 4) or with (eq. 21) the current token"
    )
    decay: float = setting(1.0, Number(0.01, 100.0), DECAY, omitted=True)
    heads: int = setting(
        1, Whole(1, 16), "of attention, each with its own V, K and Q; decay is that of the first", omitted=True
    )
    positions: str = setting(
        "none", Choice("none", "rotary"), "what the K and Q of attention=softmax know of positions", omitted=True
    )
    activation: str = setting("relu", Choice(*ACTIVATIONS), "the MLP's nonlinearity; linear is none (A.1.2)")
    input_variance: float = setting(
        1.0,
        Number(1e-6, 1e6),
        "of a preactivation over its hidden state's squared norm (2 on a one-hop prompt), for erf and gelu",
        omitted=True,
    )
    depth: int = setting(1, Whole(1, 64), "L, blocks of attention and MLP; the paper has one", omitted=True)
    norm: str = setting(
        "none", Choice("none", "rms"), "RMSNorm of what attention and MLP read, or none as in the paper", omitted=True
    )
    adapted: str = setting(
        "readout", Choice("readout", "all"), "LoRA on the W of the top block, or, to first order, of all", omitted=True
    )
    lower_rate: float = setting(
        1.0,
        Number(0.0, 1e6),
        "learning rate of the W below the top over that of the top in the NTK parametrisation",
        omitted=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_undefined_depths()
        if self.attention == "softmax" and self.dim == INF:
            raise SettingError(
                "dim",
                "inf with attention=softmax",
                "a finite dim",
                "its limit is attention=uniform if init_scale=std, and none otherwise",
            )
        if self.positions == "rotary" and (self.attention != "softmax" or self.dim % 2):
            got = f"rotary with attention={self.attention}, dim={self.dim}"
            raise SettingError(
                "positions", got, "attention=softmax and an even dim beside it", "it turns keys in pairs"
            )
        if self.input_variance != 1 or self.init_scale == "variance":
            _refuse_scale(self)

    def local_share(self) -> float:
        """The share of attention on the current segment, in experiments whose prompts have several."""
        return 1.0

    def beyond_one_block(self) -> list[str]:
        """The settings by which the model is not the paper's one block."""
        defaults = {f.name: f.default for f in fields(Model)}
        return [name for name in ("depth", "norm", "adapted") if getattr(self, name) != defaults[name]]

    def _refuse_undefined_depths(self) -> None:
        for name in self.beyond_one_block():
            if (self.attention, self.init_scale) != ("uniform", "std"):
                got = f"{getattr(self, name)} with attention={self.attention}, init_scale={self.init_scale}"
                raise SettingError(name, got, "attention=uniform and init_scale=std beside it")
            if self.input_variance != 1:
                raise SettingError("input_variance", f"{self.input_variance:g} with {name}", "1 beside it")
            own_attention(
                self, f"beside {name}={getattr(self, name)} attention has mask= and decay= alone", "mask", "decay"
            )
        if self.adapted == "all" and (self.width, self.dim) != (INF, INF):
            got = f"all with width={self.width}, dim={self.dim}"
            mend = "experiment=depth has the tangent kernels of networks of finite width"
            raise SettingError("adapted", got, "width=inf and dim=inf beside it", mend)
        if self.adapted == "readout" and self.lower_rate != 1.0:
            raise SettingError("lower_rate", f"{self.lower_rate} with adapted=readout", "adapted=all beside it")

    def features(self) -> int:
        return 0 if self.width == INF else int(self.width) * self.depth


ELSEWHERE = "width dim init_scale activation input_variance depth norm adapted lower_rate".split()
"""The settings of a `Model` that `model.coefficients_of` does not read. All others are assumptions on attention."""


def own_attention(model: Model, why: str, *read: str) -> None:
    """Refuses assumptions on attention, but those that are read, where attention is another than `model.coefficients`.
    So a new one is refused there until it is read."""
    for f in fields(Model):
        if f.name not in (*ELSEWHERE, *read) and (value := getattr(model, f.name)) != f.default:
            raise SettingError(f.name, value, f"{f.default}: {why}")


def one_block(model: Model) -> None:
    """Refuses what the paper's one block does not have, in experiments whose predictions are about it alone."""
    for name in model.beyond_one_block():
        default = next(f.default for f in fields(Model) if f.name == name)
        mend = "theorem_2, theorem_3, many_facts, scale, bridge and depth have it"
        raise SettingError(name, getattr(model, name), f"{default} in this experiment", mend)


def _refuse_scale(model: Model) -> None:
    """Refuses an input variance where it cancels, and hidden states that grow with d where it does not."""
    from lora_reuse.theory.activations import ACTIVATIONS  # here, so that --help needs no numpy

    if ACTIVATIONS[model.activation].homogeneous:
        if model.input_variance != 1:
            got, why = f"{model.input_variance:g} with activation={model.activation}", "it cancels in every ratio"
            raise SettingError("input_variance", got, "1", why)
    elif model.init_scale == "variance":
        raise SettingError(
            "init_scale",
            f"variance with activation={model.activation}",
            "std, or an activation that is homogeneous",
            "hidden states then grow with the dim, and so does where the activation is used",
        )


def world_prompts(entities: int, relations: int) -> tuple[int, int]:
    """All one-hop and two-hop prompts of a world, and the rank of their hidden states: images of |X| + |R| tokens, |R|
    residuals."""
    prompts = entities * relations * (1 + relations)
    return prompts, min(prompts, entities + 2 * relations)


def at_least(model: Model, rank: int) -> None:
    """Refuses a dim in which the experiment's prompts cannot be told apart linearly: its error bars need full rank."""
    if model.dim < rank:
        raise SettingError("dim", model.dim, f"at least {rank}, the rank of the prompts' hidden states, or inf")


AnyModel = TypeVar("AnyModel", bound=Model)


def at_infinite_dim(setting: AnyModel) -> AnyModel | None:
    """The setting as d → ∞: softmax attention becomes uniform if 1/√d is a standard deviation, and has no such limit
    (None) if not."""
    if setting.attention == "softmax" and setting.init_scale == "variance":
        return None
    return replace(setting, dim=INF, attention="uniform", positions="none")
