"""CAT (LoRA Soups, Prabhakar et al. 2024): one weight an expert and module, on the updates, trained (eq. 26)."""

import re
from collections.abc import Iterable
from typing import Annotated, Literal

import torch

from lora_reuse.llm.compositions import Composition, Library, each_module
from lora_reuse.llm.compositions.sums import concatenated
from lora_reuse.llm.learned import learned
from lora_reuse.llm.learned.fitting import Parameters

Granularity = Annotated[
    Literal["module", "layer", "all"], "what has weights of its own: each module, each layer, or all modules together"
]


def equal(library: Library, *, granularity: Granularity = "module") -> Parameters:
    """1/N for each expert in each module (or in each layer, or once): the average of the updates."""
    groups = dict.fromkeys(_groups(library[0], granularity).values())
    return {group: torch.full((len(library),), 1 / len(library)) for group in groups}


@learned(equal, static=True, rate=0.05, gauge_free=True, alone=False, symmetric=True)
def cat(library: Library, parameters: Parameters, *, granularity: Granularity = "module") -> Composition:
    """ΔW = Σ_i α_i A_i B_iᵀ (eq. 26), α free, as the paper writes it; it starts at the average. ΔW is never formed: α
    scales the columns."""
    groups = _groups(library[0], granularity)
    return each_module(library, lambda name, updates: concatenated(updates, parameters[groups[name]].unbind()))


def _groups(modules: Iterable[str], granularity: str) -> dict[str, str]:
    """What each module shares its weights with: its own name, the path to its layer's number, or "all"."""
    shared = {"module": r".*", "layer": r".*?\.\d+(?=\.)|.*", "all": r""}[granularity]
    return {name: match[0] if (match := re.match(shared, name)) and match[0] else "all" for name in modules}


def level(library: Library) -> Parameters:
    """0 for each expert in each module: softmax makes it the average."""
    return {name: torch.zeros(len(library)) for name in library[0]}


@learned(level, static=True, rate=0.05, gauge_free=True, alone=True, symmetric=True)
def cat_softmax(library: Library, parameters: Parameters) -> Composition:
    """`cat` with α = softmax(s), as LoRA Soups trains it (there from random s; here from 0, the average)."""
    return cat(library, {name: torch.softmax(s, dim=0) for name, s in parameters.items()})
