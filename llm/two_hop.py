"""lora-reuse two_hop model=Qwen/Qwen2.5-3B-Instruct dataset=R

Do experts on two hops compose, asked directly and step by step? Section 4.1.1: an expert on A -> B, one on B -> C, one
on A -> C (the oracle) and one on both hops; libraries of the first two and the first three; every composition; direct
and step-by-step questions (Table 7, Figure 1). library=3-combination_steps,oracle_steps has an oracle that was trained
on answers step by step, the positive control of these questions. Without a model, the pocket model answers."""

import sys

from lora_reuse.llm.data.mixtures import EXPERTS, LIBRARIES
from lora_reuse.llm.protocols.bound import once_in_n
from lora_reuse.llm.protocols.controls import ORACLES, Control, own_hops
from lora_reuse.llm.protocols.hops import hop_protocol
from lora_reuse.llm.protocols.libraries import in_one_way
from lora_reuse.llm.protocols.protocol import main
from lora_reuse.llm.protocols.reported import LAYERS, nearest
from lora_reuse.llm.protocols.settings import TwoHop

COLUMNS = {
    "2-combination": "2-combination library",
    "3-combination": "3-combination library",
    "oracle": "Oracle Expert",
    "mixed": "Mixed Two-hop Expert",
}
"""The paper's names of the libraries."""
MIXED = Control("one expert on both hops", "got", {"library": "mixed", "composition": "alone"})
HOLDING = {"direct": "3-combination", "steps": "3-combination_steps"}
"""The library that holds the oracle of a prompting."""


def library(point: TwoHop) -> list[tuple[tuple[str, ...], tuple[str, ...], int]]:
    """The experts of the point's library: one on each named subset. Each has its role in every library, so that it is
    trained once."""
    roles = {name: role for role, name in enumerate(EXPERTS, 1)}
    return [
        (tuple(point.dataset + kind for kind in EXPERTS[name]), (), roles[name])
        for name in LIBRARIES.get(point.library, ())
    ]


def sensible(point: TwoHop) -> TwoHop | None:
    """One expert is not composed, and the base has no library: such points are asked once. No library is for the base
    alone."""
    return in_one_way(point, len(LIBRARIES.get(point.library, ())) == 1)


def bound(point: TwoHop) -> float | None:
    """Theory has a bound for two one-hop experts; the oracle, alone or in a library, has learned the answers."""
    return once_in_n(point) if point.library == "2-combination" else None


def controls(point: TwoHop) -> tuple[Control, ...]:
    """Of two hops: both experts' own, and an oracle that was trained on such answers, since the prompting may be beyond
    the model and the fact beyond the adapter; the oracle alone for its own question put to a library that holds it. Of
    a hop: one expert on both hops."""
    if point.library in ("none", "oracle", "oracle_steps") or "random" in (point.composition, point.pool):
        return ()
    if point.prompting in ("first", "second"):
        return (MIXED,) if point.library != "mixed" else ()
    oracle = ORACLES[point.prompting]
    return (oracle,) if point.library == HOLDING[point.prompting] else (*own_hops(point), oracle)


def reported(point: TwoHop) -> str:
    """The paper's number (Table 7, or 8 where adapters are not in the MLP alone). One expert was asked directly,
    too."""
    column = COLUMNS.get(point.library, "")
    if point.prompting not in (("steps", "direct") if point.library in ("oracle", "mixed") else ("steps",)):
        return ""
    if point.layers == "mlp":
        return nearest(7, {"dataset": point.dataset, "column": column}, point)
    layers = LAYERS.get(point.layers, "").replace("+", " + ")
    return nearest(8, {"dataset": point.dataset, "column": column, "layers": layers}, point)


PROTOCOL = hop_protocol(
    __name__,
    TwoHop,
    lambda point: point.dataset + "12",
    library,
    sensible=sensible,
    bound=bound,
    controls=controls,
    reported=reported,
)

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
