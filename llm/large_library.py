"""lora-reuse large_library graph=shared held_out=12,14,32,34,52,54

Composes ten experts, on relations and on pairs of them, and asks a pair that none has seen (A.3). Five are on the
relations Rel1 to Rel5 and five on pairs of them; asked is the sixth pair (Table 12: Rel1→Rel2), with
held_out=12,14,32,34,52,54 each of the six pairs in turn. Beside the ten: only the two experts that the pair needs, the
five on relations, and the oracle, an expert on the pair that is asked. Without a model, the pocket model answers.

A graph's experts are eleven, five on relations and six on pairs; every held-out pair takes ten of them, so leaving out
all six costs one more expert than leaving out one. The experts that the pair needs come first in the library, whichever
they are."""

import dataclasses
import sys
from dataclasses import dataclass

from lora_reuse.llm.data.graphs import COUNTS
from lora_reuse.llm.data.subsets import ATOMIC, PAIRS
from lora_reuse.llm.protocols.bound import once_in_n
from lora_reuse.llm.protocols.controls import ORACLES, Control, own_hops
from lora_reuse.llm.protocols.hops import hop_protocol
from lora_reuse.llm.protocols.protocol import main
from lora_reuse.llm.protocols.reported import nearest
from lora_reuse.llm.protocols.settings import Composed
from lora_reuse.runs.settings import Choice, SettingError, Whole, setting

GRAPHS = {"disjoint": "D", "shared": "S"}
LIBRARIES = ("10-combination", "5-combination", "2-combination", "oracle")


@dataclass(frozen=True)
class LargeLibrary(Composed):
    """A.3: a library of all relations and of all pairs but one; Table 12."""

    graph: str = setting(
        "disjoint", Choice(*GRAPHS), "every pair has entities of its own, or all share them", grid=tuple(GRAPHS)
    )
    held_out: str = setting(
        "12", Choice(*PAIRS), "the pair that is asked, and that the library was not trained on", grid=("12",)
    )
    library: str = setting(
        "10-combination",
        Choice("none", *LIBRARIES),
        "all relations and other pairs, all relations, the pair's two, or the pair itself",
        grid=LIBRARIES,
    )
    pairs: str = setting(
        "direct", Choice("direct", "steps"), "how experts on pairs answer: at once, or step by step", grid=("direct",)
    )
    triplets: int = setting(10, Whole(3, 100), "facts of each pair; at most 16 in disjoint graphs", grid=(10,))

    def __post_init__(self) -> None:
        """Raises SettingError for more facts than there are names."""
        super().__post_init__()
        most = COUNTS[GRAPHS[self.graph]][1]
        if self.triplets > most:
            raise SettingError(
                "triplets",
                f"{self.triplets} with graph={self.graph}",
                f"at most {most}",
                "the names do not suffice for more",
            )


def library(point: LargeLibrary) -> list[tuple[tuple[str, ...], tuple[str, ...], int]]:
    """The experts of the point's library. An expert has its role in every library, so that it is trained once."""
    graph = GRAPHS[point.graph]
    roles = {kind: role for role, kind in enumerate((*ATOMIC, *PAIRS), 1)}
    needed = list(point.held_out)
    chosen = {
        "none": [],
        "oracle": [point.held_out],
        "2-combination": needed,
        "5-combination": needed + [kind for kind in ATOMIC if kind not in needed],
    }
    everything = chosen["5-combination"] + [pair for pair in PAIRS if pair != point.held_out]
    steps = "-CoT" if point.pairs == "steps" else ""
    return [
        ((f"{graph}{kind}{steps if kind in PAIRS else ''}",), (), roles[kind])
        for kind in chosen.get(point.library, everything)
    ]


def sensible(point: LargeLibrary) -> LargeLibrary | None:
    """The oracle is not composed, the base has no library, and how pairs are answered matters where there is an expert
    on one: the oracle is asked as it learned to answer."""
    if point.composition == "base":
        return dataclasses.replace(point, library="none", pairs="direct")
    if point.library == "none":
        return None
    if point.library == "oracle":
        pairs = "steps" if point.prompting == "steps" else "direct"
        return dataclasses.replace(point, composition="alone", pairs=pairs)
    return point if point.library == "10-combination" else dataclasses.replace(point, pairs="direct")


def bound(point: LargeLibrary) -> float | None:
    """Theory has a bound for the two one-hop experts that the pair needs; experts on other pairs have learned where the
    same people live."""
    return once_in_n(point) if point.library == "2-combination" else None


def controls(point: LargeLibrary) -> tuple[Control, ...]:
    """The hops of the two experts that the pair needs, and the oracle, which learned to answer as it is asked."""
    hops = own_hops(point) if point.library != "oracle" else ()
    return (*hops, ORACLES["direct"].at(pairs=point.prompting)) if hops else ()


def reported(point: LargeLibrary) -> str:
    """The paper's number (Table 12). The paper does not say whether it asked step by step."""
    ours = (point.library, point.held_out, point.pairs, point.layers) == ("10-combination", "12", "direct", "mlp")
    asked = ours and point.prompting in ("steps", "direct")
    return nearest(12, {"graphs": f"{point.graph.capitalize()} Graphs"}, point) if asked else ""


PROTOCOL = hop_protocol(
    __name__,
    LargeLibrary,
    lambda point: GRAPHS[point.graph] + point.held_out,
    library,
    sensible=sensible,
    bound=bound,
    controls=controls,
    reported=reported,
)

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
