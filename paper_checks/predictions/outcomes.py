"""Each prediction on each model: its verdict from the rows that test it, and beside it what the rows of exploration
would show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lora_reuse.llm.exposure import MODELS
from lora_reuse.paper_checks.predictions import load_predictions
from lora_reuse.paper_checks.predictions.registered import Parted, Registration, parted, registration
from lora_reuse.paper_checks.predictions.rows import Row
from lora_reuse.paper_checks.predictions.verdicts import PREDICTIONS, Prediction, Test, Verdict, judged, together

FAMILY = 0.05
"""How often one or more of the primary contrasts of a model get a verdict that is false (by the margin, if that is
supported), at most."""


FAMILIES = {"llm_exposure": f"{MODELS} (the family)"}
"""Experiments in which a model is one pretraining of many that are compared, whose seeds are the unit."""


@dataclass(frozen=True)
class Outcome:
    """A prediction on one model: its tests and their verdicts, the tests that rows of exploration make, which have
    none, and where it is registered."""

    model: str
    prediction: Prediction
    parted: Parted
    tests: list[Test]
    verdicts: list[Verdict]
    exploration: list[Test]
    registration: Registration

    @property
    def rows(self) -> bool:
        """Whether a test has rows, of those that judge it or of exploration; rows with other dials may be in none."""
        return any(test.rows for test in (*self.tests, *self.exploration))

    @property
    def verdict(self) -> "Verdict | Literal['no rows yet', 'exploration', 'shown']":
        """`exploration` where there are rows and none of them tests the prediction; `shown` where those that would are
        of settings for which nothing is predicted."""
        if not self.rows:
            return "no rows yet"
        if not any(test.rows for test in self.tests):
            return "exploration"
        return together(self.verdicts) if any(test.rows for test in self.tests if test.predicted) else "shown"


def compare(rows: Sequence[Mapping[str, Any]]) -> list[Outcome]:
    """Every prediction on every model that has rows, by its name and the weights that it stood for, or on a family of
    models, and on those it was registered for."""
    load_predictions()
    models: dict[str, list[Row]] = {}
    for row in rows:
        if row["experiment"].startswith("llm_") and "model" in row["settings"]:
            models.setdefault(FAMILIES.get(row["experiment"]) or _name(row), []).append(row)
    named = dict.fromkeys(model for prediction in PREDICTIONS.values() for model in prediction.claim.models)
    models |= {model: [] for model in named if not any(name.startswith(f"{model} (") for name in models)}
    registered = {id: registration(prediction.claim) for id, prediction in PREDICTIONS.items()}
    return [outcome for model, group in models.items() for outcome in _of_model(model, group, registered)]


def _name(row: Row) -> str:
    digest = row["provenance"].get("base_digest", "unknown weights")[:8]
    return f"{row['settings']['model'].rstrip('/').split('/')[-1]} ({digest})"


def _of_model(model: str, rows: Sequence[Row], registered: Mapping[str, Registration]) -> list[Outcome]:
    """The outcomes of a model, whose primary contrasts are judged as one family."""
    split = {
        id: parted(PREDICTIONS[id].claim, registered[id], rows)
        for id in sorted(PREDICTIONS, key=lambda id: (id[0], int(id[1:])))
    }
    tests = {id: PREDICTIONS[id].compare(split[id].tests) for id in split}
    verdicts = judged_together(tests)
    explored = {id: PREDICTIONS[id].compare(split[id].exploration) if split[id].exploration else [] for id in split}
    return [
        Outcome(model, PREDICTIONS[id], split[id], tests[id], verdicts[id], explored[id], registered[id])
        for id in split
    ]


def judged_together(tests: Mapping[str, Sequence[Test]]) -> dict[str, list[Verdict]]:
    """The verdicts of each prediction's tests on one model: those of primary contrasts are one family, those of others
    are judged by themselves."""
    family = iter(
        judged([test for id in tests if PREDICTIONS[id].primary for test in tests[id]], FAMILY, FAMILY, family=True)
    )
    return {id: [next(family) for _ in each] if PREDICTIONS[id].primary else judged(each) for id, each in tests.items()}
