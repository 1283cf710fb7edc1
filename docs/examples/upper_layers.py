"""LoRA in the upper layers alone."""

import re
from pathlib import Path
from typing import Annotated

from torch import nn

from lora_reuse.llm.adapters.kinds import adapter
from lora_reuse.runs.settings import Whole

First = Annotated[int, Whole(0, 1000), "number of the lowest layer that is trained, from 0"]


@adapter(label="upper layers")
def upper_layers(model: nn.Module, calibrated: Path | None, *, first_layer: First = 2) -> None:
    """A and B from one layer upwards"""
    for name, weight in model.named_parameters():
        layer = re.search(r"\.layers\.(\d+)\.", name)
        if layer and int(layer[1]) < first_layer:
            weight.requires_grad_(False)  # B starts at zero, so the adapter is zero in these layers
