"""LoRA (Hu et al. 2022): both factors are trained."""

from pathlib import Path

from torch import nn

from lora_reuse.llm.adapters.kinds import adapter


@adapter(label="LoRA")
def lora(model: nn.Module, calibrated: Path | None) -> None:
    """A and B"""
