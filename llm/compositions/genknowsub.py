"""GenKnowSub: what all experts know is subtracted from each before they are routed (Bagherifard et al. 2025, arXiv
2505.10939)."""

from typing import Annotated

from lora_reuse.llm.adapters.each import Each
from lora_reuse.llm.adapters.lowrank import Expert, LowRank
from lora_reuse.llm.compositions import Composition, Library, rule, streamed
from lora_reuse.llm.compositions.arrow import Scores, Temperature, TopK
from lora_reuse.llm.compositions.sums import concatenated
from lora_reuse.runs.settings import SettingError, Whole

General = Annotated[int, Whole(1, 1000), "how many of the last experts are of general knowledge"]


@rule(static=False, gauge_free=True, alone=False, symmetric=False)
def genknowsub(
    library: Library,
    *,
    general: General = 1,
    temperature: Temperature = 1.0,
    top_k: TopK = 0,
    scores: Scores = "raw",
) -> Composition:
    """`arrow_after` of ΔW_i − mean_g ΔW_g, where g runs over the last `general` experts of the library (adapters that
    were trained on plain text, as the paper's on Wikipedia) and i over the others. It adds the general ranks to every
    expert's.

    PEFT (`ArrowConfig(use_gks=True)`) subtracts factor from factor, (A_i − A_g)(B_i − B_g)ᵀ = ΔW_i + ΔW_g − A_i B_gᵀ −
    A_g B_iᵀ, which adds ΔW_g unless the factors of the experts are alike. Raises SettingError where no other expert is
    left."""
    if general >= len(library):
        raise SettingError("general", general, f"fewer than the {len(library)} experts", "name the general ones last")
    experts, known = library[:-general], library[-general:]
    weights = (1.0, *(-1 / general,) * general)

    def residual(expert: Expert) -> Expert:
        def less(name: str) -> LowRank:
            return concatenated([expert[name], *(other[name] for other in known)], weights)

        return Each(expert, less)

    return streamed(
        "arrow_after", [residual(expert) for expert in experts], temperature=temperature, top_k=top_k, scores=scores
    )
