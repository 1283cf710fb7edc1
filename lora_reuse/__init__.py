"""When does reusing LoRA adapters compose?

Installed, the folders of the repository are packages in here. In a checkout they stand beside this one, and are found
by the same names."""

from pathlib import Path

_checkout = Path(__file__).parents[1]
if (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))
