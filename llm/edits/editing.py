"""What `llm.edit` writes into a model, and what it then asks."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from lora_reuse.llm.adapters.lowrank import Expert
from lora_reuse.llm.data.facts import Triplet, triplets
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.decoding.answers import answers
from lora_reuse.llm.decoding.models import Base
from lora_reuse.llm.edits.closed_form import added, min_norm_edit
from lora_reuse.llm.edits.keys import last_inputs, up_to_answer
from lora_reuse.llm.edits.neighbours import neighbours
from lora_reuse.llm.edits.rome import Search, key_covariance, mlp_outputs, value_changes
from lora_reuse.llm.protocols.ask import Asking, ask_together, everyone, everywhere, keep, score
from lora_reuse.llm.protocols.composed import Made
from lora_reuse.llm.protocols.protocol import Cell, Protocol, settings_of
from lora_reuse.llm.protocols.settings import Options
from lora_reuse.llm.scoring.names import named
from lora_reuse.runs.rows import row_hash
from torch import Tensor

HOPS = {"1": (1,), "2": (2,), "2-combination": (1, 2)}
KEPT = ("same_relation", "same_entity", "unrelated")


class Layer(NamedTuple):
    """One layer that is written to: the last module of its MLP, C of the least change (None: I), and the keys and
    residuals of each hop."""

    number: int
    module: str
    C: Float64[Tensor, "inputs inputs"] | None
    edits: dict[int, tuple[Float[Tensor, "inputs edits"], Float[Tensor, "outputs edits"]]]


def ask(base: Base, protocol: Protocol, cells: list[Cell], options: Options) -> list[tuple[Cell, dict[str, Any]]]:
    """`measured`, `predicted`, `stderr` and what goes with the provenance, of every point of a cell: one layer, one
    covariance."""
    start = time.perf_counter()
    layer = layer_of(base, *cells[0], [hop for point, _ in cells for hop in HOPS[point.library]])
    seconds = time.perf_counter() - start
    results: dict[Cell, dict[str, Any]] = {}
    for library, composition in dict.fromkeys((point.library, point.composition) for point, _ in cells):
        edit, size = written(base, layer, HOPS[library], composition)
        for cell in cells:
            if (cell[0].library, cell[0].composition) != (library, composition):
                continue
            if cell[0].prompting == "own":
                result = _own(base, protocol, cell, edit, options)
            elif cell[0].prompting == "neighbours":
                result = _neighbours(base, protocol, cell, edit, options)
            else:
                (result,) = ask_together(
                    base, protocol, [Asking(cell, Made(edit, {}, 0.0), "", ())], cell[0].prompting, options
                )
            result["measured"] |= size
            results[cell] = result | {"provenance": {"edit_seconds": round(seconds, 3)}}
    return [(cell, results[cell]) for cell in cells]


def layer_of(base: Base, point: Any, seed: int, hops: Sequence[int]) -> Layer:
    """The point's layer, and what is to be written there."""
    modules = mlp_outputs(base)
    number = round(point.depth * (len(modules) - 1))
    module = modules[number]
    facts = triplets(point.dataset, seed)[: point.triplets]
    C = key_covariance(base, module, point.dataset, seed, point.ridge) if point.covariance == "rome" else None
    return Layer(
        number, module, C, {hop: keys_and_residuals(base, module, hop, facts, point) for hop in sorted(set(hops))}
    )


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
    base: Base, module: str, hop: int, facts: Sequence[Triplet], point: Any
) -> tuple[Float[Tensor, "inputs edits"], Float[Tensor, "outputs edits"]]:
    """The module's input where each fact's answer is about to be given, one a fact and template, and the change of its
    output that gives it."""
    asked = neighbours("own", hop, facts, "train", point.templates)
    names = [t.b if hop == 1 else t.c for t in facts]
    found = [up_to_answer(base, e.question, e.beginning, names) for e in asked]
    prompts, said = (
        [prompt for prompt, _ in found],
        [after[e.triplet] for (_, after), e in zip(found, asked, strict=True)],
    )
    search = Search(point.value_steps, point.value_rate, point.value_decay, point.value_clamp)
    return last_inputs(base, [module], prompts)[module].T, value_changes(base, module, prompts, said, search)


def _own(base: Base, protocol: Protocol, cell: Cell, edit: Expert, options: Options) -> dict[str, Any]:
    """The very questions that the facts were written at."""
    point, seed = cell
    facts = triplets(point.dataset, seed)[: point.triplets]
    asked = [
        (e, hop)
        for hop in HOPS[point.library]
        for e in examples(f"{point.dataset}{hop}", facts, "train", point.templates)
    ]
    (said,) = answers(base, [edit], [e.question for e, _ in asked], point.answer_tokens, options.batch_rows)
    records = [
        e._asdict() | {"right": e.answer, "answer": answer} | score(e, answer, ("first", "second")[hop - 1])
        for (e, hop), answer in zip(asked, said, strict=True)
    ]
    return _kept(protocol, cell, records, options)


def _neighbours(base: Base, protocol: Protocol, cell: Cell, edit: Expert, options: Options) -> dict[str, Any]:
    """Questions in the held-out templates whose answers nobody edited; a hit is one that first names whom or what the
    base's first names."""
    point, seed = cell
    facts = triplets(point.dataset, seed)[: point.triplets]
    asked = [
        (kind, e) for kind in KEPT for hop in HOPS[point.library] for e in neighbours(kind, hop, facts, point.split)
    ]
    before, after = answers(base, [None, edit], [e.question for _, e in asked], point.answer_tokens, options.batch_rows)
    records = []
    for (kind, e), old, new in zip(asked, before, after, strict=True):
        same = _first_named(old, e.subject) == _first_named(new, e.subject)
        records.append({"kind": kind, **e._asdict(), "base": old, "answer": new, "strict": same, "lenient": same})
    result = _kept(protocol, cell, records, options)
    for kind in KEPT:
        chosen = [record["strict"] for record in records if record["kind"] == kind]
        by_triplet = np.bincount(
            [r["triplet"] for r in records if r["kind"] == kind], weights=chosen, minlength=point.triplets
        ).astype(int)
        result["measured"] |= {f"kept_{kind}_by_triplet": by_triplet.tolist(), f"asked_{kind}": len(chosen)}
    return result


def _first_named(answer: str, subject: str) -> str:
    return next((name for name in named(answer, everyone() | everywhere()) if name != subject), "")


def _kept(protocol: Protocol, cell: Cell, records: list[dict[str, Any]], options: Options) -> dict[str, Any]:
    """Counts of a row; its answers go to out/answers."""
    keep(Path(options.out) / "answers", row_hash(protocol.experiment, settings_of(cell)), records)
    hits = np.array([record["strict"] for record in records])
    by_triplet = np.bincount(
        [record["triplet"] for record in records], weights=hits, minlength=cell[0].triplets
    ).astype(int)
    measured: dict[str, Any] = {"hits": int(hits.sum()), "total": len(records), "by_triplet": by_triplet.tolist()}
    measured["lenient"] = int(sum(record["lenient"] for record in records))
    share = float(hits.mean())
    return {
        "measured": measured,
        "predicted": {},
        "stderr": {"hits": float(np.sqrt(len(records) * share * (1 - share)))},
    }
