"""Two adapters of a tiny base on disk, composed, and what it says with them."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from lora_reuse.llm.adapters.folders import load_expert
from lora_reuse.llm.adapters.modules import target_modules
from lora_reuse.llm.compositions import Composition, compose
from lora_reuse.llm.decoding.resident import Resident

IDS = torch.tensor([[7, 8, 9, 10, 11], [12, 13, 14, 15, 16]])


@dataclasses.dataclass(frozen=True)
class Made:
    """A tiny base, and two adapters of it that PEFT made."""

    base: Path
    adapters: tuple[str, str]

    @property
    def words(self) -> list[str]:
        return [f"model={self.base}", f"library={','.join(self.adapters)}"]


def adapter(base: Path, folder: Path, seed: int, rank: int = 2) -> str:
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    names = target_modules(model, "both" if "llama" in str(base) else "mlp")
    conv = isinstance(model.get_submodule(names[0]), Conv1D)
    torch.manual_seed(seed)
    lora = get_peft_model(
        model,
        LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            target_modules=names,
            fan_in_fan_out=conv,
            init_lora_weights=False,
            task_type="CAUSAL_LM",
        ),
    )
    for parameter in lora.parameters():  # as large as the tiny base's own weights, so that a wrong composition shows
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    lora.save_pretrained(str(folder), save_embedding_layers=False)
    return str(folder)


def logits(model: Any, composition: Composition | None = None) -> torch.Tensor:
    with Resident(model) as resident, torch.inference_mode():
        resident.use([composition])
        return model(input_ids=IDS).logits


def composed(made: Made, method: str, **dials: Any) -> tuple[Any, Composition]:
    model: Any = AutoModelForCausalLM.from_pretrained(made.base).eval()
    return model, compose(method, [load_expert(folder, model) for folder in made.adapters], **dials)
