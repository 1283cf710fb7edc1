"""PEFT's own `add_weighted_adapter`, module by module, for experts of one rank: it counts columns of zeros among the
entries that it trims."""

from typing import Any

from peft import LoraConfig, get_peft_model
from torch import nn

from lora_reuse.llm.adapters.lowrank import LowRank, padded
from lora_reuse.llm.compositions import each_module, rule


def merged(name, updates):
    (outputs, inputs), rank = updates[0].shape, max(update.rank for update in updates)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=["linear"])
    model: Any = get_peft_model(nn.ModuleDict({"linear": nn.Linear(inputs, outputs, bias=False)}), config, "0")
    layer, names = model.base_model.model["linear"], list(map(str, range(len(updates))))
    for number, update in zip(names, padded(updates), strict=True):
        if number != "0":
            model.add_adapter(number, config)
        layer.lora_A[number].weight.data, layer.lora_B[number].weight.data = update.into.T, update.out
    model.base_model.add_weighted_adapter(names, [1.0] * len(names), "all", combination_type="ties", density=0.2)
    return LowRank(layer.lora_B["all"].weight.data * layer.scaling["all"], layer.lora_A["all"].weight.data.T)


@rule(static=True, gauge_free=False, alone=False, symmetric=True)
def peft_ties(library):
    """TIES on the factors, as PEFT has it."""
    return each_module(library, merged)
