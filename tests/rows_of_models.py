"""Rows of language models as they are on disk, made up."""

import dataclasses
import json
from collections import Counter

from lora_reuse.llm.protocols.by_name import protocol_of
from lora_reuse.llm.protocols.settings import PRESETS, Composed
from lora_reuse.runs.rows import SCHEMA, row_hash


def row(
    experiment,
    right,
    model="pocket",
    seed=0,
    weights="0123456789abcdef",
    predicted=None,
    marks=(),
    measured=None,
    pocket=None,
    base=None,
    **settings,
):
    """A row of `llm` as it is on disk: two prompts a triplet (or group of questions), `right` of each; `marks` of
    answers; what else is measured; what the provenance says of a pocket model, or of the base."""
    axes = protocol_of(experiment).axes
    defaults = {f.name: f.default for f in dataclasses.fields(axes)}
    preset = PRESETS.get(model, {}) | (getattr(axes, "POCKET", {}) if model == "pocket" else {})
    own = (
        defaults
        | {name: value for name, value in preset.items() if name in defaults}
        | {"model": model, "seed": seed}
        | settings
    )
    by = "by_triplet" if issubclass(axes, Composed) else "by_group"
    counts = {"hits": sum(right), "total": 2 * len(right), by: list(right)} | (
        {"group_sizes": [2] * len(right)} if by == "by_group" else {}
    )
    made = {
        "command": f"python -m {experiment.replace('_', '.', 1)} model={model}",
        "commit": "c" * 40,
        "dirty": False,
        "versions": {"torch": "2"},
    }
    made |= {"base_digest": weights, "device": "cpu", "dtype": "float32"} | ({"pocket": pocket} if pocket else {})
    made |= {"base": base} if base else {}
    parts = {
        "measured": counts | Counter(marks) | (measured or {}),
        "predicted": predicted or {},
        "stderr": {},
        "provenance": made,
    }
    return {
        "schema": SCHEMA,
        "experiment": experiment,
        "hash": row_hash(f"{experiment}{weights}", own),
        "settings": own,
    } | parts


def write(folder, *rows):
    folder.mkdir(exist_ok=True)
    for one in rows:
        with (folder / f"{one['experiment']}.jsonl").open("a") as file:
            file.write(json.dumps(one) + "\n")
    return folder
