"""lora-reuse edit model=Qwen/Qwen2.5-3B-Instruct depth=0.3

Facts written into one MLP layer in closed form, with no adapter trained: do the answers flip? The form is that of
Proposition 1 and eq. 23 (covariance=rome: Meng et al. 2022). Do they flip in the template they were written at, and in
others? Does the two-hop fact follow, when the edits of both hops are added (composition=sum, Theorem 2) or written at
once (joint)? Are other people's answers kept?"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_reuse.llm.protocols.bound import once_in_n
from lora_reuse.llm.protocols.controls import Control, own_hops
from lora_reuse.llm.protocols.protocol import Cell, Protocol, main
from lora_reuse.llm.protocols.settings import PATH, Options
from lora_reuse.runs.settings import Choice, Number, Whole, setting

ASKED = ("own", "first", "second", "direct", "steps", "neighbours")


@dataclass(frozen=True)
class Edit:
    """Edits of one hop, or of both."""

    model: str = setting("pocket", PATH, "pocket, smollm2, a folder, a GGUF file, or a name on the Hugging Face hub")
    dataset: str = setting(
        "R", Choice("F", "H", "R"), "fake names and places, fake names and real places, or real ones"
    )
    triplets: int = setting(100, Whole(2, 100), "triplets of the dataset: as many facts a hop; model=pocket: 20")
    split: str = setting("test", Choice("dev", "test"), "the held-out templates that are asked: make choices on dev")
    chat: str = setting(
        "auto", Choice("auto", "on", "off"), "the tokenizer's chat template; the paper's software used none"
    )
    dtype: str = setting(
        "auto",
        Choice("auto", "float32", "bfloat16", "float16"),
        "of the base; auto: float32 on a CPU, else the checkpoint's",
    )
    depth: float = setting(
        0.35, Number(0, 1), "the layer that is written to: 0 the first, 1 the last", grid=(0.0, 0.35, 0.7, 1.0)
    )
    templates: int = setting(1, Whole(1, 46), "training templates that each fact is written at")
    covariance: str = setting(
        "identity",
        Choice("identity", "rome"),
        "C of the least change: I, or that of the keys of other text",
        grid=("identity", "rome"),
    )
    ridge: float = setting(0.01, Number(0, 1e6), "covariance=rome: added to C's diagonal, in units of its mean")
    value_steps: int = setting(25, Whole(1, 10**5), "steps of Adam that search the layer's new output")
    value_rate: float = setting(0.5, Number(0, 1e3), "their rate, in units of the output's root mean square")
    value_decay: float = setting(
        0.05, Number(0, 1e6), "the weight of the squared change, in units of the output's square, beside nats a token"
    )
    value_clamp: float = setting(4.0, Number(0, 1e6), "the longest change, in units of the output's length")
    answer_tokens: int = setting(48, Whole(1, 10**5), "longest direct answer")
    step_tokens: int = setting(192, Whole(1, 10**5), "longest step-by-step answer")
    library: str = setting(
        "2-combination",
        Choice("1", "2", "2-combination"),
        "the edits of the first hop, of the second, or both",
        grid=("1", "2", "2-combination"),
    )
    composition: str = setting(
        "sum", Choice("sum", "joint"), "both: added, or written at once (eq. 23 over all facts)", grid=("sum", "joint")
    )
    prompting: str = setting(
        "direct",
        Choice(*ASKED),
        "own: the questions that were written at; first, second: held-out templates of a hop; direct, steps: two hops;"
        " neighbours: people whom no edit names, where a hit is an answer that stays",
        grid=ASKED,
    )


def sensible(point: Edit) -> Edit | None:
    """The edits of one hop are not composed, and are asked what they hold."""
    if point.library == "2-combination":
        return point
    if point.prompting not in ("own", "neighbours", {"1": "first", "2": "second"}[point.library]):
        return None
    return dataclasses.replace(point, composition="sum")


def questions(point: Edit) -> int:
    """How many questions a point asks."""
    hops = 2 if point.library == "2-combination" else 1
    return point.triplets * {"own": hops * point.templates, "neighbours": 6 * hops}.get(point.prompting, 2)


def bound(point: Edit) -> float | None:
    """Theory has a bound for the edits of both hops, added or written at once."""
    return once_in_n(point) if point.library == "2-combination" else None


def controls(point: Edit) -> tuple[Control, ...]:
    """Of two hops: what is left of the edits of either."""
    return own_hops(point) if point.library == "2-combination" else ()


def ask(base: Any, protocol: Protocol, cells: list[Cell], options: Options) -> list[tuple[Cell, dict[str, Any]]]:
    """`llm.edits.editing.ask`, which needs torch."""
    from lora_reuse.llm.edits import editing

    return editing.ask(base, protocol, cells, options)


def table(protocol: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of the protocols, without numbers of the paper: it has no such experiment."""
    from lora_reuse.llm.protocols import table

    return table.table(protocol, [{**row, "settings": {**row["settings"], "layers": "mlp"}} for row in rows])


PROTOCOL = Protocol(
    "edit",
    __doc__ or "",
    Edit,
    lambda point: point.dataset,
    lambda point: [],
    sensible,
    bound=bound,
    controls=controls,
    ask=ask,
    table=table,
    specs=lambda point, seed: [],
    questions=questions,
)

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
