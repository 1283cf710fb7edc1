"""What the protocols have in common: a grid of cells; experts trained once and cached; every composition asked in one
batch; rows.

A cell is everything but the library, the composition and the prompting: its experts are trained, and its base is
loaded, once."""

import dataclasses
import functools
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_reuse.llm.decoding.names import digest, place_of
from lora_reuse.llm.pocket import switches
from lora_reuse.llm.protocols.controls import Control
from lora_reuse.llm.protocols.settings import Options, Training, preset_of, with_preset
from lora_reuse.llm.protocols.workers import pool, worker_count
from lora_reuse.runs.command import command
from lora_reuse.runs.grid import Cell, axes_of, found, hash_of, rows_of, settings_of, share
from lora_reuse.runs.rows import Rows, load_rows
from lora_reuse.runs.settings import SettingError, grid, help_table, parse

ASKED = ("library", "composition", "prompting", "scale")
"""Settings that vary within a cell."""


@dataclass(frozen=True)
class Protocol:
    """An experiment of the paper: its dials, the dataset that is asked, and the experts of a point as (own subsets,
    bridge subsets, role)."""

    name: str
    doc: str
    axes: type
    dataset: Callable[[Any], str]
    library: Callable[[Any], list[tuple[tuple[str, ...], tuple[str, ...], int]]]
    sensible: Callable[[Any], Any] = lambda point: point
    """The point as a row has it; None for a point that makes no sense, such as a router over a library of one
    expert."""
    pair: Callable[[Any], str] = lambda point: "12"
    """The pair of relations that a point asks: "12" is the first, then the second."""
    bound: Callable[[Any], float | None] = lambda point: None
    """The share of a point's answers that theory says can be right at most; None where it says nothing."""
    controls: Callable[[Any], tuple[Control, ...]] = lambda point: ()
    """The rows without whose right answers a point's wrong ones say nothing of composing."""
    asked: Callable[[Any, int, list[Any]], list[Any]] = lambda point, seed, found: found
    """The questions (`llm.data.subsets.Example`) of a point and a seed, made of the held-out ones that its prompting
    finds."""
    ask: Callable[[Any, "Protocol", list["Cell"], Options], list[tuple["Cell", dict[str, Any]]]] | None = None
    """The function that asks a cell's questions on its base and returns its measurements; None stands for
    `llm.protocols.ask.ask`."""
    table: Callable[[str, Sequence[Mapping[str, Any]]], str] | None = None
    """The function that prints the final table; None stands for `llm.protocols.table.table`."""
    specs: Callable[[Any, int], list[Any]] | None = None
    """The Specs of a point's experts for a seed, where the experts learn other data than the subsets that `library`
    names."""
    questions: Callable[[Any], int] | None = None
    """The number of questions that a point asks, for the dry run; None stands for every triplet in the held-out
    templates."""
    hoped: Callable[[Any, int, int], dict[str, list[str]] | None] | None = None
    """The prompts of a forecast where `ask` asks no triplets, from (point, seed, n): n of each expert ("a", "b"), n of
    both ("hoped"); else None."""
    options: type = Options
    ready: Callable[[Sequence[Any], Any], None] | None = None
    """Raises SettingError where something that the points need with these options is missing. It is called before
    anything is trained."""

    @property
    def experiment(self) -> str:
        """The name of the protocol's rows. The prefix keeps them apart from the theory's experiments, which include a
        bridge and a scale."""
        return f"llm_{self.name}"


def main(protocol: Protocol, words: Sequence[str]) -> int:
    """Runs a protocol's command; returns its exit code: 0 done, 2 a mistake in the settings or the folder, 130
    interrupted."""
    going_on = "finished experts and rows are on disk, and the same command goes on from there"
    return command(f"llm.{protocol.name}", functools.partial(_main, protocol), words, going_on)


def _main(protocol: Protocol, words: list[str], help: bool) -> int:
    axes, given = parse(words, protocol.axes, protocol.options)
    options = protocol.options(**given)
    if help:
        print(protocol.doc.strip() + "\n\n" + help_table(protocol.axes, protocol.options))
        return 0
    points = dict.fromkeys(
        p for p in map(protocol.sensible, grid(protocol.axes, with_preset(protocol.axes, axes))) if p is not None
    )
    if not points:
        raise SettingError("the grid", "no point with something to ask", "a library of experts, asked what they know")
    groups = share(_groups(list(points), options), options.shard)
    if protocol.ready:
        protocol.ready(list(points), options)
    if options.dry_run:
        return _dry_run(protocol, groups, options)
    if options.launcher != "none":
        from lora_reuse.runs.launch import launch

        name = f"llm.{protocol.name}"
        code = launch(name, functools.partial(main, protocol), words, protocol.experiment, options)
        if code is not None:
            return code
    _run(protocol, groups, options)
    return 0


def _groups(points: Sequence[Any], options: Options) -> list[list[Cell]]:
    """The cells, in groups that differ in nothing but what varies on one base with the same experts."""
    groups: dict[str, list[Cell]] = {}
    for seed in options.every_seed:
        for point in points:
            fixed = {k: v for k, v in dataclasses.asdict(point).items() if k not in ASKED}
            groups.setdefault(json.dumps([fixed, seed], sort_keys=True), []).append((point, seed))
    return list(groups.values())


def _run(protocol: Protocol, groups: list[list[Cell]], options: Options) -> None:
    known: dict[str, Any] = {row["hash"]: row for row in load_rows(Path(options.out), protocol.experiment)}
    cells = [cell for group in groups for cell in group]
    _refuse_other_weights(found(cells, protocol.experiment, known), options)
    todo = [[cell for cell in group if hash_of(protocol.experiment, cell) not in known] for group in groups]
    todo = [group for group in todo if group]
    if todo:
        known |= _measure(protocol, todo, options).known
    from lora_reuse.llm.protocols.table import table

    shown = found(cells, protocol.experiment, known)
    print(protocol.table(protocol.name, shown) if protocol.table else table(protocol.name, shown, list(known.values())))
    new = sum(map(len, todo))
    print(f"{len(shown)} rows in {options.out}: {new} new, {len(shown) - new} from before")


def _refuse_other_weights(known: Sequence[Mapping[str, Any]], options: Options) -> None:
    """A folder that holds another model by now would stand in one table with the rows of the one before."""
    for model in dict.fromkeys(row["settings"]["model"] for row in known):
        place = place_of(model)
        measured = {row["provenance"].get("base_digest") for row in known if row["settings"]["model"] == model} - {None}
        here = place.is_file() or (place / "config.json").is_file()
        if measured and here and measured != {now := digest(place)}:
            got = f"{options.out}, with rows of model={model} whose weights were {' and '.join(sorted(measured))}"
            raise SettingError(
                "out", got, f"rows of the weights it has now ({now})", "another out=, or another name for the model"
            )


def _measure(protocol: Protocol, todo: list[list[Cell]], options: Options) -> Rows:
    from lora_reuse.runs.provenance import provenance
    from tqdm import tqdm

    source = provenance("torch", "transformers", "peft", "safetensors")
    bases = {_base_key(point): point for group in todo for point, _ in group}
    todo = sorted(
        todo, key=lambda group: list(bases).index(_base_key(group[0][0]))
    )  # each base is loaded for all of its cells
    specs = {
        (_base_key(point), spec): point
        for group in todo
        for point, seed in group
        for spec in library_of(protocol, point, seed)
    }
    with pool(worker_count(options)) as run:
        for _ in run([(_try_base, (point, options)) for point in reversed(bases.values())]):
            pass  # a model that cannot be read is refused before anything is written; the first to be used is loaded last, and stays
        rows = rows_of(protocol.experiment, options)
        jobs = [(train_one, (point, spec, options)) for (_, spec), point in specs.items()]
        with tqdm(total=len(jobs), desc="experts", disable=None, unit="expert") as bar:
            for _ in run(jobs):
                bar.update()
        jobs = [(_ask_cell, (protocol.name, group, options)) for group in todo]
        with tqdm(total=sum(map(len, todo)), desc="answers", disable=None, unit="row") as bar:
            for results, where in run(jobs):
                for cell, result in results:
                    row = {"experiment": protocol.experiment, "settings": settings_of(cell), **result}
                    rows.append(row | {"provenance": source | where | result.get("provenance", {})})
                    bar.update()
    return rows


def library_of(protocol: Protocol, point: Any, seed: int) -> list[Any]:
    """The Specs of the experts of a point's library, in order; the base alone needs none."""
    from lora_reuse.llm.adapters.training import Spec

    if point.composition == "base":
        return []
    if protocol.specs:
        return protocol.specs(point, seed)
    training = Training(**{f.name: getattr(point, f.name) for f in dataclasses.fields(Training)})
    return [
        Spec(own, bridge, point.triplets, point.bridge_triplets if bridge else 0, training, seed, role)
        for own, bridge, role in protocol.library(point)
    ]


_loaded: dict[tuple, Any] = {}


def _base_key(point: Any) -> tuple[str, str, str]:
    return point.model, point.dtype, point.chat


def base_of(point: Any, options: Options) -> Any:
    """The base of a point, loaded once a process as long as no other is asked for."""
    from lora_reuse.llm.decoding.models import load_base
    from transformers.utils import logging

    key = (*_base_key(point), options.device, options.device_map, options.trust_remote_code)
    if key not in _loaded:
        _loaded.clear()  # before there are two of them in memory
        if not sys.stderr.isatty():
            logging.disable_progress_bar()
        _loaded[key] = load_base(
            point.model, point.dtype, options.device, options.device_map, point.chat, options.trust_remote_code
        )
    return _loaded[key]


def _try_base(point: Any, options: Options) -> None:
    base_of(point, options)


def train_one(point: Any, spec: Any, options: Options) -> None:
    """Trains an expert of the point unless it is there. Raises SettingError, also for a disk that refuses it."""
    from lora_reuse.llm.adapters.training import expert
    from safetensors import SafetensorError

    base = base_of(point, options)
    with warnings.catch_warnings():
        # PEFT asks transformers for a property that transformers 5.23 renames.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        try:
            expert(base, spec, Path(options.out) / "experts")
        except (OSError, SafetensorError) as error:
            raise SettingError(
                "out", f"{options.out}/experts ({error})", "a folder with room for adapters, that can be written"
            ) from None


def _ask_cell(
    name: str, cells: list[Cell], options: Options
) -> tuple[list[tuple[Cell, dict[str, Any]]], dict[str, Any]]:
    import importlib

    from lora_reuse.llm.protocols.ask import ask

    protocol = importlib.import_module(f"lora_reuse.llm.{name}").PROTOCOL
    start = time.perf_counter()
    base = base_of(cells[0][0], options)
    results = (protocol.ask or ask)(base, protocol, cells, options)
    where = {
        "device": str(base.device) if base.device.type == "cpu" else _device_name(base),
        "dtype": str(base.model.dtype).removeprefix("torch."),
        "base_digest": base.digest,
        "pocket": switches(place_of(cells[0][0].model)),
        **({"base": base.described} if base.described else {}),
        "chat": base.chat,
        "wall_seconds": round((time.perf_counter() - start) / len(cells), 3),
    }
    return results, where


def _device_name(base: Any) -> str:
    import torch

    return (
        f"{base.device.type}:{torch.cuda.get_device_name(base.device)}"
        if base.device.type == "cuda"
        else base.device.type
    )


def _dry_run(protocol: Protocol, cells: list[list[Cell]], options: Options) -> int:
    from lora_reuse.llm.data.subsets import SPLITS

    every = [cell for group in cells for cell in group]
    dials = [f.name for f in dataclasses.fields(Training)] + ["triplets", "bridge_triplets"]
    experts = {
        (
            _base_key(point),
            own,
            bridge,
            role,
            seed,
            *(getattr(point, name, None) for name in dials if bridge or name != "bridge_triplets"),
        )
        for point, seed in every
        if point.composition != "base"
        for own, bridge, role in protocol.library(point)
    }
    made = "fewer, where they are there"
    print(
        f"{protocol.name}: {len(cells)} cells, {len(experts)} experts ({made}), {len(every)} rows in {options.out}, shard {options.shard}"
    )
    print(axes_of(every))
    held_out = SPLITS["test"].stop - SPLITS["test"].start
    prompts = sum(protocol.questions(point) if protocol.questions else point.triplets * held_out for point, _ in every)
    small = all(preset_of(point.model) == "pocket" for point, _ in every)
    minutes = (len(experts) * 50 + prompts * 0.02) / 60
    said = (
        f"; time: about {minutes:.0f} min for a pocket model on one core, half on two"
        if small
        else ", of which none was timed on this model"
    )
    print(f"cost: {len(experts)} experts, {prompts} answers{said}; nothing was run")
    return 0
