"""A protocol by the name of its rows, of its file or of its module."""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lora_reuse.runs.settings import SettingError

if TYPE_CHECKING:
    from lora_reuse.llm.protocols.protocol import Protocol


def protocol_of(experiment: str) -> "Protocol":
    """The protocol of an experiment's rows. Raises SettingError for rows that no protocol in `llm` makes."""
    try:
        return importlib.import_module("lora_reuse." + experiment.replace("_", ".", 1)).PROTOCOL
    except (ImportError, AttributeError):
        raise SettingError("experiment", experiment, "llm_ and the name of a protocol, as llm_two_hop") from None


def protocol_in(file: Path) -> "Protocol":
    """The protocol of a file of one's own. Raises SettingError for a file that has none."""
    try:
        return named(file.stem, str(file.resolve().parent))
    except (ImportError, AttributeError) as error:
        raise SettingError("protocol", f"{file} ({error})", "a Python file with PROTOCOL = Protocol(...)") from None


def named(path: str, folder: str = "") -> "Protocol":
    """The PROTOCOL of a module; `folder` is where a file lies that is in no package. Raises ImportError and
    AttributeError."""
    if folder and folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(path).PROTOCOL
