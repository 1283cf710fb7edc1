"""Settings of the experiment on two blocks."""

from dataclasses import dataclass

from lora_reuse.runs.settings import Choice, Number, Whole, setting
from lora_reuse.theory.settings.base import INF, own_attention
from lora_reuse.theory.settings.composed import ManyEdits, wide_enough

PLACEMENTS = ("both_lower", "both_upper", "first_below", "second_below")


@dataclass(frozen=True)
class Layers(ManyEdits):
    """experiment=layers: two blocks on one residual stream, with the two experts in one block or one in each."""

    placement: str = setting("first_below", Choice(*PLACEMENTS), "the blocks of the two experts", grid=PLACEMENTS)
    facts: int = setting(4, Whole(1, 16), "n, edited facts a relation", grid=(1, 2, 4, 8))
    scale: float = setting(
        1.0, Number(0.0, 1000.0), "w, the weight of the second expert in the sum", grid=(1.0, 2.0, 4.0)
    )
    write: float = setting(1.0, Number(0.0, 1000.0), "g, the length of what the lower block writes for r1(x)")
    attend: float = setting(
        0.5, Number(0.0, 1.0), "the upper block's attention on r1 in the two-hop prompt; 0.5 is uniform"
    )
    alignment: float = setting(1.0, Number(0.0, 1.0), "the direction in which an entity is written times its embedding")
    base: str = setting(
        "stored", Choice("stored", "composed"), "old two-hop answers: stored, as in the paper, or left to the blocks"
    )
    init_scale: str = setting("std", Choice("std"), "what 1/sqrt(d) is in the paper's N(0, 1/sqrt(d))")
    attention: str = setting("uniform", Choice("uniform"), "eq. 5, in both blocks but for attend=")
    mask: str = setting("strict", Choice("strict"), "attention without the current token (eq. 4)")

    def __post_init__(self) -> None:
        super().__post_init__()
        own_attention(self, "attend= is the attention here")
        wide_enough(self, 32 + 16 * self.facts)

    def features(self) -> int:
        return 0 if self.width == INF else 2 * int(self.width)

    def prompts_and_rank(self) -> tuple[int, int]:
        return 8 * self.facts, 8 * self.facts
