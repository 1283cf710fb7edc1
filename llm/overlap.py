"""lora-reuse overlap model=Qwen/Qwen2.5-3B-Instruct

How much does each expert's update do to prompts that are not its own? The measure is ‖ΔW h(ξ)‖/‖ΔW h(η)‖ where the
answer is given: on the two-hop question, on other people's questions, on unrelated ones. Beside it stands how much of
it the kernel of the model's own hidden states explains (eq. 19: k(η, ξ)/k(η, η))."""

import functools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from lora_reuse.llm.adapters.specs import Spec, trained
from lora_reuse.llm.data.mixtures import EXPERTS
from lora_reuse.llm.edits.neighbours import BESIDE, KERNELS
from lora_reuse.llm.protocols.protocol import Protocol, Row, main
from lora_reuse.llm.protocols.settings import Dataset, Facts, Model, Options, Training
from lora_reuse.runs.grid import Cell
from lora_reuse.runs.settings import Choice, Whole, setting


@dataclass(frozen=True)
class Overlap(Dataset, Facts, Model, Training):
    """Two one-hop experts on one base."""

    triplets: int = setting(100, Whole(3, 100), "triplets of the dataset; pocket and smollm2: 20")
    composition: str = setting("sum", Choice("sum"), "what state=sum puts on the base")
    expert: int = setting(1, Whole(1, 2), "the expert on the first hop, or on the second", grid=(1, 2))
    state: str = setting(
        "base",
        Choice("base", "sum"),
        "hidden states of the base alone, or with the sum of both experts on it",
        grid=("base", "sum"),
    )


def experts(point: Overlap, seed: int) -> list[Spec]:
    """The two one-hop experts, in the roles they have in `two_hop`, so that they are trained once."""
    mixtures = [(tuple(point.dataset + kind for kind in EXPERTS[name]), (), int(name)) for name in ("1", "2")]
    return trained(point, seed, mixtures)


def ask(base: Any, protocol: Protocol, cells: list[Cell], options: Options) -> list[tuple[Cell, dict[str, Any]]]:
    """`llm.edits.kernel.ask`, which needs torch."""
    from lora_reuse.llm.edits import kernel

    return kernel.ask(base, protocol, cells, options)


def _ratio(rows: Sequence[Row], kind: str) -> str:
    return f"{math.exp(fmean(row['measured'][f'log_ratio_{kind}'] for row in rows)):.3f}"


def _explained(rows: Sequence[Row], kernel: str) -> str:
    return f"{fmean(row['measured'][f'r2_{kernel}'] for row in rows):.2f}"


PROTOCOL = Protocol(
    __name__,
    Overlap,
    experts,
    lambda point, seed: (),
    columns={kind: functools.partial(_ratio, kind=kind) for kind in BESIDE}
    | {f"R2 {kernel}": functools.partial(_explained, kernel=kernel) for kernel in KERNELS},
    ask=ask,
)
"""The columns are the geometric mean of the ratio for each kind of prompt, and R² of its logarithm on each kernel's;
means over seeds. It asks no questions."""

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
