"""A share of the sum."""

import functools
import operator
from typing import Annotated

from lora_reuse.runs.settings import Number
from lora_reuse.theory.compositions import rule

Share = Annotated[float, Number(0, 1), "of each update"]


@rule(span=True, gauge_free=True, basis_free=True, alone=False, smooth=True)
def halved(library, context, *, share: Share = 0.5):
    """ΔW = share Σ_i ΔW_i."""
    return share * functools.reduce(operator.add, library)
