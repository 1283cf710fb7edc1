"""Models in GGUF files, as llama.cpp writes them: looked over before anything heavy is read, and dequantised into plain
models.

transformers reads both the weights and the tokenizer that are in the file. What it gives is no model to train on or to
save: a config that says `gguf`, so the weights go into a fresh one."""

import functools
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

import gguf
import numpy as np
from gguf import LlamaFileType
from transformers import AutoModelForCausalLM, GgufConfig, PreTrainedConfig, PreTrainedModel
from transformers import modeling_gguf_pytorch_utils as reader
from transformers.integrations.gguf.gguf_config_mapping import GGUF_CONFIG_ARCHS
from transformers.integrations.gguf.reader import GgufHeader, read_gguf_metadata

from lora_reuse.runs.settings import SettingError

_WHOLE = "a GGUF file that is whole"


def is_gguf(where: Path | str) -> TypeGuard[Path]:
    """Whether a place is a GGUF file: the only kind of model here that is no folder."""
    return isinstance(where, Path) and where.is_file()


def pretrained(where: Path | str) -> tuple[Path | str, dict[str, Any]]:
    """What transformers calls this place: a folder or a name on the hub, and the file in it."""
    return (where.parent, {"gguf_file": where.name}) if is_gguf(where) else (where, {})


def look_over(model: str, path: Path) -> None:
    """Raises SettingError for a file that is truncated, split, of an architecture that transformers does not read, or
    without an EOS."""
    metadata = _metadata(model, path)
    if metadata.get("split.count", 0) > 1:
        got = f"{model}, one of {metadata['split.count']} parts of a GGUF file"
        raise SettingError("model", got, "a GGUF file in one part", "llama-gguf-split --merge joins them")
    if metadata.get("general.type") == "adapter":
        raise SettingError("model", f"{model}, an adapter", "a model", "library= names adapters")
    architecture = metadata["general.architecture"]
    if architecture not in {*GGUF_CONFIG_ARCHS, *reader.GGUF_SUPPORTED_ARCHITECTURES}:
        raise SettingError(
            "model",
            f"{model} of architecture {architecture}",
            "an architecture that this transformers reads from GGUF files",
        )
    try:
        header = GgufHeader.from_file(str(path))
    except (ValueError, IndexError, struct.error) as error:
        raise SettingError("model", f"{model}, whose list of tensors cannot be read ({error})", _WHOLE) from error
    ends = header.data_start + max((tensor.offset + tensor.nbytes for tensor in header.tensors), default=0)
    if (size := path.stat().st_size) < ends:
        raise SettingError(
            "model",
            f"{model}, a file of {size} bytes whose tensors end at {ends}",
            _WHOLE,
            "it was not copied to its end",
        )
    if "tokenizer.ggml.eos_token_id" not in metadata:
        raise SettingError(
            "model", f"{model}, whose tokenizer has no end-of-sequence token", "a tokenizer that can end an answer"
        )


class _Reader(gguf.GGUFReader):
    """gguf's reader on plain arrays. Each of a million slices of a header with a vocabulary would be a memmap of its
    own, which takes nearly half of the time in which SmolLM2 is read."""

    @property
    def data(self) -> np.ndarray:
        return self._plain

    @data.setter
    def data(self, mapped: np.ndarray) -> None:
        self._plain = mapped.view(np.ndarray)


@contextmanager
def read_once() -> Iterator[None]:
    """While a base is loaded, its file is opened once, the table of its tensors' names is made once, and its bar is
    shown on a terminal alone. transformers 5.23 opens it for the config and again for the weights, makes the table for
    every module, half of the time that SmolLM2 took, and writes its bar into logs."""
    better = {
        (gguf, "GGUFReader"): lambda _: functools.cache(_Reader),
        (gguf, "get_tensor_name_map"): functools.cache,
        (reader, "tqdm"): lambda bar: functools.partial(bar, disable=None, leave=False),
    }
    plain = {place: getattr(*place) for place in better}
    for place, made in plain.items():
        setattr(*place, better[place](made))
    try:
        yield
    finally:
        for place, made in plain.items():
            setattr(*place, made)


def described(path: Path) -> str:
    """What a row and a caption call the weights: the file's name, and how it stores most of its matrices."""
    stored = _metadata(str(path), path).get("general.file_type")
    kind = (
        LlamaFileType(stored).name.removeprefix("MOSTLY_").removeprefix("ALL_")
        if stored in list(LlamaFileType)
        else "unknown types"
    )
    return f"{re.sub(rf'[-._]{kind}$', '', path.stem, flags=re.IGNORECASE)}, {kind}, dequantised"


def read_dequantised(
    path: Path, config: PreTrainedConfig, dtype: str, device_map: str, **options: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A plain model of the config, and what the file lacks, as `from_pretrained` gives both with
    `output_loading_info`."""
    source: Any = {"gguf_file": path.name, "quantization_config": GgufConfig(dequantize=True), **options}
    read: Any = AutoModelForCausalLM.from_pretrained(path.parent, config=config, dtype=dtype, **source)
    packed, info = read
    made: Any = type(packed).from_pretrained(
        None, config=config, state_dict=packed.state_dict(), dtype=packed.dtype, device_map=device_map
    )
    return made, info


def _metadata(model: str, path: Path) -> dict[str, Any]:
    try:
        return read_gguf_metadata(str(path))[0]
    except (ValueError, IndexError, struct.error) as error:  # numpy's for an empty file, struct's for a cut number
        raise SettingError(
            "model", f"{model}, whose header cannot be read ({str(error).splitlines()[0]})", _WHOLE
        ) from error
