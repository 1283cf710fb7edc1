"""What a model's name stands for: `pocket`, `smollm2`, a folder or a GGUF file on this machine, or else a name on the
Hugging Face hub.

Torch is not needed to know.
"""

import hashlib
import os
from pathlib import Path

from lora_reuse.runs.settings import SettingError

POCKET = Path(__file__).parents[1] / "pocket" / "model"
"""The committed pocket model."""

SMOLLM2 = (
    Path(os.environ.get("LORA_REUSE_CACHE") or "~/.cache/lora-reuse").expanduser() / "SmolLM2-135M-Instruct.Q4_1.gguf"
)
"""Where `lora-reuse smollm2` puts the file, in a folder that the environment variable LORA_REUSE_CACHE names."""


def place_of(model: str) -> Path:
    """Where the model of this name is, or would be, on this machine: pocket and smollm2 are names, any other is taken
    for a path.

    A folder that holds a GGUF file and no config.json stands for the file. Raises SettingError for a folder that holds
    several, and for a name that no file can have."""
    place = {"pocket": POCKET, "smollm2": SMOLLM2}.get(model) or Path(model).expanduser()
    try:
        folder = place.is_dir()
    except OSError as error:  # of a name that is too long to be one
        raise SettingError("model", f"{model} ({error.strerror})", "a model's name") from None
    if not folder or (place / "config.json").is_file():
        return place
    files = sorted(place.glob("*.gguf"))
    if len(files) > 1:
        listed = ", ".join(path.name for path in files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
        raise SettingError(
            "model",
            f"{model}, a folder with {listed}",
            "a folder with one GGUF file",
            f"name the file: model={files[0]}",
        )
    return files[0] if files else place


def digest(place: Path) -> str:
    """16 hex digits of a GGUF file, or of a folder's config.json and safetensors, by which it is noticed that a place
    holds another model than before."""
    paths = [place] if place.is_file() else [place / "config.json", *sorted(place.glob("*.safetensors"))]
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: found)
    return found.hexdigest()[:16]


def each_once(library: str) -> list[str]:
    """The adapters that `library` names, with commas between. Raises SettingError for none, and for one that is there
    twice."""
    named = [name.strip() for name in library.split(",")]
    if "" in named or len({Path(name).expanduser().resolve() for name in named}) < len(named):
        raise SettingError("library", library or "nothing", "each adapter once")
    return named
