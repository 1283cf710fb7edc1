"""The tensors of an adapter's file by the module that they are of, whatever wrapped the model they were saved from."""

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from jaxtyping import Float32
from safetensors import SafetensorError
from torch import Tensor, nn

from lora_reuse.llm.adapters.base_weights import check_same
from lora_reuse.llm.adapters.config import PLAIN
from lora_reuse.runs.settings import SettingError

WEIGHTS = "adapter_model.safetensors"
TORCHTUNE = "torchtune's own names: its save_peft_adapter, or a Hugging Face checkpointer, writes a PEFT folder"
# What torch.compile, FSDP, activation checkpointing and DistributedDataParallel put between the names of modules.
_WRAPPED = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|module)\.")
_FACTOR = re.compile(
    r"base_model\.model\.(?P<module>.+)\.(?:lora_(?P<embeds>embedding_)?(?P<factor>[ABE]|magnitude_vector)|"
    r"vera_(?P<vera>lambda_[bd])|(?:hada|lokr)_(?P<w>w[12](?:_[ab])?))"
    r"(?:\.default)?(?:\.weight)?|base_model\.model\.(?P<of>.+)\.lora_B(?:\.default)?\.(?P<bias>bias)"
)
_SHARED = re.compile(r"base_model\.vera_([AB])(?:\.default)?")
_TOKENS = re.compile(r"base_model\.model\.(.+)\.token_adapter\.trainable_tokens_delta(?:\.default)?")
_BASE = re.compile(r"base_model\.model\.(?!.*\.(?:lora|vera|hada|lokr)_)(.+?)(?:\.base_layer)?(\.weight|\.bias)")


class Tensors(NamedTuple):
    """Where the tensors of an adapter are: of each module its factors by name (A, B; E of AdaLoRA; magnitude_vector of
    DoRA; the bias of B; lambda_b and lambda_d of VeRA; w1_a to w2_b, or w1 and w2, of LoHa and LoKr), which of the
    modules are embeddings, and the projections A and B that all modules of a VeRA share, each by its name in the
    file."""

    folder: Path
    factors: dict[str, dict[str, str]]
    embeddings: set[str]
    shared: dict[str, str]
    whole: dict[str, str]
    """Of modules that are stored whole (modules_to_save), their weight."""
    tokens: dict[str, str]
    """Of embeddings and heads of which some tokens' rows are stored (trainable_token_indices), these."""
    shapes: dict[str, tuple[int, ...]]
    """Of every tensor in the file, by its name there."""

    def shapes_of(self, module: str) -> dict[str, tuple[int, ...]]:
        """The shapes of a module's factors."""
        return {factor: self.shapes[stored] for factor, stored in self.factors.get(module, {}).items()}

    def read(self, names: Mapping[str, str]) -> dict[str, Tensor]:
        """The tensors of these names in the file, in float32 and in memory of their own. Raises SettingError for values
        that are not finite."""
        with _opened(self.folder) as file:  # anew each time: what is mapped into memory and was read counts as used
            found = {factor: file.get_tensor(stored).to(torch.float32, copy=True) for factor, stored in names.items()}
        for factor, tensor in found.items():
            if not all_finite(tensor):
                got = f"NaN or infinity in {names[factor]} of {self.folder}"
                raise SettingError("expert", got, "finite weights")
        return found


def all_finite(values: Float32[Tensor, "..."]) -> bool:
    """Whether no value is NaN or infinite. These stay in a sum, and one of float32 numbers does not overflow in
    float64; it takes an eighth of the time of `torch.isfinite`."""
    return math.isfinite(values.sum(dtype=torch.float64))


def find_tensors(folder: Path, model: nn.Module, saved: Sequence[str] = ()) -> Tensors:
    """What the file holds, by the names and shapes at its head, where `saved` names modules that are stored whole.
    Weights of the base that it repeats (PEFT saves whole embeddings beside adapters on them) are read, and have to be
    those of `model`. Raises SettingError for a broken file and for tensors of another meaning."""
    found = Tensors(folder, {}, set(), {}, {}, {}, {})
    with _opened(folder) as file:
        for stored in file.keys():  # noqa: SIM118 (it is no dict)
            key = _WRAPPED.sub("", stored)
            found.shapes[stored] = tuple(file.get_slice(stored).get_shape())
            if match := _FACTOR.fullmatch(key):
                module = match["module"] or match["of"]
                factors = found.factors.setdefault(module, {})
                factor = match["factor"] or match["vera"] or match["w"] or match["bias"]
                if factor in factors:
                    raise SettingError("expert", f"two tensors for {factor} of {module} in {folder}", PLAIN)
                factors[factor] = stored
                if match["embeds"]:
                    found.embeddings.add(module)
            elif match := _SHARED.fullmatch(key):
                found.shared[match[1]] = stored
            elif match := _TOKENS.fullmatch(key):
                found.tokens[match[1]] = stored
            elif (match := _BASE.fullmatch(key)) and match[2] == ".weight" and _names(saved, match[1]):
                found.whole[match[1]] = stored
            elif match:
                check_same(match[1] + match[2], file.get_tensor(stored), model, folder)
            else:
                allowed = "factors of linear modules and of embeddings by PEFT's names"
                raise SettingError("expert", f"the tensor {stored} in {folder}", allowed, _mend(key))
    if not found.factors:
        raise SettingError("expert", f"no weights in {folder}", PLAIN)
    if missing := [name for name in saved if not any(_names([name], module) for module in found.whole)]:
        got = f"modules_to_save={json.dumps(missing)} in {folder}, without their weights"
        raise SettingError("expert", got, "the modules that it names, in the file")
    return found


def _names(saved: Sequence[str], module: str) -> bool:
    """Whether the names are of this module or of one around it, as PEFT reads modules_to_save."""
    return any(f".{name}." in f".{module}." for name in saved)


def _mend(key: str) -> str:
    if re.search(r"lora_[ab](\.|$)", key):
        return TORCHTUNE
    if "lora_" in key:
        return "PEFT's are base_model.model.MODULE.lora_A.weight, as its save_pretrained writes them"
    return "PEFT leaves base weights out with save_embedding_layers=False"


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
