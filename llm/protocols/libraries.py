"""What protocols with a `library` and a `composition` of it have in common: each point is asked in one way alone."""

import dataclasses
from typing import Any, TypeVar

Point = TypeVar("Point", bound=Any)


def in_one_way(point: Point, one: bool, **of_base: Any) -> Point | None:
    """The point as a row has it: the base has no library, nor what else `of_base` says, and a library of `one` expert
    is asked `alone`. None for a composition with the library, or another setting of `of_base`, that the base alone has
    as "none"."""
    if point.composition == "base":
        return dataclasses.replace(point, library="none", **of_base)
    if "none" in (point.library, *(getattr(point, name) for name, value in of_base.items() if value == "none")):
        return None
    return dataclasses.replace(point, composition="alone") if one else point
