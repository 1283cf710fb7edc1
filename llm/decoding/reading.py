"""The parts of a model read from a folder, a GGUF file or the hub: config, tokenizer, weights. What cannot be read, or
is no causal language model, is refused with one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.tokenization_utils_tokenizers import TokenizersBackend
from transformers.utils import logging

from lora_reuse.llm.decoding.gguf import is_gguf, look_over, pretrained, read_dequantised
from lora_reuse.llm.decoding.names import SMOLLM2, place_of
from lora_reuse.runs.settings import SettingError

_MODEL = "a folder with config.json and *.safetensors, a GGUF file, or a name on the Hugging Face hub"
_CONVERT = "pickled weights can run code as they are read: convert them with the safetensors library"


def here(model: str, weights: bool = True) -> Path | None:
    """The folder or GGUF file `model` names, looked over before anything heavy is read; None if it can only be a name
    on the hub. Without `weights` a folder needs no more than config.json."""
    folder = place_of(model)
    if not folder.is_dir():
        if folder.suffix == ".gguf":
            if not folder.is_file():
                raise SettingError(
                    "model",
                    f"{model}, and no file {folder}",
                    _MODEL,
                    "make smollm fetches it" if folder == SMOLLM2 else "",
                )
            with reading(model, folder, "header"):
                look_over(model, folder)
            return folder
        if folder.exists():
            raise SettingError("model", f"{model}, which is a file", _MODEL, f"try model={folder.parent}")
        return None
    if not (folder / "config.json").is_file():
        mend = (
            "an adapter is no model: name the one it was trained on"
            if (folder / "adapter_config.json").is_file()
            else ""
        )
        raise SettingError("model", f"{model}, a folder without config.json", _MODEL, mend)
    if weights and not any((folder / f"model.safetensors{end}").is_file() for end in ("", ".index.json")):
        pickled = any(path.suffix in (".bin", ".pt", ".pth", ".ckpt") for path in folder.iterdir())
        raise SettingError("model", f"{model}, a folder without model.safetensors", _MODEL, _CONVERT if pickled else "")
    return folder


def commit_of(model: str) -> str:
    """The commit of the hub's main branch, or the one in the cache when offline: every file is then read from it."""
    with reading(model, model, "config"):
        return Path(hf_hub_download(model, "config.json")).parent.name


def read_config(model: str, where: Path | str, source: dict[str, Any]) -> PreTrainedConfig:
    """The config of a causal language model. Raises SettingError for any other kind of model."""
    with reading(model, where, "config"):
        folder, file = pretrained(where)
        raw, _ = PreTrainedConfig.get_config_dict(folder, revision=source["revision"], **file)
        kind, own_code = raw.get("model_type"), raw.get("auto_map") or {}
        if kind not in CONFIG_MAPPING and not own_code:
            raise SettingError("model", f"{model} of model_type {kind}", "an architecture that this transformers knows")
        # A GGUF file takes seconds to read, and is not read again.
        config = AutoConfig.for_model(**raw) if file else AutoConfig.from_pretrained(where, **source)
    trained = ", ".join(config.architectures or [type(config).__name__])
    encoder = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or "AutoModelForCausalLM" in own_code
    if (
        not causal
        or encoder
        or config.is_encoder_decoder
        or re.search("Classification|QuestionAnswering|MaskedLM", trained)
    ):
        raise SettingError("model", f"{model}, which is {trained}", "a causal language model")
    return config


def read_tokenizer(model: str, where: Path | str, source: dict[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer, padding on the left. Raises SettingError for one that cannot end an answer."""
    with reading(model, where, "tokenizer"):
        # For Qwen2 the Auto class builds Qwen's own tokenizer, even where the folder says that tokenizer.json is all
        # there is to it.
        folder, file = pretrained(where)
        plain = file or (
            isinstance(where, Path) and get_tokenizer_config(where).get("tokenizer_class") == TokenizersBackend.__name__
        )
        tokenizer = (TokenizersBackend if plain else AutoTokenizer).from_pretrained(
            folder, padding_side="left", **source, **file
        )
    if tokenizer.eos_token_id is None:
        raise SettingError(
            "model", f"{model}, whose tokenizer has no end-of-sequence token", "a tokenizer that can end an answer"
        )
    return tokenizer


def read_weights(model: str, where: Path | str, options: dict[str, Any]) -> PreTrainedModel:
    """The model in eval mode and frozen, every weight read from safetensors or a GGUF file. Raises SettingError where
    one is missing."""
    # A wrong shape is listed with the missing ones instead of raised, so that it can be named.
    options |= {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    with reading(model, where, "weights"):
        read: Any = (
            read_dequantised(where, **options)
            if is_gguf(where)
            else AutoModelForCausalLM.from_pretrained(where, **options)
        )
    loaded, info = read
    absent = sorted({*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])})
    if absent:  # transformers has drawn them at random
        listed = ", ".join(absent[:3]) + (f" and {len(absent) - 3} more" if len(absent) > 3 else "")
        raise SettingError(
            "model",
            f"{model}, whose weights lack {listed}, or have another shape",
            "every weight of its config's model",
        )
    return loaded.eval().requires_grad_(False)


@contextmanager
def reading(model: str, where: Path | str, part: str) -> Iterator[None]:
    """Raises what goes wrong inside as a SettingError, in the words of someone who only typed `model`. What
    transformers says of it in several lines is not printed."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except SettingError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        got = f"{model}, which does not fit in the memory of its device"
        raise SettingError(
            "model", got, "a model that fits", "dtype=bfloat16, or device_map=auto for several GPUs"
        ) from error
    except (OSError, ValueError, KeyError, ImportError, SafetensorError, StrictDataclassError) as error:
        if "trust_remote_code" in str(error):
            got = f"{model}, which brings its own code"
            raise SettingError("model", got, "that only with trust_remote_code=true", "read the code first") from error
        if part == "weights" and "cannot be loaded with `safetensors`" in str(error):
            got = f"{model} without safetensors, on the hub or, where that cannot be reached, in its cache"
            raise SettingError("model", got, "safetensors", _CONVERT) from error
        no_folder = "which is no folder here and"
        said = {
            GatedRepoError: "which must be asked for on the hub first, and then needs `hf auth login`",
            RepositoryNotFoundError: f"{no_folder} no public model on the hub",
            HFValidationError: f"{no_folder} cannot be a name on the hub",
            LocalEntryNotFoundError: f"{no_folder} not in the hub's cache, and the hub cannot be reached",
        }
        why = next(
            (text for kind, text in said.items() if isinstance(error, kind)),
            f"whose {part} cannot be read ({reason(error)})",
        )
        raise SettingError(
            "model",
            f"{model}, {why}",
            _MODEL,
            "a folder is written model=path/to/folder" if isinstance(where, str) else "",
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def reason(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['nothing said'])[0]}".removesuffix(".")
