"""Table 4: reusable code as the bridge between word problems

The experts of Table 3 trained on code that both levels can use, asked P2 with programs that are run (section 4.2,
A.4.2). The base has no layers."""

from lora_reuse.figures.tables import _gsm
from lora_reuse.figures.tables._side_by_side import Choice, captioned

NEEDS = _gsm.NEEDS
EXPERTS = {
    (layers, rule): Choice(
        {"layers": layers.lower(), "composition": rule.lower()}, {"layers": layers, "composition": rule}
    )
    for layers in ("attention", "MLP")
    for rule in ("Uniform", "Arrow")
}

table = _gsm.word_problems(
    4,
    columns={
        ("layers", "composition"): {
            ("none", "Base"): Choice(printed={"layers": "none", "composition": "Base Model Only"}),
            **EXPERTS,
        },
        "model": {label: hub for label, hub in _gsm.PAPER.items() if "Math" in label},
    },
    asked=_gsm.USUAL | {"prompting": "tir", "solutions": "reusable"},
    words="composition=base,uniform,arrow prompting=tir solutions=reusable layers=attention,mlp"
    " allow_code_execution=true",
)
caption = captioned(
    "Experts that learned reusable code are asked GSM-P2 for words and programs (Table 4, section 4.2). Programs are"
    " run, confined. The paper's claim is modest improvements, clearer in the smaller model with adapters in the MLP."
    f" {_gsm.READING}"
)
