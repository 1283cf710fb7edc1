"""The signals of `merge_probe`, measured: two experts trained for the first few percent of their steps."""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lora_reuse.llm.adapters.folders import load_expert
from lora_reuse.llm.adapters.lowrank import Expert, cosine
from lora_reuse.llm.adapters.packing import Tokens, packing
from lora_reuse.llm.adapters.specs import Spec
from lora_reuse.llm.adapters.training import train
from lora_reuse.llm.decoding.models import Base
from lora_reuse.llm.decoding.resident import Resident
from lora_reuse.llm.decoding.widened import widened
from lora_reuse.llm.forecast.merge_probe import SHARE
from lora_reuse.llm.forecast.subspace import read
from lora_reuse.llm.learned.fitting import answer_loss
from lora_reuse.llm.protocols.composed import own

EXAMPLES = 32
"""Of each expert's training, for its gradient and for what the other disturbs."""
ROWS = 16


def signals(base: Base, specs: Sequence[Spec]) -> dict[str, float]:
    """`updates`, `gradients` and `disturbs` of two experts."""
    experts = [early(base, spec) for spec in specs]
    examples = [own(base, [spec], "", 1.0)[:EXAMPLES] for spec in specs]
    found = [gradient(base, expert, some) for expert, some in zip(experts, examples, strict=True)]
    one, other = found
    inner = sum(float((one[name].float() * other[name].float()).sum()) for name in one if name in other)
    norms = [math.sqrt(sum(float(part.float().square().sum()) for part in each.values())) for each in found]
    disturbed = [disturbance(base, expert, some) for expert, some in zip(experts, reversed(examples), strict=True)]
    return {
        "updates": cosine(*experts),
        "gradients": inner / (norms[0] * norms[1]),
        "disturbs": sum(disturbed) / len(disturbed),
    }


def early(base: Base, spec: Spec) -> Expert:
    """The expert after `SHARE` of its steps."""
    with tempfile.TemporaryDirectory() as folder:
        train(base, spec, Path(folder) / "checkpoint", Path(folder) / "adapter", progress=False, share=SHARE)
        return load_expert(Path(folder) / "adapter", base.model)


def gradient(base: Base, expert: Expert, examples: Sequence[Tokens]) -> dict[str, Tensor]:
    """∂L/∂W of every module that the expert changes, with its update added; L is the loss of its training."""
    weights = {name: base.model.get_parameter(f"{name}.weight").requires_grad_() for name in expert}
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    try:
        with Resident(base.model) as resident, packing(base.model, base.model), widened(base.model):
            for start in range(0, len(examples), ROWS):
                some = examples[start : start + ROWS]
                loss = answer_loss(base, resident, expert, some) * len(some) / len(examples)
                for whole, part in zip(total.values(), torch.autograd.grad(loss, [*weights.values()]), strict=True):
                    whole += part
    finally:
        base.model.requires_grad_(False)
    return total


def disturbance(base: Base, expert: Expert, examples: Sequence[Tokens]) -> float:
    """How far the expert moves what its modules see where an answer's tokens are predicted: ‖h_i − h‖/‖h‖, mean over
    modules and tokens."""
    names = list(expert)
    with_it, without = (read(base, composition, examples, names) for composition in (expert, None))
    moved = [
        ((one.inputs[name] - other.inputs[name]).norm(dim=-1) / other.inputs[name].norm(dim=-1)).mean()
        for one, other in zip(with_it, without, strict=True)
        for name in names
    ]
    return float(torch.stack(moved).mean())
