"""The pocket model: a small Qwen2 pretrained from scratch on text this project generates, so that everything runs offline."""

from pathlib import Path


def folder_of(model: str) -> Path:
    """The folder of a model by name: `pocket` is the committed one."""
    return Path(__file__).parent / "model" if model == "pocket" else Path(model)
