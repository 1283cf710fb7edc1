"""lora-reuse mttl expert=library/kilt_tasks_hotpotqa_final_exam.ckpt out=experts/final_exam

Makes a PEFT folder of a LoRA expert in mttl's format, which the paper's shared adapters have. `expert` is a file of a
library (NAME.ckpt, with NAME.meta beside it), an expert or checkpoint of its own with all inside, or REPOSITORY:NAME
for a library on the hub.

mttl stores A as inputs x rank and B as rank x outputs, and ΔW = (α/rank)(A B)ᵀ; tied modules (tie_params) store A once.
The names of Phi-2's modules in its first published code (mixer.Wqkv) are translated to those of transformers, Wqkv cut
into its three parts."""

import math
import os
import pickle
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lora_reuse.runs.command import begin, refuse_full, settings_are_right, with_options
from lora_reuse.runs.settings import Number, Place, SettingError, Text, setting

if TYPE_CHECKING:
    from torch import Tensor

    from lora_reuse.llm.adapters.lowrank import Expert

FORMAT = "lora_a and lora_b of linear modules, as mttl writes them"


@dataclass(frozen=True)
class Options:
    """What to convert."""

    expert: str = setting("", Text("NAME.ckpt, or REPOSITORY:NAME on the hub"), "the expert")
    out: str = setting("", Place("a folder"), "a new or empty folder")
    RENAMED: ClassVar = {"base": "model"}

    model: str = setting(
        "", Text("a folder or a hub name"), "the model that the PEFT folder names; not given: the expert's own"
    )
    alpha: float = setting(0.0, Number(0, 1e6), "LoRA α where the expert does not say it; mttl's default is 16")


def main(words: Sequence[str]) -> int:
    """Runs the command; returns its exit code: 0 done, 2 a mistake in the settings or a file in another format."""
    return with_options("llm.mttl", _main, Options, words, bare=False)


def _main(options: Options) -> int:
    for name in ("expert", "out"):
        if not getattr(options, name):
            raise SettingError(name, "nothing", f"{name}=...", "--help says more")
    settings_are_right(options.out)
    from lora_reuse.llm.adapters.writing import save_expert

    refuse_full(Path(options.out))
    weights, info = read(os.path.expanduser(options.expert))
    model = options.model or str(info.get("expert_model") or (info.get("training_config") or {}).get("model") or "")
    if not model:
        raise SettingError("model", "nothing, and the expert names no model", "the model it was trained on")
    expert = convert(weights, info, options.alpha)
    begin(options.out)
    try:
        save_expert(expert, options.out, model)
    except OSError as error:
        raise SettingError(
            "out", f"{options.out} ({error.strerror or error})", "a folder that can be written"
        ) from None
    name = info.get("expert_name") or options.expert
    print(f"{name}: {len(expert)} modules of {model} as a PEFT adapter in {options.out}")
    return 0


def read(name: str) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """The weights by parameter name, and what the expert says of itself. Nothing that a pickle could run is run. Raises
    SettingError."""
    path = Path(name)
    meta = path.with_suffix(".meta")
    if not path.is_file():
        repository, colon, expert = name.rpartition(":")
        if not colon:
            raise SettingError("expert", f"{name}, which is no file", "NAME.ckpt, or REPOSITORY:NAME on the hub")
        path, meta = _fetched(repository, f"{expert}.ckpt"), _fetched(repository, f"{expert}.meta")
    found = _unpickled(path)
    info = dict(found.get("expert_info") or (_unpickled(meta) if meta.is_file() else {}))
    weights = found.get("expert_weights")
    if weights is None and ("state_dict" in found or "module" in found):  # Lightning's, and DeepSpeed's
        weights = {
            key.replace("model.", "", 1): value for key, value in (found.get("state_dict") or found["module"]).items()
        }
        info.setdefault("expert_config", found.get("hyper_parameters"))
    return dict(found if weights is None else weights), info


def convert(weights: "Mapping[str, Tensor]", info: Mapping[str, Any], alpha: int | float = 0.0) -> "Expert":
    """ΔW of every module; `alpha` is for an expert that does not say its own. Raises SettingError for what is no plain
    LoRA."""
    import torch

    from lora_reuse.llm.adapters.lowrank import LowRank

    config = dict(info.get("training_config") or {}) | dict(info.get("expert_config") or {})
    alpha = float(config.get("lora_alpha") or alpha)
    if not 0 < alpha < math.inf:
        raise SettingError(
            "alpha", "nothing, and the expert does not say it", "a number above 0", "mttl's default is 16"
        )
    factors: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in weights.items():
        match = re.fullmatch(r"(.+)\.lora_([ab])", key)
        if not match or not isinstance(tensor, torch.Tensor) or tensor.ndim != 2:
            raise SettingError("expert", f"{key}, {getattr(tensor, 'shape', type(tensor).__name__)}", FORMAT)
        factors.setdefault(match[1], {})[match[2]] = tensor.float()
    if not factors:
        raise SettingError("expert", "no weights", FORMAT)
    tied = str(config.get("tie_params") or "")
    expert = {}
    for name, pair in factors.items():
        a, b = (pair.get(which, _tied(name, which, factors, tied)) for which in "ab")
        if a is None or b is None or a.shape[1] != b.shape[0]:
            raise SettingError(
                "expert", f"{name} with {', '.join(f'lora_{k} {tuple(v.shape)}' for k, v in pair.items())}", FORMAT
            )
        expert |= _named(name, LowRank(b.T * (alpha / a.shape[1]), a.contiguous()))
    return dict(sorted(expert.items()))


def _tied(name: str, which: str, factors: "Mapping[str, Mapping[str, Tensor]]", pattern: str) -> "Tensor | None":
    """The factor of the one module of the same parent that holds it for all, where `tie_params` names this one too."""
    if not pattern or not re.search(pattern, f"{name}.lora_{which}"):
        return None
    parent = name.rpartition(".")[0]
    holders = [other for other, pair in factors.items() if other.rpartition(".")[0] == parent and which in pair]
    holders = [other for other in holders if re.search(pattern, f"{other}.lora_{which}")]
    return factors[holders[0]][which] if len(holders) == 1 else None


def _named(name: str, update: Any) -> "Expert":
    """The update under the names that transformers has."""
    match = re.fullmatch(r"(?:transformer\.h|layers)\.(\d+)\.(mixer|mlp)\.(\w+)", name)
    if not match:
        return {name: update}
    layer = f"model.layers.{int(match[1])}"
    if match[2] == "mlp":
        return {f"{layer}.mlp.{match[3]}": update}
    if match[3] == "out_proj":
        return {f"{layer}.self_attn.dense": update}
    if match[3] != "Wqkv" or update.shape[0] % 3:
        raise SettingError("expert", f"module {name}", "Wqkv and out_proj in a mixer")
    return {
        f"{layer}.self_attn.{part}_proj": update._replace(out=out)
        for part, out in zip("qkv", update.out.chunk(3), strict=True)
    }


def _unpickled(path: Path) -> dict[str, Any]:
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        why = (
            "it holds more than tensors, numbers and words"
            if isinstance(error, pickle.UnpicklingError)
            else str(error).splitlines()[0]
        )
        raise SettingError(
            "expert", f"{path} ({why})", "a file of tensors and plain values, as mttl's libraries hold them"
        ) from None
    if not isinstance(found, dict):
        raise SettingError("expert", f"a {type(found).__name__} in {path}", FORMAT)
    return found


def _fetched(repository: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(hf_hub_download(repository, file))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise SettingError(
            "expert", f"{repository}:{file} ({type(error).__name__})", "a library that is cached or can be fetched"
        ) from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
