"""A whole model on disk: the files of a base with ΔW added to the weights that an adapter changes. No model is loaded:
each file is copied, and of the copy a few rows at a time are read, changed and written back. The memory this takes is
that of one module's factors, whatever the number of layers."""

import dataclasses
import json
import math
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.pytorch_utils import Conv1D

from lora_reuse.llm.adapters.adapter import Adapter, Card, named
from lora_reuse.llm.adapters.compressing import Loss
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.modules import tied
from lora_reuse.llm.decoding.gguf import described, is_gguf
from lora_reuse.llm.decoding.models import load_base
from lora_reuse.llm.decoding.reading import commit_of, here, reading
from lora_reuse.runs.files import whole_folder
from lora_reuse.runs.settings import SettingError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_BESIDE = ("*.json", "*.jinja", "*.model", "*.py", "*.tiktoken", "*.txt", "LICENSE*", "NOTICE*")
"""What belongs to a model beside its weights: config, generation config, tokenizer, chat template, code, licence."""
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NUMBERS = 2**20
"""So many of a weight are in memory at a time."""


class Stored(NamedTuple):
    """Where a weight lies: its file, its dtype by the format's name, its shape, and the first of its bytes."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int


def card_of_whole(card: Card, base: str, digest: str) -> Card:
    """The card of the base of this name and digest with what `card` describes added to its weights."""
    return dataclasses.replace(card, says=f"The weights of {named(base)} ({digest}) plus ΔW. {card.says}")


def save_whole(adapter: Adapter, base: str, digest: str, frame: PreTrainedModel, folder: Path) -> list[str]:
    """Writes W + ΔW as a model of its own, in files of the base's names, each weight in the dtype that the base stores
    it in. The folder appears whole or not at all.

    Where the base's head is its embedding and the adapter changes one of the two, they are two weights in the result. A
    GGUF base is dequantised to float32 first, in the memory that the whole model needs.

    Args:
        adapter: an adapter, or a composition by a static rule.
        base: the name of its base.
        digest: what tells the base's weights from others (`digest_of`); it goes on the card.
        frame: the modules of the base (`load_frame`).
        folder: a new or an empty folder.

    Returns:
        What is to be said of the result, a line each: what rounding to the dtype leaves out of ΔW, and whether head and
        embedding were parted.

    Raises:
        SettingError: the composition has a router, or the base is quantised, or its files do not hold the weight of a
            module as the module has it.
        OSError: the folder cannot be written.
    """
    if not adapter.static:
        raise SettingError("adapter", f"{adapter.name}, which weighs its adapters anew for each token", "one ΔW")
    ends = _ends(frame) if tied(frame, adapter) else ()
    with whole_folder(folder) as partial:
        with tempfile.TemporaryDirectory(dir=partial) as scratch:
            source, notes = _files(base, Path(scratch))
            with reading(base, source, "weights"):
                stored = _stored(source, frame)
            pairs = zip(ends, ends[::-1], strict=True)
            lacking = {end: stored[other] for end, other in pairs if end not in stored and other in stored}
            _check(base, source, stored | lacking, adapter, frame)
            for name in _shards(source):
                _copy(source / name, partial / name, {end: it for end, it in lacking.items() if it.file.name == name})
            for path in (path for pattern in _BESIDE for path in source.glob(pattern)):
                shutil.copyfile(path, partial / path.name)
        if ends:
            _part(partial, lacking)
            parted = " and ".join(end.removesuffix(".weight") for end in ends)
            notes.append(
                f"{parted} are one weight in the base and two here (tie_word_embeddings=false): the adapter changes "
                f"one of them; the model has {math.prod(_shape(frame, ends[0])):,} parameters more"
            )
        stored, loss = _stored(partial, frame), Loss(what="rounding to the base's dtype")
        for module, update in adapter.experts().items():
            transposed = isinstance(frame.get_submodule(module), Conv1D | nn.Embedding)
            loss.squares[module] = _add(update, stored[f"{module}.weight"], transposed)
        notes.append(loss.line())
        card = card_of_whole(adapter.card, base, digest)
        card = dataclasses.replace(card, note=lambda: adapter.card.note() + _listed(notes))
        text = card.text("model = AutoModelForCausalLM.from_pretrained(folder)", "transformers")
        (partial / "README.md").write_text(text, encoding="utf-8")
    return notes


def _listed(notes: Iterable[str]) -> str:
    return "\n".join(["", *(f"- {note[0].upper()}{note[1:]}." for note in notes), ""])


def _files(base: str, scratch: Path) -> tuple[Path, list[str]]:
    """A folder with the base's files, fetched if need be, or written to `scratch` from a GGUF file; and what is to be
    said of them."""
    where = here(base)
    if where is None:
        with reading(base, base, "weights"):
            fetch: dict[str, Any] = {"repo_id": base, "revision": commit_of(base)}
            folder = Path(huggingface_hub.snapshot_download(allow_patterns=list(_BESIDE), **fetch))
            huggingface_hub.snapshot_download(allow_patterns=_shards(folder), **fetch)
        return folder, []
    if not is_gguf(where):
        return where, []
    whole = load_base(base, dtype="float32", device="cpu")
    whole.model.save_pretrained(scratch)
    whole.tokenizer.save_pretrained(scratch)
    return scratch, [f"the base is {described(where)} to float32"]


def _shards(folder: Path) -> list[str]:
    """The files that transformers reads the weights from."""
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        return [WEIGHTS]
    return sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """What a safetensors file says at its head, and where its data begin. Raises ValueError for a file that is not
    whole."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    ends = 8 + length + max((it["data_offsets"][1] for name, it in header.items() if name != "__metadata__"), default=0)
    if ends != file.stat().st_size:
        raise ValueError(f"{file.name} has {file.stat().st_size} bytes, and its tensors end at {ends}")
    return header, 8 + length


def _stored(folder: Path, frame: PreTrainedModel) -> dict[str, Stored]:
    """The weights in a folder's files by their names in the model, as transformers finds them; not those that it makes
    of several, or of parts."""
    changes = get_model_conversion_mapping(frame)
    renamings = [it for it in changes if isinstance(it, WeightRenaming)]
    converters = [it for it in changes if isinstance(it, WeightConverter)]
    wanted, found = frame.state_dict(), dict[str, Stored]()
    for file in map(folder.joinpath, _shards(folder)):
        header, data = _header(file)
        for key in sorted(header.keys() - {"__metadata__"}):
            name, made = rename_source_key(key, renamings, converters, frame.base_model_prefix, wanted)
            if made is None:
                it = header[key]
                found[name] = Stored(file, it["dtype"], tuple(it["shape"]), data + it["data_offsets"][0])
    return found


def _check(
    base: str, folder: Path, stored: Mapping[str, Stored], modules: Iterable[str], frame: PreTrainedModel
) -> None:
    """Raises SettingError unless every module's weight is in the files, of the module's shape and of floating-point
    numbers."""
    said = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("quantization_config")
    allowed = "a base whose files hold each module's weight, in floating point"
    if said:
        mend = "the model that it was quantised from can be merged into"
        raise SettingError("model", f"{base}, which is quantised ({said.get('quant_method')})", allowed, mend)
    for module in modules:
        name = f"{module}.weight"
        it = stored.get(name)
        if it is None or it.shape != _shape(frame, name) or it.dtype not in _DTYPES:
            holds = f"{it.dtype} of shape {it.shape}" if it else "nothing"
            mend = "lora_reuse.merge_into makes it in memory"
            raise SettingError("model", f"{base}, whose files hold {holds} for {name}", allowed, mend)


def _shape(frame: PreTrainedModel, name: str) -> tuple[int, ...]:
    return tuple(frame.get_parameter(name).shape)


def _ends(frame: PreTrainedModel) -> tuple[str, str]:
    """The names of the embedding's weight and of the head's."""
    ends = frame.get_input_embeddings(), frame.get_output_embeddings()
    names = {id(module): name for name, module in frame.named_modules()}
    embedding, head = (f"{names[id(end)]}.weight" for end in ends)
    return embedding, head


def _copy(source: Path, copy: Path, more: Mapping[str, Stored]) -> None:
    """Copies a file of weights; `more` are of the same file, and come once more at its end, by these names."""
    if not more:
        shutil.copyfile(source, copy)
        return
    header, data = _header(source)
    end = source.stat().st_size - data
    for name, it in more.items():
        size = math.prod(it.shape) * _DTYPES[it.dtype].itemsize
        header[name] = {"dtype": it.dtype, "shape": it.shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with source.open("rb") as old, copy.open("wb") as new:
        new.write(len(text).to_bytes(8, "little") + text)
        old.seek(data)
        shutil.copyfileobj(old, new, 2**20)
        for name, it in more.items():
            old.seek(it.start)
            first, last = header[name]["data_offsets"]
            for at in range(first, last, 2**20):
                new.write(old.read(min(2**20, last - at)))


def _part(folder: Path, more: Mapping[str, Stored]) -> None:
    """Says in a folder's config that head and embedding are two weights, and in its index where those are that were
    added."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for said in (config, *(it for it in config.values() if isinstance(it, dict) and "tie_word_embeddings" in it)):
        said["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if _shards(folder) != [WEIGHTS]:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        index["weight_map"] |= {name: it.file.name for name, it in more.items()}
        numbers = sum(math.prod(it.shape) for it in more.values())
        sizes = sum(math.prod(it.shape) * _DTYPES[it.dtype].itemsize for it in more.values())
        for total, add in (("total_parameters", numbers), ("total_size", sizes)):
            if total in index.get("metadata", {}):
                index["metadata"][total] += add
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _add(update: LowRank, it: Stored, transposed: bool) -> tuple[float, float]:
    """Adds ΔW, or its transpose, to the weight where it lies, some rows at a time. Returns ‖rounded − (W + ΔW)‖_F² and
    ‖ΔW‖_F²."""
    left, right = (update.into, update.out) if transposed else update
    dtype, (rows, columns) = _DTYPES[it.dtype], it.shape
    exact = torch.float64 if dtype.itemsize >= 4 else torch.float32
    block, width, lost, whole = max(1, _NUMBERS // columns), columns * dtype.itemsize, 0.0, 0.0
    with it.file.open("r+b") as file:
        for row in range(0, rows, block):
            there = it.start + row * width
            file.seek(there)
            raw = bytearray(file.read(min(block, rows - row) * width))
            weight = torch.frombuffer(raw, dtype=dtype).view(-1, columns)
            delta = (left[row : row + block] @ right.T).to(exact)
            wanted = weight.to(exact) + delta
            weight.copy_(wanted)  # rounds
            lost += float((weight.to(exact) - wanted).square().sum())
            whole += float(delta.square().sum())
            file.seek(there)
            file.write(raw)
    return lost, whole
