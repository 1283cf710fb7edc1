"""A protocol is an experiment as data and small functions; here are its parts and its command.

torch is not needed for `--help` or a dry run. What is measured is in `measure`, and how a cell is asked in `ask`."""

import dataclasses
import functools
import importlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lora_reuse.llm.decoding.names import digest, place_of
from lora_reuse.llm.protocols.by_name import named
from lora_reuse.llm.protocols.controls import Control
from lora_reuse.llm.protocols.dials import refuse_settings, refuse_sizes, settled
from lora_reuse.llm.protocols.settings import Options, preset_of, with_preset
from lora_reuse.runs.command import begin, command, settings_are_right, without_help
from lora_reuse.runs.grid import Cell, axes_of, found, hash_of, share
from lora_reuse.runs.rows import load_rows
from lora_reuse.runs.settings import SettingError, grid, help_table, parse

if TYPE_CHECKING:
    from lora_reuse.llm.compositions import Composition
    from lora_reuse.llm.decoding.models import Base

ASKED = ("library", "composition", "prompting", "scale")
"""Settings that vary within a group of cells, whose base is loaded once."""
LABELS = ("kind", "error", "program", "judged_kind", "judged_error")
"""The marks that are words; how often each word occurs is counted."""
Marks = Mapping[str, Any]
"""What is said of one answer: `right` or `strict` and whatever else, by name."""
Row = Mapping[str, Any]


class Question(NamedTuple):
    """A question as it is put to a model.

    `prompt` is the text that is asked. Questions of one `group` are right or wrong together. `about` goes into the
    record of the answer; `reference` is what the answer is marked against, and no record holds it."""

    prompt: str
    group: str
    about: Marks
    reference: Any


class Asked(NamedTuple):
    """The same questions as they were answered under several compositions on one base: for each composition its point,
    its answers and their records, which have the marks that are known so far."""

    base: "Base"
    seed: int
    points: Sequence[Any]
    compositions: "Sequence[Composition | None]"
    questions: Sequence[Question]
    answers: Sequence[Sequence[str]]
    records: Sequence[Sequence[dict[str, Any]]]
    options: Any


Observer = Callable[[Asked], Sequence[Sequence[Marks]]]
"""Returns further marks of every answer, for each composition."""


def together(mark: Callable[[Any, Sequence[Question], Sequence[str], Any], Sequence[Marks]]) -> Observer:
    """The observer of answers that are marked together, as programs that run side by side: `mark(point, questions,
    answers, options)` takes the place of `score`."""
    return lambda asked: [
        mark(point, asked.questions, said, asked.options)
        for point, said in zip(asked.points, asked.answers, strict=True)
    ]


def counted(point: Any, questions: Sequence[Question], records: Sequence[Marks]) -> dict[str, Any]:
    """Hits of a total, by group, how many have each mark that is true and each word of the marks in LABELS."""
    groups: dict[str, list[bool]] = {}
    for question, record in zip(questions, records, strict=True):
        groups.setdefault(question.group, []).append(bool(record["right"]))
    right = [sum(group) for group in groups.values()]
    measured: dict[str, Any] = {"hits": sum(right), "total": len(records), "by_group": right}
    measured["group_sizes"] = [len(group) for group in groups.values()]
    known = {"right", "answer"}.union(*(question.about for question in questions))
    flags = dict.fromkeys(
        name for record in records for name, value in record.items() if isinstance(value, bool) and name not in known
    )
    measured |= {name: sum(record.get(name) is True for record in records) for name in flags}
    return measured | Counter(f"{name}_{record[name]}" for record in records for name in LABELS if record.get(name))


def total(rows: Sequence[Row], name: str) -> int | float:
    """A count of rows (or an expected one), summed over them; 0 for rows without it."""
    return sum(row["measured"].get(name, 0) for row in rows)


def share_of(name: str) -> Callable[[Sequence[Row]], str]:
    """The column of a table that says a count as a share of all answers."""
    return lambda rows: f"{100 * total(rows, name) / total(rows, 'total'):.0f} %" if total(rows, name) else ""


@dataclass(frozen=True, eq=False)
class Protocol:
    """An experiment: what trains, what is asked, what is right, and what theory and the paper say of it.

    Its module names it, documents it and holds it as PROTOCOL, by which other processes find it. A point is an instance
    of `axes`. The first five fields make a protocol; the others have defaults."""

    module: str
    """`__name__` of the module whose PROTOCOL this is."""
    axes: type
    experts: Callable[[Any, int], Sequence[Any]]
    """Of a point and a seed, the experts of the library in order: each a Spec (`llm.adapters.specs`) to be trained, or
    the folder or hub name of an adapter. The base alone is not asked for any."""
    questions: Callable[[Any, int], Sequence[Question]]
    """Of a point and a seed, what is asked."""
    score: Callable[[Question, str], Marks] = lambda question, answer: {}
    """The marks of an answer."""
    observers: Sequence[Observer] = ()
    """What is marked beside, in order: what needs the model, or all answers at once."""
    counts: Callable[[Any, Sequence[Question], Sequence[Marks]], dict[str, Any]] = counted
    """What a row measures, of a point, its questions and the records of their answers."""
    sensible: Callable[[Any], Any] = lambda point: point
    """The point as a row has it; None for a point that makes no sense, such as a router over a library of one
    expert."""
    bound: Callable[[Any], float | None] = lambda point: None
    """The share of a point's answers that theory says can be right at most; None where it says nothing."""
    controls: Callable[[Any], tuple[Control, ...]] = lambda point: ()
    """The rows without whose right answers a point's wrong ones say nothing of composing."""
    reported: Callable[[Any], str] = lambda point: ""
    """The paper's number for a point and the nearest model; "" for none."""
    columns: Mapping[str, Callable[[Sequence[Row]], str]] = dataclasses.field(default_factory=dict)
    """Columns of the final table, each of the rows of a setting."""
    below: Callable[[Sequence[Row]], str] = lambda rows: ""
    """What stands below the final table."""
    options: type = Options
    ready: Callable[[Sequence[Any], Any], None] = lambda points, options: None
    """Raises SettingError where something that the points need with these options is missing. It is called before
    anything is trained."""
    ask: Callable[[Any, Any, list[Cell], Any], list[tuple[Cell, dict[str, Any]]]] | None = None
    """What measures the cells of a group on a base, where that is more than to put the questions to compositions of the
    experts (`llm.protocols.ask.ask`): edits of the weights, or questions that depend on what the base knows."""
    hoped: Callable[[Any, int, int], dict[str, list[str]] | None] | None = None
    """The prompts of a forecast where no two-hop questions are asked, from (point, seed, n): n of each expert ("a",
    "b", "c", ...), n of all ("hoped"); None for a point whose experts are not composed or cannot be forecast."""

    def __post_init__(self) -> None:
        """Raises SettingError for a dial of a rule that has the name of one of the protocol's settings."""
        refuse_settings(self.axes, self.options)

    @property
    def path(self) -> str:
        """The name by which the module can be imported, where it runs as `__main__`, too."""
        here = sys.modules[self.module]
        if self.module not in ("__main__", "__mp_main__"):
            return self.module
        return here.__spec__.name if here.__spec__ else Path(str(here.__file__)).stem

    @property
    def name(self) -> str:
        """The protocol's name, which is its module's."""
        return self.path.split(".")[-1]

    @property
    def doc(self) -> str:
        """What `--help` says first."""
        return (sys.modules[self.module].__doc__ or "").strip()

    @property
    def experiment(self) -> str:
        """The name of the protocol's rows. The prefix keeps them apart from the theory's experiments, which include a
        bridge and a scale."""
        return f"llm_{self.name}"

    def __reduce__(self) -> Any:
        """By name: its functions need not be such as can be sent to another process."""
        top = "." not in self.path
        return named, (self.path, str(Path(str(sys.modules[self.module].__file__)).resolve().parent) if top else "")


def main(protocol: Protocol, words: Sequence[str]) -> int:
    """Runs a protocol's command; returns its exit code: 0 done, 2 a mistake in the settings or the folder, 130
    interrupted."""
    if protocol.module == "__main__":
        protocol = importlib.import_module(protocol.path).PROTOCOL  # whose points other processes can read
    going_on = "finished experts and rows are on disk, and the same command goes on from there"
    return command(f"llm.{protocol.name}", functools.partial(_main, protocol), words, going_on)


def _main(protocol: Protocol, words: list[str]) -> int:
    words, help = without_help(words)
    axes, given = parse(words, protocol.axes, protocol.options)
    options = protocol.options(**given)
    if help:
        print(protocol.doc + "\n\n" + help_table(protocol.axes, protocol.options))
        return 0
    points = map(protocol.sensible, grid(protocol.axes, with_preset(protocol.axes, axes)))
    points = settled(dict.fromkeys(point for point in points if point is not None), axes)
    if not points:
        raise SettingError("the grid", "no point with something to ask", "a library of experts, asked what they know")
    groups = share(grouped(list(points), options), options.shard)
    settings_are_right(options.out)
    protocol.ready(list(points), options)
    for point in points:
        refuse_sizes(point, len(library_of(protocol, point, options.first_seed)))
    begin(options.out)
    if options.dry_run:
        return _dry_run(protocol, groups, options)
    if options.launcher != "none":
        from lora_reuse.runs.launch import launch

        code = launch(f"llm.{protocol.name}", functools.partial(main, protocol), words, protocol.experiment, options)
        if code is not None:
            return code
    _run(protocol, groups, options)
    return 0


def grouped(points: Sequence[Any], options: Options) -> list[list[Cell]]:
    """The cells, in groups that differ in nothing but what varies on one base with the same experts."""
    groups: dict[str, list[Cell]] = {}
    for seed in options.every_seed:
        for point in points:
            fixed = {k: v for k, v in dataclasses.asdict(point).items() if k not in ASKED}
            groups.setdefault(json.dumps([fixed, seed], sort_keys=True), []).append((point, seed))
    return list(groups.values())


def _run(protocol: Any, groups: list[list[Cell]], options: Options) -> None:
    known: dict[str, Any] = {row["hash"]: row for row in load_rows(Path(options.out), protocol.experiment)}
    cells = [cell for group in groups for cell in group]
    _refuse_other_weights(found(cells, protocol.experiment, known), options)
    todo = [new for group in groups if (new := [c for c in group if hash_of(protocol.experiment, c) not in known])]
    if todo:
        from lora_reuse.llm.protocols.measure import measure

        known |= measure(protocol, todo, options).known
    from lora_reuse.llm.protocols.table import table

    shown = found(cells, protocol.experiment, known)
    print(table(protocol, shown, list(known.values())))
    new = sum(map(len, todo))
    print(f"{len(shown)} rows in {options.out}: {new} new, {len(shown) - new} from before")


def _refuse_other_weights(known: Sequence[Row], options: Options) -> None:
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


def library_of(protocol: Protocol, point: Any, seed: int) -> list[Any]:
    """The experts of a point's library, in order; the base alone needs none."""
    return [] if point.composition == "base" else list(protocol.experts(point, seed))


def trained_by(protocol: Protocol, cells: Sequence[Cell]) -> dict[tuple[Any, Any], Any]:
    """The experts that cells need trained, by their base and their Spec, each with a point that needs it."""
    return {
        (base_key(point), spec): point
        for point, seed in cells
        for spec in library_of(protocol, point, seed)
        if not isinstance(spec, str)
    }


def base_key(point: Any) -> tuple[str, str, str]:
    """What tells the bases of points apart."""
    return point.model, point.dtype, point.chat


def _dry_run(protocol: Protocol, groups: list[list[Cell]], options: Options) -> int:
    cells = [cell for group in groups for cell in group]
    experts, made = len(trained_by(protocol, cells)), "fewer, where they are there"
    print(
        f"{protocol.name}: {len(groups)} groups, {experts} experts ({made}), {len(cells)} rows in {options.out}, "
        f"shard {options.shard}"
    )
    print(axes_of(cells))
    alike: dict[str, list[Any]] = {}
    for point, _ in cells:  # what is asked does not depend on how experts are composed
        alike.setdefault(str(dataclasses.asdict(point) | {"composition": ""}), []).append(point)
    prompts = sum(len(points) * len(protocol.questions(points[0], options.first_seed)) for points in alike.values())
    minutes = (experts * 50 + prompts * 0.02) / 60
    said = (
        f"; time: about {minutes:.0f} min for a pocket model on one core, half on two"
        if all(preset_of(point.model) == "pocket" for point, _ in cells)
        else ", of which none was timed on this model"
    )
    print(f"cost: {experts} experts, {prompts} answers{said}; nothing was run")
    return 0
