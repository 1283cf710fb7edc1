"""Which printed cells belong together: the same number in two places, and comparisons that the running text makes.

A rule pairs the cells of `a` with those of `b` that have the same labels `by` (letter case aside) and says how the two
relate."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

LIBRARY_3, LIBRARY_2 = "3-combination library", "2-combination library"
QWEN_3B, QWEN_7B, QWEN_14B = "Qwen2.5-3B-Instruct", "Qwen2.5-7B-Instruct", "Qwen2.5-14B-Instruct"
DEEPSEEK_7B, DEEPSEEK_14B, LLAMA_70B = (
    "DeepSeek-R1-Distill-Qwen-7B",
    "DeepSeek-R1-Distill-Qwen-14B",
    "DeepSeek-R1-Distill-Llama-70B",
)
ROUTED = ("Uniform", "Arrow")


@dataclass(frozen=True)
class Cells:
    """The cells of one table with these labels; a tuple of values means any of them."""

    table: str
    labels: Mapping[str, str | tuple[str, ...]]


@dataclass(frozen=True)
class Rule:
    """Cells of `a` and of `b` with the same labels `by`: `field` of the first is =, < or <= that of the second, because
    of `why`."""

    a: Cells
    b: Cells
    by: tuple[str, ...]
    why: str
    relation: Literal["=", "<", "<="] = "="
    field: str = "value"


def cells(table: int, **labels: str | tuple[str, ...]) -> Cells:
    """The cells of Table `table` with these labels."""
    return Cells(f"table_{table:02d}", labels)


_PLAIN_R = cells(7, dataset="R", column=LIBRARY_2, composition=("uniform", "arrow"))
_ONE_EXPERT = {"library": "kilt_tasks_hotpotqa_straighforward_qa"}
_SOUPS = "lora_soups"

REPEATED: tuple[Rule, ...] = (
    # the two-hop task: setup 0 is the 2-combination library on R, and setup 2 the fake bridge
    Rule(cells(1), cells(10, composition="Arrow"), ("setup", "base_model"), "the same two adapters on R, by Arrow"),
    Rule(cells(1, setup="0"), _PLAIN_R, ("base_model", "composition"), "setup 0 is the 2-combination library on R"),
    Rule(_PLAIN_R, cells(10, setup="0"), ("base_model", "composition"), "setup 0 is the 2-combination library on R"),
    Rule(
        cells(1, setup="2"),
        cells(9, setup="Setup 2", layers="MLP layers"),
        ("base_model", "composition"),
        "setup 2 is the fake bridge, MLP layers only",
    ),
    Rule(
        cells(9, setup="Setup 2", layers="MLP layers"),
        cells(10, setup="2"),
        ("base_model", "composition"),
        "setup 2 is the fake bridge, MLP layers only",
    ),
    Rule(
        cells(7, dataset="F", base_model=QWEN_14B),
        cells(8, layers="MLP Layers"),
        ("column", "composition"),
        "the MLP layers of Qwen2.5-14B-Instruct on F",
    ),
    Rule(
        cells(2, adaptation="LoRA"),
        cells(10, setup="0", base_model=QWEN_7B),
        ("composition",),
        "section 4.1.2: Table 2 takes LoRA 1 and LoRA 2 of setup 0",
    ),
    Rule(
        cells(2, adaptation="LoRA"),
        cells(7, dataset="R", column=LIBRARY_2, base_model=QWEN_7B),
        ("composition",),
        "the 2-combination library of Qwen2.5-7B on R",
    ),
    Rule(
        cells(2, adaptation="LoRA"),
        cells(1, setup="0", base_model=QWEN_7B),
        ("composition",),
        "section 4.1.2: Table 2 takes LoRA 1 and LoRA 2 of setup 0",
    ),
    # the math word problems
    Rule(cells(3), cells(14, prompting="0-shot"), ("base_model", "composition"), "GSM-P2 without in-context examples"),
    Rule(
        cells(13, dataset="GSM-P2"),
        cells(3, composition="Base model only"),
        ("base_model",),
        "the base model on GSM-P2, zero-shot",
    ),
    Rule(
        cells(13, dataset="GSM-P2"),
        cells(14, prompting="0-shot", composition="Base Model Only"),
        ("base_model",),
        "the base model on GSM-P2, zero-shot",
    ),
    # one expert alone: both rules give it the weight 1
    Rule(
        cells(20, composition="Uniform", **_ONE_EXPERT),
        cells(20, composition="Arrow", **_ONE_EXPERT),
        ("question",),
        "the row names one adapter, and of a library of one both rules give that adapter",
    ),
    # examples
    Rule(cells(5), cells(6), ("notation", "column"), "the same example"),
    # LoRA Soups: the headline gains are told twice, each with what it is a gain over
    Rule(
        Cells(_SOUPS, {"section": "Quick Facts"}),
        Cells(_SOUPS, {"section": "Key Results"}),
        ("task", "skills"),
        "the same headline gain",
    ),
    Rule(
        Cells(_SOUPS, {"section": "Quick Facts"}),
        Cells(_SOUPS, {"section": "Key Results"}),
        ("task", "skills"),
        "what the same headline gain is a gain over",
        field="compared_with",
    ),
)

_SIZES = ((QWEN_3B, QWEN_7B), (QWEN_7B, QWEN_14B), (DEEPSEEK_7B, DEEPSEEK_14B), (DEEPSEEK_14B, LLAMA_70B))

STATEMENTS: tuple[Rule, ...] = (
    Rule(
        cells(7, column=LIBRARY_2),
        cells(7, column=LIBRARY_3),
        ("dataset", "base_model", "composition"),
        "Figure 1: the 2-combination library is poor, and the expert of the target task is necessary",
        "<",
    ),
    *(
        Rule(
            cells(7, dataset="H", column=LIBRARY_3, base_model=small),
            cells(7, dataset="H", column=LIBRARY_3, base_model=large),
            ("composition",),
            "4.1.1: the 3-combination library on H improves with model size",
            "<",
        )
        for small, large in _SIZES
    ),
    *(
        Rule(
            cells(7, dataset=less, column=LIBRARY_3),
            cells(7, dataset=more, column=LIBRARY_3),
            ("base_model", "composition"),
            "4.1.1: R outperforms H, both far exceed F, across model families",
            "<=",
        )
        for less, more in (("H", "R"), ("F", "H"))
    ),
    Rule(
        cells(1, setup=("0", "3", "4", "5", "6", "7", "8")),
        cells(1, setup="2"),
        ("base_model",),
        "Table 1: the full bridge attains the highest performance",
        "<",
    ),
    Rule(
        cells(9, setup="Setup 1", layers="MLP layers", composition="arrow"),
        cells(9, setup="Setup 2", layers="MLP layers", composition="arrow"),
        ("base_model",),
        "Figure 2: the bridge is much more successful in Setup 2",
        "<",
    ),
    Rule(
        cells(7, dataset="F", column=LIBRARY_2, composition="arrow"),
        cells(9, setup="Setup 1", layers="MLP layers"),
        ("base_model", "composition"),
        "4.1.2: with a bridge Arrow improves significantly",
        "<",
    ),
    Rule(
        cells(2, composition="CAT"),
        cells(1, setup=("2", "6", "8"), base_model=QWEN_7B),
        (),
        "4.1.2: CAT remains below setups 2, 6 and 8",
        "<",
    ),
    Rule(
        cells(2, adaptation=("LoRI-D", "LoRI-S")),
        cells(2, composition="CAT"),
        (),
        "4.1.2: all LoRI variants underperform CAT",
        "<",
    ),
    Rule(
        cells(2, composition=("Uniform", "Arrow", "TIES")),
        cells(2, composition="CAT"),
        (),
        "4.1.2: CAT is above the methods without data access",
        "<",
    ),
    Rule(
        cells(8, layers="Attention layers", column=LIBRARY_3),
        cells(8, layers="MLP Layers", column=LIBRARY_3),
        ("composition",),
        "A.2.2: two-hop performance improves when MLP layers are fine-tuned",
        "<=",
    ),
    Rule(
        cells(9, layers="Attention layers"),
        cells(9, layers="MLP layers"),
        ("setup", "base_model", "composition"),
        "A.2.2: two-hop performance improves when MLP layers are fine-tuned",
        "<=",
    ),
    Rule(
        cells(3, composition="Arrow"),
        cells(3, composition="Uniform"),
        ("base_model",),
        "4.2: Uniform consistently outperformed Arrow",
        "<",
    ),
    Rule(
        cells(3, composition="Base model only", base_model="Qwen2.5-1.5B-Inst"),
        cells(3, composition=ROUTED),
        ("base_model",),
        "4.2: routing improves the general-purpose model modestly",
        "<",
    ),
    *(
        Rule(
            cells(13, dataset=harder),
            cells(13, dataset=easier),
            ("base_model",),
            "A.4.2: performance declines as clauses are added",
            "<",
        )
        for harder, easier in (("GSM-Symbolic", "GSM8K"), ("GSM-P1", "GSM-Symbolic"), ("GSM-P2", "GSM-P1"))
    ),
    Rule(
        cells(14, prompting="8-shot"),
        cells(14, prompting="0-shot"),
        ("base_model", "composition"),
        "A.4.2: with 8-shot examples all models show decreased accuracy",
        "<",
    ),
    Rule(
        cells(14, prompting="8-shot", composition=ROUTED),
        cells(14, prompting="8-shot", composition="Base Model Only"),
        ("base_model",),
        "A.4.2: with 8-shot examples the base models again outperform the merged variants",
        "<",
    ),
    Rule(
        cells(16, column=("Coding (L_1)", "Translation (L_2)"), base_model=(QWEN_7B, QWEN_14B)),
        cells(16, column=("Merged (Uniform)", "Merged (Arrow)")),
        ("base_model",),
        "A.5: with Qwen2.5 models merging yields marginal gains over single adapters",
        "<",
    ),
    Rule(
        cells(17, column="Base Only"),
        cells(17, column="Coding (L_1)"),
        ("base_model",),
        "A.5: the coding adapter works on English",
        "<",
    ),
    Rule(
        cells(20, question="Phi2 / Continent Prompt"),
        cells(20, question="Phi2 / Original Question"),
        ("library", "composition"),
        "A.6: accuracy drops sharply under continent-level probing",
        "<",
    ),
)
