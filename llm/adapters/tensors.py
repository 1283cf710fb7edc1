"""The tensors of an adapter's file by the module that they are of, whatever wrapped the model they were saved from."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lora_reuse.llm.adapters.config import PLAIN
from lora_reuse.llm.decoding.names import place_of
from lora_reuse.runs.settings import SettingError

WEIGHTS = "adapter_model.safetensors"
# What torch.compile, FSDP, activation checkpointing and DistributedDataParallel put between the names of modules.
_WRAPPED = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|module)\.")
_FACTOR = re.compile(
    r"base_model\.model\.(?P<module>.+)\.(?:lora_(?P<embeds>embedding_)?(?P<factor>[ABE])|"
    r"vera_(?P<vera>lambda_[bd])|(?:hada|lokr)_(?P<w>w[12](?:_[ab])?))"
    r"(?:\.default)?(?:\.weight)?"
)
_SHARED = re.compile(r"base_model\.vera_([AB])(?:\.default)?")
_BASE = re.compile(r"base_model\.model\.(?!.*\.(?:lora|vera|hada|lokr)_)(.+?)(?:\.base_layer)?(\.weight|\.bias)")


class Tensors(NamedTuple):
    """Where the tensors of an adapter are: of each module its factors by name (A, B; E of AdaLoRA; lambda_b and
    lambda_d of VeRA; w1_a to w2_b, or w1 and w2, of LoHa and LoKr), which of the modules are embeddings, and the
    projections A and B that all modules of a VeRA share, each by its name in the file."""

    folder: Path
    factors: dict[str, dict[str, str]]
    embeddings: set[str]
    shared: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    """Of every tensor in the file, by its name there."""

    def shapes_of(self, module: str) -> dict[str, tuple[int, ...]]:
        """The shapes of a module's factors."""
        return {factor: self.shapes[stored] for factor, stored in self.factors[module].items()}

    def read(self, names: Mapping[str, str]) -> dict[str, Tensor]:
        """The tensors of these names in the file, in float32 and in memory of their own. Raises SettingError for values
        that are not finite."""
        with _opened(self.folder) as file:  # anew each time: what is mapped into memory and was read counts as used
            found = {factor: file.get_tensor(stored).to(torch.float32, copy=True) for factor, stored in names.items()}
        for factor, tensor in found.items():
            if not torch.isfinite(tensor).all():
                got = f"NaN or infinity in {names[factor]} of {self.folder}"
                raise SettingError("expert", got, "finite weights")
        return found


def find_tensors(folder: Path, model: nn.Module) -> Tensors:
    """What the file holds, by the names and shapes at its head. Weights of the base that it repeats (PEFT saves whole
    embeddings beside adapters on them) are read, and have to be those of `model`. Raises SettingError for a broken file
    and for tensors of another meaning."""
    found = Tensors(folder, {}, set(), {}, {})
    with _opened(folder) as file:
        for stored in file.keys():  # noqa: SIM118 (it is no dict)
            key = _WRAPPED.sub("", stored)
            found.shapes[stored] = tuple(file.get_slice(stored).get_shape())
            if match := _FACTOR.fullmatch(key):
                factors = found.factors.setdefault(match["module"], {})
                factor = match["factor"] or match["vera"] or match["w"]
                if factor in factors:
                    raise SettingError("expert", f"two tensors for {factor} of {match['module']} in {folder}", PLAIN)
                factors[factor] = stored
                if match["embeds"]:
                    found.embeddings.add(match["module"])
            elif match := _SHARED.fullmatch(key):
                found.shared[match[1]] = stored
            elif match := _BASE.fullmatch(key):
                _check_same(match[1] + match[2], file.get_tensor(stored), model, folder)
            else:
                allowed = "factors of linear modules and of embeddings by PEFT's names"
                raise SettingError("expert", f"the tensor {stored} in {folder}", allowed, _mend(key))
    if not found.factors:
        raise SettingError("expert", f"no weights in {folder}", PLAIN)
    return found


def _mend(key: str) -> str:
    if re.search(r"lora_[ab](\.|$)", key):
        return "torchtune's own names: its save_peft_adapter, or a Hugging Face checkpointer, writes a PEFT folder"
    return "" if "lora_" in key else "PEFT leaves base weights out with save_embedding_layers=False"


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(folder / WEIGHTS, framework="pt") as file:
            yield file
    except SettingError:  # a ValueError, too: what the tensors are refused for is said as it is
        raise
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise SettingError(
            "expert", f"a broken {WEIGHTS} in {folder} ({error})", "a complete safetensors file"
        ) from None


def _check_same(name: str, saved: Tensor, model: nn.Module, folder: Path) -> None:
    """Raises SettingError unless the base has this weight, of the same values at the precision that it was saved in."""
    there = dict(model.named_parameters(remove_duplicate=False)).get(name)
    mend = "PEFT leaves base weights out with save_embedding_layers=False"
    if there is None or there.shape != saved.shape:
        model_has = "none" if there is None else tuple(there.shape)
        got = f"{name} {tuple(saved.shape)} in {folder}, where the model has {model_has}"
        raise SettingError("expert", got, "weights of the base as they are", mend)
    own = next(_values(name, there, model), None)
    if own is None:
        got = f"{name} in {folder}, which cannot be compared with the base's: its weights are not on this machine"
        raise SettingError("expert", got, "weights of the base as they are", mend)
    if not torch.equal(own.to(saved.dtype).cpu(), saved):
        got = f"{name} in {folder}, other than the base's"
        raise SettingError("expert", got, "weights of the base as they are", "whole weights are not composed")


def _values(name: str, parameter: Tensor, model: nn.Module) -> Iterator[Tensor]:
    """The values of a weight; of a model without its weights, from the model's own files."""
    if not parameter.is_meta:
        yield parameter.detach()
        return
    config = getattr(model, "config", None)
    tied = {"lm_head.weight", "model.embed_tokens.weight"} if getattr(config, "tie_word_embeddings", False) else set()
    for path in sorted(place_of(getattr(config, "_name_or_path", "")).glob("*.safetensors")):
        with safetensors.safe_open(path, framework="pt") as file:
            for key in ({name} | (tied if name in tied else set())) & set(file.keys()):
                yield file.get_tensor(key)
