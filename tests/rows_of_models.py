"""Rows of language models as they are on disk, made up."""

import dataclasses
import json

from llm.large_library import LargeLibrary
from llm.methods import Methods
from llm.settings import PRESETS, Bridge, Placement, TwoHop
from runs.rows import SCHEMA, row_hash

AXES = {"llm_bridge": Bridge, "llm_two_hop": TwoHop, "llm_placement": Placement, "llm_large_library": LargeLibrary, "llm_methods": Methods}


def row(experiment, right, model="pocket", seed=0, weights="0123456789abcdef", predicted=None, **settings):
    """A row of `llm` as it is on disk: two prompts a triplet, `right` of each."""
    own = {f.name: f.default for f in dataclasses.fields(AXES[experiment])} | PRESETS.get(model, {}) | {"model": model, "seed": seed} | settings
    measured = {"hits": sum(right), "total": 2 * len(right), "by_triplet": list(right)}
    made = {"command": f"python -m {experiment.replace('_', '.', 1)} model={model}", "commit": "c" * 40, "dirty": False, "versions": {"torch": "2"}}
    made |= {"base_digest": weights, "device": "cpu", "dtype": "float32"}
    parts = {"measured": measured, "predicted": predicted or {}, "stderr": {}, "provenance": made}
    return {"schema": SCHEMA, "experiment": experiment, "hash": row_hash(f"{experiment}{weights}", own), "settings": own} | parts


def write(folder, *rows):
    folder.mkdir(exist_ok=True)
    for one in rows:
        with (folder / f"{one['experiment']}.jsonl").open("a") as file:
            file.write(json.dumps(one) + "\n")
    return folder
