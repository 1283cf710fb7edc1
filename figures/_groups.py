"""The rows of a cell: those that differ in the seed alone, by model and by the settings that a table turns.

A row of `llm` records every setting, and a table of the paper varies a few of them. The others are fixed by choosing,
for each model, the setting that has the most rows, so that a sweep over the rank does not mix with the rows of Table 7.
Word problems may be the paper's or our own. On our own a model has lines of its own, which say so and hold no number of
the paper's."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas
from pandas.api.types import is_bool

from lora_reuse.figures import _names
from lora_reuse.figures.rows import Rows
from lora_reuse.llm.exposure import MODELS
from lora_reuse.llm.pocket.size import Size
from lora_reuse.llm.protocols.by_name import protocol_of
from lora_reuse.llm.protocols.controls import verdicts
from lora_reuse.llm.protocols.settings import PRESETS, Composed, Training
from lora_reuse.runs.settings import short

PLAIN = {"layers": "mlp", "adapter": "lora"}
"""The settings of the paper's main tables, which most tables hold fixed."""

OWN = {
    "llm_gsm": {"own": "own word problems"},
    "llm_cross_lingual": {"own": "own tasks"},
    "llm_continent": {"own": "own people"},
    "llm_capacity": {"own": "own homes"},
    "llm_skills": {"own": "own homes and code", "capitals": "own homes, capitals in code"},
}
"""What data of this project are, by experiment and `data=`: a stand-in for those of the paper, of which it says
nothing."""


FAMILIES = {"llm_exposure": (MODELS, "exposure")}
"""Experiments whose models are pretrainings that are compared: what these are called together, and the dial of
pretraining in which they differ, which becomes an axis. A seed is then that of the pretraining."""


def grouped(
    rows: Rows, experiments: Sequence[str], axes: Sequence[str], **fixed: Any
) -> tuple["Groups", dict[str, str]]:
    """The groups of rows that differ in the seed alone, by model and `axes`; and what the rows of each model are, in
    words.

    Rows are those with the settings `fixed`, on the test templates unless `axes` names the split. Where two of
    `experiments` have the same row, that of the first is taken; models without a row of the first are left out. The
    words say which seeds there are, which settings differ from the model's own defaults, and how many rows of other
    settings are left out."""
    found = _by_weights(
        pandas.concat([rows.made_of(experiment, _with_defaults) for experiment in experiments], ignore_index=True)
    )
    if len(experiments) > 1 and not found.empty:
        models = found["settings.model"]
        found = found[models.isin(models[found["experiment"] == experiments[0]])]
    if experiments[0] in FAMILIES and not found.empty:
        found = _family(found, *FAMILIES[experiments[0]])
    split = {} if "split" in axes else {"split": "test"}
    for name, value in {**split, **fixed}.items():
        if not found.empty and (
            name != "split" or "settings.split" in found
        ):  # questions that nothing is trained on have no split
            found = found[found[f"settings.{name}"] == value]
    groups: dict[tuple[str, ...], tuple[pandas.DataFrame, Any]] = {}
    about: dict[str, str] = {}
    for model in map(str, found["settings.model"].unique()) if not found.empty else ():
        kept, about[model] = _usual_variant(model, found[found["settings.model"] == model], axes)
        places = kept.groupby([f"settings.{axis}" for axis in axes], sort=False).indices
        for key, own in sorted(places.items(), key=lambda item: item[1][0]):
            groups[model, *map(_word, key if isinstance(key, tuple) else (key,))] = kept, own
    return Groups(groups), about


class Groups(Mapping[tuple[str, ...], pandas.DataFrame]):
    """The rows of each key, cut out of a table when they are asked for: a text asks for few of the thousands of cells
    of its experiments."""

    def __init__(self, places: Mapping[tuple[str, ...], tuple[pandas.DataFrame, Any]]):
        self._places = places
        self._cut: dict[tuple[str, ...], pandas.DataFrame] = {}

    def __getitem__(self, key: tuple[str, ...]) -> pandas.DataFrame:
        if key not in self._cut:
            table, places = self._places[key]
            self._cut[key] = table.iloc[places]
        return self._cut[key]

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _word(value: Any) -> str:
    """A setting as commands take it."""
    return str(value).lower() if is_bool(value) else str(value)


def both_hops(first: pandas.DataFrame, second: pandas.DataFrame) -> pandas.DataFrame:
    """The rows of both hops with a line a seed: what a seed keeps varies together over its hops."""
    together = pandas.concat([first, second])
    counted = {f"measured.{name}": "sum" for name in ("hits", "total", "by_triplet")}
    summed = together.groupby("settings.seed", sort=False).agg(
        {**counted, "hash": " ".join, "provenance.command": " & ".join, "experiment": "first"}
    )
    return summed.reset_index()


def called(groups: Mapping[tuple[str, ...], pandas.DataFrame]) -> dict[str, str]:
    """What each model of `groups` is called, by its name in the rows."""
    return _names.called({key[0]: group for key, group in groups.items()})


def _with_defaults(table: pandas.DataFrame, experiment: str) -> pandas.DataFrame:
    """The rows, each measurement once; a setting that came after a row was made is at its default there."""
    if table.empty:
        return table
    defaults = _defaults(table) | _omitted(experiment)
    table = table.assign(**{name: default for name, default in defaults.items() if name not in table})
    for name in (name for name in defaults if table[name].isna().any()):
        table[name] = [defaults[name] if pandas.isna(given) else given for given in table[name]]
    settings = _settings(table)
    weights = ["provenance.base_digest"] if "provenance.base_digest" in table else []
    table = table.drop_duplicates([*settings, *weights], keep="last").assign(experiment=experiment)
    table = table.assign(**_controls(table, experiment))
    if experiment in OWN:
        ours = table["settings.data"].map(OWN[experiment])
        table["settings.model"] = table["settings.model"].where(ours.isna(), table["settings.model"] + ", " + ours)
    return table


def _controls(table: pandas.DataFrame, experiment: str) -> dict[str, list[str]]:
    """`void`, the reason for which a row's cell is (`llm.protocols.controls`), and `unmeasured`, the controls that no
    row measures."""
    if "measured.hits" not in table:
        return dict.fromkeys(("void", "unmeasured"), [""] * len(table))
    counts = [name for name in table.select_dtypes("number") if str(name).startswith("measured.")]
    settings, measured = (_records(table[names]) for names in (_settings(table), counts))
    weights = table["provenance.base_digest"] if "provenance.base_digest" in table else [None] * len(table)
    rows = [
        {"settings": said, "measured": counted, "provenance": {"base_digest": digest}}
        for said, counted, digest in zip(settings, measured, weights, strict=True)
    ]
    found = verdicts(protocol_of(experiment), rows)
    return {"void": [verdict.void for verdict in found], "unmeasured": [verdict.unmeasured for verdict in found]}


def _records(table: pandas.DataFrame) -> list[dict[str, Any]]:
    """Each line by the last part of its columns' names, without what is not in that row."""
    lines = table.rename(columns=lambda name: name.partition(".")[2]).to_dict("records")
    return [{str(name): value for name, value in line.items() if value == value} for line in lines]


def _defaults(table: pandas.DataFrame) -> dict[str, Any]:
    """Those that rows of these settings share: all of a protocol with facts and a bridge, else those of training."""
    shared = Composed if "settings.bridge_triplets" in table else Training
    return {f"settings.{f.name}": f.default for f in dataclasses.fields(shared)}


def _omitted(experiment: str) -> dict[str, Any]:
    """Those that rows leave out (`runs.grid.settings_of`)."""
    axes = dataclasses.fields(protocol_of(experiment).axes)
    return {f"settings.{f.name}": f.default for f in axes if f.metadata.get("omitted")}


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


def _family(table: pandas.DataFrame, name: str, dial: str) -> pandas.DataFrame:
    """The rows as those of one model."""
    made, default = f"provenance.pocket.{dial}", Size.__dataclass_fields__[dial].default
    values = table[made].fillna(default) if made in table else default
    seeds = table["provenance.pocket.seed"].astype(int)
    return table.assign(**{"settings.model": name, f"settings.{dial}": values, "settings.seed": seeds})


def _usual_variant(model: str, own: pandas.DataFrame, axes: Sequence[str]) -> tuple[pandas.DataFrame, str]:
    """The rows of the setting that has most of them (of two, the one nearer to the model's defaults), once each, and
    what they are."""
    free = [f"settings.{name}" for name in (*axes, "model", "seed")]
    fixed = [name for name in _settings(own) if name not in free]
    preset = (
        PRESETS["pocket"]
        if "provenance.pocket.width" in own and own["provenance.pocket.width"].notna().all()
        else PRESETS.get(own_name(model), {})
    )
    usual = _defaults(own) | {f"settings.{name}": value for name, value in preset.items()}
    told = [name for name in fixed if name in _defaults(own)]

    def unlike(part: pandas.DataFrame) -> list[str]:
        first = part.iloc[0]
        return [f"{name.removeprefix('settings.')}={short(first[name])}" for name in told if first[name] != usual[name]]

    variant = own.groupby(fixed, sort=False, dropna=False).ngroup().to_numpy()
    count = np.bincount(variant)
    largest = [own[variant == number] for number in np.flatnonzero(count == count.max())]
    kept = max(largest, key=lambda part: -len(unlike(part)))
    seeds = sorted(set(kept["settings.seed"]))
    said = [f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"]
    said += [f"with {' '.join(unlike(kept))}"] if unlike(kept) else []
    said += [f"{len(own) - len(kept)} rows of other settings are not shown"] if len(kept) < len(own) else []
    kept = kept.drop_duplicates([f"settings.{name}" for name in (*axes, "seed")], keep="first")
    return kept, "; ".join(said)


def stands_in(model: str) -> bool:
    """Whether a model's rows are of data of our own, by its name in `Found`."""
    return any(f", {what}" in model for data in OWN.values() for what in data.values())


def own_name(model: str) -> str:
    """Without the digest of its weights, and without what its data are."""
    return model.partition(", own ")[0].partition(" (")[0]
