"""P1: two one-hop experts, however composed, do not answer the two-hop question."""

import dataclasses
import json
from collections.abc import Sequence

from lora_reuse.llm.protocols.settings import Training
from lora_reuse.paper_checks.predictions.rows import Row, answered, chosen, fixed, own_hops, shares
from lora_reuse.paper_checks.predictions.verdicts import Test, at_chance, prediction, share

NOT_COMPOSED = ("base", "random", "alone")
USUAL = {field.name: field.default for field in dataclasses.fields(Training)}
"""Dials that a test does not name."""


def composes(row: Row) -> Row:
    """A composition that answers half of the two-hop questions."""
    return answered(row, lambda i: i % 2 == 1) if row["settings"].get("prompting") == "direct" else row


@prediction(
    "P1",
    remark=(
        "The experts of setup 0 of `bridge` are those of `two_hop` on R: the same answers, once more. Cells of one seed"
        " are shown and not judged."
    ),
    composes=composes,
)
def two_hop(rows: Sequence[Row]) -> list[Test]:
    """One test an experiment, composition and people, over seeds; void where the composition loses a hop."""
    groups: dict[str, list[Row]] = {}
    for experiment in dict.fromkeys(row["experiment"] for row in rows):
        for row in chosen(rows, experiment, prompting=("direct", "first", "second")):
            if one_hop_only(row):
                groups.setdefault(json.dumps([experiment, fixed(row, "prompting")]), []).append(row)
    every = [row["settings"] for group in groups.values() for row in group]
    vary = {
        name
        for settings in every
        for name in settings
        if len({str(other.get(name)) for other in every if name in other}) > 1
    }
    told = ["dataset", *sorted(vary - {"seed", "dataset", "composition", "library", "setup", "prompting"})]
    tests = [_cell(group, told) for group in groups.values()]
    return [test for test in tests if test] or [at_chance("any composition", [])]


def _cell(rows: Sequence[Row], told: Sequence[str]) -> Test | None:
    direct = [row for row in rows if row["settings"]["prompting"] == "direct"]
    if not direct:
        return None
    settings, seeds = direct[0]["settings"], {row["settings"]["seed"] for row in direct}
    dials = [f"{name}={settings[name]}" for name in told if name in settings and settings[name] != USUAL.get(name)]
    what = " ".join([settings["composition"], f"({direct[0]['experiment'].removeprefix('llm_')})", *dials])
    return (
        at_chance(what, direct, own_hops(rows, direct))
        if len(seeds) > 1
        else share(what, "", shares(direct), len(direct))
    )


def one_hop_only(row: Row) -> bool:
    """Whether a row is of two experts of one hop each, composed."""
    settings = row["settings"]
    return settings["composition"] not in NOT_COMPOSED and (
        settings.get("library") == "2-combination" or settings.get("setup") == "0"
    )
