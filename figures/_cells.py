"""The numbers of a cell: what a model answered here, what the paper reports, what one layer of theory predicts."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas

from lora_reuse.figures import _theory
from lora_reuse.figures._groups import called, own_name, stands_in
from lora_reuse.figures.rows import MissingRows, Rows
from lora_reuse.llm.protocols.table import pooled
from lora_reuse.llm.scoring.intervals import Difference, Limits
from lora_reuse.paper_checks.reported import load
from lora_reuse.runs.settings import short

PAPER = {
    **{name: f"Qwen/{name}" for name in ("Qwen2.5-3B-Instruct", "Qwen2.5-7B-Instruct", "Qwen2.5-14B-Instruct")},
    **{
        name: f"deepseek-ai/{name}"
        for name in ("DeepSeek-R1-Distill-Qwen-7B", "DeepSeek-R1-Distill-Qwen-14B", "DeepSeek-R1-Distill-Llama-70B")
    },
}
"""The paper's models as its tables call them, and as the hub does."""

NO_PREDICTION = (math.nan, math.nan)

COLUMNS = (
    *("hits", "total", "percent", "low", "high", "seeds", "by_seed", "void", "unmeasured"),
    *("reported", "predicted_low", "predicted_high", "fill", "experiment", "row", "rows", "command"),
)


@dataclass(frozen=True)
class Found:
    """What is measured: cells by (model, *axes), for each model the settings it was measured with, in words, and what
    it is called."""

    cells: dict[tuple[str, ...], dict[str, Any]] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)


def of_groups(groups: Mapping[tuple[str, ...], pandas.DataFrame], about: dict[str, str], mark: str = "hits") -> Found:
    """Hits of all questions of each group, or how many answers have another mark."""
    return Found({key: of_rows(group, mark) for key, group in groups.items()}, about, called(groups))


def _control(group: pandas.DataFrame) -> dict[str, str]:
    """What is said of a group's cell; rows of two experiments are void where those of either are, and unmeasured where
    those of both are."""
    void, unmeasured = (list(group[name]) if name in group else [""] for name in ("void", "unmeasured"))
    return {
        "void": next(filter(None, void), ""),
        "unmeasured": "" if any(void) or not all(unmeasured) else unmeasured[0],
    }


def of_rows(group: pandas.DataFrame, mark: str = "hits") -> dict[str, Any]:
    """One line: counts over seeds, and the interval of their share as `llm`'s own tables have it; a count of one seed
    has none."""
    names = [name for name in (mark, "total", "by_triplet", "by_group") if f"measured.{name}" in group]
    lines = zip(*(group[f"measured.{name}"].tolist() for name in names), strict=True)
    seeds = [{name: value for name, value in zip(names, line, strict=True) if _there(value)} for line in lines]
    hits, total, limits = pooled([{"measured": seed} for seed in seeds], mark)
    low, high = limits or (math.nan, math.nan)
    bounds = group["predicted.at_most"].to_numpy(float) if "predicted.at_most" in group else np.array([])
    return {
        **{
            "hits": hits,
            "total": total,
            "percent": 100 * hits / total,
            "low": 100 * low,
            "high": 100 * high,
            "seeds": len(group),
        },
        **_control(group),
        "by_seed": " ".join(f"{100 * seed.get(mark, 0) / seed['total']:.4g}" for seed in seeds),
        "bound": 100 * bounds.sum() / total if len(bounds) and not np.isnan(bounds).any() else math.nan,
        **source(group),
    }


def source(group: pandas.DataFrame) -> dict[str, str]:
    """Where a number comes from: its rows, the first of which names it, and what made them."""
    command = " & ".join(dict.fromkeys(group["provenance.command"]))
    return {
        "experiment": group["experiment"].iloc[0],
        "row": group["hash"].iloc[0],
        "rows": " ".join(group["hash"]),
        "command": command,
    }


def _there(value: Any) -> bool:
    """Whether a row has it: a mark that no answer has is not in its row."""
    return isinstance(value, list) or (value is not None and value == value)


def models(found: Found, paper: Mapping[str, str] = PAPER) -> dict[str, str]:
    """Label -> the model's name in the rows: those that are measured, then the rest of the paper's."""
    names = list(found.about)
    labels = [_label(name, found.names.get(name, name), paper) for name in names]
    ours = {label if labels.count(label) == 1 else name: name for label, name in zip(labels, names, strict=True)}
    return ours | {label: hub for label, hub in paper.items() if label not in ours}


def _label(model: str, name: str, paper: Mapping[str, str]) -> str:
    """The paper's word for one of its models, wherever it lies; of any other what it is called."""
    last = lambda name: name.rstrip("/").split("/")[-1].lower()  # noqa: E731
    return next((label for label, hub in paper.items() if last(hub) == last(model)), name)


def fill(rows: Rows, made_by: str, model: str, brought: str = "") -> str:
    """The command that would make a model's rows; `brought` are the words for data that a person has to bring."""
    words = "" if stands_in(model) or not brought else f" {brought}"
    return f"{made_by} model={own_name(model)}{words} out={rows.folder}"


def reported(number: int, **labels: str) -> str:
    """What the paper's table says in the cell with these labels, as printed and in percent; "" if there is no such
    cell."""
    for line in _lines(number):
        # One cell may stand for both compositions: "uniform, arrow".
        if all(
            value.lower() in (line[name].lower(), *line[name].lower().split(", ")) for name, value in labels.items()
        ):
            return line["value"]
    return ""


@functools.cache
def _lines(number: int) -> list[dict[str, str]]:
    return [{str(name): str(value) for name, value in line.items()} for line in load(number).to_dict("records")]


def chain(rows: Rows, asked: Mapping[str, str]) -> tuple[float, float]:
    """The share of step-by-step answers that one layer gets right (`theory.experiments.bridge`, 8 facts an expert, d =
    m = ∞), in percent: the least and the most over all shares λ of local attention; NO_PREDICTION where theory has no
    such setup, composition or prompting."""
    if asked["prompting"] != "steps":
        return NO_PREDICTION
    return _chains(rows).get((asked["setup"], asked["composition"]), NO_PREDICTION)


@functools.lru_cache(maxsize=4)
def _chains(rows: Rows) -> dict[tuple[str, str], tuple[float, float]]:
    dials = ("setup", "composition", "locality", "scores")
    try:
        table = _theory.rows_of(rows, "bridge", *dials, facts=8, width=math.inf)
    except MissingRows:
        return {}
    columns = [f"settings.{name}" for name in dials]
    ends = (
        (100 * table.groupby(columns)["predicted.two_hop_step_by_step"].mean())
        .groupby(level=[0, 1])
        .agg(["min", "max"])
    )
    return {(short(setup), rule): (float(low), float(high)) for (setup, rule), low, high in ends.itertuples(name=None)}


def cell(found: Found, key: tuple[str, ...], printed: str, predicted: tuple[float, float], fill: str) -> dict[str, Any]:
    """A cell's columns: measured, where there are rows, else the command that would make them; reported; predicted."""
    line: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {
        "reported": printed,
        "predicted_low": predicted[0],
        "predicted_high": predicted[1],
    }
    if key not in found.cells:
        return line | {name: math.nan for name in ("hits", "total", "percent", "low", "high", "seeds")} | {"fill": fill}
    ours = {"void": "", "unmeasured": "", **found.cells[key]}
    bound = ours.pop("bound")
    return line | ours | ({} if math.isnan(bound) else {"predicted_low": math.nan, "predicted_high": bound})


def of_many(
    rows: Sequence[Mapping[str, Any]],
    share: float,
    limits: Limits | Difference | None = None,
    *,
    seeds: int,
    total: float = math.nan,
    by_seed: str = "",
) -> dict[str, Any]:
    """A cell that stands on more rows than can be named: the first of them names it. A share of `total`, or without one
    a number of its own, in percent."""
    low, high = (limits.low, limits.high) if limits else (math.nan, math.nan)
    counts = {"hits": share * total, "total": total, "percent": 100 * share, "low": 100 * low, "high": 100 * high}
    first, made = rows[0], " & ".join(dict.fromkeys(row["provenance"]["command"] for row in rows))
    made_of = {"experiment": first["experiment"], "row": first["hash"], "rows": first["hash"], "command": made}
    unpredicted = {"predicted_low": math.nan, "predicted_high": math.nan}
    return dict.fromkeys(COLUMNS, "") | counts | {"seeds": seeds, "by_seed": by_seed} | made_of | unpredicted


def frame(lines: Mapping[tuple[str, ...], Mapping[str, Any]], names: Sequence[str], found: Found) -> pandas.DataFrame:
    """The cells by their labels, the last of which heads the column; `attrs["about"]` goes along to the caption."""
    index = pandas.MultiIndex.from_tuples(list(lines), names=list(names))
    table = pandas.DataFrame([dict(line) for line in lines.values()], index=index, columns=list(COLUMNS))
    table.attrs["about"] = {found.names.get(model, model): what for model, what in found.about.items()}
    return table


def about(table: pandas.DataFrame) -> str:
    """Which models were measured, with what, in one sentence."""
    said = [f"{model} ({what})" for model, what in table.attrs["about"].items()]
    return f"Measured here: {'; '.join(said)}." if said else "No model of this table was measured here."
