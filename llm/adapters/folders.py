"""Adapters on disk: any plain PEFT LoRA folder or hub name is an expert, and an expert is saved as a folder that PEFT
loads by itself.

What PEFT can store and ΔW = (α/r) B A cannot say is refused with one line, because a wrong expert looks like a right
one."""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import safetensors.torch
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lora_reuse.llm.adapters.lowrank import Expert, LowRank
from lora_reuse.runs.files import whole_folder
from lora_reuse.runs.settings import SettingError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PLAIN = "a plain PEFT LoRA, ΔW = (α/r) B A"

# Keys of adapter_config.json that leave ΔW = (α/r) B A as it is, whatever they hold. Any other key must be empty:
# use_rslora, use_dora, lora_bias, modules_to_save, layer_replication, trainable_token_indices, alora_invocation_tokens,
# ..., and those of PEFT versions to come.
_HARMLESS = {
    *"""alpha_pattern auto_mapping base_model_name_or_path corda_config eva_config exclude_modules fan_in_fan_out
    inference_mode init_lora_weights layers_pattern layers_to_transform lora_alpha lora_dropout lora_ga_config
    megatron_core peft_type peft_version qalora_group_size r rank_pattern revision runtime_config target_modules
    task_type""".split(),
    "velora_config",  # VeLoRA changes the backward pass only
}
# PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA take something out of the base weights, which the adapter then has to be used
# with.
_INITS = (True, False, None, "gaussian", "eva", "orthogonal")


def load_expert(folder_or_hub: str | Path, model: nn.Module) -> Expert:
    """The LowRank of each module that the adapter changes, float32 on the CPU, with α/r (of that module) in `out`.

    Raises SettingError when the adapter is not a plain LoRA, is broken, or was made for another base model.
    """
    folder = _folder(folder_or_hub)
    config = _plain_config(folder)
    factors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _tensors(folder).items():
        match = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])\.weight", key)
        if not match:
            mend = "" if "lora_" in key else "PEFT leaves base weights out with save_embedding_layers=False"
            raise SettingError(
                "expert", f"the tensor {key} in {folder}", f"{PLAIN}: lora_A and lora_B weights of linear modules", mend
            )
        if not torch.isfinite(tensor).all():
            raise SettingError("expert", f"NaN or infinity in {key} of {folder}", "finite weights")
        factors.setdefault(match[1], {})[match[2]] = tensor.float()
    if not factors:
        raise SettingError("expert", f"no weights in {folder}", PLAIN)
    modules = dict(model.named_modules())
    return {name: _update(name, factors[name], config, modules, folder) for name in sorted(factors)}


def _update(
    name: str, factors: Mapping[str, Tensor], config: Mapping[str, Any], modules: Mapping[str, nn.Module], folder: Path
) -> LowRank:
    if name not in modules:
        raise SettingError(
            "expert", f"{folder} for module {name}", "modules of the model", "it was trained on another base model"
        )
    if set(factors) != {"A", "B"}:
        raise SettingError(
            "expert", f"only lora_{''.join(factors)} of {name} in {folder}", "lora_A and lora_B of every module"
        )
    A, B = factors["A"], factors["B"]
    need = linear_shape(modules[name])
    if need is None:
        raise SettingError(
            "expert", f"{folder} for {name}, a {type(modules[name]).__name__}", "adapters of Linear and Conv1D modules"
        )
    if A.ndim != 2 or B.ndim != 2 or (B.shape[0], A.shape[1]) != need:
        got = f"{folder} with lora_B {tuple(B.shape)} and lora_A {tuple(A.shape)} for {name}"
        raise SettingError("expert", got, f"ΔW of shape {need}, as the model's", "it was trained on another base model")
    rank = _pattern(config["rank_pattern"], name, config["r"])
    if not A.shape[0] == B.shape[1] == rank:
        got = f"{folder} with ranks {A.shape[0]} (lora_A) and {B.shape[1]} (lora_B) of {name}"
        raise SettingError("expert", got, f"rank {rank}, as its {CONFIG} says")
    return LowRank(B * (_pattern(config["alpha_pattern"], name, config["lora_alpha"]) / rank), A.T.contiguous())


def _pattern(patterns: Mapping[str, Any], name: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of the module's name, as PEFT reads rank_pattern and
    alpha_pattern."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), default)


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """(outputs, inputs) of a module an adapter may change, or None. GPT-2's Conv1D stores its weight transposed; ΔW
    here never is."""
    if isinstance(module, nn.Linear):  # the attributes, because a quantised weight has another shape
        return module.out_features, module.in_features
    return (module.nf, module.nx) if isinstance(module, Conv1D) else None


def _plain_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        patterns = {name: dict(config.get(name) or {}) for name in ("rank_pattern", "alpha_pattern")}
        for pattern in (pattern for named in patterns.values() for pattern in named):
            re.compile(pattern)
    except (ValueError, AttributeError, TypeError, OSError, re.error):
        raise SettingError("expert", f"an unreadable {CONFIG} in {folder}", PLAIN) from None
    if config.get("peft_type") != "LORA":
        raise SettingError("expert", f"peft_type {config.get('peft_type')} in {folder}", PLAIN)
    for key, value in config.items():
        if key not in _HARMLESS and value not in (None, False, "none", [], {}):
            raise SettingError("expert", f"{key}={json.dumps(value)} in {folder}", PLAIN)
    if config.get("init_lora_weights", True) not in _INITS:
        mend = "save it with path_initial_model_for_weight_conversion"
        raise SettingError(
            "expert",
            f"init_lora_weights={config['init_lora_weights']} in {folder}, which changes the base",
            PLAIN,
            mend,
        )
    ranks, alphas = (
        [config.get(name), *patterns[by].values()]
        for name, by in (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern"))
    )
    if (
        not all(isinstance(number, int | float) and math.isfinite(number) for number in ranks + alphas)
        or min(ranks) <= 0
    ):
        raise SettingError(
            "expert", f"r={config.get('r')} and lora_alpha={config.get('lora_alpha')} in {folder}", "numbers, r above 0"
        )
    return config | patterns


def _tensors(folder: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(folder / WEIGHTS)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise SettingError(
            "expert", f"a broken {WEIGHTS} in {folder} ({error})", "a complete safetensors file"
        ) from None


def _folder(folder_or_hub: str | Path) -> Path:
    """The folder itself, or the snapshot of a hub name, from the cache when offline. Nothing but JSON and safetensors
    is fetched."""
    folder = Path(folder_or_hub)
    if not folder.is_dir():
        try:
            folder = Path(huggingface_hub.snapshot_download(str(folder_or_hub), allow_patterns=[CONFIG, WEIGHTS]))
        except (HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
            why = type(error).__name__
            raise SettingError(
                "expert", f"{folder_or_hub} ({why})", "a PEFT folder, or a hub name that is cached or can be fetched"
            ) from None
    if not (folder / CONFIG).is_file():
        raise SettingError("expert", f"no {CONFIG} in {folder}", PLAIN)
    if not (folder / WEIGHTS).is_file():
        mend = (
            "pickles are not read; load it in PEFT and save_pretrained it again"
            if (folder / "adapter_model.bin").exists()
            else ""
        )
        raise SettingError("expert", f"no {WEIGHTS} in {folder}", PLAIN, mend)
    return folder


class Origin(NamedTuple):
    """What an adapter says of the base it was trained on; "" where it says nothing. `digest` is in the experts that
    `llm.adapters.training` trains."""

    base: str
    digest: str


def origin(folder_or_hub: str | Path) -> Origin:
    """The base that an adapter names. Raises SettingError for what is no plain PEFT folder."""
    folder = _folder(folder_or_hub)
    try:
        card = json.loads((folder / "expert.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        card = {}
    return Origin(str(_plain_config(folder).get("base_model_name_or_path") or ""), str(card.get("base_digest") or ""))


def check_library(experts: Sequence[Expert]) -> None:
    """Raises SettingError for no expert, and for experts that change different modules, or modules of different
    shapes."""
    if not experts:
        raise SettingError("library", "no expert", "at least one")
    first = experts[0]
    for i, expert in enumerate(experts[1:], start=2):
        if different := sorted(first.keys() ^ expert.keys()):
            got = f"{len(different)} modules in only one of the experts 1 and {i}, such as {different[0]}"
            raise SettingError("library", got, "experts of the same modules")
        for name, update in expert.items():
            if update.shape != first[name].shape:
                raise SettingError(
                    "library", f"shapes {first[name].shape} and {update.shape} of {name}", "experts of one base model"
                )


def save_expert(
    expert: Mapping[str, object], folder: str | Path, base_name: str, *, fan_in_fan_out: bool = False, card: str = ""
) -> None:
    """Writes an expert, or a static composition, as a PEFT folder with the same ΔW; the folder appears whole or not at
    all.

    `fan_in_fan_out` is for Conv1D modules (GPT-2); `card` is its README.md. Raises SettingError for a folder with
    something in it, for weights that are not finite and for routed updates, which are no adapter."""
    folder = Path(folder)
    check_new(folder)
    updates = {name: _storable(name, update) for name, update in expert.items()}
    if not updates:
        raise SettingError("expert", "no module", "at least one")
    tensors: dict[str, Tensor] = {}
    for name, update in updates.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = update.into.T.clone(memory_format=torch.contiguous_format)
        tensors[f"base_model.model.{name}.lora_B.weight"] = update.out.clone(memory_format=torch.contiguous_format)
    config = _config({name: update.rank for name, update in updates.items()}, base_name, fan_in_fan_out)
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
    folder = _folder(folder_or_hub)
    parts = b"".join(hashlib.sha256((folder / name).read_bytes()).digest() for name in (CONFIG, WEIGHTS))
    return hashlib.sha256(parts).hexdigest()[:16]
