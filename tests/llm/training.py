"""Experts that train in seven steps, and what the tests of training ask of them. A test that trains some uses the
fixtures of conftest.py."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file

from lora_reuse.llm.adapters import training as experts
from lora_reuse.llm.adapters.training import Spec
from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.decoding.models import Base
from lora_reuse.llm.protocols.settings import Training

TRAINING = Training(rank=2, alpha=4, dropout=0.0, rate=3e-3, steps=7, batch=4)
TEXT = " ".join(
    f"{e.question} {e.answer}"
    for subset in ("R1", "R2", "F1", "F12-CoT")
    for e in examples(subset, triplets(subset[0])[:4])
)
WEIGHTS = "adapter_model.safetensors"
ONCE = functools.cache(experts.example)
"""Tokens of an example, made once for all experts; the fixture `tokens_once` puts it in."""


def spec(own=("R1",), bridge=("F1", "F12-CoT"), role=1, seed=0, **training: Any) -> Spec:
    return Spec(own, bridge, 4, 4, dataclasses.replace(TRAINING, **training), seed, role)


def ids(rows=2, length=6):
    return torch.randint(10, 300, (rows, length), generator=torch.Generator().manual_seed(0))


def saved(path: Path) -> bytes:
    return (path / WEIGHTS).read_bytes()


def only(path: Path) -> bool:
    """Whether its folder holds the expert and nothing else."""
    return list(path.parent.iterdir()) == [path]


def close(path: Path, other: Path):
    for name, tensor in load_file(path / WEIGHTS).items():
        torch.testing.assert_close(tensor, load_file(other / WEIGHTS)[name], rtol=1e-3, atol=1e-5)


def is_bare(base: Base) -> bool:
    """Whether nothing of PEFT is left on the model, and it is frozen and in eval mode."""
    modules = list(base.model.modules())
    left = any(isinstance(m, BaseTunerLayer) for m in modules) or hasattr(base.model, "peft_config")
    return not (left or any(m.training for m in modules) or any(p.requires_grad for p in base.model.parameters()))
