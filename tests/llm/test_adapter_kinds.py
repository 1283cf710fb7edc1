"""Adapters of every kind that is read, as PEFT wrote them, against the ΔW of PEFT's own modules and against PEFT after
a round trip."""

import importlib
import inspect
import json
import re
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from peft import AdaLoraConfig, LoHaConfig, LoKrConfig, LoraConfig, PeftModel, VeraConfig, get_peft_model

from lora_reuse.llm.adapters import config as adapter_config
from lora_reuse.llm.adapters.folders import load_expert
from lora_reuse.llm.adapters.saving import Card, save_composition
from lora_reuse.runs.settings import SettingError
from tests.llm.test_adapters import IDS, gpt2, qwen, with_composition

torch.set_num_threads(1)
MLP = ["up_proj", "down_proj"]
BASES: dict[str, Any] = {"qwen": qwen, "gpt2": gpt2}
KINDS: dict[str, tuple[str, Any]] = {
    "lora": ("qwen", lambda: LoraConfig(r=4, lora_alpha=6, target_modules=MLP)),
    "rslora": ("qwen", lambda: LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=MLP)),
    "rslora of ranks": (
        "qwen",
        lambda: LoraConfig(
            r=4,
            lora_alpha=6,
            use_rslora=True,
            target_modules=MLP,
            rank_pattern={"down_proj": 9},
            alpha_pattern={"layers.1.mlp.up_proj": 3},
        ),
    ),
    "attention and mlp": ("qwen", lambda: LoraConfig(r=2, target_modules="all-linear")),
    "one layer": ("qwen", lambda: LoraConfig(r=4, target_modules=MLP, layers_to_transform=[1])),
    "head": ("qwen", lambda: LoraConfig(r=4, target_modules=["lm_head", "up_proj"])),
    "embedding": ("qwen", lambda: LoraConfig(r=4, target_modules=["embed_tokens", "up_proj"])),
    "adalora": (
        "qwen",
        lambda: AdaLoraConfig(init_r=5, target_r=3, lora_alpha=6, target_modules=MLP, total_step=10, tinit=1, tfinal=1),
    ),
    "adalora with a pattern": (  # of α, which PEFT gives AdaLoRA's layers not
        "qwen",
        lambda: AdaLoraConfig(
            init_r=5, lora_alpha=6, target_modules=MLP, total_step=10, tinit=1, tfinal=1, alpha_pattern={"up_proj": 3}
        ),
    ),
    "vera": ("qwen", lambda: VeraConfig(r=5, target_modules=MLP)),
    "loha": ("qwen", lambda: LoHaConfig(r=3, alpha=6, target_modules=MLP, rank_pattern={"down_proj": 2})),
    "loha of full rank": ("qwen", lambda: LoHaConfig(r=7, alpha=6, target_modules=MLP)),
    "lokr": ("qwen", lambda: LoKrConfig(r=2, alpha=6, target_modules=MLP, alpha_pattern={"up_proj": 3})),
    "lokr of four factors": (
        "qwen",
        lambda: LoKrConfig(r=1, alpha=6, decompose_both=True, decompose_factor=4, target_modules=MLP),
    ),
    "lokr of whole sides": ("qwen", lambda: LoKrConfig(r=8, alpha=6, target_modules=MLP)),
    "conv1d": ("gpt2", lambda: LoraConfig(r=4, target_modules=["c_fc", "c_attn"], fan_in_fan_out=True)),
    "rslora of conv1d": (
        "gpt2",
        lambda: LoraConfig(r=4, use_rslora=True, target_modules=["c_fc"], fan_in_fan_out=True),
    ),
}


def written(kind, folder, seed=1, save: Any = None) -> tuple[Any, dict[str, torch.Tensor], torch.Tensor]:
    """An adapter of this kind with all its parameters random, in `folder`: its base, the ΔW of each of PEFT's modules
    in float64, outputs times inputs, and PEFT's logits."""
    base, config = KINDS[kind]
    adapted: Any = get_peft_model(BASES[base](), config())
    torch.manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad and re.search("lora_|vera_|hada_|lokr_", name):
            torch.nn.init.normal_(parameter, std=0.5)
    deltas = {}
    with torch.no_grad():
        for name, module in adapted.base_model.model.named_modules():
            if hasattr(module, "get_delta_weight") and not name.endswith("base_layer"):
                delta = module.get_delta_weight("default").double()
                turned = isinstance(module.base_layer, torch.nn.Embedding) or getattr(module, "fan_in_fan_out", False)
                deltas[name] = delta.T if turned else delta
        logits = adapted.eval()(IDS).logits
    adapted.save_pretrained(str(folder), **(save or {}))
    return BASES[base], deltas, logits


@pytest.mark.parametrize("kind", KINDS)
def test_delta_is_that_of_pefts_modules(kind, tmp_path):
    base, deltas, logits = written(kind, tmp_path)
    expert = load_expert(tmp_path, base())
    assert expert.keys() == deltas.keys()
    for name, update in expert.items():
        torch.testing.assert_close(update.dense().double(), deltas[name], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(with_composition(base(), expert), logits, rtol=1e-4, atol=1e-4)
    assert (logits - base()(IDS).logits).abs().max() > 0.1


def test_a_wrong_scaling_is_seen(tmp_path, monkeypatch):
    """α/r in place of α/√r."""
    base, deltas, _ = written("rslora", tmp_path)
    monkeypatch.setattr("lora_reuse.llm.adapters.config.math.sqrt", lambda rank: rank)
    expert = load_expert(tmp_path, base())
    assert all((update.dense() - deltas[name]).abs().max() > 0.1 for name, update in expert.items())


@pytest.mark.parametrize(
    ("kind", "ranks"),
    [
        ("loha", {"up_proj": 9, "down_proj": 4}),
        ("loha of full rank", {"up_proj": 32, "down_proj": 32}),
        ("lokr", {"up_proj": 8, "down_proj": 8}),
        ("lokr of four factors", {"up_proj": 1, "down_proj": 1}),
        ("lokr of whole sides", {"up_proj": 32, "down_proj": 32}),
    ],
)
def test_products_of_products_have_the_rank_that_they_have_to_have(kind, ranks, tmp_path):
    """No less than the numerical rank of PEFT's dense ΔW, and no more."""
    base, deltas, _ = written(kind, tmp_path)
    for name, update in load_expert(tmp_path, base()).items():
        assert update.rank == ranks[name.rpartition(".")[2]] == torch.linalg.matrix_rank(deltas[name], rtol=1e-5)


@pytest.mark.parametrize(("kind", "changed"), [("loha", "_columns"), ("lokr", "torch.kron")])
def test_a_wrong_product_is_seen(kind, changed, tmp_path, monkeypatch):
    """Only columns of the same number are multiplied; the sides of the Kronecker product change places."""
    base, deltas, _ = written(kind, tmp_path)
    kron, wrong = torch.kron, {"_columns": lambda a, b: a * b, "torch.kron": lambda a, b: kron(b, a)}[changed]
    monkeypatch.setattr(f"lora_reuse.llm.adapters.products.{changed}", wrong)
    expert = load_expert(tmp_path, base())
    assert all((update.dense() - deltas[name]).abs().max() > 0.1 for name, update in expert.items())


@pytest.mark.parametrize("kind", ["loha", "lokr of whole sides"])
def test_products_of_products_are_written_as_a_lora(kind, tmp_path):
    base, _, logits = written(kind, tmp_path / "a")
    save_composition(load_expert(tmp_path / "a", base()), base(), tmp_path / "lora", Card("tiny", "sum"))
    theirs = PeftModel.from_pretrained(base(), str(tmp_path / "lora"))(IDS).logits
    torch.testing.assert_close(theirs, logits, rtol=1e-4, atol=1e-4)


def test_another_rank_than_the_configuration_says_is_refused(tmp_path):
    written("loha", tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 5}))
    with pytest.raises(SettingError, match=r"with ranks 3 of .*up_proj; allowed: rank 5, as its"):
        load_expert(tmp_path, qwen())


def test_kinds_that_peft_says_it_converts_are_those_of_the_message():
    """Kinds whose layers say that they support PEFT's conversion to LoRA (HiRA's and SHiRA's say no)."""
    from peft import PeftType
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = set()
    for kind in set(PeftType) - set(adapter_config.KINDS):
        try:
            layer = importlib.import_module(f"peft.tuners.{kind.value.lower()}.layer")
        except ModuleNotFoundError:
            continue
        classes = [c for _, c in inspect.getmembers(layer, inspect.isclass) if issubclass(c, BaseTunerLayer)]
        says = [vars(c).get("supports_lora_conversion", lambda _: False) for c in classes]
        if any(say(SimpleNamespace(get_base_layer=lambda: torch.nn.Linear(1, 1))) for say in says):
            found.add(kind.value)
    assert set(adapter_config._CONVERTIBLE) == found


OTHERS: dict[str, dict[str, Any]] = {
    "C3A": {"block_size": 1},
    "FOURIERFT": {"n_frequency": 20},
    "MISS": {"r": 2},
    "VBLORA": {"num_vectors": 8, "vector_length": 2, "r": 2},
    "WAVEFT": {"n_frequency": 20},
}
"""Options of kinds whose defaults do not fit a model this small."""


@pytest.mark.filterwarnings("ignore")  # PEFT's, of its own kinds
@pytest.mark.parametrize("kind", adapter_config._CONVERTIBLE)
def test_a_kind_that_is_not_read_is_after_the_conversion_that_the_message_names(kind, tmp_path):
    """The change of the weights is PEFT's own, merged into the base."""
    config: Any = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)]
    options = OTHERS.get(kind, {"r": 4} if "r" in inspect.signature(config).parameters else {})
    adapted: Any = get_peft_model(qwen(), config(target_modules=MLP, **options))
    torch.manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.5)
    adapted.save_pretrained(str(tmp_path / "own"))
    with pytest.raises(SettingError, match=rf"peft_type {kind} in .*; peft\.save_as_lora\(path, model, rank\) writes"):
        load_expert(tmp_path / "own", qwen())
    peft.save_as_lora(tmp_path / "lora", adapted, 1.0)
    read, before, after = load_expert(tmp_path / "lora", qwen()), qwen(), adapted.merge_and_unload()
    assert len(read) == 4
    for name, update in read.items():
        change = after.get_submodule(name).weight - before.get_submodule(name).weight
        torch.testing.assert_close(update.dense(), change, rtol=1e-3, atol=1e-3 * float(change.abs().max()))
