"""lora-reuse methods model=Qwen/Qwen2.5-7B-Instruct dataset=R

Compares rules, given and learned, on experts with and without a bridge (Table 2). Two one-hop experts (setup 0) and two
with a bridge (setup 2) are merged or routed by each rule and asked directly and step by step; beside the answers of
each rule stands what it cost. Without `composition=` the rules are those of Table 2, some that are like them, and all
that learn. Without `model=` the pocket model answers."""

import dataclasses
import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from lora_reuse.llm.data.mixtures import SETUPS, data_mix, oracle, pair
from lora_reuse.llm.protocols.bound import once_in_n
from lora_reuse.llm.protocols.controls import ORACLES, Control, own_hops
from lora_reuse.llm.protocols.dials import ADAPTERS, COMPOSITIONS, LEARNED, RULES
from lora_reuse.llm.protocols.hops import COLUMNS, hop_protocol
from lora_reuse.llm.protocols.protocol import Row, main
from lora_reuse.llm.protocols.reported import nearest
from lora_reuse.llm.protocols.settings import PROMPTINGS, Composed
from lora_reuse.runs.settings import Choice, setting

LORI = ("lori_concat", "lori_linear")
LIBRARIES = {
    "pair": pair,
    "data_mix": data_mix,
    "oracle": oracle,
    "oracle_steps": functools.partial(oracle, name="oracle_steps"),
}
THE_SAME = ("oracle", "oracle_steps")
"""Libraries that are the same in every setup."""
GIVEN = (*COMPOSITIONS, "base", "random", "lego", *LORI, "ties", "dare", "knots", "linear")
"""Compositions that learn nothing and are asked when none is named. CAT is not among them, because with equal given
weights it is the sum."""


@dataclass(frozen=True)
class Methods(Composed):
    """The dials of Table 2, and of Table 1's setup 2 for the same methods."""

    adapter: str = setting(
        "lora",
        Choice(*ADAPTERS),
        "what is trained, see llm.bridge --help",
        grid=tuple(ADAPTERS),
    )
    setup: str = setting("0", Choice("0", "2"), "two one-hop experts, or two with the fake bridge", grid=("0", "2"))
    library: str = setting(
        "pair",
        Choice("none", *LIBRARIES),
        "the setup's two experts; one on the union of their data; one on the two-hop questions that are asked, whose"
        " answers it learned directly or step by step",
        grid=tuple(LIBRARIES),
    )
    composition: str = setting(
        "uniform",
        Choice(*COMPOSITIONS, "base", "random", *(rule for rule in RULES if rule != "cat"), *LEARNED),
        "how the library is composed",
        grid=(*GIVEN, *LEARNED),
    )
    prompting: str = setting(
        "direct", Choice(*PROMPTINGS), "what is asked; first and second are the experts' own", grid=("direct", "steps")
    )


def library(point: Methods) -> list[tuple[tuple[str, ...], tuple[str, ...], int]]:
    """The experts of the point's library as (own subsets, bridge subsets, role)."""
    return LIBRARIES[point.library](SETUPS[point.setup]) if point.library in LIBRARIES else []


def sensible(point: Methods) -> Methods | None:
    """The point as a row has it, or None for one that makes no sense.

    A library of one expert is asked `alone`. LoRI's merges take LoRI's experts, and LoRI's experts take no other rule.
    The base is asked once, and so is the oracle, which is the same in every setup."""
    if point.composition == "base":
        return dataclasses.replace(point, library="none", adapter="lora", setup="0")
    if point.library == "none":
        return None
    if point.library != "pair":
        return dataclasses.replace(
            point, composition="alone", adapter="lora", setup="0" if point.library in THE_SAME else point.setup
        )
    return point if (point.composition in LORI) == point.adapter.startswith("lori") else None


def bound(point: Methods) -> float | None:
    """Theory has a bound for the two one-hop experts of setup 0, not for one expert on the union of their data, nor for
    the oracle."""
    return once_in_n(point) if (point.setup, point.library) == ("0", "pair") else None


def controls(point: Methods) -> tuple[Control, ...]:
    """The experts' own hops, and the oracle of the prompting, but not step by step where a bridge has taught the
    experts that."""
    hops = own_hops(point) if point.library not in THE_SAME else ()
    if not hops or (point.setup != "0" and point.prompting == "steps"):
        return hops
    return (*hops, ORACLES[point.prompting].at(adapter="lora", setup="0"))


def reported(point: Methods) -> str:
    """The paper's number (Table 2)."""
    rule = {"cat:two_hop": "cat", "lori_concat": "concat", "lori_linear": "linear"}.get(point.composition, "")
    kind = ADAPTERS[point.adapter].promises["label"]
    asked = (point.prompting, point.setup, point.library) == ("steps", "0", "pair")
    return nearest(2, {"adaptation": kind}, point, rule, "Qwen2.5-7B") if asked else ""


def _seconds(rows: Sequence[Row]) -> str:
    return f"{fmean(row['provenance'].get('compose_seconds', 0.0) for row in rows):.2g} s"


def _learned(rows: Sequence[Row], name: str, of: str) -> str:
    return f"{rows[0]['measured'][name]} {of}" if name in rows[0]["measured"] else ""


COST = {
    "made in": _seconds,
    "learned": functools.partial(_learned, name="extra_parameters", of="numbers"),
    "from": functools.partial(_learned, name="examples_used", of="examples"),
}
"""Seconds to compose trained experts, the mean over seeds; the numbers learned, and the examples they were learned
from."""

PROTOCOL = hop_protocol(
    __name__,
    Methods,
    lambda point: SETUPS[point.setup].asked + "12",
    library,
    sensible=sensible,
    bound=bound,
    controls=controls,
    reported=reported,
    columns={**COLUMNS, **COST},
)

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
