"""Theory against language models: six predictions, written down before their rows were looked at, each with its verdict per model.

Thresholds are the theory's numbers (`limit`), or half-way between them and no effect; `verdicts` says when a prediction holds, fails, or has too
few rows. To add one, write a function from the rows of one model to `Test`s in a module of this package, put `@prediction(...)` over it, and
name the module below.
"""

import importlib

MODULES = ("two_hop", "probabilities", "scale", "overlap", "routing", "edit")


def load_predictions() -> None:
    """Imports every module that registers a prediction."""
    for name in MODULES:
        importlib.import_module(f"paper_checks.predictions.{name}")
