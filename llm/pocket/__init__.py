"""The pocket model: a small Qwen2 pretrained from scratch on text this project generates, so that everything runs offline."""

import json
from pathlib import Path
from typing import Any


def switches(folder: Path) -> dict[str, Any]:
    """What a pocket model's corpus held, its size and seed, as rows record them; nothing for another model."""
    path = folder / "pocket.json"
    return json.loads(path.read_text())["size"] if path.is_file() else {}
