"""lora-reuse bridge model=Qwen/Qwen2.5-3B-Instruct setup=0,2

What must two one-hop experts have learned for their composition to answer step by step? Section 4.1.2: setups 0 and 2
to 8 of Table 1 and setup 1 of Figure 2 (Table 10). Without a model, the pocket model answers."""

import sys

from lora_reuse.llm.data.mixtures import SETUPS, pair
from lora_reuse.llm.protocols.bound import once_in_n
from lora_reuse.llm.protocols.controls import own_hops
from lora_reuse.llm.protocols.protocol import Protocol, main
from lora_reuse.llm.protocols.settings import Bridge, Placement


def library(point: Bridge | Placement) -> list[tuple[tuple[str, ...], tuple[str, ...], int]]:
    """The two experts of the point's setup: their own hop, and their bridge."""
    return pair(SETUPS[point.setup])


def bound(point: Bridge | Placement) -> float | None:
    """Theory has a bound for setup 0, two one-hop experts without a bridge."""
    return once_in_n(point) if point.setup == "0" else None


PROTOCOL = Protocol(
    "bridge", __doc__ or "", Bridge, lambda point: SETUPS[point.setup].asked, library, bound=bound, controls=own_hops
)
"""A setup without a bridge of steps is the contrast to those with one, which are asked in the same way: no oracle
is."""

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
