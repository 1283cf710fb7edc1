"""lora-reuse bridge_examples examples=4,16,46 choice=compiled,random composition=sum,arrow_after

How many examples of a bridge, compiled or drawn, make two adapters compose step by step? Experts are those of setup
0 (one hop each), and one of them, or both, has so many examples of a bridge beside its own facts, in `own_share` of
each batch as any bridge. A choice each:

    compiled       from the training templates of both hops and made-up people (llm/data/bridges.py), as
                   `lora-reuse bridge_compiler` writes them
    one_triplet    the same, all of one made-up triplet
    random         drawn from setup 2's bridge: both hops, and the two step by step
    random_steps   drawn from its step-by-step examples

Setups 2, 4 and 5 of `llm.bridge` are the whole of that bridge in both experts and in one. Without a model, the pocket
model answers."""

import dataclasses
import sys
from dataclasses import dataclass

from lora_reuse.llm.adapters.specs import Bridged, Spec, trained
from lora_reuse.llm.data.bridges import CHOICES, Bridge
from lora_reuse.llm.data.mixtures import BRIDGE, SETUPS, pair
from lora_reuse.llm.data.subsets import SPLITS
from lora_reuse.llm.protocols.bound import once_in_n
from lora_reuse.llm.protocols.controls import own_hops
from lora_reuse.llm.protocols.dials import COMPOSITIONS, CONTROLS, LEARNED, RULES
from lora_reuse.llm.protocols.hops import hop_protocol
from lora_reuse.llm.protocols.protocol import main
from lora_reuse.llm.protocols.settings import PROMPTINGS, Composed
from lora_reuse.runs.settings import Choice, SettingError, Whole, setting

TEMPLATES = SPLITS["train"].stop - SPLITS["train"].start
DRAWN_FROM = {"random": len(BRIDGE) * TEMPLATES, "random_steps": TEMPLATES}
"""Examples a triplet, of those that are drawn from."""


@dataclass(frozen=True)
class BridgeExamples(Composed):
    """How many examples a bridge has, how they are chosen, and who has them."""

    examples: int = setting(46, Whole(0, 10**5), "examples of the bridge", grid=(0, 1, 4, 16, 46))
    choice: str = setting("compiled", Choice(*CHOICES), "how they are chosen", grid=("compiled", "random"))
    bridge_in: str = setting("first", Choice("both", "first", "second"), "the experts that have the bridge")
    composition: str = setting(
        "arrow_after",
        Choice(*COMPOSITIONS, *CONTROLS, *RULES, *LEARNED),
        "how the library is composed",
        grid=COMPOSITIONS,
    )
    prompting: str = setting("steps", Choice(*PROMPTINGS), "what is asked", grid=("steps", "first", "second"))

    def __post_init__(self) -> None:
        """Raises SettingError for more examples than there are to draw from."""
        super().__post_init__()
        # Compiled ones go on for as long as one wants, of a triplet or more.
        most = DRAWN_FROM.get(self.choice, 10**5) * self.bridge_triplets
        if self.examples > most:
            got = f"{self.examples} with choice={self.choice} bridge_triplets={self.bridge_triplets}"
            raise SettingError("examples", got, f"at most {most}", "or more bridge_triplets=")


def experts(point: BridgeExamples, seed: int) -> list[Spec]:
    """The two experts of setup 0, trained once wherever they have no bridge."""
    found = trained(point, seed, pair(SETUPS["0"]))
    source = Bridge(point.choice, point.examples, point.bridge_triplets, seed)
    return [
        Bridged(**vars(spec), source=source) if point.examples and point.bridge_in in ("both", name) else spec
        for spec, name in zip(found, ("first", "second"), strict=True)
    ]


def sensible(point: BridgeExamples) -> BridgeExamples:
    """Of no examples there is no choice, and one is of one triplet."""
    if not point.examples:
        return dataclasses.replace(point, choice="compiled", bridge_in="first")
    return (
        dataclasses.replace(point, choice="compiled") if (point.examples, point.choice) == (1, "one_triplet") else point
    )


def bound(point: BridgeExamples) -> float | None:
    """Theory has a bound where there is no bridge."""
    return None if point.examples else once_in_n(point)


PROTOCOL = hop_protocol(
    __name__,
    BridgeExamples,
    lambda point: SETUPS["0"].asked + "12",
    lambda point: pair(SETUPS["0"]),
    experts=experts,
    sensible=sensible,
    bound=bound,
    controls=own_hops,
)

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
