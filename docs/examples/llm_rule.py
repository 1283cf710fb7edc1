"""A share of the sum."""

from typing import Annotated

from lora_reuse.llm.compositions import each_module, rule
from lora_reuse.llm.compositions.sums import concatenated
from lora_reuse.runs.settings import Number

Share = Annotated[float, Number(0, 1), "of each update"]


@rule(static=True, gauge_free=True, alone=False, symmetric=True)
def halved(library, *, share: Share = 0.5):
    """ΔW = share Σ_i ΔW_i."""
    return each_module(library, lambda name, updates: concatenated(updates, (share,) * len(updates)))
