"""Adapters on disk: a PEFT folder or hub name whose ΔW is a product of two factors is an expert, and an expert is saved
as a folder that PEFT loads by itself.

What PEFT can store and ΔW cannot say is refused with one line, because a wrong expert looks like a right one."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import safetensors.torch
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lora_reuse.llm.adapters.config import CONFIG, PLAIN, check_tying, rank_of, read_config, scaling, sits_on
from lora_reuse.llm.adapters.lowrank import Expert, LowRank
from lora_reuse.llm.adapters.tensors import WEIGHTS, Tensors, read_tensors
from lora_reuse.runs.files import whole_folder
from lora_reuse.runs.settings import SettingError


def load_expert(folder_or_hub: str | Path, model: nn.Module) -> Expert:
    """The LowRank of each module that the adapter changes, float32 on the CPU, with the scaling (α/r, of that module)
    in `out`.

    A LoRA, rank-stabilised or not, is ΔW = s B A, an AdaLoRA ΔW = s B diag(E) A, and VeRA ΔW = diag(b) B diag(d) A with
    B and A of all modules. Of token embeddings, ΔW has a column a token. Raises SettingError when the adapter is
    another kind, is broken, says one thing in its configuration and another in its tensors, or was made for another
    base model.
    """
    folder = folder_of(folder_or_hub)
    config = read_config(folder)
    found = read_tensors(folder, model)
    check_tying(config, found.factors, folder)
    modules = dict(model.named_modules())
    return {name: _update(name, found, config, modules, folder) for name in sorted(found.factors)}


def _update(
    name: str, found: Tensors, config: Mapping[str, Any], modules: Mapping[str, nn.Module], folder: Path
) -> LowRank:
    factors = found.factors[name]
    if name not in modules:
        raise SettingError(
            "expert", f"{folder} for module {name}", "modules of the model", "it was trained on another base model"
        )
    need = weight_shape(modules[name])
    embeds = isinstance(modules[name], nn.Embedding)
    if need is None:
        allowed = "adapters of Linear, Conv1D and plain Embedding modules"
        raise SettingError("expert", f"{folder} for {name}, a {type(modules[name]).__name__}", allowed)
    wanted = {"VERA": {"lambda_b", "lambda_d"}, "ADALORA": {"A", "B", "E"}, "LORA": {"A", "B"}}[config["peft_type"]]
    if set(factors) != wanted or embeds != (name in found.embeddings):
        names = " and ".join(sorted(factors))
        allowed = f"{' and '.join(sorted(wanted))} of every module, those of embeddings by PEFT's names for them"
        raise SettingError("expert", f"only {names} of {name} in {folder}", allowed)
    if not sits_on(config, name):
        got = f"tensors of {name} in {folder}, whose {CONFIG} does not name that module"
        raise SettingError(
            "expert", got, "tensors of the modules that it names", "one of the two is not this adapter's"
        )
    if config["peft_type"] == "VERA":
        return _vera(name, factors, found.shared, need, folder)
    A, B = factors["A"], factors["B"]
    if A.ndim != 2 or B.ndim != 2 or (B.shape[0], A.shape[1]) != need:
        got = f"{folder} with lora_B {tuple(B.shape)} and lora_A {tuple(A.shape)} for {name}"
        raise SettingError("expert", got, f"ΔW of shape {need}, as the model's", "it was trained on another base model")
    rank = A.shape[0] if config["peft_type"] == "ADALORA" else rank_of(config, name)
    if not A.shape[0] == B.shape[1] == rank:
        got = f"{folder} with ranks {A.shape[0]} (lora_A) and {B.shape[1]} (lora_B) of {name}"
        raise SettingError("expert", got, f"rank {rank}, as its {CONFIG} says")
    if "E" in factors:
        B = B * factors["E"].flatten()
    return LowRank(B * scaling(config, name), A.T.contiguous())


def _vera(
    name: str,
    factors: Mapping[str, torch.Tensor],
    shared: Mapping[str, torch.Tensor],
    need: tuple[int, int],
    folder: Path,
) -> LowRank:
    """diag(b) B diag(d) A, of whose shared B and A a module takes the first rows and columns (PEFT's VeRA)."""
    if set(shared) != {"A", "B"}:
        mend = "with save_projection=True PEFT writes them; from a random seed they differ between machines"
        raise SettingError("expert", f"no vera_A and vera_B in {folder}", "the projections with the adapter", mend)
    outputs, inputs = need
    b, d, A, B = factors["lambda_b"], factors["lambda_d"], shared["A"], shared["B"]
    if b.shape != (outputs,) or A.shape[1] < inputs or B.shape[0] < outputs or not len(A) == len(d) == B.shape[1]:
        raise SettingError(
            "expert",
            f"{folder} for {name}",
            f"ΔW of shape {need}, as the model's",
            "it was trained on another base model",
        )
    return LowRank(b[:, None] * B[:outputs] * d, A[:, :inputs].T.contiguous())


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
        files = [f"{inside}/{file}" if inside else file for file in (CONFIG, WEIGHTS)]
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
    Raises SettingError for no expert, and for modules of different shapes."""
    if not experts:
        raise SettingError("library", "no expert", "at least one")
    one_of = {name: update for expert in experts for name, update in expert.items()}
    for name, update in ((name, update) for expert in experts for name, update in expert.items()):
        if update.shape != one_of[name].shape:
            got = f"shapes {one_of[name].shape} and {update.shape} of {name}"
            raise SettingError("library", got, "experts of one base model")
    nothing = {name: LowRank(update.out[:, :0], update.into[:, :0]) for name, update in one_of.items()}
    return [{name: expert.get(name, nothing[name]) for name in one_of} for expert in experts]


def save_expert(
    expert: Mapping[str, object],
    folder: str | Path,
    base_name: str,
    layout: Layout | None = None,
    card: str = "",
) -> None:
    """Writes an expert, or a static composition, as a PEFT folder with the same ΔW; the folder appears whole or not at
    all.

    `layout` is that of the modules (none: all are Linear); `card` is its README.md. Raises SettingError for a folder
    with something in it, for weights that are not finite and for routed updates, which are no adapter."""
    folder, layout = Path(folder), layout or Layout()
    check_new(folder)
    updates = {name: _storable(name, update) for name, update in expert.items()}
    if not updates:
        raise SettingError("expert", "no module", "at least one")
    tensors: dict[str, Tensor] = {}
    for name, update in updates.items():
        for factor, value in (("A", update.into.T), ("B", update.out)):
            key = f"lora_embedding_{factor}" if name in layout.embeddings else f"lora_{factor}.weight"
            tensors[f"base_model.model.{name}.{key}"] = value.clone(memory_format=torch.contiguous_format)
    config = _config({name: update.rank for name, update in updates.items()}, base_name, layout.conv1d)
    with whole_folder(folder) as partial:
        safetensors.torch.save_file(tensors, partial / WEIGHTS, metadata={"format": "pt"})
        (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if card:
            (partial / "README.md").write_text(card, encoding="utf-8")


def check_new(folder: Path) -> None:
    """Raises SettingError for a folder with something in it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingError("folder", folder, "a new or empty folder", "an adapter is never overwritten")


def _storable(name: str, update: object) -> LowRank:
    if not isinstance(update, LowRank):
        mend = "a routed composition cannot be saved as one adapter"
        raise SettingError("expert", f"a {type(update).__name__} in {name}", "LowRank updates", mend)
    if not (torch.isfinite(update.out).all() and torch.isfinite(update.into).all()):
        raise SettingError("expert", f"NaN or infinity in {name}", "finite weights")
    if update.rank == 0:  # PEFT has no rank 0
        update = LowRank(update.out.new_zeros(update.shape[0], 1), update.into.new_zeros(update.shape[1], 1))
    return update.to(torch.device("cpu"), torch.float32)


def _config(ranks: Mapping[str, int], base_name: str, fan_in_fan_out: bool) -> dict[str, Any]:
    """With α = r in every module, so that ΔW = B A; modules by their full names."""
    r = max(ranks.values())
    others = {re.escape(name): rank for name, rank in sorted(ranks.items()) if rank != r}
    return {
        "alpha_pattern": others,
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": fan_in_fan_out,
        "inference_mode": True,
        "lora_alpha": r,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": r,
        "rank_pattern": others,
        "target_modules": sorted(ranks),
        "task_type": "CAUSAL_LM",
    }


def digest(folder_or_hub: str | Path) -> str:
    """The first 16 hex digits of the SHA-256 of the adapter's config and weights: its name in caches and rows."""
    folder = folder_of(folder_or_hub)
    parts = b"".join(hashlib.sha256((folder / name).read_bytes()).digest() for name in (CONFIG, WEIGHTS))
    return hashlib.sha256(parts).hexdigest()[:16]
