"""What training and learning keep of themselves while they run, so that the same call goes on to the same bits."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_reuse.runs.files import replacing

KEEP_SECONDS = 120
"""Between two writes: what a kill loses, however long a step takes."""


class Checkpoint:
    """A file of tensors, replaced at once. Without a path nothing is kept, and nothing is there to go on from."""

    def __init__(self, path: Path | None):
        self._path, self._written = path, time.monotonic()

    def read(self) -> dict[str, Tensor]:
        """What was kept last; nothing where nothing was."""
        return load_file(self._path) if self._path and self._path.exists() else {}

    def offer(self, tensors: Callable[[], Mapping[str, Tensor]]) -> None:
        """Writes them two minutes after the last write, or after the start."""
        if self._path and time.monotonic() - self._written >= KEEP_SECONDS:
            with replacing(self._path) as writing:
                save_file(dict(tensors()), writing)
            self._written = time.monotonic()


def state(weights: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights, Adam's moments and its steps, by names that `restore` knows."""
    moments = optimizer.state_dict()["state"]
    tensors = {f"weight.{i}": weight.detach() for i, weight in enumerate(weights)}
    return tensors | {
        f"{name}.{i}": torch.as_tensor(value) for i, own in moments.items() for name, value in own.items()
    }


def restore(kept: Mapping[str, Tensor], weights: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> int:
    """Puts back what `state` gave; returns the steps that were taken."""
    if not kept:
        return 0
    with torch.no_grad():
        for i, weight in enumerate(weights):
            weight.copy_(kept[f"weight.{i}"])
    names = [name for name in ("step", "exp_avg", "exp_avg_sq") if f"{name}.0" in kept]
    moments = {i: {name: kept[f"{name}.{i}"] for name in names} for i in range(len(weights))}
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
    return int(kept["step.0"].item())
