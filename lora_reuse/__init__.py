"""When does reusing LoRA adapters compose?

    import lora_reuse as lr

    base = lr.load_base("Qwen/Qwen2.5-3B-Instruct")
    a, b = lr.load_adapter(base, "a"), lr.load_adapter(base, "b")
    both = lr.compose([a, b], "ties", density=0.3)
    lr.answers(base, both, ["..."])
    lr.save(both, "merged")

A name is imported when it is first used, so that importing the package needs neither torch nor jax. Each is defined in
the module that `_HOMES` says.

Installed, the folders of the repository are packages in here. In a checkout they stand beside this one, and are found
by the same names."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora_reuse.llm.adapters.adapter import Adapter as Adapter
    from lora_reuse.llm.adapters.adapter import load_adapter as load_adapter
    from lora_reuse.llm.adapters.composing import compose as compose
    from lora_reuse.llm.adapters.compressing import compress as compress
    from lora_reuse.llm.adapters.from_pairs import train_adapter as train_adapter
    from lora_reuse.llm.adapters.learning import learn as learn
    from lora_reuse.llm.adapters.plain import merge_into as merge_into
    from lora_reuse.llm.adapters.plain import to_peft as to_peft
    from lora_reuse.llm.adapters.saving import load as load
    from lora_reuse.llm.adapters.saving import save as save
    from lora_reuse.llm.decoding.greedy import answers as answers
    from lora_reuse.llm.decoding.models import Base as Base
    from lora_reuse.llm.decoding.models import load_base as load_base
    from lora_reuse.llm.forecast.forecasts import Forecasts as Forecasts
    from lora_reuse.llm.forecast.forecasts import forecast as forecast
    from lora_reuse.llm.scoring.marks import Marks as Marks
    from lora_reuse.llm.scoring.marks import score as score
    from lora_reuse.runs.rows import rows as rows
    from lora_reuse.runs.settings import SettingError as SettingError
    from lora_reuse.theory.edits import edit as edit
    from lora_reuse.theory.experiments.theorem_3 import coefficients as coefficients
    from lora_reuse.theory.gram import coordinates as coordinates
    from lora_reuse.theory.gram import gram as gram
    from lora_reuse.theory.gram import kernel as kernel
    from lora_reuse.theory.settings import Model as Model

_checkout = Path(__file__).parents[1]
if (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))

_HOMES = {
    # Adapters of language models
    "Adapter": "llm.adapters.adapter",
    "Base": "llm.decoding.models",
    "Forecasts": "llm.forecast.forecasts",
    "Marks": "llm.scoring.marks",
    "answers": "llm.decoding.greedy",
    "compose": "llm.adapters.composing",
    "compress": "llm.adapters.compressing",
    "forecast": "llm.forecast.forecasts",
    "learn": "llm.adapters.learning",
    "load": "llm.adapters.saving",
    "load_adapter": "llm.adapters.adapter",
    "load_base": "llm.decoding.models",
    "merge_into": "llm.adapters.plain",
    "save": "llm.adapters.saving",
    "score": "llm.scoring.marks",
    "to_peft": "llm.adapters.plain",
    "train_adapter": "llm.adapters.from_pairs",
    # The theory
    "Model": "theory.settings",
    "coefficients": "theory.experiments.theorem_3",
    "coordinates": "theory.gram",
    "edit": "theory.edits",
    "gram": "theory.gram",
    "kernel": "theory.gram",
    # Rows and settings
    "SettingError": "runs.settings",
    "rows": "runs.rows",
}
"""The public names, each with the module that defines it."""

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """The public name, from its module; it is imported once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
