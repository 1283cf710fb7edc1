"""The numbers of a cell: what a model answered here, what the paper reports, what one layer of theory predicts.

A row of `llm` records every setting, and a table of the paper varies a few of them. The others are fixed by choosing,
for each model, the setting that has the most rows, so that a sweep over the rank does not mix with the rows of Table 7.
Word problems may be the paper's or our own. On our own a model has lines of its own, which say so and hold no number of
the paper's."""

import dataclasses
import functools
import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas
from lora_reuse.figures import _names
from lora_reuse.figures.rows import Rows
from lora_reuse.llm.protocols.controls import verdicts
from lora_reuse.llm.protocols.settings import PRESETS, Composed, Training
from lora_reuse.llm.protocols.table import pooled
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

OWN = {
    "llm_gsm": "own word problems",
    "llm_cross_lingual": "own tasks",
    "llm_continent": "own people",
    "llm_skills": "own homes and code",
}
"""What `data=own` is, by experiment: a stand-in for the data of the paper, which it says nothing about."""

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


def measured(rows: Rows, experiments: Sequence[str], axes: Sequence[str], **fixed: Any) -> Found:
    """Hits of all questions over seeds, by model and `axes`, as `grouped` chooses the rows."""
    return of_groups(*grouped(rows, experiments, axes, **fixed))


def of_groups(groups: Mapping[tuple[str, ...], pandas.DataFrame], about: dict[str, str], mark: str = "hits") -> Found:
    """Hits of all questions of each group, or how many answers have another mark."""
    return Found({key: of_rows(group, mark) for key, group in groups.items()}, about, called(groups))


def called(groups: Mapping[tuple[str, ...], pandas.DataFrame]) -> dict[str, str]:
    """What each model of `groups` is called, by its name in the rows."""
    return _names.called({key[0]: group for key, group in groups.items()})


def grouped(
    rows: Rows, experiments: Sequence[str], axes: Sequence[str], **fixed: Any
) -> tuple[dict[tuple[str, ...], pandas.DataFrame], dict[str, str]]:
    """The groups of rows that differ in the seed alone, by model and `axes`; and what the rows of each model are, in
    words.

    Rows are those on the test templates with the settings `fixed`. Where two of `experiments` have the same row, that
    of the first is taken. The words say which seeds there are, which settings differ from the model's own defaults, and
    how many rows of other settings are left out."""
    found = _by_weights(
        pandas.concat(
            [_with_defaults(rows.all(experiment), experiment) for experiment in experiments], ignore_index=True
        )
    )
    for name, value in {"split": "test", **fixed}.items():
        if not found.empty and (
            name != "split" or "settings.split" in found
        ):  # questions that nothing is trained on have no split
            found = found[found[f"settings.{name}"] == value]
    groups: dict[tuple[str, ...], pandas.DataFrame] = {}
    about: dict[str, str] = {}
    for model in map(str, found["settings.model"].unique()) if not found.empty else ():
        kept, about[model] = _usual_variant(model, found[found["settings.model"] == model], axes)
        for key, group in kept.groupby([f"settings.{axis}" for axis in axes], sort=False):
            groups[model, *map(str, key)] = group
    return groups, about


def _with_defaults(table: pandas.DataFrame, experiment: str) -> pandas.DataFrame:
    """The rows, each measurement once; a setting that came after a row was made is at its default there."""
    if table.empty:
        return table
    defaults = _defaults(table)
    table = table.assign(**{name: default for name, default in defaults.items() if name not in table})
    for name in (name for name in defaults if table[name].isna().any()):
        table[name] = [defaults[name] if pandas.isna(given) else given for given in table[name]]
    settings = _settings(table)
    weights = ["provenance.base_digest"] if "provenance.base_digest" in table else []
    table = table.drop_duplicates([*settings, *weights], keep="last").assign(experiment=experiment)
    table = table.assign(**_controls(table, experiment))
    if experiment in OWN:
        ours = table["settings.data"] == "own"
        table["settings.model"] = table["settings.model"].where(~ours, table["settings.model"] + f", {OWN[experiment]}")
    return table


def _controls(table: pandas.DataFrame, experiment: str) -> dict[str, list[str]]:
    """`void`, the reason for which a row's cell is (`llm.protocols.controls`), and `unmeasured`, the controls that no
    row measures."""
    if "measured.hits" not in table:
        return dict.fromkeys(("void", "unmeasured"), [""] * len(table))
    protocol = importlib.import_module("lora_reuse." + experiment.replace("_", ".", 1)).PROTOCOL
    settings = table[_settings(table)].rename(columns=lambda name: name.partition(".")[2]).to_dict("records")
    weights = table["provenance.base_digest"] if "provenance.base_digest" in table else [None] * len(table)
    counts = zip(settings, table["measured.hits"], table["measured.total"], weights, strict=True)
    rows = [
        {"settings": said, "measured": {"hits": h, "total": t}, "provenance": {"base_digest": digest}}
        for said, h, t, digest in counts
    ]
    found = verdicts(protocol, rows)
    return {"void": [verdict.void for verdict in found], "unmeasured": [verdict.unmeasured for verdict in found]}


def _control(group: pandas.DataFrame) -> dict[str, str]:
    """What is said of a group's cell; rows of two experiments are void where those of either are, and unmeasured where
    those of both are."""
    void, unmeasured = (list(group[name]) if name in group else [""] for name in ("void", "unmeasured"))
    return {
        "void": next(filter(None, void), ""),
        "unmeasured": "" if any(void) or not all(unmeasured) else unmeasured[0],
    }


def _defaults(table: pandas.DataFrame) -> dict[str, Any]:
    """Those that rows of these settings share: all of a protocol with facts and a bridge, else those of training."""
    shared = Composed if "settings.bridge_triplets" in table else Training
    return {f"settings.{f.name}": f.default for f in dataclasses.fields(shared)}


def _settings(table: pandas.DataFrame) -> list[str]:
    return [name for name in map(str, table) if name.startswith("settings.")]


def _by_weights(table: pandas.DataFrame) -> pandas.DataFrame:
    """A model's name, with the digest of its weights where rows of several weights have that name."""
    digest = "provenance.base_digest"
    if digest not in table:
        return table
    several = table.groupby("settings.model")[digest].transform("nunique") > 1
    named = table["settings.model"] + " (" + table[digest].str[:8] + ")"
    return table.assign(**{"settings.model": table["settings.model"].where(~several, named)})


def _usual_variant(model: str, own: pandas.DataFrame, axes: Sequence[str]) -> tuple[pandas.DataFrame, str]:
    """The rows of the setting that has most of them (of two, the one nearer to the model's defaults), once each, and
    what they are."""
    free = [f"settings.{name}" for name in (*axes, "model", "seed")]
    fixed = [name for name in _settings(own) if name not in free]
    preset = (
        PRESETS["pocket"]
        if "provenance.pocket.width" in own and own["provenance.pocket.width"].notna().all()
        else PRESETS.get(_name(model), {})
    )
    usual = _defaults(own) | {f"settings.{name}": value for name, value in preset.items()}
    told = [name for name in fixed if name in _defaults(own)]

    def unlike(part: pandas.DataFrame) -> list[str]:
        first = part.iloc[0]
        return [f"{name.removeprefix('settings.')}={short(first[name])}" for name in told if first[name] != usual[name]]

    variants = [part for _, part in own.groupby(fixed, sort=False, dropna=False)]
    kept = max(variants, key=lambda part: (len(part), -len(unlike(part))))
    seeds = sorted(set(kept["settings.seed"]))
    said = [f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"]
    said += [f"with {' '.join(unlike(kept))}"] if unlike(kept) else []
    said += [f"{len(own) - len(kept)} rows of other settings are not shown"] if len(kept) < len(own) else []
    kept = kept.drop_duplicates([f"settings.{name}" for name in (*axes, "seed")], keep="first")
    return kept, "; ".join(said)


def of_rows(group: pandas.DataFrame, mark: str = "hits") -> dict[str, Any]:
    """One line: counts over seeds, and the interval of their share as `llm`'s own tables have it; a count of one seed
    has none."""
    names = [f"measured.{name}" for name in (mark, "total", "by_triplet", "by_group") if f"measured.{name}" in group]
    seeds = [
        {name.removeprefix("measured."): line[name] for name in names if _there(line[name])}
        for line in group[names].to_dict("records")
    ]
    hits, total, limits = pooled([{"measured": seed} for seed in seeds], mark)
    low, high = limits or (math.nan, math.nan)
    bounds = group["predicted.at_most"] if "predicted.at_most" in group else pandas.Series(dtype=float)
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
        "bound": 100 * bounds.sum() / total if bounds.notna().all() and len(bounds) else math.nan,
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
    return isinstance(value, list) or not pandas.isna(value)


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


def stands_in(model: str) -> bool:
    """Whether a model's rows are of data of our own, by its name in `Found`."""
    return any(f", {what}" in model for what in OWN.values())


def _name(model: str) -> str:
    """Without the digest of its weights, and without what its data are."""
    return model.partition(", own ")[0].partition(" (")[0]


def fill(rows: Rows, made_by: str, model: str, brought: str = "") -> str:
    """The command that would make a model's rows; `brought` are the words for data that a person has to bring."""
    words = "" if stands_in(model) or not brought else f" {brought}"
    return f"{made_by} model={_name(model)}{words} out={rows.folder}"


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


def chain(rows: Rows, setup: str, composition: str) -> tuple[float, float]:
    """The share of step-by-step answers that one layer gets right (`theory.experiments.bridge`, 8 facts an expert, d =
    m = ∞), in percent: the least and the most over all shares λ of local attention; not a number where theory has no
    such setup or composition."""
    return _chains(rows).get((setup, composition), (math.nan, math.nan))


@functools.lru_cache(maxsize=4)
def _chains(rows: Rows) -> dict[tuple[str, str], tuple[float, float]]:
    table = rows.all("bridge")
    for name, value in {"settings.facts": "8", "settings.width": "inf"}.items():
        table = table[table[name].map(short) == value] if not table.empty else table
    if table.empty:
        return {}
    dials = [f"settings.{name}" for name in ("setup", "composition", "locality", "scores")]
    ends = (
        (100 * table.groupby(dials)["predicted.two_hop_step_by_step"].mean()).groupby(level=[0, 1]).agg(["min", "max"])
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
