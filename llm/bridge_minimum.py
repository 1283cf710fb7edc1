"""lora-reuse bridge_minimum bridge_triplets=0,1,2,5,10,20

How much of a bridge is enough for experts to compose step by step? Setup 2 of `llm.bridge` with less of it, asked step
by step: fewer triplets, fewer templates, fewer examples that are step by step, other relations, in one expert only. One
of these at a time, in a command each (the others stay at setup 2's):

    bridge_triplets=0,1,2,5,10,20             and 50,100 with a model of its size
    bridge_triplets=20 bridge_templates=1,2,5,10,23,46
    bridge_triplets=20 steps_share=0,0.1,0.25,0.5,1
    bridge_triplets=20 relations=same,disjoint,reversed
    bridge_triplets=20 bridge_in=both,first,second

How familiar the asked people have to be: `lora-reuse pocket coverage=0.5 out=results/pocket-half` pretrains a pocket
model whose corpus speaks of half of them only; then model=results/pocket-half here. Without a model, the committed
pocket model answers; its own setting for the whole bridge is 20 triplets, a larger model's 100."""

import dataclasses
import sys
from dataclasses import dataclass

from lora_reuse.llm.data.mixtures import BRIDGE, SETUPS
from lora_reuse.llm.data.subsets import REVERSED, SPLITS
from lora_reuse.llm.protocols.bound import once_in_n
from lora_reuse.llm.protocols.controls import own_hops
from lora_reuse.llm.protocols.dials import COMPOSITIONS, CONTROLS, LEARNED, RULES
from lora_reuse.llm.protocols.hops import hop_protocol
from lora_reuse.llm.protocols.protocol import main
from lora_reuse.llm.protocols.reported import nearest
from lora_reuse.llm.protocols.settings import PROMPTINGS, Composed
from lora_reuse.runs.settings import Choice, Number, SettingError, Whole, setting

TEMPLATES = SPLITS["train"].stop - SPLITS["train"].start
RELATIONS = {"same": BRIDGE, "disjoint": ("5", "4", "54-CoT"), "reversed": (*BRIDGE[:2], REVERSED)}
"""What the bridge is about: the tested pair; child of, then studies in; or the tested pair with its two steps in the
other order."""


@dataclass(frozen=True)
class BridgeMinimum(Composed):
    """How much bridge is enough, between setups 0 and 2 of Table 1."""

    bridge_triplets: int = setting(20, Whole(0, 100), "triplets of the bridge", grid=(0, 1, 2, 5, 10, 20))
    bridge_templates: int = setting(
        TEMPLATES, Whole(1, TEMPLATES), "training templates that the bridge has of each of its relations and pairs"
    )
    steps_share: float = setting(
        1.0, Number(0, 1), "share of the bridge's two-hop examples that are step by step; the others answer at once"
    )
    relations: str = setting(
        "same",
        Choice(*RELATIONS),
        "the bridge's relations: those asked, two others, or those asked with the second step first",
    )
    bridge_in: str = setting("both", Choice("both", "first", "second"), "the experts that have a bridge")
    composition: str = setting(
        "arrow", Choice(*COMPOSITIONS, *CONTROLS, *RULES, *LEARNED), "how the library is composed", grid=COMPOSITIONS
    )
    prompting: str = setting("steps", Choice(*PROMPTINGS), "what is asked", grid=("steps",))

    def __post_init__(self) -> None:
        """Raises SettingError for a share that its examples could not be named by."""
        super().__post_init__()
        if round(self.steps_share, 6) != self.steps_share:
            raise SettingError("steps_share", self.steps_share, "a number from 0 to 1 with at most six decimals")


def library(point: BridgeMinimum) -> list[tuple[tuple[str, ...], tuple[str, ...], int]]:
    """The two experts, with setup 2's names for what is as in setups 0 and 2 to 5, so that no expert of `llm.bridge` is
    trained again."""
    *hops, pair = RELATIONS[point.relations]
    if point.steps_share == 0:
        pair = pair.partition("-CoT")[0]
    elif point.steps_share < 1:
        pair += f":{point.steps_share:.6f}".rstrip("0")
    few = f"/{point.bridge_templates}" if point.bridge_templates < TEMPLATES else ""
    bridge = tuple(f"{SETUPS['2'].bridge}{kind}{few}" for kind in (*hops, pair)) if point.bridge_triplets else ()
    return [
        ((f"{SETUPS['2'].asked}{role}",), bridge if point.bridge_in in ("both", name) else (), role)
        for role, name in ((1, "first"), (2, "second"))
    ]


def sensible(point: BridgeMinimum) -> BridgeMinimum:
    """Without triplets there is no bridge to vary, and without steps no order of them."""
    if point.bridge_triplets == 0:
        return dataclasses.replace(
            point, bridge_templates=TEMPLATES, steps_share=1.0, relations="same", bridge_in="both"
        )
    return (
        dataclasses.replace(point, relations="same")
        if point.relations == "reversed" and point.steps_share == 0
        else point
    )


def bound(point: BridgeMinimum) -> float | None:
    """Theory has a bound where there is no bridge."""
    return once_in_n(point) if point.bridge_triplets == 0 else None


def reported(point: BridgeMinimum) -> str:
    """The paper's number (Table 10) where the bridge is one of its setups; those in between have none."""
    setups = {("both", 1.0): "2", ("both", 0.0): "3", ("first", 1.0): "4", ("second", 1.0): "5"}
    whole = (
        point.bridge_triplets >= point.triplets and point.bridge_templates >= TEMPLATES and point.relations == "same"
    )
    setup = setups.get((point.bridge_in, point.steps_share), "") if whole else ""
    asked = point.prompting == "steps" and point.layers == "mlp"
    return nearest(10, {"setup": setup if point.bridge_triplets else "0"}, point) if asked else ""


PROTOCOL = hop_protocol(
    __name__,
    BridgeMinimum,
    lambda point: SETUPS["2"].asked + "12",
    library,
    sensible=sensible,
    bound=bound,
    controls=own_hops,
    reported=reported,
)

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
