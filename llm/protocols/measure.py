"""The cells that have no row yet: their experts trained, their questions asked, their rows written; in worker
processes, where there are several."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils import logging

from lora_reuse.llm.adapters.modules import quiet_peft, target_modules
from lora_reuse.llm.adapters.places import in_layer, refuse_idle
from lora_reuse.llm.adapters.training import expert
from lora_reuse.llm.decoding.models import Base, load_base
from lora_reuse.llm.decoding.names import place_of
from lora_reuse.llm.pocket import switches
from lora_reuse.llm.protocols.ask import ask
from lora_reuse.llm.protocols.dials import read_by
from lora_reuse.llm.protocols.protocol import Protocol, base_key, library_of, trained_by
from lora_reuse.llm.protocols.settings import Options
from lora_reuse.llm.protocols.workers import pool, worker_count
from lora_reuse.runs.grid import Cell, rows_of, settings_of
from lora_reuse.runs.progress import progress_bar
from lora_reuse.runs.provenance import provenance
from lora_reuse.runs.rows import Rows
from lora_reuse.runs.settings import SettingError


def measure(protocol: Protocol, todo: list[list[Cell]], options: Options) -> Rows:
    """Trains the experts of groups of cells, each once, asks every cell, and appends its row to those in
    `options.out`, which are returned."""
    source = provenance("torch", "transformers", "peft", "safetensors")
    bases: dict[Any, list[Cell]] = {}
    for group in todo:
        bases.setdefault(base_key(group[0][0]), []).extend(group)
    order = list(bases)
    todo = sorted(todo, key=lambda group: order.index(base_key(group[0][0])))  # each base is loaded once for all of it
    specs = trained_by(protocol, [cell for group in todo for cell in group])
    with pool(worker_count(options)) as run:
        # A model that cannot be read is refused before anything is written. The first to be used is loaded last, and
        # stays.
        for _ in run([(_try_base, (protocol, cells, options)) for cells in reversed(bases.values())]):
            pass
        rows = rows_of(protocol.experiment, options)
        jobs = [(train_one, (point, spec, options)) for (_, spec), point in specs.items()]
        with progress_bar(total=len(jobs), desc="experts", unit="expert") as bar:
            for _ in run(jobs):
                bar.update()
        jobs = [(_ask_group, (protocol, group, options)) for group in todo]
        with progress_bar(total=sum(map(len, todo)), desc="answers", unit="row") as bar:
            for results, where in run(jobs):
                for cell, result in results:
                    row = {"experiment": protocol.experiment, "settings": settings_of(cell), **result}
                    rows.append(row | {"provenance": source | where | result.get("provenance", {})})
                    bar.update()
    return rows


_loaded: dict[tuple, Base] = {}
"""The base of this process, so that it is loaded once for all of its experts and cells."""


def base_of(point: Any, options: Options) -> Base:
    """The base of a point, loaded once a process as long as no other is asked for."""
    key = (*base_key(point), options.device, options.device_map, options.trust_remote_code, options.compile)
    if key not in _loaded:
        _loaded.clear()  # before there are two of them in memory
        if not sys.stderr.isatty():
            logging.disable_progress_bar()
        _loaded[key] = load_base(
            point.model,
            point.dtype,
            options.device,
            options.device_map,
            point.chat,
            options.trust_remote_code,
            options.compile,
        )
    return _loaded[key]


def _try_base(protocol: Protocol, cells: list[Cell], options: Options) -> None:
    """Raises SettingError for a base that cannot be read, and for weights by layers that do not fit the experts which
    are to be trained on it; those in folders say themselves where they sit."""
    base = base_of(cells[0][0], options)
    for point, seed in cells:
        weights = point.weights if "weights" in read_by(getattr(point, "composition", "")) else None
        if not isinstance(weights, str):
            continue
        experts = library_of(protocol, point, seed)
        if not any(isinstance(spec, str) for spec in experts):
            modules = [name for spec in experts for name in target_modules(base.model, spec.training.layers)]
            refuse_idle(weights, modules)
            for name in modules:
                in_layer(weights, name)


def train_one(point: Any, spec: Any, options: Options) -> None:
    """Trains an expert of the point unless it is there. Raises SettingError, also for a disk that refuses it."""
    base = base_of(point, options)
    with quiet_peft():
        try:
            expert(base, spec, Path(options.out) / "experts")
        except (OSError, SafetensorError) as error:
            raise SettingError(
                "out", f"{options.out}/experts ({error})", "a folder with room for adapters, that can be written"
            ) from None


def _ask_group(
    protocol: Protocol, cells: list[Cell], options: Options
) -> tuple[list[tuple[Cell, dict[str, Any]]], dict[str, Any]]:
    start = time.perf_counter()
    base = base_of(cells[0][0], options)
    results = (protocol.ask or ask)(base, protocol, cells, options)
    where = {
        "device": str(base.device) if base.device.type == "cpu" else _device_name(base),
        "dtype": str(base.model.dtype).removeprefix("torch."),
        "base_digest": base.digest,
        "pocket": switches(place_of(cells[0][0].model)),
        **({"base": base.described} if base.described else {}),
        **({"compiled": True} if _were_compiled(protocol, cells, base, options) else {}),
        "chat": base.chat,
        "wall_seconds": round((time.perf_counter() - start) / len(cells), 3),
    }
    return results, where


def _were_compiled(protocol: Protocol, cells: list[Cell], base: Base, options: Options) -> bool:
    """Whether one of the experts was trained with compiled layers, in this run or before."""
    folders = [Path(options.out) / "experts" / spec.key(base) for _, spec in trained_by(protocol, cells)]
    return any(json.loads((folder / "expert.json").read_text(encoding="utf-8")).get("compiled") for folder in folders)


def _device_name(base: Base) -> str:
    kind = base.device.type
    return f"{kind}:{torch.cuda.get_device_name(base.device)}" if kind == "cuda" else kind
