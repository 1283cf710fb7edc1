"""Docstrings as griffe reads them: its Google form knows the heading "Examples:" alone, and ours is "Example:" where
there is one."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames the heading of one example."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
