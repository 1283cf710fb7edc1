"""What `lora-reuse inspect` says of folders as PEFT wrote them."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_reuse.llm import inspect
from tests.llm.test_adapter_initialisations import started
from tests.llm.test_adapter_kinds import gpt2, qwen, written

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    qwen().save_pretrained(folder / "base")
    for kind in ("lora", "rslora of ranks", "one layer", "adalora", "vera", "loha", "lokr"):
        written(kind, folder / kind.replace(" ", "_"))
    started("rslora of ranks", folder / "pissa")
    return folder


def said(capsys, there, *names, code=0):
    library = ",".join(str(there / name) for name in names)
    assert inspect.main([f"library={library}", f"model={there / 'base'}"]) == code
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "kind", "modules"),
    [
        ("lora", "LoRA of rank 4, alpha 6, ΔW = 1.5 B A\n", "4: down_proj, up_proj of layers 0 to 1"),
        ("rslora_of_ranks", "rank-stabilised LoRA of rank 4, alpha 6, ΔW = 3 B A and others by module\n", "4: "),
        ("one_layer", "LoRA of rank 4, alpha 8, ΔW = 2 B A\n", "2: down_proj, up_proj of layers 1\n"),
        ("adalora", "AdaLoRA of rank 5, alpha 6, ΔW = 1.2 B diag(E) A\n", "4: "),
        ("vera", "VeRA of rank 5, ΔW = diag(b) B diag(d) A\n", "4: "),
        ("pissa", "LoRA that began as PiSSA of rank 4, alpha 6, ΔW = 3 (B A − B₀ A₀) and others by", "6 to 8 of ΔW"),
        ("loha", "LoHa of rank 3, alpha 6, ΔW = 2 (w1_a w1_b)∘(w2_a w2_b) and others by module\n", "4 to 9 of ΔW"),
        ("lokr", "LoKr of rank 2, alpha 6, ΔW = 3 w1 ⊗ w2 and others by module\n", "8 of ΔW, which is read exactly"),
    ],
)
def test_one_adapter(name, kind, modules, there, capsys):
    text = said(capsys, there, name)
    assert kind in text
    assert modules in text
    assert "|ΔW|" in text


def test_several_are_told_apart(there, capsys):
    text = said(capsys, there, "lora", "one_layer", "rslora_of_ranks")
    assert "2 of 4 modules are not changed by all, such as model.layers.0.mlp.down_proj: ΔW = 0 there" in text
    assert "their ranks differ in 2 modules, such as model.layers.0.mlp.down_proj" in text
    assert text.count("cosine of ΔW") == 3


def test_that_bases_differ_is_said(there, tmp_path, capsys):
    qwen().save_pretrained(tmp_path / "other")
    for name, base in (("lora", there / "base"), ("one_layer", tmp_path / "other")):
        shutil.copytree(there / name, tmp_path / name)
        path = tmp_path / name / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(base)}))
    library = f"library={tmp_path / 'lora'},{tmp_path / 'one_layer'}"
    said = "their bases differ, as those of "
    assert inspect.main([library]) == 0
    assert said in capsys.readouterr().out
    assert inspect.main([f"library={tmp_path / 'lora'},{there / 'lora'}", f"model={there / 'base'}"]) == 0
    assert said not in capsys.readouterr().out


def test_adapters_of_unlike_models_cannot_be_composed(there, tmp_path, capsys):
    gpt2().save_pretrained(tmp_path / "other")
    for name, kind, base in (("a", "lora", there / "base"), ("b", "conv1d", tmp_path / "other")):
        written(kind, tmp_path / name)
        path = tmp_path / name / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(base)}))
    assert inspect.main([f"library={tmp_path / 'a'},{tmp_path / 'b'}"]) == 1
    text = capsys.readouterr().out
    assert f"{tmp_path / 'b'} changes transformer.h.0.attn.c_attn (96, 32), which {there / 'base'}, the base of" in text
    assert "they cannot be composed" in text
    assert "can be used" not in text


def test_an_adapter_before_its_training_has_no_cosine(there, tmp_path, capsys):
    shutil.copytree(there / "lora", tmp_path / "a")
    path = tmp_path / "a" / "adapter_model.safetensors"
    save_file({key: 0 * it if "lora_B" in key else it for key, it in load_file(path).items()}, path)
    assert inspect.main([f"library={tmp_path / 'a'},{there / 'lora'}", f"model={there / 'base'}"]) == 0
    assert "lora: undefined, because ΔW = 0 in one of them" in capsys.readouterr().out


def test_which_rules_take_minutes_is_said(there, capsys, monkeypatch):
    assert "form every ΔW" not in said(capsys, there, "lora", "adalora")
    monkeypatch.setattr("lora_reuse.llm.compositions.add_weighted_adapter.SECONDS", 1.0)
    text = said(capsys, there, "lora", "adalora")
    assert (
        "ties_svd, magnitude_prune_svd, dare_linear_svd, dare_ties_svd form every ΔW: 6.1e+03 entries, 102 min" in text
    )


def test_what_cannot_be_composed_is_listed_with_the_reason(there, tmp_path, capsys):
    written("lora", tmp_path / "biases")
    path = tmp_path / "biases" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bias": "all"}))
    library = f"{tmp_path / 'biases'}, {there / 'lora'}"
    assert inspect.main([f"library={library}", f"model={there / 'base'}"]) == 1
    text = capsys.readouterr().out
    assert 'refused    expert: got bias="all" in ' in text
    assert "LoRA of rank 4" in text


def test_an_adapter_that_does_nothing_somewhere(there, tmp_path, capsys):
    written("lora", tmp_path / "a")
    path = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(path)
    key = next(key for key in tensors if "layers.0" in key and "lora_B" in key)
    save_file(tensors | {key: torch.zeros_like(tensors[key])}, path)
    assert inspect.main([f"library={tmp_path / 'a'}", f"model={there / 'base'}"]) == 0
    assert "ΔW = 0 in 1 of them, such as model.layers.0.mlp.down_proj" in capsys.readouterr().out


def test_without_the_model_only_the_configuration_is_read(there, capsys):
    assert inspect.main([f"library={there / 'lora'}", "model=nobody/nothing"]) == 0
    text = capsys.readouterr().out
    assert "LoRA of rank 4" in text
    assert "modules    not checked (model: got nobody/nothing" in text


def test_of_a_long_name_the_beginning_is_said(capsys):
    assert inspect.main([f"library={'x' * 5000}"]) == 1
    text = capsys.readouterr().out
    assert "expert: got xxx" in text
    assert len(text) < 1000


def test_mistakes(capsys):
    for words in (["library=a,a"], ["library=a,"], ["library=a,./a"]):
        assert inspect.main(words) == 2
        assert capsys.readouterr().err.startswith("llm.inspect: library: got ")
