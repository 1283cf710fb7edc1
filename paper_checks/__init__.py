"""Every claim of the paper as a check that can fail."""

import importlib

MODULES = ("setup", "editing", "composing", "theorem_3", "discussion", "depth", "layers", "assumptions")


def load_claims() -> None:
    """Imports every module that registers claims."""
    for name in MODULES:
        importlib.import_module(f"lora_reuse.paper_checks.{name}")
