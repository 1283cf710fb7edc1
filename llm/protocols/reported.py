"""The paper's number for a cell, from its tables as data."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

LAYERS = {"mlp": "MLP layers", "attention": "Attention layers", "both": "MLP+Attention layers"}


def nearest(
    number: int, wanted: Mapping[str, str], point: Any, composition: str = "", model: str = "Qwen2.5-3B-Instruct"
) -> str:
    """The number of table `number` with the columns that are `wanted`, for a point's composition (or the one given) and
    its model, or else `model`; "" for none. An expert alone is no composition, and takes the first."""
    composition = composition or point.composition
    cells = [
        cell
        for cell in _cells(number)
        if all(cell[name] == value for name, value in wanted.items())
        and composition in ("alone", cell["composition"].lower())
    ]
    name = point.model.rstrip("/").split("/")[-1]
    found = [cell for cell in cells if cell["base_model"] == name] or [
        cell for cell in cells if cell["base_model"] == model
    ]
    return f"{found[0]['value']} %" if found and found[0]["value"] else ""


@functools.cache
def _cells(number: int) -> Sequence[Mapping[Any, Any]]:
    """The lines of a table, read once."""
    from lora_reuse.paper_checks.reported import load

    return load(number).to_dict("records")
