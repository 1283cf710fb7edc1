"""The pocket model: a small Qwen2 pretrained from scratch on text this project generates, so that everything runs offline."""

import hashlib
import json
from pathlib import Path
from typing import Any


def folder_of(model: str) -> Path:
    """The folder of a model by name: `pocket` is the committed one."""
    return Path(__file__).parent / "model" if model == "pocket" else Path(model)


def switches(folder: Path) -> dict[str, Any]:
    """What a pocket model's corpus held, its size and seed, as rows record them; nothing for another model."""
    path = folder / "pocket.json"
    return json.loads(path.read_text())["size"] if path.is_file() else {}


def digest(folder: Path) -> str:
    """Of a model's config and weights: which of the models that a folder has held it holds now."""
    found = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: found)
    return found.hexdigest()[:16]
