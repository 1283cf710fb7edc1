"""What an adapter's ΔW cannot say is refused by name: tied and whole weights, biases, missing projections."""

import json
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from lora_reuse.llm.adapters.adapter import Adapter
from lora_reuse.llm.adapters.folders import Layout, load_expert
from lora_reuse.llm.adapters.modules import tied
from lora_reuse.llm.adapters.plain import merge_into
from lora_reuse.llm.adapters.saving import Card
from lora_reuse.llm.decoding.models import Base, load_base
from lora_reuse.runs.settings import SettingError
from tests.llm.test_adapter_kinds import written
from tests.llm.test_adapters import gpt2, qwen

torch.set_num_threads(1)


def test_tied_adapters_of_embeddings_are_refused(tmp_path):
    """PEFT's `ensure_weight_tying` changes the head with the embedding; with nothing to tie it says nothing."""
    for kind, refused in (("embedding", True), ("lora", False)):
        written(kind, tmp_path / kind)
        path = tmp_path / kind / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"ensure_weight_tying": True}))
        if refused:
            with pytest.raises(SettingError, match=r"ensure_weight_tying=true with an adapter of model\.embed_tokens"):
                load_expert(tmp_path / kind, qwen())
        else:
            assert load_expert(tmp_path / kind, qwen())


def test_a_bias_of_a_factor_is_no_weight_of_the_base(tmp_path):
    written("lora", tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    save_file(load_file(path) | {"base_model.model.model.layers.0.mlp.up_proj.lora_B.bias": torch.zeros(48)}, path)
    with pytest.raises(SettingError, match=r"only A and B and bias of .*; allowed: A and B of every module"):
        load_expert(tmp_path, qwen())


def test_whole_weights_in_the_file_have_to_be_the_bases(tmp_path):
    """PEFT saves the base's weights of a head or an embedding beside the adapter on it."""
    written("head", tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    (whole,) = (key for key in tensors if "lm_head.base_layer" in key)
    load_expert(tmp_path, qwen())
    tensors[whole][0, 0] += 1
    save_file(tensors, path)
    with pytest.raises(SettingError, match=r"lm_head.weight in .*, other than the base's"):
        load_expert(tmp_path, qwen())
    tensors[whole] = torch.zeros(3, 32)
    save_file(tensors, path)
    with pytest.raises(SettingError, match=r"\(3, 32\) in .*, where the model has \(64, 32\)"):
        load_expert(tmp_path, qwen())


def test_whole_weights_are_compared_with_the_files_of_a_base_that_is_not_loaded(tmp_path):
    from lora_reuse.llm.decoding.models import load_frame

    qwen().save_pretrained(tmp_path / "base")
    written("head", tmp_path / "a")
    frame = load_frame(str(tmp_path / "base"))
    assert "lm_head" in load_expert(tmp_path / "a", frame)
    (tmp_path / "base" / "model.safetensors").unlink()
    with pytest.raises(SettingError, match="its weights are not on this machine"):
        load_expert(tmp_path / "a", frame)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_the_tied_head_of_a_family_of_other_names_is_found_in_its_files(tmp_path):
    """GPT-2's embedding is `transformer.wte`, and its file has no head."""
    from lora_reuse.llm.decoding.models import load_frame

    base = gpt2()
    base.config.tie_word_embeddings = True
    base.tie_weights()
    base.save_pretrained(tmp_path / "base")
    adapted: Any = get_peft_model(base, LoraConfig(r=2, target_modules=["lm_head"]))
    adapted.save_pretrained(str(tmp_path / "a"), save_embedding_layers=True)
    assert any("base_layer" in name for name in load_file(tmp_path / "a" / "adapter_model.safetensors"))
    assert list(load_expert(tmp_path / "a", load_frame(str(tmp_path / "base")))) == ["lm_head"]


def test_what_is_no_regular_expression_is_said(tmp_path):
    written("lora", tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": "*q_proj"}))
    with pytest.raises(SettingError, match=r"'\*q_proj' in .*, which is no regular expression"):
        load_expert(tmp_path, qwen())


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"alpha_pattern": {"q_proj": None}}, "lora_alpha=None in"),
        ({"lora_alpha": "8"}, "lora_alpha='8' in"),
        ({"r": 0}, "r=0 in"),
    ],
)
def test_the_number_that_is_none_is_named(changes, got, tmp_path):
    written("lora", tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(SettingError, match=f"expert: got {got} .*; allowed: numbers"):
        load_expert(tmp_path, qwen())


@pytest.mark.parametrize(
    ("inside", "mend"),
    [
        ("b/adapter_config.json", "it has adapters, of which .*/b would be named"),
        ("composition.json", "it is a composition with a router, which lora_reuse.load and `lora-reuse gates` read"),
    ],
)
def test_a_folder_of_something_else_says_what_was_meant(inside, mend, tmp_path):
    (tmp_path / inside).parent.mkdir(exist_ok=True)
    (tmp_path / inside).write_text("{}")
    with pytest.raises(SettingError, match=rf"no adapter_config\.json in .*; {mend}"):
        load_expert(tmp_path, qwen())


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "_fsdp_wrapped_module.", "module.", "_orig_mod._fsdp_wrapped_module."]
)
def test_what_wrapped_the_model_is_taken_out_of_the_names(prefix, tmp_path):
    base, deltas, _ = written("lora", tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file(
        {
            key.replace("base_model.model.model.", f"base_model.model.{prefix}model.")
            .replace("mlp.", f"mlp.{prefix}")
            .replace("lora_A.weight", "lora_A.default.weight"): value
            for key, value in tensors.items()
        },
        path,
    )
    assert load_expert(tmp_path, base()).keys() == deltas.keys()


def test_vera_without_its_projections_is_refused(tmp_path):
    written("vera", tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    save_file({key: value for key, value in load_file(path).items() if not key.startswith("base_model.vera_")}, path)
    with pytest.raises(SettingError, match=r"no vera_A and vera_B in .*save_projection=True"):
        load_expert(tmp_path, qwen())


def test_an_adapter_on_a_tied_head_comes_with_a_warning():
    """Merged, the embedding changes with the head: PEFT does it silently."""
    model = qwen()
    assert tied(model, ["lm_head", "model.layers.0.mlp.up_proj"]) == ""
    model.config.tie_word_embeddings = True
    model.tie_weights()
    assert tied(model, ["model.layers.0.mlp.up_proj"]) == ""
    assert tied(model, ["lm_head", "model.embed_tokens"]).startswith(
        "lm_head and model.embed_tokens: this model's head"
    )


def test_an_adapter_on_a_tied_head_is_not_merged(tmp_path):
    model = qwen()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    written("head", tmp_path)
    base = Base(model, load_base("pocket").tokenizer, "tiny", "", False)
    adapter = Adapter(load_expert(tmp_path, qwen()), Card("tiny", ""), Layout())
    with pytest.raises(SettingError, match=r"lm_head: this model's head and embedding are one weight, .*format=model"):
        merge_into(base, adapter)
