"""The pocket model: a small Qwen2 pretrained from scratch on text this project generates, so that everything runs
offline."""

import json
from pathlib import Path
from typing import Any


def switches(folder: Path) -> dict[str, Any]:
    """The settings that a pocket model was pretrained with, as rows record them: its corpus, its size and its seed.
    Empty for any other model."""
    path = folder / "pocket.json"
    return json.loads(path.read_text(encoding="utf-8"))["size"] if path.is_file() else {}
