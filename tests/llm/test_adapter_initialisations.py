"""Adapters whose initialisation took something out of the base (PiSSA, OLoRA): the ΔW of each of PEFT's modules."""

import json
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from lora_reuse.llm.adapters.folders import digest, load_expert
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.saving import Card, save_composition
from lora_reuse.runs.settings import SettingError
from tests.llm.test_adapter_kinds import MLP
from tests.llm.test_adapters import IDS, qwen, with_composition

torch.set_num_threads(1)


STARTS = {
    "pissa": {"init_lora_weights": "pissa"},
    "rslora of ranks": {"init_lora_weights": "pissa_niter_4", "use_rslora": True, "rank_pattern": {"down_proj": 3}},
    "olora": {"init_lora_weights": "olora"},
}


def started(start, folder) -> tuple[dict[str, torch.Tensor], torch.Tensor, Any]:
    """An adapter that took something out of its base, trained (noise), with what it was before: the change of each
    weight of the base in float64, PEFT's logits, and PEFT's model."""
    before = {name: weight.double() for name, weight in qwen().state_dict().items()}
    adapted: Any = get_peft_model(qwen(), LoraConfig(r=4, lora_alpha=6, target_modules=MLP, **STARTS[start]))
    adapted.peft_config["default"].init_lora_weights = True  # as PEFT asks for
    adapted.save_pretrained(str(folder / "initial"))
    adapted.peft_config["default"].init_lora_weights = STARTS[start]["init_lora_weights"]
    torch.manual_seed(2)
    deltas = {}
    with torch.no_grad():
        for name, module in adapted.base_model.model.named_modules():
            if hasattr(module, "get_delta_weight"):
                module.lora_A["default"].weight += 0.3 * torch.randn_like(module.lora_A["default"].weight)
                module.lora_B["default"].weight += 0.3 * torch.randn_like(module.lora_B["default"].weight)
                whole = module.base_layer.weight.double() + module.get_delta_weight("default").double()
                deltas[name] = whole - before[f"{name}.weight"]
        logits = adapted.eval()(IDS).logits
    adapted.save_pretrained(str(folder))
    return deltas, logits, adapted


@pytest.mark.parametrize("start", STARTS)
def test_what_was_taken_out_of_the_base_is_taken_out_of_the_adapter(start, tmp_path):
    deltas, logits, _ = started(start, tmp_path)
    expert = load_expert(tmp_path, qwen())
    assert expert.keys() == deltas.keys()
    for name, update in expert.items():
        torch.testing.assert_close(update.dense().double(), deltas[name], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(with_composition(qwen(), expert), logits, rtol=1e-4, atol=1e-4)
    trained = {name: LowRank(*(factor[:, : update.rank // 2] for factor in update)) for name, update in expert.items()}
    assert (with_composition(qwen(), trained) - logits).abs().max() > 0.01  # without what it began with


def test_pefts_own_conversion_of_an_initialisation_is_the_same_update(tmp_path):
    _, logits, adapted = started("pissa", tmp_path / "a")
    adapted.save_pretrained(
        str(tmp_path / "b"), path_initial_model_for_weight_conversion=str(tmp_path / "a" / "initial")
    )
    ours, theirs = load_expert(tmp_path / "a", qwen()), load_expert(tmp_path / "b", qwen())
    for name in theirs:
        torch.testing.assert_close(ours[name].dense(), theirs[name].dense(), rtol=1e-5, atol=1e-6)
    save_composition(ours, qwen(), tmp_path / "lora", Card("tiny", "sum"))
    again = PeftModel.from_pretrained(qwen(), str(tmp_path / "lora"))(IDS).logits
    torch.testing.assert_close(again, logits, rtol=1e-4, atol=1e-4)


def test_the_beginning_of_an_adapter_has_to_be_there_and_its_own(tmp_path):
    started("pissa", tmp_path)
    path, named = tmp_path / "initial" / "adapter_config.json", digest(tmp_path)
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"lora_alpha": 7}))
    assert digest(tmp_path) != named
    with pytest.raises(SettingError, match="initial with other modules, ranks or scaling than"):
        load_expert(tmp_path, qwen())
    path.unlink()
    with pytest.raises(SettingError, match=r"took PiSSA's B₀ A₀ out of the base; allowed: .* training in .*/initial; "):
        load_expert(tmp_path, qwen())
