"""Two skills, composed: is the whole more than its parts? (LoRA Soups)

An expert on each of two skills, under every composition, asked what needs both: right answers, the gain over the base,
and what of it is more than the sum of what both experts gain alone."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas

from lora_reuse.figures import _cells, _groups
from lora_reuse.figures.rows import Rows
from lora_reuse.llm.scoring.intervals import difference as paired
from lora_reuse.paper_checks.reported import read

NEEDS = {"llm_skills": "python -m llm.skills"}
SOUPS = {"Llama-7b": "meta-llama/Llama-2-7b-hf"}
"""LoRA Soups' model."""
ALONE: dict[tuple[str, str], str] = {
    ("none", "base"): "base",
    ("first", "alone"): "expert on the first skill",
    ("second", "alone"): "expert on the second skill",
    ("mixed", "alone"): "one expert on both skills' data",
}
CAT: tuple[str, str] = ("both", "cat:own")
RIGHT, GAIN, MORE = "right answers", "gain over the base", "more than both experts' gains"

Key = tuple[str, str]


def table(rows: Rows) -> pandas.DataFrame:
    """The cells, by model, format of the questions, method and number; a method that was never asked has no line, but
    for LoRA Soups' model."""
    groups, about = _groups.grouped(rows, ["llm_skills"], ("formats", "library", "composition"), asked="both")
    cells: dict[tuple[str, ...], dict[str, Any]] = {}
    for model, formats in dict.fromkeys(key[:2] for key in groups):
        own: dict[Key, pandas.DataFrame] = {
            (key[2], key[3]): group for key, group in groups.items() if key[:2] == (model, formats)
        }
        for method, group in own.items():
            cells[model, formats, *method, RIGHT] = _cells.of_rows(group)
            for column, parts in compared(method).items():
                if net := difference(own, parts):
                    cells[model, formats, *method, column] = net
    found = _cells.Found(cells, about, _groups.called(groups))
    lines: dict[tuple[str, ...], dict[str, Any]] = {}
    for label, model in _cells.models(found, SOUPS).items():
        formats = list(dict.fromkeys(key[1] for key in cells if key[0] == model)) or ["known"]
        for kind in formats:
            methods: list[Key] = [
                *ALONE,
                *([CAT] if label in SOUPS else []),
                *((k[2], k[3]) for k in cells if k[:2] == (model, kind)),
            ]
            for method in dict.fromkeys(methods):
                for column in (RIGHT, *compared(method)):
                    printed = said(method, column) if label in SOUPS and kind == "known" else ""
                    made_by = NEEDS["llm_skills"] + (" rank=32 allow_code_execution=true" if label in SOUPS else "")
                    fill = _cells.fill(rows, made_by, model, "data=FOLDER")
                    name = ALONE.get(method, method[1])
                    lines[label, kind, name, column] = _cells.cell(
                        found, (model, kind, *method, column), printed, (math.nan, math.nan), fill
                    )
    return _cells.frame(lines, ("model", "formats", "method", "number"), found)


def compared(method: Key) -> Mapping[str, Mapping[Key, int]]:
    """What is subtracted from a method's answers, and added, for its other numbers."""
    if method == ("none", "base"):
        return {}
    gain = {GAIN: {method: 1, ("none", "base"): -1}}
    more = {MORE: {method: 1, ("first", "alone"): -1, ("second", "alone"): -1, ("none", "base"): 1}}
    return gain | more if method[0] == "both" else gain


def difference(own: Mapping[Key, pandas.DataFrame], parts: Mapping[Key, int]) -> dict[str, Any] | None:
    """The sum of the parts' right answers, each times its sign, of all questions, over the seeds that all parts have,
    with the 95 % interval of `llm.scoring.intervals.difference`, NaN for one seed. None where a part is missing."""
    if not all(method in own for method in parts):
        return None
    seeds = set.intersection(*(set(own[method]["settings.seed"]) for method in parts))
    if not seeds:
        return None
    groups = [own[method][own[method]["settings.seed"].isin(seeds)].sort_values("settings.seed") for method in parts]
    shares = [_shares(group) for group in groups]
    added, taken = (
        [part for part, sign in zip(shares, parts.values(), strict=True) if sign == side] for side in (1, -1)
    )
    # The mean of the parts of a sign, and not their sum, is a share, as `paired` wants it; there are as many of either
    # sign.
    more, less = ([np.mean(seed, axis=0) for seed in zip(*side, strict=True)] for side in (added, taken))
    limits, many = paired(more, less), 100 * len(added)
    count = int(sum(sign * group["measured.hits"].sum() for sign, group in zip(parts.values(), groups, strict=True)))
    total = int(groups[0]["measured.total"].sum())
    counts = {"hits": count, "total": total, "percent": 100 * count / total, "seeds": len(seeds), "bound": math.nan}
    counts |= {"low": many * limits.low, "high": many * limits.high} if limits else {"low": math.nan, "high": math.nan}
    by_seed = " ".join(f"{many * (m - n).mean():.4g}" for m, n in zip(more, less, strict=True))
    return counts | {"by_seed": by_seed} | _cells.source(pandas.concat(groups))


def _shares(group: pandas.DataFrame) -> list[np.ndarray]:
    """The share of right answers to each group of questions, an array a seed."""
    return [
        np.array(right) / sizes
        for right, sizes in zip(group["measured.by_group"], group["measured.group_sizes"], strict=True)
    ]


@functools.cache
def said(method: Key, column: str) -> str:
    """LoRA Soups' number for a cell, of maths (the first skill) and code (the second) on GSM-Hard."""
    cells = {
        (CAT, RIGHT): ("math and code", "nothing", "%"),
        (("first", "alone"), GAIN): ("math", "base model", "% points"),
        (("second", "alone"), GAIN): ("code", "base model", "% points"),
    }
    return soups(*cells[method, column]) if (method, column) in cells else ""


def soups(what: str, against: str, unit: str, task: str = "math word problems") -> str:
    """A number of LoRA Soups, as printed."""
    table = read("lora_soups")
    for name, value in {"skills": what, "compared_with": against, "unit": unit, "task": task}.items():
        table = table[table[name] == value]
    return str(table["value"].iloc[0])


def caption(table: pandas.DataFrame) -> str:
    """What a cell is."""
    gains = [soups(what, "baseline", "% gain") for what in ("math and code", "math", "code")]
    either = soups("either of math and code", "nothing", "%")
    others, mixing = (
        soups("CAT", "existing LoRA merging methods", "% gain"),
        soups("CAT", "data mixing", "% gain", "question answering"),
    )
    return (
        "Two skills are composed by each of these rules and asked what needs both (LoRA Soups, arXiv 2410.13025: maths"
        " and code on GSM-Hard). The paper's numbers are those of LoRA Soups, from a summary. The name of a"
        " composition that learns says from what: own is a twentieth of the skills' own data. A cell says how many of"
        " all answers are right, or net how many more than the base, or how many more than the base and both experts'"
        " gains over it. The last is below 0 where the whole is less than its parts. Intervals are 95 % over seeds, of"
        f" a difference paired by question. LoRA Soups' claims are these. The gain over the base is {gains[0]} % of it"
        f" with both skills against {gains[1]} % and {gains[2]} % with one. Both experts' problems together are at most"
        f" {either} %. CAT is {others} % better than other ways of merging, and {mixing} % better than data mixing on"
        " question answering. On our own homes and code a model has lines of its own, a stand-in whose numbers say"
        " nothing about GSM-Hard. The formats are those that the second skill was trained on (known), or held-out ones"
        " (new). FOLDER holds the data (`python -m llm.skills --help`). Theory has no prediction here."
        f" {_cells.about(table)}"
    )
