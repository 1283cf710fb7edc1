"""Methods of composition, without and with a bridge

Two one-hop experts of R (setup 0) and two with a bridge of fake names (setup 2), under every rule, learned ones among
them, asked directly and step by step. A method that was never asked has no line."""

from lora_reuse.figures.tables import READING
from lora_reuse.figures.tables._side_by_side import Choice, Line, Measured, Settings, captioned, side_by_side
from lora_reuse.llm.methods import THE_SAME
from lora_reuse.llm.protocols.dials import ADAPTERS

NEEDS = {"llm_methods": "python -m llm.methods"}
ALONE = {
    "oracle": "one expert on the pair",
    "oracle_steps": "one expert on the pair, step by step",
    "data_mix": "one expert on the union",
}
AXES = ("setup", "adapter", "library", "composition", "prompting")


def methods(measured: Measured, line: Line) -> dict[tuple[str, str], Choice]:
    """What was asked, by adapter and method."""
    return {
        (ADAPTERS[one["adapter"]].promises["label"], ALONE.get(one["library"], one["composition"])): Choice(
            {name: one[name] for name in ("adapter", "library", "composition")}
        )
        for one in measured
    }


def recorded(asked: Settings, measured: Measured) -> Settings:
    """The base and the oracles are the same in every setup, and asked once."""
    return {**asked, "setup": "0"} if asked["library"] in ("none", *THE_SAME) else asked


table = side_by_side(
    None,
    "llm_methods",
    AXES,
    {
        "model": {},
        ("adapter", "method"): methods,
        "setup": {
            f"setup {setup}, {words}": Choice({"setup": setup, "prompting": prompting})
            for setup in "02"
            for prompting, words in (("direct", "direct"), ("steps", "step by step"))
        },
    },
    fixed={"layers": "mlp"},
    recorded=recorded,
)
caption = captioned(
    "Two experts of R are composed by each of these methods, without a bridge (setup 0) and with a full one (setup 2)."
    " The name of a method that learns says from what: two_hop is the two-hop questions in other templates, and own is"
    " a twentieth of the experts' own data. One expert on the pair, or on the union of the data, is no composition:"
    f" the others are held against it. {READING} Theory bounds direct answers of two one-hop experts by chance among"
    " the edited answers (Theorem 3)."
)
