"""Table 2: rules of composition, on adapters of three kinds

Two one-hop experts of R (setup 0) under the rules of section 4.1.2: LoRA by Uniform, Arrow, TIES and CAT, LoRI by
concatenation and linearly. CAT learns its weights from two-hop questions in other templates."""

from lora_reuse.figures import _cells
from lora_reuse.figures.tables import READING
from lora_reuse.figures.tables._side_by_side import STEPS_OR_DIRECT, Choice, captioned, side_by_side

NEEDS = {"llm_methods": "python -m llm.methods"}
RULES = {
    **{("LoRA", name): ("lora", name.lower()) for name in ("Uniform", "Arrow", "TIES")},
    ("LoRA", "CAT"): ("lora", "cat:two_hop"),
    **{
        (kind, rule): (kind.lower().replace("-", "_"), f"lori_{rule.lower()}")
        for kind in ("LoRI-D", "LoRI-S")
        for rule in ("Concat", "Linear")
    },
}
"""The paper's adaptation and rule -> adapter and composition in the rows."""

table = side_by_side(
    2,
    "llm_methods",
    ("adapter", "composition", "prompting"),
    {
        ("adaptation", "composition"): {
            (kind, rule): Choice(
                {"adapter": adapter, "composition": composition}, {"adaptation": kind, "composition": rule}
            )
            for (kind, rule), (adapter, composition) in RULES.items()
        },
        "prompting": STEPS_OR_DIRECT,
        "model": {"Qwen2.5-7B-Instruct": _cells.PAPER["Qwen2.5-7B-Instruct"]},
    },
    printed={"base_model": "Qwen2.5-7B"},
    fixed={"layers": "mlp", "library": "pair", "setup": "0"},
)
caption = captioned(
    "Two one-hop experts on R without a bridge are composed by several rules (Table 2, section 4.1.2). The paper does"
    " not say how it asked: its numbers stand by the step-by-step answers of the model it calls Qwen2.5-7B. Its claim"
    f" is that no rule composes. {READING} Theory bounds direct answers by chance among the edited answers (Theorem 3)."
)
