"""What an adapter's adapter_config.json says: its kind, its scaling, and what of it ΔW = out · intoᵀ cannot say, which
is refused."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lora_reuse.runs.settings import SettingError

CONFIG = "adapter_config.json"
KINDS = ("LORA", "ADALORA", "VERA", "LOHA", "LOKR")
PLAIN = "a PEFT folder of LoRA (rank-stabilised or DoRA, too), AdaLoRA, VeRA, LoHa or LoKr, whose change is a ΔW"

# Keys of adapter_config.json that leave ΔW as it is, whatever they hold. Any other key must be empty:
# layer_replication, alora_invocation_tokens, ..., and those of PEFT versions to come.
_HARMLESS = {
    *"""alpha_pattern auto_mapping base_model_name_or_path corda_config eva_config exclude_modules fan_in_fan_out
    inference_mode init_lora_weights layers_pattern layers_to_transform lora_alpha lora_dropout lora_ga_config
    megatron_core peft_type peft_version qalora_group_size r rank_pattern revision runtime_config target_modules
    task_type use_rslora modules_to_save trainable_token_indices""".split(),
    "velora_config",  # VeLoRA changes the backward pass only
    "ensure_weight_tying",  # `check_tying` looks at what it would tie
}
_HARMLESS_OF_KIND = {
    "LORA": {"use_dora", "lora_bias"},  # magnitudes and biases are in the tensors
    # the schedule of its training; how much of each update is left is in the tensors
    "ADALORA": set("beta1 beta2 deltaT init_r orth_reg_weight target_r tfinal tinit total_step".split()),
    "VERA": {"vera_dropout", "d_initial", "projection_prng_key", "save_projection", "init_weights"},
    # dropouts of its training, and what says how the tensors were shaped and drawn
    "LOHA": set("alpha rank_dropout module_dropout use_effective_conv2d init_weights".split()),
    "LOKR": set(
        """alpha rank_dropout module_dropout rank_dropout_scale use_effective_conv2d init_weights decompose_both
        decompose_factor""".split()
    ),
}
_ALPHA = {"LORA": "lora_alpha", "ADALORA": "lora_alpha", "LOHA": "alpha", "LOKR": "alpha"}
_INITS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Those that leave the base as it is. LoftQ quantises it, so that what it took out is no product."""
_TAKEN_OUT = {"pissa": "PiSSA", "olora": "OLoRA", "corda": "CorDA", "lora_ga": "LoRA-GA"}
"""Those that begin by taking s B₀ A₀ out of the base's weights, which the adapter then has to be used with."""
INITIAL = "initial"
"""The folder, inside of such an adapter's, with the adapter as it was before its training."""
_TASKS = (None, "", "CAUSAL_LM")
_MENDS = {
    "bias": "the base's biases were trained, too, and are not composed",
    "layer_replication": "it was trained on a model with repeated layers",
}
EMBEDDING_NAMES = ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out", "word_embeddings")
"""The last parts of the names of embeddings and heads in the families of models."""
_CONVERTIBLE = """C3A DELORA FOURIERFT GRALORA MISS PSOFT RANDLORA TINYLORA UNILORA VBLORA WAVEFT""".split()
"""Those whose layers PEFT 0.21 converts to LoRA: those of HiRA and SHiRA say that they do not support it."""


def read_config(folder: Path, *, initial: bool = False) -> dict[str, Any]:
    """The configuration, with `rank_pattern` and `alpha_pattern` as dicts, and α as `lora_alpha`; `initial`, of
    an adapter before its training. Raises SettingError for what is no adapter, or one whose change of the base is more
    than ΔW, or that changed the base before its training and does not say how."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        patterns = {name: dict(config.get(name) or {}) for name in ("rank_pattern", "alpha_pattern")}
        named = [config.get(name) for name in ("target_modules", "exclude_modules")]
        for pattern in (
            *(it for it in named if isinstance(it, str)),
            *(it for said in patterns.values() for it in said),
        ):
            re.compile(pattern)
    except re.error as error:
        got = f"{error.pattern!r} in {folder / CONFIG}, which is no regular expression ({error.msg})"
        raise SettingError("expert", got, "names of modules, or a regular expression of Python") from None
    except (ValueError, AttributeError, TypeError, OSError):
        raise SettingError("expert", f"an unreadable {CONFIG} in {folder}", PLAIN) from None
    kind = config.get("peft_type")
    if kind not in KINDS:
        mend = "peft.save_as_lora(path, model, rank) writes it as a LoRA" if kind in _CONVERTIBLE else ""
        raise SettingError("expert", f"peft_type {kind} in {folder}", PLAIN, mend)
    if config.get("task_type") not in _TASKS:
        raise SettingError("expert", f"task_type {config['task_type']} in {folder}", "CAUSAL_LM, or none")
    for key, value in config.items():
        if key not in _HARMLESS | _HARMLESS_OF_KIND[kind] and value not in (None, False, "none", [], {}):
            raise SettingError("expert", f"{key}={json.dumps(value)} in {folder}", PLAIN, _MENDS.get(key, ""))
    began = began_as(config)
    if config.get("init_lora_weights", True) not in _INITS and not (began and kind == "LORA"):
        got = f"init_lora_weights={config['init_lora_weights']} in {folder}, which changes the base"
        raise SettingError("expert", got, PLAIN, "compose adapters that were trained on the base as it is")
    if began and (beside := [key for key in ("use_dora", "lora_bias") if config.get(key)]):
        got = f"{beside[0]}=true and init_lora_weights={config['init_lora_weights']} in {folder}"
        raise SettingError("expert", got, "one of the two")
    if began and not initial and not (folder / INITIAL / CONFIG).is_file():
        got = f"init_lora_weights={config['init_lora_weights']} in {folder}, which took {began}'s B₀ A₀ out of the base"
        allowed = f"such an adapter with what it was before its training in {folder / INITIAL}"
        mend = "or saved with path_initial_model_for_weight_conversion"
        raise SettingError("expert", got, allowed, mend)
    _check_numbers(config, patterns, folder)
    return config | patterns | ({"lora_alpha": config[_ALPHA[kind]]} if kind in _ALPHA else {})


def began_as(config: Mapping[str, Any]) -> str:
    """The initialisation that took something out of the base, by its name: ΔW = s (B A − B₀ A₀). "" of all others."""
    said = str(config.get("init_lora_weights")).lower()
    return next((name for key, name in _TAKEN_OUT.items() if said.startswith(key)), "")


def _check_numbers(config: Mapping[str, Any], patterns: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    kind = config["peft_type"]
    named = ("init_r" if kind == "ADALORA" else "r", *([_ALPHA[kind]] if kind in _ALPHA else []))
    by_module = {"r": "rank_pattern", _ALPHA[kind]: "alpha_pattern"} if kind in ("LORA", "LOHA", "LOKR") else {}
    found = {name: [config.get(name), *patterns.get(by_module.get(name, ""), {}).values()] for name in named}
    for name, numbers in found.items():
        for it in numbers:
            if not isinstance(it, int | float) or not math.isfinite(it) or (name == named[0] and it <= 0):
                got = f"{name}={it!r} in {folder / CONFIG}, or in its pattern of it"
                raise SettingError("expert", got, f"numbers, {named[0]} above 0")


def rank_of(config: Mapping[str, Any], module: str) -> int:
    """The rank that the configuration gives a module of a LoRA, a LoHa or a LoKr."""
    return _pattern(config["rank_pattern"], module, config["r"])


def scaling(config: Mapping[str, Any], module: str) -> float:
    """What multiplies the product of a module's factors: α/r, with use_rslora α/√r (Kalajdzievski 2023, arXiv
    2312.03732); AdaLoRA's α over the rank it began with, and the 1e-5 that PEFT adds to it; 1 for VeRA."""
    if config["peft_type"] == "VERA":
        return 1.0
    alpha = config["lora_alpha"]
    if config["peft_type"] == "ADALORA":  # whose layers PEFT gives no pattern of α
        return (alpha if alpha > 0 else float(config["init_r"])) / (config["init_r"] + 1e-5)
    alpha = _pattern(config["alpha_pattern"], module, alpha)
    rank = rank_of(config, module)
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def sits_on(config: Mapping[str, Any], module: str) -> bool:
    """Whether PEFT puts this adapter on a module of this name, by `target_modules`, `exclude_modules` and
    `layers_to_transform`."""
    from peft.tuners.tuners_utils import check_target_module_exists  # PEFT takes seconds to import

    if config.get("target_modules") in (None, "all-linear"):
        return True
    names = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
    said = SimpleNamespace(**{name: config.get(name) for name in names}, modules_to_save=None, target_parameters=None)
    return bool(check_target_module_exists(said, module))


def check_tying(config: Mapping[str, Any], modules: Iterable[str], folder: Path) -> None:
    """Raises SettingError where `ensure_weight_tying` has something to tie: an adapter of an embedding or a head then
    changes the other one, too."""
    ends = [name for name in modules if name.rpartition(".")[2] in EMBEDDING_NAMES]
    if config.get("ensure_weight_tying") and ends:
        got = f"ensure_weight_tying=true with an adapter of {ends[0]} in {folder}"
        raise SettingError("expert", got, "adapters of modules that stand alone", "train it without the tying")


def _pattern(patterns: Mapping[str, Any], name: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of the module's name, as PEFT reads rank_pattern and
    alpha_pattern."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), default)
