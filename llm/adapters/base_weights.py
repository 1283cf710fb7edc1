"""The weights of a base where an adapter needs them: of a model in memory, or else from the model's own files, one at a
time."""

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import safetensors
import torch
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from lora_reuse.llm.decoding.names import place_of
from lora_reuse.runs.settings import SettingError

_AS_THEY_ARE = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def base_weight(module: str, model: nn.Module, folder: Path) -> Float[Tensor, "outputs inputs"]:
    """The weight W of a module of the base, outputs times inputs and in the dtype that it is stored in, for an adapter
    in `folder` whose ΔW needs it. Raises SettingError where it is not on this machine, or quantised."""
    found = next(_values(f"{module}.weight", model), None)
    where = getattr(getattr(model, "config", None), "_name_or_path", "") or "the model"
    if found is None:
        got = f"{folder}, whose ΔW of {module} needs the weight of {where} there, which no safetensors here have"
        mend = "fetch the whole model; in Python, load_base has the weights in memory for load_adapter"
        raise SettingError("expert", got, "adapters of a base whose weights are on this machine", mend)
    if found.dtype not in _AS_THEY_ARE:  # of float8 the weight is the numbers times a scale that is stored beside them
        got = f"{folder}, whose ΔW of {module} needs the weight of {where} there, which is quantised"
        raise SettingError("expert", got, "adapters of a base whose weights are stored as they are")
    return oriented(found.cpu(), model.get_submodule(module))


def oriented(weight: Tensor, module: nn.Module) -> Tensor:
    """A module's weight with one row an output: embeddings and GPT-2's Conv1D store theirs the other way round."""
    return weight if isinstance(module, nn.Linear) else weight.T


def check_same(name: str, saved: Tensor, model: nn.Module, folder: Path) -> None:
    """Raises SettingError unless the base has this weight, of the same values at the precision that it was saved in."""
    there = dict(model.named_parameters(remove_duplicate=False)).get(name)
    mend = "PEFT leaves base weights out with save_embedding_layers=False"
    if there is None or there.shape != saved.shape:
        model_has = "none" if there is None else tuple(there.shape)
        got = f"{name} {tuple(saved.shape)} in {folder}, where the model has {model_has}"
        raise SettingError("expert", got, "weights of the base as they are", mend)
    own = next(_values(name, model), None)
    if own is None:
        got = f"{name} in {folder}, which cannot be compared with the base's: its weights are not on this machine"
        raise SettingError("expert", got, "weights of the base as they are", mend)
    if not torch.equal(own.to(saved.dtype).cpu(), saved):
        got = f"{name} in {folder}, other than the base's"
        if name.endswith(".bias"):
            raise SettingError(
                "expert", got, "biases of the base as they are", "biases that were trained are not composed"
            )
        raise SettingError("expert", got, "weights of the base as they are, but for weights that modules_to_save names")


def _values(name: str, model: nn.Module) -> Iterator[Tensor]:
    """The values of a weight; of a model without its weights, from the model's own files."""
    parameter = dict(model.named_parameters(remove_duplicate=False)).get(name)
    if parameter is not None and not parameter.is_meta:
        yield parameter.detach()
        return
    config, ends = getattr(model, "config", None), _ends(model)
    names = ends if name in ends and getattr(config, "tie_word_embeddings", False) else {name}
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    names = names | {name.removeprefix(prefix) for name in names}
    for path in sorted(_files(getattr(config, "_name_or_path", ""))):
        with safetensors.safe_open(path, framework="pt") as file:
            for key in names & set(file.keys()):
                yield file.get_tensor(key)


def _ends(model: nn.Module) -> set[str]:
    """The weights of embedding and head by their full names, which are one where the two are tied."""
    if not isinstance(model, PreTrainedModel):
        return set()
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return {f"{name}.weight" for name, module in model.named_modules() if any(module is end for end in ends)}


def _files(model: str) -> Iterator[Path]:
    """The safetensors of a folder, or of a hub name what is cached."""
    folder = place_of(model)
    if not folder.exists() and model:
        try:
            folder = Path(huggingface_hub.snapshot_download(model, local_files_only=True))
        except (HFValidationError, LocalEntryNotFoundError):
            return
    yield from folder.glob("*.safetensors")
