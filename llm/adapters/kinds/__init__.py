"""What is trained of an adapter: one kind a function, known by its name, which `adapter=` says.

A kind gets PEFT's model with a LoRA adapter as it is drawn, and the folder of the expert that it is calibrated by, if
it is. It leaves `requires_grad` on what is trained, and returns what is done before every optimizer step, or None. Its
dials are its keyword-only arguments (`lora_reuse.runs.dials`). To add one, write the function in a module of this
package and put `@adapter(...)` over it; the first line of its docstring is what `--help` says."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lora_reuse.runs.dials import Dial, dials

BeforeStep = Callable[..., None]
Prepare = Callable[..., BeforeStep | None]
"""From (model, calibrated), with the kind's dials by keyword."""


@dataclass(frozen=True)
class Kind:
    """A kind, its dials, its name in tables, and the kind of the expert that is trained first from the same data."""

    prepare: Prepare
    dials: Mapping[str, Dial]
    label: str
    calibrated_by: str


KINDS: dict[str, Kind] = {}


def adapter(*, label: str, calibrated_by: str = "") -> Callable[[Prepare], Prepare]:
    """Enrols a function under its own name."""

    def enrol(function: Any) -> Any:
        KINDS[function.__name__] = Kind(function, dials(function), label, calibrated_by)
        return function

    return enrol


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
