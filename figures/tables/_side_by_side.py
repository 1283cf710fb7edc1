"""`side_by_side`, which makes a table of what was measured here beside what the paper prints, from a specification.

A specification says which rows are read and what the labels of the table are: each label asks for rows with some
settings, and is called something in the paper's table. A cell is all labels of its line and column together."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import pandas

from lora_reuse.figures import _cells, _groups
from lora_reuse.figures.rows import Rows

Settings = Mapping[str, str]
Names = str | tuple[str, ...]
"""One label, or several that belong together: setup 0 is always R_1 beside R_2."""


NOTHING: Settings = MappingProxyType({})


class Choice(NamedTuple):
    """A label of the table: settings of its rows, and labels of its cells in the paper's table, None where the paper
    has no number. One that is `extra` is shown of models that are measured and of no others. `counted`, among the
    settings, is the mark of answers to count in place of right ones."""

    asked: Settings = NOTHING
    printed: Settings | None = NOTHING
    extra: bool = False


class Line(NamedTuple):
    """A cell's labels, and the choices behind them as one."""

    labels: tuple[str, ...]
    choice: Choice

    def beside(self, label: Names, choice: Choice) -> "Line":
        """The line with another label."""
        (asked, printed, extra), labels = self.choice, label if isinstance(label, tuple) else (label,)
        both = None if printed is None or choice.printed is None else {**printed, **choice.printed}
        return Line((*self.labels, *labels), Choice({**asked, **choice.asked}, both, extra or choice.extra))


Measured = Sequence[Settings]
"""What was asked of one model: the axes' settings in its rows."""
Found = Callable[[Measured, Line], Mapping[Any, Choice]]
Columns = Mapping[Any, Mapping[Any, Choice] | Settings | Found]
"""The columns of labels by their names, the last of which heads the table's columns. Of the column `model` the paper's
models as label -> name on the hub: those that are measured stand before them. A column after it may depend on what was
asked of the model."""


def choices(setting: str, labels: Settings, printed: str = "") -> dict[str, Choice]:
    """A choice for each value -> label of one setting; `printed` is the paper's name for the setting, if it has
    another."""
    return {label: Choice({setting: value}, {printed or setting: label}) for value, label in labels.items()}


STEPS_OR_DIRECT = {
    "step by step": Choice({"prompting": "steps"}),
    "direct": Choice({"prompting": "direct"}, None, extra=True),
}
"""The paper asks step by step, or its numbers stand there."""


def side_by_side(
    number: int | None,
    experiment: str | Sequence[str],
    axes: Sequence[str],
    columns: Columns,
    *,
    asked: Settings = NOTHING,
    printed: Settings = NOTHING,
    fixed: Settings = NOTHING,
    predicted: Callable[[Rows, Settings], tuple[float, float]] = lambda rows, asked: _cells.NO_PREDICTION,
    recorded: Callable[[Settings, Measured], Settings | None] = lambda asked, measured: asked,
    words: str | Callable[[Settings], str] = "",
    brought: str = "",
) -> Callable[[Rows], pandas.DataFrame]:
    """A function from rows to the table, indexed by its labels, with the columns `figures._cells.COLUMNS`.

    `number` is that of the paper's table, None where it has no numbers. `experiment` names the rows; of two experiments
    the first is taken where both have a row, and its command fills the gaps. `axes` are the settings that the table
    turns, `fixed` those that all rows must have, and `asked` and `printed` what all cells have in common. `predicted`
    is what theory says of settings, in percent. `recorded` returns the settings that rows have for those that are
    asked, None where there is no such cell. `words` of the command, and those for data that a person has to bring, make
    the rows that are missing.

    The function raises MissingRows where a table would have no cell."""
    experiments = [experiment] if isinstance(experiment, str) else experiment

    def table(rows: Rows) -> pandas.DataFrame:
        groups, about = _groups.grouped(rows, experiments, axes, **fixed)
        counted = functools.cache(lambda mark: _cells.of_groups(groups, about, mark))
        found, made = counted("hits"), {}
        models = _cells.models(found, columns["model"])  # pyright: ignore[reportArgumentType]
        measured = {model: [] for model in models.values()}
        for model, *values in groups:
            measured[model].append(dict(zip(axes, values, strict=True)))
        for labels, (asked_for, said, extra) in _lines(
            list(columns.items()), models, measured, Line((), Choice(asked))
        ):
            model = asked_for["model"]
            settings = recorded(asked_for, measured[model])
            if settings is None or (extra and not measured[model]):
                continue
            command = f"{rows.needs[experiments[0]]} {words if isinstance(words, str) else words(asked_for)}".rstrip()
            made[labels] = _cells.cell(
                counted(settings.get("counted", "hits")),
                (model, *(settings[axis] for axis in axes)),
                "" if number is None or said is None else _cells.reported(number, **{**said, **printed}),
                predicted(rows, asked_for),
                _cells.fill(rows, command, model, brought),
            )
        if not made:
            raise rows.missing(experiments[0])
        names = [name for names in columns for name in (names if isinstance(names, tuple) else (names,))]
        return _cells.frame(made, names, found)

    return table


def _lines(
    columns: Sequence[tuple[Names, Any]], models: Settings, measured: Mapping[str, Measured], line: Line
) -> Iterator[Line]:
    """The cells' labels in the order of the table, the last column's turning fastest."""
    if not columns:
        yield line
        return
    (name, offered), *others = columns
    found: Mapping[Any, Choice] = offered
    if name == "model":
        labels = {label: {"base_model": label} if label in offered else None for label in models}
        found = {label: Choice({"model": models[label]}, printed) for label, printed in labels.items()}
    elif not isinstance(offered, Mapping):
        found = offered(measured[line.choice.asked["model"]], line)
    for label, choice in found.items():
        yield from _lines(others, models, measured, line.beside(label, choice))


def captioned(text: str) -> Callable[[pandas.DataFrame], str]:
    """A function from a table to its caption: this text, and which models were measured, with what."""
    return lambda table: f"{text} {_cells.about(table)}"
