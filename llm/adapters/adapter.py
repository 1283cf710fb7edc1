"""An adapter of a base: what each module adds to its output, with a card that says where it comes from. A composition
of adapters is an adapter again."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from lora_reuse.llm.adapters.bases import same_base
from lora_reuse.llm.adapters.biased import LINEAR, biased
from lora_reuse.llm.adapters.each import Each
from lora_reuse.llm.adapters.folders import Layout, digest, layout, needs_base, open_with_biases, origin
from lora_reuse.llm.adapters.lowrank import Expert, LowRank
from lora_reuse.llm.compositions import Composition, Delta
from lora_reuse.llm.decoding.models import Base
from lora_reuse.runs.settings import SettingError


def named(place: str) -> str:
    """A model's or adapter's name: of a folder or file of this machine its last part, which says the same elsewhere."""
    path = Path(place).expanduser()
    return path.name if path.exists() else place


@dataclass(frozen=True)
class Card:
    """What an adapter says of itself: its base, the rule (`says`: its formula), what it was made of and with, how (a
    command, libraries). An adapter that was loaded has no rule."""

    base: str
    rule: str
    says: str = ""
    experts: Mapping[str, str] = field(default_factory=dict)
    """Adapters, and what tells them from others of the same name (the digest of their weights)."""
    dials: Mapping[str, Any] = field(default_factory=dict)
    made: str = ""
    note: Callable[[], str] = str
    """Markdown that is known when all modules have been made."""

    @property
    def title(self) -> str:
        """`ties of 2 adapters`, and of an adapter that was loaded its name."""
        if not self.rule:
            return ", ".join(map(named, self.experts)) or "an adapter"
        count = len(self.experts)
        return f"{self.rule} of {count or 'some'} adapter{'s' * (count != 1)}"

    def text(self, loading: str, library: str = "") -> str:
        """A model card in Markdown, with the lines that load the folder, in which the library is named that does it."""
        head = [
            "---",
            f"base_model: {json.dumps(named(self.base))}",
            *([f"library_name: {library}"] if library else []),
            "tags: [lora, merge]",
            "---",
        ]
        body = [f"# {self.title}", "", " ".join(self.says.split()), ""]
        body += [
            f"- {named(name)} ({digest})" if digest else f"- {named(name)}" for name, digest in self.experts.items()
        ]
        body += [
            "",
            "Dials: " + (", ".join(f"{name}={value}" for name, value in self.dials.items()) or "none") + ".",
        ]
        body += [f"Made by {self.made}."] if self.made else []
        return "\n".join([*head, *body, "", "```python", loading, "```", ""]) + self.note()

    def plain(self) -> dict[str, Any]:
        """What a routed composition's file says of itself."""
        experts = [[named(name), digest] for name, digest in self.experts.items()]
        said = {"base": named(self.base), "rule": self.rule, "experts": experts}
        return said | {"dials": dict(self.dials), "made": self.made}


class Adapter(Mapping[str, Delta]):
    """What each adapted module of a base adds to its output, by the module's full name in the base.

    Every value is ΔW = out · intoᵀ as a `LowRank`, with a bias a `Biased`, or a router that weighs several of them anew
    for each token. The values are float32 on the CPU. `card` says what the adapter was made of; `layout` is what PEFT
    is told of its modules; `biases` has the bias of each module as the ΔW of an input that is always 1. `static` is
    known beforehand where the updates are made when they are asked for."""

    def __init__(
        self,
        updates: Composition,
        card: Card,
        layout: Layout,
        static: bool | None = None,
        biases: Expert | None = None,
    ):
        self._updates = updates
        self.biases = biases or {}
        self.card = card
        self.layout = layout
        self._known_static = static

    def __getitem__(self, module: str) -> Delta:
        update = self._updates[module]
        return biased(module, update, self.biases) if isinstance(update, LowRank) else update

    def __iter__(self) -> Iterator[str]:
        return iter(self._updates)

    def __len__(self) -> int:
        return len(self._updates)

    def in_memory(self) -> "Adapter":
        """The same, with all its updates in memory: `read_adapter` and `composed` make each when it is asked for."""
        return Adapter(dict(self._updates), self.card, self.layout, biases=dict(self.biases))

    @property
    def name(self) -> str:
        """The last part of the folder or hub name; of a composition, the rule and what it is made of."""
        if not self.card.rule:
            return Path(self.card.title).name
        made_of = ", ".join(Path(named(place)).name for place in self.card.experts)
        return f"{self.card.rule} of {made_of}"

    @property
    def source(self) -> tuple[str, str]:
        """What a composition of this adapter says it was made of, and the digest that tells it from others of that
        name: folder or hub name and its weights; or a rule, what it was made of and its dials, and all of these."""
        card, dials = self.card, ", ".join(f"{name}={value}" for name, value in self.card.dials.items())
        if not card.rule:
            place, weights = next(iter(card.experts.items()))
            return (f"{named(place)} ({dials})" if dials else place), weights
        made = json.dumps([card.rule, dials, *card.experts.items()])
        return (f"{self.name} ({dials})" if dials else self.name), hashlib.sha256(made.encode()).hexdigest()[:16]

    @property
    def static(self) -> bool:
        """Whether ΔW is the same for every token, so that the adapter is a LoRA, and can be merged into the weights."""
        if self._known_static is not None:
            return self._known_static
        return all(isinstance(update, LowRank) for update in self._updates.values())

    @property
    def ranks(self) -> str:
        """The rank of the modules' ΔW, or the least and the largest of them, as `8-32`; of a router ""."""
        found = sorted({update.rank for update in self._updates.values() if isinstance(update, LowRank)})
        return "-".join(map(str, dict.fromkeys((found[0], found[-1])))) if found else ""

    def experts(self) -> Expert:
        """The updates as LowRank. Raises SettingError for an adapter with biases; a router among them, which is no
        LowRank, raises it when it is asked for."""
        if self.biases:
            got = f"{self.name}, which has biases (lora_bias)"
            raise SettingError("adapter", got, "an adapter of ΔW alone", f"{', '.join(LINEAR)} and save keep biases")
        return self.weights()

    def weights(self) -> Expert:
        """`experts` of an adapter whose biases, if it has some, are looked after by the caller."""
        return Each(self, self._low_rank)

    def _low_rank(self, module: str) -> LowRank:
        update = self._updates[module]
        if not isinstance(update, LowRank):
            raise SettingError(
                "adapter", f"{self.name}, which weighs its adapters anew for each token", "an adapter with one ΔW"
            )
        return update

    def __repr__(self) -> str:
        kind = f"rank {self.ranks}" if self.static else "routed"
        dials = ", ".join(f"{name}={value}" for name, value in self.card.dials.items())
        said = f"; {dials}" if dials else ""
        return f"<Adapter {self.name!r}: {kind}, {len(self)} modules of {named(self.card.base)}{said}>"


def load_adapter(base: Base, folder_or_hub: str | Path, another_model: bool = False) -> Adapter:
    """A PEFT adapter whose ΔW is a product of two factors, as an adapter of the base.

    Args:
        base: the model that the adapter was trained on.
        folder_or_hub: a PEFT folder (adapter_config.json, adapter_model.safetensors), a GGUF file of a LoRA, or a name
            on the Hugging Face hub, of which nothing but these two files (and those of its folder `initial`) is
            fetched.
        another_model: take the adapter although it names another base than this one.

    Returns:
        ΔW of every module that the adapter changes, float32 on the CPU: (α/r) B A of a LoRA, (α/√r) B A of a
        rank-stabilised one, and likewise for AdaLoRA, VeRA, LoHa and LoKr; of DoRA, whole modules and rows of tokens
        the changed weight less the base's, of full rank (`compress` makes it small).

    Raises:
        SettingError: the adapter changes more than ΔW can say (the base's biases, norms; by name), is broken, or was
            trained on another base.

    Examples:
        >>> lr.load_adapter(base, "a")
        <Adapter 'a': rank 2, 12 modules of pocket>

    Source: Hu et al. 2022 (LoRA); the format is PEFT's.
    """
    return read_adapter(folder_or_hub, base.model, base.name, lambda: base.digest, another_model).in_memory()


def read_adapter(
    folder_or_hub: str | Path, model: PreTrainedModel, name: str, digest_of: Callable[[], str], another_model: bool
) -> Adapter:
    """`load_adapter` for a model of which the modules are enough (`llm.decoding.models.load_frame`), the name it is
    called by and the digest of its weights, which is asked for where the adapter says one. Each update is read when it
    is asked for."""
    place = str(folder_or_hub)
    if not another_model:
        _check_model(place, name, digest_of)
    updates, biases = open_with_biases(place, model)
    told = layout(model, updates)._replace(biased=bool(biases))
    own = digest(place) + (f" on {digest_of()}" if needs_base(place) else "")  # of weights that ΔW is a change of
    return Adapter(updates, Card(name, "", experts={place: own}), told, static=True, biases=biases)


def check_base(base: Base, *adapters: object) -> None:
    """Raises SettingError for an adapter of another base than this one. What has no card says nothing of its base."""
    for adapter in adapters:
        if isinstance(adapter, Adapter) and not same_base(adapter.card.base, base.name):
            got = f"{adapter.name} of {named(adapter.card.base)}, on {named(base.name)}"
            raise SettingError("adapter", got, "an adapter of the base", "load_adapter(base, ..., another_model=True)")


def _check_model(adapter: str, model: str, digest_of: Callable[[], str]) -> None:
    """Raises SettingError when the adapter says that it was trained on another model: by its digest, which is named
    beside the model's, or else by its name."""
    said = origin(adapter)
    mend = "another_model=true composes it all the same"
    allowed = "the model of every adapter"
    if said.digest:
        if said.digest != (own := digest_of()):
            got = f"{model} ({own}), other weights than {adapter} was trained on ({said.base}, {said.digest})"
            raise SettingError("model", got, allowed, mend)
    elif said.base and not same_base(said.base, model):
        raise SettingError("model", f"{model}, and {adapter} names {said.base}", allowed, mend)
