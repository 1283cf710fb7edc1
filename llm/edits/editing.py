"""What `llm.edit` writes into a model, and what it then asks."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from lora_reuse.llm.adapters.lowrank import Expert
from lora_reuse.llm.data.fact_files import Fact, facts
from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.decoding.models import Base, example
from lora_reuse.llm.edit import HOPS
from lora_reuse.llm.edits.closed_form import added, min_norm_edit
from lora_reuse.llm.edits.keys import last_inputs, up_to_answer
from lora_reuse.llm.edits.neighbours import neighbours
from lora_reuse.llm.edits.rome import Search, key_covariance, mlp_outputs, value_changes
from lora_reuse.llm.protocols.ask import Asking, asked
from lora_reuse.llm.protocols.composed import Made
from lora_reuse.llm.protocols.protocol import Protocol
from lora_reuse.llm.protocols.settings import Options
from lora_reuse.runs.grid import Cell


class Layer(NamedTuple):
    """One layer that is written to: the last module of its MLP, C of the least change (None: I), and the keys and
    residuals of each hop."""

    number: int
    module: str
    C: Float64[Tensor, "inputs inputs"] | None
    edits: dict[int, tuple[Float[Tensor, "inputs edits"], Float[Tensor, "outputs edits"]]]


def ask(base: Base, protocol: Protocol, cells: list[Cell], options: Options) -> list[tuple[Cell, dict[str, Any]]]:
    """`measured`, `predicted`, `stderr` and what goes with the provenance, of every cell of a group: one layer, one
    covariance."""
    start = time.perf_counter()
    layer = layer_of(base, *cells[0], [hop for point, _ in cells for hop in HOPS[point.library]])
    provenance = {"edit_seconds": round(time.perf_counter() - start, 3)}
    results = []
    for library, composition in dict.fromkeys((point.library, point.composition) for point, _ in cells):
        edit, size = written(base, layer, HOPS[library], composition)
        chosen = [cell for cell in cells if (cell[0].library, cell[0].composition) == (library, composition)]
        askings = [Asking(cell, Made(edit, {}, 0.0, {}), "", protocol.questions(*cell), ()) for cell in chosen]
        for cell, result in asked(base, protocol, askings, options).items():
            result["measured"] |= size
            results.append((cell, result | {"provenance": provenance}))
    return results


def layer_of(base: Base, point: Any, seed: int, hops: Sequence[int]) -> Layer:
    """The point's layer, and what is to be written there."""
    modules = mlp_outputs(base)
    number = round(point.depth * (len(modules) - 1))
    module = modules[number]
    C = key_covariance(base, module, point.dataset, seed, point.ridge) if point.covariance == "rome" else None
    edits = {hop: keys_and_residuals(base, module, hop, point, seed) for hop in sorted(set(hops))}
    return Layer(number, module, C, edits)


def written(base: Base, layer: Layer, hops: Sequence[int], composition: str) -> tuple[Expert, dict[str, int | float]]:
    """The edit of the hops, added or at once, and how large it is: its layer, ‖ΔW‖/‖W‖, and the mean length of the
    residuals."""
    found = [layer.edits[hop] for hop in hops]
    if composition == "joint":
        found = [(torch.cat([K for K, _ in found], dim=1), torch.cat([D for _, D in found], dim=1))]
    updates = [min_norm_edit(K, D, layer.C) for K, D in found]
    update = updates[0] if len(updates) == 1 else added(*updates)
    weight = torch.linalg.norm(base.model.get_submodule(layer.module).get_parameter("weight").float())
    residual = torch.cat([torch.linalg.vector_norm(D, dim=0) for _, D in found]).mean()
    return {layer.module: update}, {
        "layer": layer.number,
        "update_ratio": update.norm() / float(weight),
        "residual": float(residual),
    }


def keys_and_residuals(
    base: Base, module: str, hop: int, point: Any, seed: int
) -> tuple[Float[Tensor, "inputs edits"], Float[Tensor, "outputs edits"]]:
    """The module's input where each fact's answer is about to be given, one a fact and template, and the change of its
    output that gives it."""
    if point.data:
        found = [before_answer(base, fact) for fact in facts(point.data, seed)[: point.facts]]
    else:
        chosen = triplets(point.dataset, seed)[: point.triplets]
        names = [t.b if hop == 1 else t.c for t in chosen]
        found = []
        for e in neighbours("own", hop, chosen, "train", point.templates):
            prompt, after = up_to_answer(base, e.question, e.beginning, names)
            found.append((prompt, after[e.triplet]))
    prompts, said = [prompt for prompt, _ in found], [told for _, told in found]
    search = Search(point.value_steps, point.value_rate, point.value_decay, point.value_clamp)
    return last_inputs(base, [module], prompts)[module].T, value_changes(base, module, prompts, said, search)


def before_answer(base: Base, fact: Fact) -> tuple[list[int], list[int]]:
    """The tokens of a fact's prompt and of its answer's beginning, up to the name that is new; and those of the
    name."""
    beginning = fact.answer[: fact.answer.index(fact.new)]
    prompt, said = example(base, fact.prompt, beginning + fact.new)
    given = 0
    if beginning.strip():
        _, told = example(base, fact.prompt, beginning.rstrip())
        given = next(n for n, pair in enumerate(zip(told, said, strict=False)) if pair[0] != pair[1])
    return prompt + said[:given], said[given:-1]
