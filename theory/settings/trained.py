"""Settings of the experiment on trained transformers."""

from dataclasses import dataclass

from lora_reuse.runs.settings import Choice, Number, SettingError, Whole, setting
from lora_reuse.theory.settings.base import Model, Point

PLACEMENTS = ("all", "both_lower", "both_upper", "first_below", "second_below")


@dataclass(frozen=True)
class Trained(Point):
    """experiment=trained: transformers of L blocks trained on facts, from lazy to rich, and experts in some of their
    blocks."""

    depth: int = setting(2, Whole(1, 16), "L, blocks of attention and MLP", grid=(2, 4, 8))
    alpha: float = setting(
        0.1, Number(1e-3, 1e6), "output scale: rich where small, lazy where large", grid=(0.1, 1.0, 10.0, 100.0)
    )
    width: int = setting(64, Whole(8, 1024), "n, the embedding dimension and the hidden units")
    norm: str = setting("rms", Choice("none", "rms"), "RMSNorm of what attention and MLP read, or none")
    entities: int = setting(12, Whole(6, 256), "|X|")
    relations: int = setting(12, Whole(2, 64), "|R|, each defined on every entity")
    held_out: float = setting(0.2, Number(0.0, 0.9), "share of the two-hop facts that the base is not trained on")
    steps: int = setting(4000, Whole(1, 10**6), "steps of AdamW, each on all facts")
    facts: int = setting(3, Whole(1, 64), "n, new facts an expert")
    pairs: int = setting(8, Whole(1, 64), "pairs of experts of a base, each with new facts of its own")
    rank: int = setting(16, Whole(1, 1024), "of an expert in each of its blocks")
    placement: str = setting("all", Choice(*PLACEMENTS), "the blocks of the two experts", grid=PLACEMENTS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth == 1 and self.placement != "all":
            raise SettingError("placement", f"{self.placement} with depth=1", "all", "one block has no lower half")
        if 3 * self.facts > self.entities:
            got = f"{self.facts} with entities={self.entities}"
            raise SettingError("facts", got, f"at most {self.entities // 3}", "the x, y and z of all facts differ")
        if self.rank > self.width:
            raise SettingError("rank", self.rank, f"at most {self.width}, the width")

    @property
    def limit(self) -> Model:
        """The network before it is trained, at d = m = ∞, with every W adapted."""
        return Model(width=float("inf"), depth=self.depth, norm=self.norm, adapted="all")

    def features(self) -> int:
        """None are random: the positions that blocks of the base read while it is trained."""
        return self.depth * self._positions() * self.steps

    def prompts_and_rank(self) -> tuple[int, int]:
        return self._positions(), 0

    def flops(self) -> float:
        """Four matrices of a block read each position; a backward pass costs two forward ones."""
        return 24.0 * self.width**2 * self.depth * self._positions() * self.steps

    def _positions(self) -> int:
        """Prefixes of one and of two tokens, and two-hop prompts."""
        return self.entities * (1 + self.relations + self.relations**2)
