"""lora-reuse links model=Qwen/Qwen2.5-3B-Instruct layers=mlp,lower/upper

Where does the chain of two hops break inside the model? Two one-hop experts are composed and asked "x r1 r2" directly,
and three links are looked at, each as the share of questions for which the right name leads the n names that could be
it (chance is 1/n):

- The person in between, y, is read off the residual stream by a logit lens: after every layer, at the last token of x
  and where the answer is given.
- y is patched in: the hidden state that the one-hop question "y r2" has at the last token of y takes the place of that
  at the last token of x. Does z follow? The control patches in another triplet's y: does that triplet's z follow?
- Back-patching (Biran et al. 2024): the state of a later layer takes the place of an earlier one at the same token,
  so that what the upper layers found passes the lower ones again. The control takes it from another triplet's
  question.

No prompt is sampled, and nothing is trained but the experts."""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from lora_reuse.llm.adapters.specs import Spec, trained
from lora_reuse.llm.data.mixtures import EXPERTS
from lora_reuse.llm.protocols.protocol import Protocol, Row, main
from lora_reuse.llm.protocols.settings import Composing, Dataset, Facts, Options
from lora_reuse.runs.grid import Cell
from lora_reuse.runs.settings import Choice, Whole, setting


@dataclass(frozen=True)
class Links(Dataset, Facts, Composing):
    """Two one-hop experts on one base, or one expert on both hops."""

    triplets: int = setting(100, Whole(3, 100), "n: triplets of the dataset; pocket and smollm2: 20")
    library: str = setting(
        "2-combination",
        Choice("2-combination", "mixed"),
        "two one-hop experts, or one on both hops",
        grid=("2-combination", "mixed"),
    )
    composition: str = setting(
        "sum", Choice("sum", "average", "arrow", "arrow_after"), "how the two are composed", grid=("sum",)
    )


def experts(point: Links, seed: int) -> list[Spec]:
    """The experts of the library, in the roles they have in `two_hop`, so that they are trained once."""
    names = ("1", "2") if point.library == "2-combination" else ("mixed",)
    role = {name: number for number, name in enumerate(EXPERTS, 1)}
    return trained(
        point, seed, [(tuple(point.dataset + kind for kind in EXPERTS[name]), (), role[name]) for name in names]
    )


def sensible(point: Links) -> Links | None:
    """One expert is not composed, and has one place."""
    if point.library != "mixed":
        return point
    return dataclasses.replace(point, composition="alone") if "/" not in point.layers else None


def ask(base: Any, protocol: Protocol, cells: list[Cell], options: Options) -> list[tuple[Cell, dict[str, Any]]]:
    """`llm.edits.patching.ask`, which needs torch."""
    from lora_reuse.llm.edits import patching

    return patching.ask(base, protocol, cells, options)


def _most(name: str) -> Any:
    """The column of the largest share over the layers, of the mean over seeds."""

    def column(rows: Sequence[Row]) -> str:
        by_layer = [fmean(shares) for shares in zip(*(row["measured"][name] for row in rows), strict=True)]
        return f"{100 * max(by_layer):.0f} % ({by_layer.index(max(by_layer))})"

    return column


def _share(name: str) -> Any:
    return lambda rows: f"{100 * fmean(row['measured'][name] for row in rows):.0f} %"


PROTOCOL = Protocol(
    __name__,
    Links,
    experts,
    lambda point, seed: (),
    sensible=sensible,
    columns={name: _share(name) for name in ("first", "second")}
    | {name: _most(name) for name in ("y_at_x", "y_at_end", "z_at_end", "patched", "other_patched", "other_follows")},
    ask=ask,
)
"""The columns are shares: of the one-hop questions where the right name leads, and the largest over the layers (in
brackets, how many layers come before) of each link."""

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
