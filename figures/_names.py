"""What a model is called in figures and tables: a name and what sets it apart, whatever folder it lies in."""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas

from lora_reuse.llm.pocket.size import Size

DIFFERENCES = {
    "seed": "pretraining seed {:g}",
    "width": "width {:g}",
    "layers": "{:g} layers",
    "tokens": "{:g} tokens",
    "skill": {"none": "no steps pretrained", "same": "tested steps pretrained"},
    "coverage": {0.0: "none of the people known", 0.5: "half of the people known"},
    "words": {False: "bridge's words unknown"},
    "restating": {False: "steps not restated"},
    "conflict": {True: "contradicting facts known"},
    "exposure": "{:.0%} of the spouses chained",
}
"""The words for a field of `llm.pocket.size.Size` that is not as in the committed model; a field or value without words
is field=value."""


def called(models: Mapping[str, pandas.DataFrame]) -> dict[str, str]:
    """What each model is called, by its name in the rows and some of its rows. Two that would be called alike have the
    last part of that name added, or keep it where that is alike, too."""
    names = {model: of(model, rows) for model, rows in models.items()}
    for told_apart in (lambda model, name: f"{name} ({model.rstrip('/').split('/')[-1]})", lambda model, name: model):
        count = Counter(names.values())
        names = {model: told_apart(model, name) if count[name] > 1 else name for model, name in names.items()}
    return names


def of(model: str, rows: pandas.DataFrame) -> str:
    """What a model is called: what its file says that it is (`SmolLM2-135M-Instruct, Q4_1, dequantised`), where the
    rows hold that; `pocket` and how its pretraining differs from that of the committed model, where they say that it is
    a pocket model; and otherwise the last part of its path or of its name on the hub. What `figures._groups` adds to a
    name stays: its weights' digest and what its data are."""
    path, added, _ = re.split(r"((?: \(\w+\))?(?:, own .*)?)$", model, maxsplit=1)
    if "provenance.base" in rows and rows["provenance.base"].notna().all():
        return rows["provenance.base"].iloc[0] + added
    prefix = "provenance.pocket."
    made = {
        name.removeprefix(prefix): rows[name].iloc[0]
        for name in map(str, rows)
        if name.startswith(prefix) and rows[name].notna().all()
    }
    if not made:
        return path.rstrip("/").split("/")[-1] + added
    usual = {f.name: f.default for f in dataclasses.fields(Size)}
    usual["feed_forward"] = 3 * made.get("width", 0)  # goes with the width
    return (
        ", ".join(
            ["pocket", *(_difference(name, made[name]) for name in usual if made.get(name, usual[name]) != usual[name])]
        )
        + added
    )


def _difference(name: str, value: Any) -> str:
    words = DIFFERENCES.get(name, {})
    if isinstance(words, str):
        return words.format(value)
    return words.get(value, f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}")


def wrapped(name: str, width: int) -> str:
    """A name in lines of at most `width` characters, broken after a space, a hyphen or a slash, where it has one."""
    lines: list[str] = []
    for part in re.findall(r"[^-/ ]*[-/ ]?", name):
        if lines and len((lines[-1] + part).rstrip()) <= width:
            lines[-1] += part
        else:
            lines.append(part)
    return "\n".join(line.rstrip() for line in lines)
