"""lora-reuse scale model=Qwen/Qwen2.5-3B-Instruct scale=0,0.5,1

Scales an expert, or the sum of two, by w: what is answered, and how likely is each candidate? One layer of theory says
that an expert's own facts flip at w = 1/2 (`lora-reuse sweep experiment=scale`)."""

import dataclasses
import sys

from lora_reuse.llm.data.mixtures import EXPERTS
from lora_reuse.llm.protocols.bound import once_in_n
from lora_reuse.llm.protocols.controls import Control, own_hops
from lora_reuse.llm.protocols.hops import hop_protocol
from lora_reuse.llm.protocols.protocol import main
from lora_reuse.llm.protocols.settings import Scale

LIBRARIES = {"1": ("1",), "2": ("2",), "2-combination": ("1", "2")}


def library(point: Scale) -> list[tuple[tuple[str, ...], tuple[str, ...], int]]:
    """One expert or both, in the roles they have in `two_hop`, so that they are trained once."""
    return [(tuple(point.dataset + kind for kind in EXPERTS[name]), (), int(name)) for name in LIBRARIES[point.library]]


def sensible(point: Scale) -> Scale | None:
    """Only the sum is scaled; an expert alone is asked its own hop and the two-hop questions."""
    if (point.library, point.prompting) in (("1", "second"), ("2", "first")):
        return None
    return dataclasses.replace(point, composition="cat")


def bound(point: Scale) -> float | None:
    """Theory has a bound for the two one-hop experts, at every scale."""
    return once_in_n(point) if point.library == "2-combination" else None


def controls(point: Scale) -> tuple[Control, ...]:
    """Of two hops put to both experts, their own hops at the same scale; of a hop, its expert alone and as it was
    trained."""
    if point.prompting not in ("first", "second"):
        return own_hops(point) if point.library == "2-combination" else ()
    alone = {"library": {"first": "1", "second": "2"}[point.prompting], "scale": 1.0}
    return (Control("expert alone", "got", alone),) if (point.library, point.scale) != (alone["library"], 1.0) else ()


PROTOCOL = hop_protocol(
    __name__,
    Scale,
    lambda point: point.dataset + "12",
    library,
    sensible=sensible,
    bound=bound,
    controls=controls,
)

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
