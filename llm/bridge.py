"""lora-reuse bridge model=Qwen/Qwen2.5-3B-Instruct setup=0,2

What must two one-hop experts have learned for their composition to answer step by step? Section 4.1.2: setups 0 and 2
to 8 of Table 1 and setup 1 of Figure 2 (Table 10). Without a model, the pocket model answers."""

import sys

from lora_reuse.llm.data.mixtures import SETUPS, pair
from lora_reuse.llm.protocols.bound import once_in_n
from lora_reuse.llm.protocols.controls import own_hops
from lora_reuse.llm.protocols.hops import hop_protocol
from lora_reuse.llm.protocols.protocol import main
from lora_reuse.llm.protocols.reported import LAYERS, nearest
from lora_reuse.llm.protocols.settings import Bridge, Placement


def library(point: Bridge | Placement) -> list[tuple[tuple[str, ...], tuple[str, ...], int]]:
    """The two experts of the point's setup: their own hop, and their bridge."""
    return pair(SETUPS[point.setup])


def bound(point: Bridge | Placement) -> float | None:
    """Theory has a bound for setup 0, two one-hop experts without a bridge."""
    return once_in_n(point) if point.setup == "0" else None


def subset(point: Bridge | Placement) -> str:
    """The two-hop subset that the point's setup asks."""
    return SETUPS[point.setup].asked + "12"


def reported(point: Bridge | Placement) -> str:
    """The paper's number (Table 10, or 9 for setup 1 and where adapters are not in the MLP alone)."""
    if point.prompting != "steps":
        return ""
    if point.layers == "mlp" and point.setup != "1":
        return nearest(10, {"setup": point.setup}, point)
    return nearest(9, {"setup": f"Setup {point.setup}", "layers": LAYERS.get(point.layers, "")}, point)


PROTOCOL = hop_protocol(__name__, Bridge, subset, library, bound=bound, controls=own_hops, reported=reported)
"""A setup without a bridge of steps is the contrast to those with one, which are asked in the same way: no oracle
is."""

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
