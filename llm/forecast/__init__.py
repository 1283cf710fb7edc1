"""Will adapters compose? A forecast from a handful of prompts, without answers."""

import string
from collections.abc import Sequence

HALF = 0.5
"""The threshold of every verdict. Scaled by w, an adapter's own answer wins from w = 1/2 on (`python -m theory.sweep
experiment=scale`), and a token belongs to a model that accounts for half of its probability. The value was not fitted
to rows."""
HOPED = "hoped"
MOST = len(string.ascii_lowercase)
"""How many adapters can be told apart by a letter."""


def letters(adapters: int) -> tuple[str, ...]:
    """What the adapters of a forecast are called, in their order: a, b, c, ... Each names the set of prompts that its
    adapter was made for, and "hoped" those that one hopes all of them together can answer."""
    return tuple(string.ascii_lowercase[:adapters])


def listed(parts: Sequence[str], word: str = "and") -> str:
    """The parts in a sentence."""
    return f" {word} ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))
