"""The dials that the protocols share; torch is not needed to read them."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from lora_reuse.llm.adapters.places import Layers
from lora_reuse.llm.data.mixtures import LIBRARIES, PAPER, SETUPS
from lora_reuse.llm.decoding.names import place_of
from lora_reuse.llm.protocols.dials import (
    ADAPTERS,
    COMPOSITIONS,
    CONTROLS,
    EVERY,
    LEARNED,
    RULES,
    LearningOwn,
    PointDials,
    TrainingDials,
)
from lora_reuse.runs.grid import Run
from lora_reuse.runs.settings import Choice, Flag, Number, SettingError, Text, Whole, setting

PATH = Text("pocket, smollm2, a folder, a GGUF file or a hub name")


@dataclass(frozen=True)
class Model:
    """The base, which every row names."""

    model: str = setting("pocket", PATH, "pocket, smollm2, a folder, a GGUF file, or a name on the Hugging Face hub")
    chat: str = setting(
        "auto", Choice("auto", "on", "off"), "the tokenizer's chat template; the paper's software used none"
    )
    dtype: str = setting(
        "auto",
        Choice("auto", "float32", "bfloat16", "float16"),
        "of the base; auto: float32 on a CPU, else the checkpoint's",
    )


@dataclass(frozen=True)
class Dataset:
    """The people and places that are asked about."""

    dataset: str = setting(
        "R", Choice("F", "H", "R"), "fake names and places, fake names and real places, or real ones"
    )


@dataclass(frozen=True)
class Facts:
    """How many facts are asked, and in which templates."""

    triplets: int = setting(100, Whole(2, 100), "triplets of the dataset; pocket and smollm2: 20")
    split: str = setting("test", Choice("dev", "test"), "the held-out templates that are asked: make choices on dev")


@dataclass(frozen=True)
class Answered(Facts):
    """How many facts are asked, in which templates, and how long an answer may be."""

    answer_tokens: int = setting(48, Whole(1, 10**5), "longest direct answer")
    step_tokens: int = setting(192, Whole(1, 10**5), "longest step-by-step answer")


@dataclass(frozen=True)
class Device:
    """Where the base goes."""

    device: str = setting("auto", Choice("auto", "cpu", "cuda", "mps"), "where the base goes")
    device_map: str = setting(
        "", Text("auto, balanced, ...", r"[\w-]*"), "accelerate's placement over several GPUs, instead of device"
    )
    trust_remote_code: bool = setting(False, Flag(), "run code that comes with a model")


@dataclass(frozen=True)
class Training(TrainingDials):
    """How an expert is trained. The defaults are Table 11's, and mttl's where it is silent; some models have their own,
    see PRESETS."""

    adapter: str = setting(
        "lora",
        Choice(*ADAPTERS),
        "what is trained: " + "; ".join(f"{name}: {it.doc.splitlines()[0]}" for name, it in ADAPTERS.items()),
    )
    rank: int = setting(16, Whole(1, 1024), "LoRA rank")
    alpha: int = setting(16, Whole(1, 4096), "LoRA α; the update is scaled by α/rank")
    dropout: float = setting(0.05, Number(0, 0.9), "LoRA dropout")
    rate: float = setting(1e-4, Number(0, 1), "learning rate of AdamW, after warm-up; it falls linearly to zero")
    weight_decay: float = setting(0.0, Number(0, 1), "AdamW's weight decay")
    epochs: int = setting(
        10, Whole(1, 10**6), "passes over the training examples (with own_share: over its own), where steps=0"
    )
    steps: int = setting(0, Whole(0, 10**7), "optimizer steps; 0: as many as epochs= makes")
    batch: int = setting(16, Whole(1, 4096), "examples a step")
    warm_up: float = setting(0.06, Number(0, 1), "share of the steps in which the rate rises")
    clip: float = setting(0.1, Number(0, 1e6), "gradients are scaled down to this norm; 0: never")
    loss: str = setting(
        "example",
        Choice("example", "token"),
        "mean over answer tokens of each example, then over examples; or over all answer tokens",
    )
    own_share: float = setting(
        0.0,
        Number(0, 1),
        "share of each batch from the expert's own facts when it has a bridge; 0: as the examples fall",
    )
    layers: str = setting("mlp", Layers(), "where the adapters sit, or where each expert's does")
    same_start: bool = setting(False, Flag(), "whether the experts of a library start from the same random A")
    same_bridge: bool = setting(False, Flag(), "whether both experts see the same bridge examples at the same steps")


PRESETS: dict[str, dict[str, Any]] = {
    "pocket": {
        **{"alpha": 32, "dropout": 0.0, "rate": 2e-3, "clip": 1.0, "epochs": 5, "own_share": 0.5},
        **{"triplets": 20, "bridge_triplets": 20, "temperature": 0.25, "answer_tokens": 32, "step_tokens": 128},
    },
    "smollm2": {
        **{"chat": "off", "dtype": "bfloat16", "alpha": 32, "dropout": 0.0, "rate": 2e-3, "clip": 1.0, "steps": 300},
        **{"own_share": 0.5, "triplets": 20, "bridge_triplets": 20, "temperature": 0.375},
    },
}
"""Settings of a model where the paper's do not fit, used for those that are not named on the command line. They were
chosen on dev templates.

pocket: 3.7 M parameters learn facts at twenty times the learning rate of a 3 B model, in half the epochs. At width 256
twenty facts an expert leave room for two experts, a hundred do not; with less than half of each batch from its own
facts an expert with a bridge stores them badly. Arrow's scores |x·v| grow with √width; temperature 1/4 gives width 256
the sharpness of width 4096 at temperature 1.

smollm2: chosen on a seed of its own (100), of which no row is kept, by what one expert alone keeps of its own hop in
the dev templates. Of five pairs of rate and steps (1e-3, 2e-3 and 4e-3 with 150; 3e-3 with 200; 2e-3 with 300) it is
the first with nine in ten of both hops.
bfloat16 halves the time of training where a processor multiplies in it, takes a fifth more where none does
(llm/decoding/widened.py), and changes less than another seed does; its weights have four bits each. Arrow's
temperature 3/8 is the rule of the pocket model at width 576."""


@dataclass(frozen=True)
class Composing(PointDials, Model, Training):
    """A base with experts that are composed."""

    temperature: float = setting(1.0, Number(1e-6, 1e6), "Arrow: logits are divided by it")
    top_k: int = setting(0, Whole(0, 1000), "Arrow: experts a token goes to; 0: all")
    normalise: bool = setting(False, Flag(), "Arrow: logits from normalised activations; mttl's are not")
    pool: str = setting(
        "trained",
        Choice("trained", "random"),
        "the experts, or the control of every rule: Gaussian adapters of their ranks and norms",
        omitted=True,
    )
    scale: float = setting(
        1.0, Number(-10, 10), "w, by which each update is multiplied before they are composed", omitted=True
    )


@dataclass(frozen=True)
class Asked(LearningOwn, Answered, Composing):
    """What every row of a protocol says: the model, its experts, the question."""

    bridge_triplets: int = setting(100, Whole(0, 100), "triplets of the bridge; pocket and smollm2: 20")


PROMPTINGS = ("direct", "steps", "first", "second")
"""The two-hop question as it is, or step by step; or the one-hop questions of expert 1 and 2, which a composition
should keep."""


@dataclass(frozen=True)
class Composed(Asked):
    """What every row of a protocol says: the model, its experts, the composition, the question."""

    composition: str = setting(
        "uniform",
        Choice(*COMPOSITIONS, *CONTROLS, *RULES, *LEARNED),
        "how the library is composed",
        grid=(*COMPOSITIONS, *CONTROLS),
    )
    prompting: str = setting("direct", Choice(*PROMPTINGS), "what is asked", grid=PROMPTINGS)

    def __post_init__(self) -> None:
        """Raises SettingError for a composition that would learn from the questions it is asked."""
        if self.composition.endswith(":two_hop") and self.split == "dev":
            raise SettingError(
                "split",
                f"dev with composition={self.composition}",
                "test",
                "it learns from the dev templates; :own does not",
            )


@dataclass(frozen=True)
class TwoHop(Composed):
    """Section 4.1.1: experts on the two hops, the pair, and both; Table 7 and Figure 1."""

    dataset: str = setting(
        "R",
        Choice("F", "H", "R"),
        "fake names and places, fake names and real places, or real ones",
        grid=("F", "H", "R"),
    )
    library: str = setting(
        "2-combination", Choice("none", *LIBRARIES), "the experts that are composed", grid=tuple(PAPER)
    )


@dataclass(frozen=True)
class Bridge(Composed):
    """Section 4.1.2: what has to be in the experts' training data; Tables 1 and 10, Figure 2."""

    setup: str = setting(
        "2", Choice(*SETUPS), "the training mixture of Table 1, or setup 1 of Figure 2", grid=tuple(SETUPS)
    )


@dataclass(frozen=True)
class Placement(Composed):
    """Tables 8 and 9: setup 0 is two one-hop experts."""

    layers: str = setting(
        "mlp", Layers(), "where the adapters sit, or where each expert's does", grid=("mlp", "attention", "both")
    )
    setup: str = setting("2", Choice(*SETUPS), "the training mixture", grid=("0", "1", "2"))


@dataclass(frozen=True)
class Scale(Dataset, Composed):
    """Experts scaled by w."""

    composition: str = setting("cat", Choice("cat"), "the sum, scaled")
    library: str = setting(
        "1", Choice("1", "2", "2-combination"), "one expert, or the sum of both", grid=("1", "2", "2-combination")
    )
    prompting: str = setting("direct", Choice(*PROMPTINGS), "what is asked", grid=("direct", "first", "second"))
    scale: float = setting(
        1.0, Number(-10, 10), "w", grid=(0.0, 0.25, 0.375, 0.5, 0.625, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    )


@dataclass(frozen=True)
class Options(Device, Run):
    """What to run and where."""

    jobs: int = setting(1, Whole(1, 10_000), "shards that launcher= starts")
    workers: int = setting(0, Whole(0, 1024), "processes; 0: one a core on a CPU, one on a GPU")
    batch_rows: int = setting(256, Whole(1, 10**6), "prompts decoded together; halved when memory runs out")
    log_probs: bool = setting(True, Flag(), "measure log-probabilities of the candidate answers, too")
    compile: bool = setting(False, Flag(), "on a CPU with a C++ compiler: train experts with compiled layers")


def with_preset(cls: type, axes: dict[str, tuple]) -> dict[str, tuple]:
    """The axes with the model's preset for what was not named and has no grid of its own. Raises SettingError for
    models of different presets."""
    found = {model: preset_of(model) for model in axes.get("model", ("pocket",))}
    first = next(iter(found.values()))
    if other := next((model for model, name in found.items() if name != first), None):
        own, than = sorted((next(iter(found)), other), key=lambda model: not found[model])
        got = f"{own}, which has settings of its own, and {than}, which has " + (
            "others" if found[than] else "the paper's"
        )
        raise SettingError(
            "model", got, "models of one kind in a command", "give each kind a command; they can share out="
        )
    preset = PRESETS[first] | getattr(cls, first.upper(), {}) if first else {}
    names = {f.name for f in dataclasses.fields(cls) if f.metadata["grid"] is None}
    return {name: (value,) for name, value in preset.items() if name in names} | axes


def preset_of(model: str) -> str:
    """Which of PRESETS a model has, by whatever name: pocket for each model that `llm.pocket` made; "" for one that has
    the paper's settings."""
    place = place_of(model)
    if model == "pocket" or (place / "pocket.json").is_file():
        return "pocket"
    return next((name for name in PRESETS if model == name or place == place_of(name)), "")


def preset_dials(model: str) -> dict[str, Any]:
    """What a model's preset says of rules; the paper's settings say nothing."""
    return {name: value for name, value in PRESETS.get(preset_of(model), {}).items() if name in EVERY}
