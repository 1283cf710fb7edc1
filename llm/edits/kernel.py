"""How far an expert's update acts beyond its own prompts, and how much of that the model's own hidden states explain
(section 3.2, eq. 19).

In the theory ‖ΔW φ(Uξ)‖/‖ΔW φ(Uη)‖ is k(η, ξ)/k(η, η), the `linear` kernel of the features or, in the limit, the
`arccos` kernel of the hidden states; for an expert of several facts it is ‖(KᵀK)⁻¹Kᵀ φ(Uξ)‖ with K their keys (`eq23`,
residuals taken for orthogonal and alike). Here each of the three is computed from what goes into a module of a language
model where the answer is given."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from lora_reuse.llm.adapters.lowrank import Expert, LowRank
from lora_reuse.llm.compositions import Composition, compose
from lora_reuse.llm.data.facts import Triplet, triplets
from lora_reuse.llm.data.subsets import SPLITS
from lora_reuse.llm.decoding.models import Base
from lora_reuse.llm.edits.keys import last_inputs, up_to_answer
from lora_reuse.llm.edits.neighbours import BESIDE, KERNELS, KINDS, neighbours
from lora_reuse.llm.protocols.composed import library_on
from lora_reuse.llm.protocols.protocol import Protocol, library_of
from lora_reuse.llm.protocols.settings import Options
from lora_reuse.runs.grid import Cell
from lora_reuse.runs.settings import SettingError

Logs = Float64[np.ndarray, "kinds modules templates triplets"]


def ask(base: Base, protocol: Protocol, cells: list[Cell], options: Options) -> list[tuple[Cell, dict[str, Any]]]:
    """What `llm.overlap` writes in a row."""
    results = []
    for point, seed in cells:
        library = library_on(base, library_of(protocol, point, seed), Path(options.out) / "experts")
        composition = compose("sum", library) if point.state == "sum" else None
        facts = triplets(point.dataset, seed)[: point.triplets]
        logs = log_overlaps(base, library[point.expert - 1], point.expert, facts, point.split, composition)
        if not all(np.isfinite(values).all() for values in logs.values()):
            got = f"{point.dtype}, and what expert {point.expert} does to a prompt is not finite, or nothing"
            raise SettingError(
                "dtype", got, "a dtype in which the model's outputs are finite, and experts that were trained"
            )
        results.append(
            ((point, seed), summary(logs, sorted(library[point.expert - 1])) | {"predicted": {}, "provenance": {}})
        )
    return results


def log_overlaps(
    base: Base, expert: Expert, hop: int, facts: Sequence[Triplet], split: str, composition: Composition | None
) -> dict[str, Logs]:
    """The logarithms of the `ratio` ‖ΔW h(ξ)‖/‖ΔW h(η)‖ and of the three kernels, for each kind of prompt ξ beside an
    own prompt η, each module (sorted), template and triplet; ξ and η have the same number of template, and the same
    triplet."""
    edited = [t.b if hop == 1 else t.c for t in facts]
    asked = {kind: neighbours(kind, hop, facts, split) for kind in KINDS}
    prompts = [up_to_answer(base, e.question, e.beginning, edited)[0] for kind in KINDS for e in asked[kind]]
    modules = sorted(expert)
    inputs = last_inputs(base, modules, prompts, composition)
    shape = (len(KINDS), SPLITS[split].stop - SPLITS[split].start, len(facts))
    by_module = [_overlaps(expert[name], inputs[name].reshape(*shape, -1)) for name in modules]
    return {name: np.log(np.stack([found[name] for found in by_module], axis=1)) for name in by_module[0]}


def _overlaps(
    update: LowRank, x: Float32[Tensor, "kinds templates triplets inputs"]
) -> dict[str, Float64[np.ndarray, "beside templates triplets"]]:
    """Ratio and kernels of one module; the first kind is the own prompts. |k| for k, which of features that are no
    ReLU's may be negative."""
    h = x.double()
    moved = torch.linalg.vector_norm(h @ update.into.double() @ update.out.double().T, dim=-1)
    own, beside = h[0], h[1:]
    each = own.expand_as(beside)
    found = {
        "ratio": moved[1:] / moved[0],
        "linear": (beside * own).sum(-1).abs() / (own * own).sum(-1),
        "arccos": arccos(beside, each) / arccos(own, own),
        "eq23": torch.stack([_edited(own[t], beside[:, t]) for t in range(own.shape[0])], dim=1),
    }
    return {name: values.clamp_min(torch.finfo(torch.float64).tiny).numpy() for name, values in found.items()}


def _edited(
    keys: Float64[Tensor, "edits inputs"], x: Float64[Tensor, "kinds triplets inputs"]
) -> Float64[Tensor, "kinds triplets"]:
    """‖(KᵀK)⁻¹Kᵀ ξ‖, the least squares solution of K c = ξ; 1 for a key."""
    solution = torch.linalg.lstsq(keys.T, x.flatten(0, 1).T).solution
    return torch.linalg.vector_norm(solution, dim=0).reshape(x.shape[:2])


def arccos(x: Float[Tensor, "*batch n"], y: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """‖x‖‖y‖/(2π) · ((π − θ) cos θ + sin θ), the arc-cosine kernel (eq. 13)."""
    dot, norms = (x * y).sum(-1), torch.linalg.vector_norm(x, dim=-1) * torch.linalg.vector_norm(y, dim=-1)
    across = ((norms - dot) * (norms + dot)).clamp_min(0).sqrt()
    return (across + (math.pi - torch.atan2(across, dot)) * dot) / (2 * math.pi)


def summary(logs: dict[str, Logs], modules: Sequence[str]) -> dict[str, Any]:
    """Means of the logarithms by kind, triplet and module; R² and slope of the log ratio on each log kernel over all
    kinds, modules, prompts and triplets, with the jackknife's error over triplets."""
    y = logs["ratio"]
    measured: dict[str, Any] = {"total": y.shape[2] * y.shape[3], "modules": list(modules)}
    stderr = {}
    for k, kind in enumerate(BESIDE):
        measured[f"log_ratio_{kind}"] = float(y[k].mean())
        measured[f"log_ratio_{kind}_by_triplet"] = _rounded(y[k].mean(axis=(0, 1)))
        stderr[f"log_ratio_{kind}"] = float(y[k].mean(axis=(0, 1)).std(ddof=1) / math.sqrt(y.shape[3]))
        for name in ("ratio", *KERNELS):
            measured[f"log_{name}_{kind}_by_module"] = _rounded(logs[name][k].mean(axis=(1, 2)))
    for name in KERNELS:
        left_out = [explained(np.delete(logs[name], i, axis=3), np.delete(y, i, axis=3)) for i in range(y.shape[3])]
        for j, what in enumerate(("r2", "slope")):
            measured[f"{what}_{name}"] = explained(logs[name], y)[j]
            spread = np.array([found[j] for found in left_out])
            stderr[f"{what}_{name}"] = float(np.sqrt((len(spread) - 1) * np.mean((spread - spread.mean()) ** 2)))
    return {"measured": measured, "stderr": stderr}


def explained(x: Logs, y: Logs) -> tuple[float, float]:
    """R² and slope of the straight line through (x, y); 0 for an x that does not vary."""
    x, y = x.ravel() - x.mean(), y.ravel() - y.mean()
    square, across = float(x @ x), float(x @ y)
    return (across**2 / (square * float(y @ y)), across / square) if square and y.any() else (0.0, 0.0)


def _rounded(values: Float64[np.ndarray, " n"]) -> list[float]:
    return [round(float(value), 6) for value in values]
