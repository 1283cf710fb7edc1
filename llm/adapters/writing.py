"""Experts written to disk: a folder that PEFT loads by itself, one module after the other. The safetensors library
writes tensors that are all in memory; `tensor_file` writes one at a time."""

import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from lora_reuse.llm.adapters.biased import Biased
from lora_reuse.llm.adapters.config import CONFIG, read_config
from lora_reuse.llm.adapters.folders import Layout
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.tensors import WEIGHTS, all_finite
from lora_reuse.runs.files import whole_folder
from lora_reuse.runs.settings import SettingError


def save_expert(
    expert: Mapping[str, object],
    folder: str | Path,
    base_name: str,
    layout: Layout | None = None,
    card: Callable[[], str] = str,
) -> None:
    """Writes an expert, or a static composition, as a PEFT folder with the same ΔW, one module after the other; the
    folder appears whole or not at all.

    `layout` is that of the modules (none: all are Linear); `card` is its README.md, asked for last. Raises SettingError
    for a folder with something in it, for weights that are not finite and for routed updates, which are no adapter."""
    folder, layout, ranks = Path(folder), layout or Layout(), dict[str, int]()
    check_new(folder)
    if not expert:
        raise SettingError("expert", "no module", "at least one")
    with whole_folder(folder) as partial:
        with tensor_file(partial / WEIGHTS, {"format": "pt"}) as put:
            for name, delta in expert.items():
                update = _storable(name, delta.update if isinstance(delta, Biased) else delta)
                for factor, value in (("A", update.into.T), ("B", update.out)):
                    key = f"lora_embedding_{factor}" if name in layout.embeddings else f"lora_{factor}.weight"
                    put(f"base_model.model.{name}.{key}", value)
                if layout.biased:
                    if name in layout.embeddings:
                        got = f"{name} beside modules with biases"
                        raise SettingError("expert", got, "linear modules, as PEFT has it", "leave out one of the two")
                    bias = delta.bias.cpu() if isinstance(delta, Biased) else torch.zeros(update.shape[0])
                    put(f"base_model.model.{name}.lora_B.bias", bias)
                ranks[name] = update.rank
        config = _config(ranks, base_name, layout)
        (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if text := card():
            (partial / "README.md").write_text(text, encoding="utf-8")


def saved_ranks(folder: Path) -> str:
    """The rank of the modules of an adapter that `save_expert` wrote, or the least and the largest, as `8-32`."""
    config = read_config(folder)
    found = sorted({config["r"], *config["rank_pattern"].values()})
    return "-".join(map(str, dict.fromkeys((found[0], found[-1]))))


def check_new(folder: Path) -> None:
    """Raises SettingError for a folder with something in it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingError("folder", folder, "a new or empty folder", "an adapter is never overwritten")


def _storable(name: str, update: object) -> LowRank:
    if not isinstance(update, LowRank):
        mend = "a routed composition cannot be saved as one adapter"
        raise SettingError("expert", f"a {type(update).__name__} in {name}", "LowRank updates", mend)
    update = update.to(torch.device("cpu"), torch.float32)
    if not (all_finite(update.out) and all_finite(update.into)):
        raise SettingError("expert", f"NaN or infinity in {name}", "finite weights")
    if update.rank == 0:  # PEFT has no rank 0
        update = LowRank(update.out.new_zeros(update.shape[0], 1), update.into.new_zeros(update.shape[1], 1))
    return update


def _config(ranks: Mapping[str, int], base_name: str, layout: Layout) -> dict[str, Any]:
    """With α = r in every module, so that ΔW = B A; modules by their full names."""
    r = max(ranks.values())
    others = {re.escape(name): rank for name, rank in sorted(ranks.items()) if rank != r}
    return {
        "alpha_pattern": others,
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": layout.conv1d,
        "inference_mode": True,
        "lora_alpha": r,
        **({"lora_bias": True} if layout.biased else {}),
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": r,
        "rank_pattern": others,
        "target_modules": sorted(ranks),
        "task_type": "CAUSAL_LM",
    }


_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Of the dtypes, as the format calls them."""


@contextlib.contextmanager
def tensor_file(path: Path, metadata: Mapping[str, str] | None = None) -> Iterator[Callable[[str, Tensor], None]]:
    """A function that takes a tensor of a name, to be called with one after the other; the file is there when the
    context ends well, and takes as much disk twice until then.

    Tensors of wide dtypes come first, so that each begins at a multiple of its width. Raises TypeError for a dtype that
    the format has no name for, and OSError."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    with contextlib.ExitStack() as stack:
        parts: dict[int, IO[bytes]] = {}
        found: list[tuple[int, str, dict[str, Any], int, int]] = []

        def put(name: str, tensor: Tensor) -> None:
            if tensor.dtype not in _NAMES:
                raise TypeError(f"{name} of {tensor.dtype}")
            width = tensor.element_size()
            if width not in parts:
                parts[width] = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
            said = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape)}
            values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            start = parts[width].tell()
            parts[width].write(values.data)
            found.append((width, name, said, start, start + len(values)))

        yield put
        before, starts = 0, {}
        for width in sorted(parts, reverse=True):
            starts[width], before = before, before + parts[width].tell()
        for width, name, said, start, end in found:
            header[name] = said | {"data_offsets": [starts[width] + start, starts[width] + end]}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for width in starts:
                parts[width].seek(0)
                shutil.copyfileobj(parts[width], file, 2**20)
