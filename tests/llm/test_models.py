"""Models: every family read and its modules named, and the one line that each mistake gets."""

import json
import shutil
import sys
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BertConfig, MambaConfig, T5Config, ViTConfig, dynamic_module_utils

import lora_reuse.llm.decoding.reading as reading
from lora_reuse.llm.adapters.modules import target_modules
from lora_reuse.llm.decoding.models import load_base, prompt
from lora_reuse.runs.settings import SettingError
from tests.llm.tiny import FAMILIES, tiny

MODEL = "a folder with config.json and *.safetensors, a GGUF file, or a name on the Hugging Face hub"
SOURCE = "Who is the spouse of Ann Lee?"

LLAMA = (["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"], [f"self_attn.{x}_proj" for x in "qkvo"])
MODULES = {
    "qwen2": ("model.layers", *LLAMA),
    "llama": ("model.layers", *LLAMA),
    "mistral": ("model.layers", *LLAMA),
    "gemma2": ("model.layers", *LLAMA),
    "phi": (
        "model.layers",
        ["mlp.fc1", "mlp.fc2"],
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.dense"],
    ),
    "phi3": ("model.layers", ["mlp.gate_up_proj", "mlp.down_proj"], ["self_attn.qkv_proj", "self_attn.o_proj"]),
    "gpt_neox": (
        "gpt_neox.layers",
        ["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"],
        ["attention.query_key_value", "attention.dense"],
    ),
    "gpt2": ("transformer.h", ["mlp.c_fc", "mlp.c_proj"], ["attn.c_attn", "attn.c_proj"]),
    "opt": (
        "model.decoder.layers",
        ["fc1", "fc2"],
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"],
    ),
}


@pytest.fixture
def changed(folder_of, tmp_path):
    """A copy of the llama, with `config.json`'s keys set and files removed."""

    def get(*removed, source="llama", **keys):
        copy = shutil.copytree(folder_of(source), tmp_path / "copy")
        for name in removed:
            (copy / name).unlink()
        if keys:
            path = copy / "config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | keys))
        return copy

    return get


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def mistake(model, **settings):
    """The line a user sees."""
    with pytest.raises(SettingError) as error:
        load_base(str(model), **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("family", MODULES)
def test_a_model_of_every_family_is_read_frozen_and_its_modules_are_named(family, folder_of):
    base = load_base(str(folder_of(family)))
    assert base.name == str(folder_of(family))
    assert base.device == torch.device("cpu")
    assert base.chat == (family == "qwen2")
    assert not base.model.training
    assert not any(p.requires_grad for p in base.model.parameters())
    assert base.tokenizer.padding_side == "left"
    saved = AutoModelForCausalLM.from_pretrained(folder_of(family))
    assert all(torch.equal(a, b) for a, b in zip(base.model.parameters(), saved.parameters(), strict=True))

    layers, mlp, attention = MODULES[family]
    full = {
        part: {f"{layers}.{i}.{name}" for i in range(2) for name in names}
        for part, names in (("mlp", mlp), ("attention", attention))
    }
    for part, names in full.items():
        found = target_modules(base.model, part)
        assert len(found) == len(names)
        assert set(found) == names
    order = {name: i for i, (name, _) in enumerate(base.model.named_modules())}
    assert target_modules(base.model, "both") == sorted(full["mlp"] | full["attention"], key=lambda name: order[name])


def test_tied_and_untied_models_are_read(tmp_path):
    tied: Any
    untied: Any
    tied, untied = (load_base(str(tiny("llama", tmp_path / str(tie), tie=tie))).model for tie in (True, False))
    assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
    assert untied.get_output_embeddings().weight is not untied.get_input_embeddings().weight


def test_the_head_reads_the_last_tokens_in_one_piece(tmp_path):
    """Of a slice torch would copy the head's weights once a row, in bfloat16 on a CPU."""
    base = load_base(str(tiny("llama", tmp_path)), dtype="bfloat16")
    seen: list[torch.Tensor] = []
    head: Any = base.model.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))  # runs after the base's own
    base.model(input_ids=torch.tensor([[1, 2, 3], [4, 5, 6]]), logits_to_keep=1)
    (states,) = seen
    assert states.shape[:2] == (2, 1)
    assert states.is_contiguous()


@pytest.mark.parametrize("layers", ["mlp", "both"])
def test_experts_have_no_mlp_to_adapt_but_attention(layers, folder_of):
    model = load_base(str(folder_of("mixtral"))).model
    with pytest.raises(
        SettingError,
        match=rf"layers: got {layers} for MixtralForCausalLM, a mixture of experts; allowed: attention; which MLP",
    ):
        target_modules(model, layers)
    assert len(target_modules(model, "attention")) == 8


def test_a_model_without_such_modules_says_what_it_has():
    model = AutoModelForCausalLM.from_config(
        MambaConfig(hidden_size=8, num_hidden_layers=2, vocab_size=8, eos_token_id=0)
    )
    with pytest.raises(SettingError) as error:
        target_modules(model, "mlp")
    assert str(error.value).startswith(
        "layers: got mlp for MambaForCausalLM; allowed: a model whose mlp has linear modules; this one has "
    )
    assert "backbone.layers.*.mixer.in_proj, backbone.layers.*.mixer.x_proj" in str(error.value)
    with pytest.raises(
        SettingError, match=r"layers: got 'mlps'; allowed: mlp \| attention \| both \| lower .*; did you mean 'mlp'\?"
    ):
        target_modules(model, "mlps")


def test_dtype_auto_is_float32_on_a_cpu(tmp_path):
    half = str(tiny("llama", tmp_path, dtype=torch.bfloat16))
    for dtype, expected in (
        ("auto", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float16),
        ("float32", torch.float32),
    ):
        assert {p.dtype for p in load_base(half, dtype=dtype, device="cpu").model.parameters()} == {expected}


def test_the_digest_is_of_the_config_and_the_weights(changed, folder_of):
    before = load_base(str(folder_of("llama"))).digest
    copy = changed()
    assert load_base(str(copy)).digest == before
    assert len(before) == 16
    assert int(before, 16)
    weights = load_file(copy / "model.safetensors")
    weights["lm_head.weight"][0, 0] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    after = load_base(str(copy)).digest
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert len({before, after, load_base(str(copy)).digest}) == 3


def test_a_missing_pad_token_is_the_eos_and_the_embedding_keeps_its_size(tmp_path):
    base = load_base(str(tiny("llama", tmp_path, pad=False)))
    assert base.tokenizer.pad_token_id == base.tokenizer.eos_token_id
    assert len(base.tokenizer) == base.model.get_input_embeddings().num_embeddings == base.model.config.vocab_size


def test_a_pad_token_without_a_row_in_the_embedding_is_the_eos(changed):
    copy = changed()
    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": "<a new token>"}))
    base = load_base(str(copy))
    assert base.tokenizer.pad_token == "</s>"


# Mistakes.


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"dtype": "float61"},
            "dtype: got 'float61'; allowed: auto | float32 | bfloat16 | float16; did you mean 'float16'?",
        ),
        ({"chat": "yes"}, "chat: got 'yes'; allowed: auto | on | off"),
        ({"chat": False}, "chat: got False; allowed: auto | on | off"),
        ({"device": "cuda"}, "device: got cuda; allowed: auto | cpu; this torch sees no others"),
        ({"device": "gpu"}, "device: got gpu; allowed: auto | cpu; this torch sees no others"),
        ({"device_map": "all"}, "device_map: got 'all'; allowed: auto | balanced | balanced_low_0 | sequential"),
        (
            {"device_map": "auto", "device": "cpu"},
            "device: got cpu; allowed: auto with device_map=auto; the map places every layer",
        ),
    ],
)
def test_settings_that_are_none(settings, line, folder_of, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends, "mps", SimpleNamespace(is_available=lambda: False))
    assert mistake(folder_of("llama"), **settings) == line


def test_a_device_map_places_the_layers(folder_of):
    base = load_base(str(folder_of("llama")), device_map="auto")
    ids = torch.tensor([prompt(base, SOURCE)], device=base.device)
    assert base.model(ids).logits.isfinite().all()


def test_chat_on_needs_a_template_and_one_that_takes_a_message(folder_of, changed):
    assert (
        mistake(folder_of("llama"), chat="on")
        == f"chat: got on for {folder_of('llama')}; allowed: auto | off; its tokenizer has no chat template"
    )
    assert load_base(str(folder_of("qwen2")), chat="on").chat
    assert not load_base(str(folder_of("qwen2")), chat="off").chat
    copy = changed(source="qwen2")
    (copy / "chat_template.jinja").write_text("{{ raise_exception('a system message first') }}")
    refused = "its chat template refuses a user's message (TemplateError: a system message first)"
    assert mistake(copy) == f"chat: got auto for {copy}; allowed: off; {refused}"
    assert not load_base(str(copy), chat="off").chat


@pytest.mark.parametrize("name", ["nobody/nothing", "nothing-at-all"])
def test_a_name_that_is_neither_a_folder_nor_known_offline(name, offline):
    line = mistake(name)
    unknown = "which is no folder here and not in the hub's cache, and the hub cannot be reached"
    assert line.startswith(f"model: got {name}, {unknown}; allowed: a folder")
    assert line.endswith("; a folder is written model=path/to/folder")


def test_a_path_to_nothing(tmp_path, offline):
    assert mistake(tmp_path / "not" / "here").startswith(
        f"model: got {tmp_path}/not/here, which is no folder here and cannot be a name on the hub;"
    )


def test_a_file_and_folders_that_are_no_models(folder_of, changed):
    path = folder_of("llama") / "config.json"
    assert mistake(path) == f"model: got {path}, which is a file; allowed: {MODEL}; try model={folder_of('llama')}"
    copy = changed("config.json")
    assert f"model: got {copy}, a folder without config.json; allowed" in mistake(copy)
    (copy / "adapter_config.json").write_text("{}")
    assert mistake(copy).endswith("an adapter is no model: name the one it was trained on")


def test_pickled_weights_are_refused(changed):
    copy = changed("model.safetensors")
    line = f"model: got {copy}, a folder without model.safetensors; allowed: {MODEL}"
    assert mistake(copy) == line
    torch.save({}, copy / "pytorch_model.bin")
    assert (
        mistake(copy)
        == line + "; pickled weights can run code as they are read: convert them with the safetensors library"
    )


def test_a_name_on_the_hub_is_read_from_the_cache_when_offline(folder_of, offline, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository, commit = tmp_path / "models--some--model", "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(folder_of("llama"), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    base = load_base("some/model")
    assert (base.name, base.digest) == ("some/model", commit)
    weights = repository / "snapshots" / commit / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    assert mistake("some/model").startswith(
        "model: got some/model without safetensors, on the hub or, where that cannot be reached, in its cache;"
    )


@pytest.mark.parametrize(
    ("cause", "line"),
    [
        (
            GatedRepoError,
            "model: got some/model, which must be asked for on the hub first, and then needs `hf auth login`;",
        ),
        (
            RepositoryNotFoundError,
            "model: got some/model, which is no folder here and no public model on the hub; allowed: a folder with",
        ),
    ],
)
def test_what_the_hub_refuses(cause, line, monkeypatch):
    def refuse(*_args, **_options):
        response: Any = SimpleNamespace(headers={}, request=None)
        raise cause("three\nlines\nlong", response=response)

    monkeypatch.setattr(reading, "hf_hub_download", refuse)
    assert mistake("some/model").startswith(line)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[: len(data) // 2], "incomplete metadata, file not fully covered"),
        (lambda data: b"\xff" * 100, "header too large"),
        (lambda data: b"", "header too small"),
    ],
)
def test_damaged_weights(damage, reason, changed):
    copy = changed()
    path = copy / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    assert (
        f"{copy}, whose weights cannot be read (SafetensorError: Error while deserializing header: {reason});"
        in mistake(copy)
    )


def test_a_model_that_does_not_fit_is_one_line(folder_of, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", full)
    folder = folder_of("qwen2")
    with pytest.raises(SettingError) as error:
        load_base(str(folder))
    mend = "a model that fits; dtype=bfloat16, or device_map=auto for several GPUs"
    assert str(error.value) == f"model: got {folder}, which does not fit in the memory of its device; allowed: {mend}"


def test_a_missing_shard(changed):
    copy = changed("model.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "whose weights cannot be read (FileNotFoundError" in mistake(copy)


def test_weights_that_are_not_there_are_not_drawn_at_random(changed, capfd):
    copy = changed(intermediate_size=50)
    assert "whose weights lack model.layers.0.mlp.down_proj.weight, model.layers.0.mlp.gate_proj.weight," in mistake(
        copy
    )
    weights = load_file(copy / "model.safetensors")
    weights = {name: weight for name, weight in weights.items() if name != "lm_head.weight" and ".mlp." not in name}
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    absent = "lm_head.weight, model.layers.0.mlp.down_proj.weight, model.layers.0.mlp.gate_proj.weight and 4 more,"
    assert f"whose weights lack {absent}" in mistake(copy)
    assert "LOAD REPORT" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (T5Config(d_model=8), "T5Config"),
        (BertConfig(hidden_size=8), "BertConfig"),
        (BertConfig(hidden_size=8, architectures=["BertForMaskedLM"]), "BertForMaskedLM"),
        (ViTConfig(), "ViTConfig"),
    ],
)
def test_other_architectures_than_causal_ones(config, name, tmp_path):
    config.save_pretrained(tmp_path)
    save_file({}, tmp_path / "model.safetensors")
    assert mistake(tmp_path) == f"model: got {tmp_path}, which is {name}; allowed: a causal language model"


def test_a_classifier_of_a_causal_family(changed):
    copy = changed(architectures=["LlamaForSequenceClassification"])
    assert "which is LlamaForSequenceClassification; allowed: a causal language model" in mistake(copy)


def test_an_unknown_architecture(changed):
    copy = changed(model_type="lama")
    assert (
        mistake(copy) == f"model: got {copy} of model_type lama; allowed: an architecture that this transformers knows"
    )


def test_a_model_that_brings_its_code_needs_trust(changed, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))  # and not the one at home
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    copy = changed(model_type="own", auto_map=own, architectures=["OwnForCausalLM"])
    (copy / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n\n\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n\n\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    allowed = "that only with trust_remote_code=true; read the code first"
    assert mistake(copy) == f"model: got {copy}, which brings its own code; allowed: {allowed}"
    model = load_base(str(copy), trust_remote_code=True).model
    assert type(model).__name__ == "OwnForCausalLM"
    assert len(target_modules(model, "both")) == 14


@pytest.mark.parametrize("keys", [{"num_attention_heads": 5}, {"vocab_size": "many"}])
def test_a_config_that_makes_no_model(keys, changed):
    assert "whose config cannot be read (Strict" in mistake(changed(**keys))


def test_a_config_that_is_no_json(changed):
    copy = changed()
    (copy / "config.json").write_text("{")
    assert "whose config cannot be read (OSError: It looks like the config file at" in mistake(copy)


def test_tokenizers_that_are_missing_damaged_or_without_eos(changed, tmp_path):
    assert "whose tokenizer has no end-of-sequence token; allowed: " in mistake(
        tiny("llama", tmp_path / "endless", eos=False)
    )
    copy = changed("tokenizer_config.json")
    (copy / "tokenizer.json").write_text("{")
    assert "whose tokenizer cannot be read (JSONDecodeError" in mistake(copy)
    (copy / "tokenizer.json").unlink()
    assert "whose tokenizer cannot be read (ValueError" in mistake(copy)


@pytest.mark.parametrize("family", FAMILIES)
def test_tiny_words_are_one_token_and_any_text_comes_back(family, folder_of):
    tokenizer = load_base(str(folder_of(family))).tokenizer
    assert len(tokenizer(" Paris", add_special_tokens=False).input_ids) == 1
    odd = "Zoë's Ωmega, 1234\n  <b>"
    assert tokenizer.decode(tokenizer(odd, add_special_tokens=False).input_ids) == odd
