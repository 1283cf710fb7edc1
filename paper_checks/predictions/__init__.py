"""Theory against language models: predictions that are registered before the rows that test them, each with its verdict
per model.

To register one: write its claim as a TOML file in `registered/`; write a function from rows to `Test`s under
`@prediction(id, mutant=...)` in a module named below, or declare the tests in the file as C0 to C4, P7 to P9 and P12
do (`contrasts`); commit it before any of its rows is made."""

import importlib

MODULES = ("contrasts", "two_hop", "probabilities", "scale", "overlap", "routing", "edit", "exposure")


def load_predictions() -> None:
    """Imports every module that makes a claim's tests."""
    for name in MODULES:
        importlib.import_module(f"lora_reuse.paper_checks.predictions.{name}")
