"""Adapters on disk: a PEFT folder or hub name whose ΔW is a product of two factors is an expert, and so is a GGUF file
of a LoRA.

What PEFT can store and ΔW cannot say is refused with one line, because a wrong expert looks like a right one."""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from torch import nn
from transformers.pytorch_utils import Conv1D

from lora_reuse.llm.adapters.biased import LINEAR
from lora_reuse.llm.adapters.config import (
    CONFIG,
    INITIAL,
    PLAIN,
    began_as,
    check_tying,
    read_config,
)
from lora_reuse.llm.adapters.each import Each
from lora_reuse.llm.adapters.gguf_lora import base_of, digest_of_file, gguf_of, open_gguf
from lora_reuse.llm.adapters.lowrank import Expert, LowRank
from lora_reuse.llm.adapters.tensors import TORCHTUNE, WEIGHTS, Tensors, find_tensors
from lora_reuse.llm.adapters.updates import bias_of, check, update_of
from lora_reuse.llm.adapters.whole import tied_to
from lora_reuse.runs.settings import SettingError


def load_expert(folder_or_hub: str | Path, model: nn.Module) -> dict[str, LowRank]:
    """The LowRank of each module that the adapter changes, float32 on the CPU, with the scaling (α/r, of that module)
    in `out`.

    A LoRA, rank-stabilised or not, is ΔW = s B A, an AdaLoRA ΔW = s B diag(E) A, VeRA ΔW = diag(b) B diag(d) A with B
    and A of all modules; LoHa and LoKr are products, too, of a higher rank (`llm.adapters.products`). A LoRA whose
    initialisation took something out of the base is ΔW = s (B A − B₀ A₀). Of token embeddings, ΔW has a column a token.
    Raises SettingError when the adapter is another kind, is broken, says one thing in its configuration and another in
    its tensors, or was made for another base model.
    """
    return dict(open_expert(folder_or_hub, model))


def open_expert(folder_or_hub: str | Path, model: nn.Module) -> Expert:
    """`load_expert`, with each update read from the file when it is asked for: one is in memory at a time. Raises
    SettingError as it does, but for values that are not finite, which are found when they are read."""
    expert, biases = open_with_biases(folder_or_hub, model)
    if biases:
        mend = f"`lora-reuse compose` composes them by {', '.join(LINEAR)}"
        raise SettingError("expert", f"lora_bias=true in {folder_or_hub}", "adapters without biases here", mend)
    return expert


def open_with_biases(folder_or_hub: str | Path, model: nn.Module) -> tuple[Expert, Expert]:
    """`open_expert`, and the biases of an adapter that has some (lora_bias), each as the ΔW of an input that is always
    1."""
    if file := gguf_of(folder_or_hub):
        need = {name: shape for name, module in model.named_modules() if (shape := weight_shape(module))}
        return open_gguf(file, getattr(model, "config", None), need), {}
    folder = folder_of(folder_or_hub)
    config = read_config(folder)
    expert, biases = _opened(folder, config, model)
    return (_since_start(expert, config, folder, model) if began_as(config) else expert), biases


def _opened(folder: Path, config: Mapping[str, Any], model: nn.Module) -> tuple[Expert, Expert]:
    """The updates that the folder's own tensors make with the weights of the base, without those of its beginning, and
    the biases."""
    check_tying(config, config.get("modules_to_save") or [], folder)
    found = find_tensors(folder, model, config.get("modules_to_save") or [])
    check_tying(config, found.factors, folder)
    if config.get("trainable_token_indices") and not found.tokens:
        got = f"trainable_token_indices={config['trainable_token_indices']} in {folder}, without their rows"
        raise SettingError("expert", got, "the rows of the tokens that it names, in the file")
    modules = dict(model.named_modules())
    names = sorted({*found.factors, *found.whole, *found.tokens})
    shapes = {name: _checked(name, found, config, modules) for name in names}
    tied = tied_to(found.tokens, model)

    def update(name: str) -> LowRank:
        if name in tied:
            return LowRank(*reversed(update(tied[name])))
        return update_of(name, found, config, shapes[name], model)

    have = [name for name in names if "bias" in found.shapes_of(name)]
    return Each([*shapes, *tied], update), Each(have, lambda name: bias_of(name, found, config))


def _since_start(trained: Expert, config: Mapping[str, Any], folder: Path, model: nn.Module) -> Expert:
    """ΔW = s (B A − B₀ A₀), the change of a base from which s B₀ A₀ was taken out before the training.

    Source: Meng et al. 2024 (PiSSA, arXiv 2404.02948), appendix; PEFT's conversion makes the same factors."""
    start = folder_of(folder / INITIAL)
    before = read_config(start, initial=True)
    initial, _ = _opened(start, before, model)
    scaled = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
    if trained.keys() != initial.keys() or any((config.get(key) or 0) != (before.get(key) or 0) for key in scaled):
        got = f"{start} with other modules, ranks or scaling than {folder}"
        raise SettingError("expert", got, "the same adapter before its training")

    def update(name: str) -> LowRank:
        (out, into), (out_0, into_0) = trained[name], initial[name]
        return LowRank(torch.cat([out, -out_0], 1), torch.cat([into, into_0], 1))

    return Each(trained, update)


def _checked(name: str, found: Tensors, config: Mapping[str, Any], modules: Mapping[str, nn.Module]) -> tuple[int, int]:
    """The shape of a module's ΔW. Raises SettingError where the adapter's configuration, its tensors and the model do
    not fit together there."""
    folder = found.folder
    if name not in modules:
        mend = "it was trained on another base model"
        if re.search(r"\.experts\.\d+\.", name):
            mend = (
                "or this version of transformers has the experts of a mixture in one weight, which is no linear module"
            )
        raise SettingError("expert", f"{folder} for module {name}", "modules of the model", mend)
    need = weight_shape(modules[name])
    if need is None:
        allowed = "adapters of Linear, Conv1D and plain Embedding modules"
        raise SettingError("expert", f"{folder} for {name}, a {type(modules[name]).__name__}", allowed)
    check(name, found, config, modules[name], need)
    return need


def weight_shape(module: nn.Module) -> tuple[int, int] | None:
    """(outputs, inputs) of a module an adapter may change, or None. GPT-2's Conv1D stores its weight transposed; ΔW
    here never is. An embedding's inputs are the tokens."""
    if type(module) is nn.Embedding:  # and not one that scales its output
        return module.embedding_dim, module.num_embeddings
    return linear_shape(module)


def entries(model: nn.Module, names: Iterable[str]) -> int:
    """How many entries the ΔW of modules of these names have together."""
    return sum(math.prod(weight_shape(model.get_submodule(name)) or (0,)) for name in names)


class Layout(NamedTuple):
    """What PEFT has to be told of an adapter's modules: whether they are Conv1D, whose weights are transposed, which
    are embeddings, and whether any has a bias, for then all have."""

    conv1d: bool = False
    embeddings: frozenset[str] = frozenset()
    biased: bool = False


def layout(model: nn.Module, names: Iterable[str]) -> Layout:
    """The layout of modules of these names."""
    modules = {name: model.get_submodule(name) for name in names}
    embeddings = frozenset(name for name, module in modules.items() if isinstance(module, nn.Embedding))
    return Layout(any(isinstance(module, Conv1D) for module in modules.values()), embeddings)


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """(outputs, inputs) of a linear module, or None."""
    if isinstance(module, nn.Linear):  # the attributes, because a quantised weight has another shape
        return module.out_features, module.in_features
    return (module.nf, module.nx) if isinstance(module, Conv1D) else None


def folder_of(folder_or_hub: str | Path) -> Path:
    """The folder itself, or the snapshot of a hub name, from the cache when offline.

    A hub name is `org/repo` or `org/repo/folder`, with @REVISION after it if wanted. Nothing but JSON and safetensors
    is fetched. Raises SettingError."""
    folder = Path(folder_or_hub).expanduser()
    if not os.path.isdir(folder):  # which says no, where Path raises, of a name that is too long to be one
        name, _, revision = str(folder_or_hub).partition("@")
        repository, inside = "/".join(name.split("/")[:2]), "/".join(name.split("/")[2:])
        wanted = [name for file in (CONFIG, WEIGHTS) for name in (file, f"{INITIAL}/{file}")]
        files = [f"{inside}/{file}" if inside else file for file in wanted]
        try:
            fetched = huggingface_hub.snapshot_download(repository, revision=revision or None, allow_patterns=files)
        except (HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
            got = f"{folder_or_hub}, which is {_no_folder(folder, error)}"
            allowed = "a PEFT folder, or a hub name that is cached or can be fetched"
            mend = "`lora-reuse mttl` makes a PEFT folder of an mttl expert" if folder.suffix == ".ckpt" else ""
            raise SettingError("expert", got, allowed, mend) from None
        folder = Path(fetched) / inside
    if not (folder / CONFIG).is_file():
        raise SettingError("expert", f"no {CONFIG} in {folder}", PLAIN, _instead(folder))
    if not (folder / WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").exists()
        mend = "pickles are not read; load it in PEFT and save_pretrained it again" if pickled else ""
        raise SettingError("expert", f"no {WEIGHTS} in {folder}", PLAIN, mend)
    return folder


def _instead(folder: Path) -> str:
    """What a folder without an adapter's configuration has that may have been meant."""
    if any(folder.glob("adapter_*.pt")):
        return TORCHTUNE
    if (folder / "composition.json").is_file():
        return "it is a composition with a router, which lora_reuse.load and `lora-reuse gates` read"
    inside = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
    named = [*sorted(folder.glob("*.gguf")), *inside]
    return f"it has {'adapters' if inside else 'GGUF files'}, of which {named[0]} would be named" if named else ""


def _no_folder(place: Path, error: Exception) -> str:
    """What a place is that is no folder and was not had from the hub, in the words of someone who typed it."""
    if os.path.isfile(place):
        return "a file"
    if isinstance(error, HFValidationError):
        return "no folder here and cannot be a name on the hub"
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
        return "no folder here and not in the hub's cache, and the hub cannot be reached"
    return f"no folder here and not to be had from the hub ({type(error).__name__})"


def needs_base(folder_or_hub: str | Path) -> bool:
    """Whether ΔW of an adapter is the change of weights that it stores, so that it depends on the base's own."""
    if gguf_of(folder_or_hub):
        return False
    config = read_config(folder_of(folder_or_hub))
    return any(config.get(name) for name in ("use_dora", "modules_to_save", "trainable_token_indices"))


class Origin(NamedTuple):
    """What an adapter says of the base it was trained on; "" where it says nothing. `digest` is in the experts that
    `llm.adapters.training` trains."""

    base: str
    digest: str


def origin(folder_or_hub: str | Path) -> Origin:
    """The base that an adapter names. Raises SettingError for what is no plain PEFT folder or GGUF adapter."""
    if file := gguf_of(folder_or_hub):
        return Origin(base_of(file), "")
    folder = folder_of(folder_or_hub)
    try:
        card = json.loads((folder / "expert.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        card = {}
    return Origin(str(read_config(folder).get("base_model_name_or_path") or ""), str(card.get("base_digest") or ""))


def complete(experts: Sequence[Expert]) -> list[Expert]:
    """The experts, each with an update in every module that any of them changes: ΔW = 0, of rank 0, where it has none.
    Raises SettingError for no expert, and when updates of one module are asked for that differ in shape."""
    if not experts:
        raise SettingError("library", "no expert", "at least one")
    first = {name: expert for expert in reversed(experts) for name in expert}
    names, shapes = dict.fromkeys(name for expert in experts for name in expert), dict[str, tuple[int, int]]()

    def completed(expert: Expert) -> Expert:
        def update(name: str) -> LowRank:
            own = expert[name] if name in expert else _nothing_like(first[name][name])
            if own.shape != shapes.setdefault(name, own.shape):
                got = f"shapes {shapes[name]} and {own.shape} of {name}"
                raise SettingError("library", got, "experts of one base model")
            return own

        return Each(names, update)

    return [completed(expert) for expert in experts]


def _nothing_like(update: LowRank) -> LowRank:
    return LowRank(update.out[:, :0], update.into[:, :0])


def digest(folder_or_hub: str | Path) -> str:
    """The first 16 hex digits of the SHA-256 of the adapter's config and weights, and of those that it began with where
    they are part of ΔW: its name in caches and rows."""
    if file := gguf_of(folder_or_hub):
        return digest_of_file(file)
    folder = folder_of(folder_or_hub)
    parts = hashlib.sha256()
    for place in [folder, folder / INITIAL] if began_as(read_config(folder)) else [folder]:
        for name in (CONFIG, WEIGHTS):
            with (place / name).open("rb") as file:  # in parts: the weights need not fit into memory
                parts.update(hashlib.file_digest(file, "sha256").digest())
    return parts.hexdigest()[:16]
