"""LoRA adapters in GGUF files, as llama.cpp loads them (`--lora`) and its convert_lora_to_gguf.py writes them.

A module's factors are `NAME.weight.lora_a`, A, and `NAME.weight.lora_b`, B, by its GGUF name; ΔW = (α/r) B A with one α
for all modules (`adapter.lora.alpha`, where 0 or none is a scale of 1) and the rank r of each. In files of the
architecture `llama` the rows of query and key weights, and so of their B, are in another order: the two numbers of a
head that are rotated together are neighbours. Of the embedding A is transposed."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import (
    MODEL_ARCH,
    MODEL_ARCH_NAMES,
    GGUFReader,
    GGUFType,
    Keys,
    ReaderTensor,
    dequantize,
    get_tensor_name_map,
)
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedConfig

from lora_reuse.llm.adapters.config import CONFIG
from lora_reuse.llm.adapters.each import Each
from lora_reuse.llm.adapters.lowrank import Expert, LowRank
from lora_reuse.runs.settings import SettingError

ARCHITECTURES = {
    "gemma2": MODEL_ARCH.GEMMA2,
    "llama": MODEL_ARCH.LLAMA,
    "mistral": MODEL_ARCH.LLAMA,
    "phi3": MODEL_ARCH.PHI3,
    "qwen2": MODEL_ARCH.QWEN2,
    "qwen3": MODEL_ARCH.QWEN3,
}
"""By the model_type of the config. In these llama.cpp keeps every linear weight as it is, but for the rows of queries
and keys of LLAMA."""
EMBEDDING, HEAD = "token_embd", "output"
BASE_NAME, BASE_URL = (key.format(id=0) for key in (Keys.General.BASE_MODEL_NAME, Keys.General.BASE_MODEL_REPO_URL))
HUB = "https://huggingface.co/"
_PLAIN = "a GGUF file of a LoRA, as convert_lora_to_gguf.py writes it"


def gguf_of(place: str | Path) -> Path | None:
    """The GGUF file that an adapter's name stands for: the file itself, or the only one in a folder without a PEFT
    configuration."""
    path = Path(place).expanduser()
    folder = os.path.isdir(path)  # which says no, where Path raises, of a name that is too long to be one
    if path.suffix == ".gguf" and not folder:
        return path
    files = sorted(path.glob("*.gguf")) if folder and not (path / CONFIG).is_file() else []
    return files[0] if len(files) == 1 else None


def digest_of_file(file: Path) -> str:
    """16 hex digits of the file."""
    _opened(file)
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:16]


def base_of(file: Path) -> str:
    """The base that the file names, by its hub name if it has one; "" for none."""
    reader = _opened(file)
    url = str(_said(reader, BASE_URL) or "")
    return url.removeprefix(HUB) if url.startswith(HUB) else str(_said(reader, BASE_NAME) or "").replace(" ", "-")


def described(file: Path) -> str:
    """The adapter's kind, in words."""
    reader = _opened(file)
    ranks = sorted({int(tensor.shape[0]) for tensor in reader.tensors if tensor.name.endswith(".lora_b")})
    types = ", ".join(sorted({tensor.tensor_type.name for tensor in reader.tensors}))
    rank = "-".join(map(str, dict.fromkeys((ranks[0], ranks[-1])))) if ranks else "none"
    alpha = _said(reader, Keys.Adapter.LORA_ALPHA) or 0
    scale = f"alpha {alpha:g}, ΔW = alpha/rank B A" if alpha else "ΔW = B A"
    return f"GGUF LoRA of rank {rank}, {scale}, {types}, for {_said(reader, Keys.General.ARCHITECTURE)}"


def open_gguf(file: Path, config: PreTrainedConfig | None, shapes: Mapping[str, tuple[int, int]]) -> Expert:
    """The updates of a GGUF adapter, each read when it is asked for: those of the model of `config`, whose modules have
    ΔW of these `shapes`. Raises SettingError for a file that is no LoRA, one of another base, and one that changes more
    than these modules."""
    reader = _opened(file)
    model = architecture(config)
    if (said := _said(reader, Keys.General.ARCHITECTURE)) != MODEL_ARCH_NAMES[model]:
        got, allowed = f"{file} for {said}", f"one for {MODEL_ARCH_NAMES[model]}, the model's architecture"
        raise SettingError("expert", got, allowed, "it is of another base model")
    if _said(reader, Keys.Adapter.ALORA_INVOCATION_TOKENS):
        raise SettingError("expert", f"{file}, which is active after some tokens alone (aLoRA)", _PLAIN)
    modules = {f"{name}.weight": module for module, name in names(config, shapes).items()}
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    found: dict[str, str] = {}
    for name, tensor in tensors.items():
        stem, _, factor = name.rpartition(".")
        if factor not in ("lora_a", "lora_b") or {f"{stem}.lora_a", f"{stem}.lora_b"} - tensors.keys():
            mend = "whole weights are not composed" if name.endswith("norm.weight") else ""
            raise SettingError("expert", f"the tensor {name} in {file}", "pairs of lora_a and lora_b", mend)
        if stem not in modules:
            raise SettingError("expert", f"{file} for {stem}", "modules of the model", "it is of another base model")
        found[modules[stem]] = stem
        shape, need = tuple(map(int, reversed(tensor.shape))), shapes[modules[stem]]
        rank = int(tensors[f"{stem}.lora_b"].shape[0])  # ggml names the fastest dimension first
        turned = factor == "lora_b" or stem == f"{EMBEDDING}.weight"
        size = need[0] if factor == "lora_b" else need[1]
        if shape != ((size, rank) if turned else (rank, size)):
            allowed = f"factors of ΔW of shape {need}, as the model's"
            raise SettingError("expert", f"{file} with {name} {shape}", allowed, "it is of another base model")
    alpha = float(_said(reader, Keys.Adapter.LORA_ALPHA) or 0)

    def read(module: str) -> LowRank:
        stem = found[module]
        a, b = (_values(tensors[f"{stem}.{factor}"], file) for factor in ("lora_a", "lora_b"))
        into = a if stem == f"{EMBEDDING}.weight" else a.T.contiguous()
        out = ordered(b, stem.removesuffix(".weight"), config, back=True)
        return LowRank(out * (alpha / b.shape[1] if alpha else 1.0), into)

    return Each(sorted(found), read)


def architecture(config: PreTrainedConfig | None) -> MODEL_ARCH:
    """Raises SettingError for one that is not in `ARCHITECTURES`."""
    kind = getattr(config, "model_type", None)
    if kind not in ARCHITECTURES:
        allowed = " | ".join(ARCHITECTURES)
        raise SettingError("model", f"{kind}, for a GGUF adapter", allowed, "a PEFT folder can be of any architecture")
    return ARCHITECTURES[kind]


def names(config: PreTrainedConfig | None, modules: Iterable[str]) -> dict[str, str]:
    """The GGUF names of those of the modules that have one, such as `blk.0.ffn_up`."""
    layers = int(getattr(config, "num_hidden_layers", 0))
    known = get_tensor_name_map(architecture(config), layers)
    found = {module: known.get_name(module) for module in modules}
    return {module: name for module, name in found.items() if name}


def ordered(
    b: Float[Tensor, "outputs rank"], name: str, config: PreTrainedConfig | None, back: bool
) -> Float[Tensor, "outputs rank"]:
    """The rows of B in llama.cpp's order, or back: of the queries and keys of LLAMA, the two halves of each head, which
    transformers rotates with each other, row by row in turn."""
    heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}.get(name.rpartition(".")[2])
    if not heads or architecture(config) is not MODEL_ARCH.LLAMA:
        return b
    return (
        b.unflatten(0, (getattr(config, heads), -1, 2) if back else (getattr(config, heads), 2, -1))
        .transpose(1, 2)
        .flatten(0, 2)
    )


def _opened(file: Path) -> GGUFReader:
    """Raises SettingError for what is no GGUF file of a LoRA."""
    try:
        reader = GGUFReader(file)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise SettingError("expert", f"{file} ({str(error).splitlines()[0]})", _PLAIN) from None
    kind, what = _said(reader, Keys.General.TYPE), _said(reader, Keys.Adapter.TYPE)
    if (kind, what) != (GGUFType.ADAPTER, "lora"):
        mend = "it is a base: model= names one" if kind in (None, GGUFType.MODEL) else ""
        raise SettingError("expert", f"{file}, a GGUF file of type {what or kind or 'model'}", _PLAIN, mend)
    return reader


def _said(reader: GGUFReader, key: str) -> Any:
    field = reader.fields.get(key)
    return None if field is None else field.contents()


def _values(tensor: ReaderTensor, file: Path) -> Tensor:
    values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    if not values.isfinite().all():
        raise SettingError("expert", f"NaN or infinity in {tensor.name} of {file}", "finite weights")
    return values
