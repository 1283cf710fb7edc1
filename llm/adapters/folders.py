"""Adapters on disk: a PEFT folder or hub name whose ΔW is a product of two factors is an expert.

What PEFT can store and ΔW cannot say is refused with one line, because a wrong expert looks like a right one."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from torch import nn
from transformers.pytorch_utils import Conv1D

from lora_reuse.llm.adapters.config import (
    CONFIG,
    INITIAL,
    PLAIN,
    began_as,
    check_tying,
    rank_of,
    read_config,
    scaling,
    sits_on,
)
from lora_reuse.llm.adapters.each import Each
from lora_reuse.llm.adapters.lowrank import Expert, LowRank
from lora_reuse.llm.adapters.products import KINDS
from lora_reuse.llm.adapters.tensors import WEIGHTS, Tensors, find_tensors
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
    folder = folder_of(folder_or_hub)
    config = read_config(folder)
    expert = _opened(folder, config, model)
    return _since_start(expert, config, folder, model) if began_as(config) else expert


def _opened(folder: Path, config: Mapping[str, Any], model: nn.Module) -> Expert:
    """s B A of every module, as the folder's own tensors say."""
    found = find_tensors(folder, model)
    check_tying(config, found.factors, folder)
    modules = dict(model.named_modules())
    shapes = {name: _checked(name, found, config, modules) for name in sorted(found.factors)}
    return Each(shapes, lambda name: _update(name, found, config, shapes[name]))


def _since_start(trained: Expert, config: Mapping[str, Any], folder: Path, model: nn.Module) -> Expert:
    """ΔW = s (B A − B₀ A₀), the change of a base from which s B₀ A₀ was taken out before the training.

    Source: Meng et al. 2024 (PiSSA, arXiv 2404.02948), appendix; PEFT's conversion makes the same factors."""
    start = folder_of(folder / INITIAL)
    before = read_config(start, initial=True)
    initial = _opened(start, before, model)
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
    folder, factors = found.folder, found.shapes_of(name)
    if name not in modules:
        raise SettingError(
            "expert", f"{folder} for module {name}", "modules of the model", "it was trained on another base model"
        )
    need = weight_shape(modules[name])
    embeds = isinstance(modules[name], nn.Embedding)
    if need is None:
        allowed = "adapters of Linear, Conv1D and plain Embedding modules"
        raise SettingError("expert", f"{folder} for {name}, a {type(modules[name]).__name__}", allowed)
    kind = KINDS.get(config["peft_type"])
    wanted = kind.tensors if kind else (frozenset(("lambda_b", "lambda_d")),)
    if frozenset(factors) not in wanted or embeds != (name in found.embeddings):
        names = " and ".join(sorted(factors))
        sets = ", or ".join(" and ".join(sorted(names)) for names in wanted)
        allowed = f"{sets} of every module, those of embeddings by PEFT's names for them"
        raise SettingError("expert", f"only {names} of {name} in {folder}", allowed)
    if not sits_on(config, name):
        got = f"tensors of {name} in {folder}, whose {CONFIG} does not name that module"
        raise SettingError(
            "expert", got, "tensors of the modules that it names", "one of the two is not this adapter's"
        )
    if kind is None:
        _check_vera(name, found, need)
        return need
    sizes = kind.sizes(factors) if all(len(shape) == 2 for shape in factors.values()) else None
    if sizes is None or sizes.shape != need:
        said = " and ".join(f"{'lora_' if len(f) == 1 else ''}{f} {factors[f]}" for f in sorted(factors, reverse=True))
        got = f"{folder} with {said} for {name}"
        raise SettingError("expert", got, f"ΔW of shape {need}, as the model's", "it was trained on another base model")
    rank = factors["A"][0] if config["peft_type"] == "ADALORA" else rank_of(config, name)
    if set(sizes.ranks) - {rank}:
        got = f"{folder} with ranks {' and '.join(map(str, sorted(sizes.ranks)))} of {name}"
        raise SettingError("expert", got, f"rank {rank}, as its {CONFIG} says")
    return need


def _check_vera(name: str, found: Tensors, need: tuple[int, int]) -> None:
    if set(found.shared) != {"A", "B"}:
        mend = "with save_projection=True PEFT writes them; from a random seed they differ between machines"
        raise SettingError(
            "expert", f"no vera_A and vera_B in {found.folder}", "the projections with the adapter", mend
        )
    (outputs, inputs), factors = need, found.shapes_of(name)
    A, B = (found.shapes[found.shared[factor]] for factor in ("A", "B"))
    b, d = factors["lambda_b"], factors["lambda_d"]
    if b != (outputs,) or A[1] < inputs or B[0] < outputs or not (A[0],) == d == B[1:]:
        got = f"{found.folder} for {name}"
        raise SettingError("expert", got, f"ΔW of shape {need}, as the model's", "it was trained on another base model")


def _update(name: str, found: Tensors, config: Mapping[str, Any], need: tuple[int, int]) -> LowRank:
    """A module's update: of VeRA diag(b) B diag(d) A, of whose shared B and A a module takes the first rows and
    columns."""
    factors = found.read(found.factors[name])
    if config["peft_type"] == "VERA":
        shared, (outputs, inputs) = found.read(found.shared), need
        out = factors["lambda_b"][:, None] * shared["B"][:outputs] * factors["lambda_d"]
        return LowRank(out, shared["A"][:, :inputs].T.contiguous())
    out, into = KINDS[config["peft_type"]].update(factors)
    return LowRank(out * scaling(config, name), into.contiguous())


def weight_shape(module: nn.Module) -> tuple[int, int] | None:
    """(outputs, inputs) of a module an adapter may change, or None. GPT-2's Conv1D stores its weight transposed; ΔW
    here never is. An embedding's inputs are the tokens."""
    if type(module) is nn.Embedding:  # and not one that scales its output
        return module.embedding_dim, module.num_embeddings
    return linear_shape(module)


class Layout(NamedTuple):
    """What PEFT has to be told of an adapter's modules: whether they are Conv1D, whose weights are transposed, and
    which are embeddings."""

    conv1d: bool = False
    embeddings: frozenset[str] = frozenset()


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
    if not folder.is_dir():
        name, _, revision = str(folder_or_hub).partition("@")
        repository, inside = "/".join(name.split("/")[:2]), "/".join(name.split("/")[2:])
        wanted = [name for file in (CONFIG, WEIGHTS) for name in (file, f"{INITIAL}/{file}")]
        files = [f"{inside}/{file}" if inside else file for file in wanted]
        try:
            if folder.suffix == ".gguf":
                raise SettingError(
                    "expert", folder, "a PEFT folder", "llama.cpp's convert_lora_to_gguf.py made the file from one"
                )
            fetched = huggingface_hub.snapshot_download(repository, revision=revision or None, allow_patterns=files)
        except (HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
            got = f"{folder_or_hub} ({type(error).__name__})"
            allowed = "a PEFT folder, or a hub name that is cached or can be fetched"
            raise SettingError("expert", got, allowed) from None
        folder = Path(fetched) / inside
    if not (folder / CONFIG).is_file():
        raise SettingError("expert", f"no {CONFIG} in {folder}", PLAIN)
    if not (folder / WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").exists()
        mend = "pickles are not read; load it in PEFT and save_pretrained it again" if pickled else ""
        raise SettingError("expert", f"no {WEIGHTS} in {folder}", PLAIN, mend)
    return folder


class Origin(NamedTuple):
    """What an adapter says of the base it was trained on; "" where it says nothing. `digest` is in the experts that
    `llm.adapters.training` trains."""

    base: str
    digest: str


def origin(folder_or_hub: str | Path) -> Origin:
    """The base that an adapter names. Raises SettingError for what is no plain PEFT folder."""
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
    folder = folder_of(folder_or_hub)
    parts = hashlib.sha256()
    for place in [folder, folder / INITIAL] if began_as(read_config(folder)) else [folder]:
        for name in (CONFIG, WEIGHTS):
            with (place / name).open("rb") as file:  # in parts: the weights need not fit into memory
                parts.update(hashlib.file_digest(file, "sha256").digest())
    return parts.hexdigest()[:16]
