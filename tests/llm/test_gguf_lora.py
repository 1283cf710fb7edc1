"""LoRA adapters in GGUF files: written, and put into a base as llama.cpp does it; and read, as llama.cpp's converter
writes them."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFReader, GGUFWriter, dequantize, get_tensor_name_map, quantize
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import TensorProcessor, get_gguf_hf_weights_map

import lora_reuse as lr
from lora_reuse.llm import inspect
from lora_reuse.llm.adapters.folders import digest, load_expert, origin
from lora_reuse.llm.adapters.gguf_lora import ARCHITECTURES, names
from lora_reuse.llm.adapters.gguf_writing import save_gguf
from lora_reuse.llm.compose import main
from lora_reuse.llm.decoding.models import load_frame
from lora_reuse.runs.settings import SettingError
from tests.llm.test_merging import adapter, logits
from tests.llm.tiny import tiny
from tests.llm.tiny_gguf import _interleaved, tiny_gguf

torch.set_num_threads(1)
EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def modules_of(model: Any) -> list[str]:
    """Linear layers, the head and the embedding, of which the second layer has fewer."""
    linear = [name for name, _ in model.named_modules() if name.endswith(tuple(EVERY)) and ".1.mlp.up" not in name]
    return [*linear, "lm_head", "model.embed_tokens"]


def put_into(base: Path, lora: Path, out: Path) -> None:
    """What llama.cpp computes with `--lora`, as weights: W + (α/r) B A for each pair, α/r = 1 where α is 0 (its
    llama-adapter.cpp and llama-adapter.h); of the embedding a row of A a token (llama-graph.cpp)."""
    file, adapter = GGUFReader(base), GGUFReader(lora)
    said = {key: field.contents() for key, field in adapter.fields.items()}
    assert (said["general.type"], said["adapter.type"]) == ("adapter", "lora")
    assert said["general.architecture"] == file.fields["general.architecture"].contents()
    pairs = {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in adapter.tensors}
    shutil.copyfile(base, out)
    merged, used = GGUFReader(out, "r+"), set()
    for tensor in merged.tensors:
        if f"{tensor.name}.lora_a" not in pairs:
            continue
        a, b = pairs[f"{tensor.name}.lora_a"], pairs[f"{tensor.name}.lora_b"]
        used |= {f"{tensor.name}.lora_a", f"{tensor.name}.lora_b"}
        rank = b.shape[1]
        scale = said["adapter.lora.alpha"] / rank if said["adapter.lora.alpha"] else 1.0
        tensor.data[:] += scale * (a @ b.T if tensor.name == "token_embd.weight" else b @ a)
    assert used == pairs.keys(), "a tensor that the base does not have"
    merged.data.flush()


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {family: tiny(family, root / family, tie=False) for family in ("llama", "qwen2")}


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_what_llama_cpp_makes_of_a_file_is_the_adapter(family, bases, tmp_path):
    base = lr.load_base(str(bases[family]))
    whole = adapter(base.name, modules_of(base.model))
    parts = {name: update if i % 2 else update.padded(5) for i, (name, update) in enumerate(whole.experts().items())}
    ranks = lr.Adapter(parts, whole.card, whole.layout)  # of several ranks, for which there is one α
    save_gguf(ranks, tmp_path / "out", base.model.config)
    file = tiny_gguf(bases[family], tmp_path / "base.gguf")
    put_into(file, tmp_path / "out" / "adapter.gguf", tmp_path / "merged.gguf")
    merged = lr.load_base(str(tmp_path / "merged.gguf")).model
    ours, alone = logits(base.model, whole), logits(base.model)
    torch.testing.assert_close(logits(merged), ours, rtol=1e-4, atol=1e-4)
    assert (ours - alone).abs().max() > 0.1
    again = lr.load_adapter(base, tmp_path / "out")
    assert again.keys() == whole.keys()
    for same in (lr.load_adapter(base, tmp_path / "out" / "adapter.gguf"), lr.load(base, tmp_path / "out")):
        assert all(torch.equal(same.experts()[name].dense(), again.experts()[name].dense()) for name in again)
    for name, update in again.experts().items():
        torch.testing.assert_close(update.dense(), whole.experts()[name].dense(), rtol=1e-5, atol=1e-6)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`--lora adapter.gguf`" in card
    assert "library_name: gguf" in card


def test_rows_of_queries_in_the_order_of_transformers_are_another_model(bases, tmp_path, monkeypatch):
    """The planted mistake: without llama.cpp's order the check above fails."""
    monkeypatch.setattr("lora_reuse.llm.adapters.gguf_writing.ordered", lambda b, *given, **options: b)
    base = lr.load_base(str(bases["llama"]))
    whole = adapter(base.name, ["model.layers.0.self_attn.q_proj"], size=1.0)
    save_gguf(whole, tmp_path / "out", base.model.config)
    put_into(
        tiny_gguf(bases["llama"], tmp_path / "base.gguf"), tmp_path / "out" / "adapter.gguf", tmp_path / "merged.gguf"
    )
    assert (logits(lr.load_base(str(tmp_path / "merged.gguf")).model) - logits(base.model, whole)).abs().max() > 1e-2


def converted(folder: Path, base: Path, file: Path, store: GGMLQuantizationType, **said: Any) -> Path:
    """The file that convert_lora_to_gguf.py makes of a PEFT folder, by its source: PEFT's factors as they are but for
    the order of rows, and PEFT's α."""
    config = AutoConfig.from_pretrained(base)
    writer = GGUFWriter(file, said.get("architecture", config.model_type))
    writer.add_type(said.get("type", "adapter"))
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", said.get("alpha", 6.0))
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, "Tiny Llama")
    if "url" in said:
        writer.add_base_model_repo_url(0, said["url"])
    if "invocation" in said:
        writer.add_array("adapter.alora.invocation_tokens", [1, 2])
    known = get_tensor_name_map({"llama": MODEL_ARCH.LLAMA, "qwen2": MODEL_ARCH.QWEN2}[config.model_type], 2)
    for key, value in load_file(folder / "adapter_model.safetensors").items():
        module, _, factor = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
        if factor == "lora_B" and config.model_type == "llama" and module.endswith(("q_proj", "k_proj")):
            heads = config.num_attention_heads if module.endswith("q_proj") else config.num_key_value_heads
            value = _interleaved(value, heads)
        name = f"{known.get_name(module)}.weight.{factor.lower()}"
        kind = store if value.shape[1] % 32 == 0 else GGMLQuantizationType.F32
        writer.add_tensor(name, quantize(value.numpy(), kind), raw_dtype=kind)
    for name in said.get("more", ()):
        writer.add_tensor(name, np.zeros((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def by_peft(base: Path, folder: Path) -> Path:
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(1)
    lora = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, target_modules=EVERY, init_lora_weights=False))
    lora.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize(("store", "near"), [("F32", 1e-6), ("F16", 1e-3), ("Q8_0", 1e-2)])
def test_a_converted_adapter_is_the_peft_folder_that_it_was_made_of(family, store, near, bases, tmp_path):
    frame, folder = load_frame(str(bases[family])), by_peft(bases[family], tmp_path / "peft")
    file = converted(folder, bases[family], tmp_path / "a.gguf", GGMLQuantizationType[store])
    ours, theirs = load_expert(file, frame), load_expert(folder, frame)
    assert ours.keys() == theirs.keys()
    for name, update in theirs.items():
        assert float((ours[name].dense() - update.dense()).norm()) < near * update.norm()
    (tmp_path / "folder").mkdir()
    shutil.copy(file, tmp_path / "folder")
    assert digest(tmp_path / "folder") == digest(file)
    assert load_expert(tmp_path / "folder", frame).keys() == ours.keys()


@pytest.mark.parametrize(("said", "base"), [({}, "Tiny-Llama"), ({"url": "https://huggingface.co/a/b"}, "a/b")])
def test_the_base_that_a_file_names(said, base, bases, tmp_path):
    folder = by_peft(bases["qwen2"], tmp_path / "peft")
    file = converted(folder, bases["qwen2"], tmp_path / "a.gguf", GGMLQuantizationType.F32, **said)
    assert origin(file).base == base


MISTAKES = [
    ({"type": "model"}, "a GGUF file of type lora"),
    ({"architecture": "llama"}, "for llama; allowed: one for qwen2"),
    ({"invocation": True}, r"which is active after some tokens alone \(aLoRA\)"),
    ({"more": ["blk.0.attn_norm.weight"]}, r"the tensor blk\.0\.attn_norm\.weight in "),
    ({"more": ["blk.7.ffn_up.weight.lora_a", "blk.7.ffn_up.weight.lora_b"]}, r"for blk\.7\.ffn_up\.weight"),
    ({"more": ["output.weight.lora_a"]}, r"the tensor output\.weight\.lora_a in "),
    ({"more": ["output.weight.lora_a", "output.weight.lora_b"]}, r"with output\.weight\.lora_b \(32, 32\)"),
]


@pytest.mark.parametrize(("said", "why"), MISTAKES)
def test_a_file_that_is_no_adapter_of_the_model_is_one_line(said, why, bases, tmp_path):
    folder = by_peft(bases["qwen2"], tmp_path / "peft")
    file = converted(folder, bases["qwen2"], tmp_path / "a.gguf", GGMLQuantizationType.F32, **said)
    with pytest.raises(SettingError, match=rf"^expert: got .*{why}"):
        load_expert(file, load_frame(str(bases["qwen2"])))


def test_a_file_that_is_no_gguf_or_is_cut_off_is_one_line(bases, tmp_path):
    file = converted(
        by_peft(bases["qwen2"], tmp_path / "peft"), bases["qwen2"], tmp_path / "a.gguf", GGMLQuantizationType.F32
    )
    whole = file.read_bytes()
    for content in (b"", b"x" * 100, whole[:200], whole[:-100]):
        file.write_bytes(content)
        with pytest.raises(SettingError, match=r"^expert: got .*a\.gguf \(.*allowed: a GGUF file of a LoRA"):
            load_expert(file, load_frame(str(bases["qwen2"])))
    with pytest.raises(SettingError, match=r"none\.gguf"):
        load_expert(tmp_path / "none.gguf", load_frame(str(bases["qwen2"])))


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "gemma2", "phi3"])
def test_names_are_those_that_transformers_reads(family, folder_of):
    frame = load_frame(str(folder_of(family)))
    theirs = get_gguf_hf_weights_map(frame, TensorProcessor(), {"mistral": "llama"}.get(family), 2)
    linear = [name for name, module in frame.named_modules() if name.endswith(("_proj", "lm_head", "embed_tokens"))]
    ours = names(frame.config, linear)
    assert {*linear} - ours.keys() == ({"lm_head"} if family == "gemma2" else set())  # Gemma's head is its embedding
    assert {f"{name}.weight": f"{module}.weight" for module, name in ours.items()}.items() <= theirs.items()
    assert family in ARCHITECTURES


def test_other_architectures_and_ends_that_are_one_weight_are_refused(folder_of, bases, tmp_path):
    tied = tiny("qwen2", tmp_path / "base", tie=True)
    for base, module, why in (
        (folder_of("gpt2"), "transformer.h.0.mlp.c_fc", "model: got gpt2, for a GGUF adapter; allowed: gemma2"),
        (
            folder_of("gemma2"),
            "lm_head",
            "format: got gguf for lm_head; allowed: modules that llama.cpp has a name for",
        ),
        (tied, "lm_head", "format: got gguf for lm_head, where head and embedding are one weight"),
        (tied, "model.embed_tokens", "format: got gguf for model.embed_tokens, where head and embedding are one"),
    ):
        with pytest.raises(SettingError, match=f"^{why}"):
            save_gguf(adapter(str(base), [module]), tmp_path / "out", load_frame(str(base)).config)
    with pytest.raises(SettingError, match="got NaN or infinity in lm_head"):
        save_gguf(
            adapter(str(bases["llama"]), ["lm_head"], size=1e38),
            tmp_path / "out",
            load_frame(str(bases["llama"])).config,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_of_a_folder_with_several_one_is_named(bases, tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(SettingError, match=rf"no adapter_config\.json in .* of which {tmp_path / 'a.gguf'} would be"):
        lr.load_adapter(lr.load_base(str(bases["llama"])), tmp_path)


def test_the_commands_read_and_write_them(bases, tmp_path, capsys):
    base = bases["llama"]
    folder = by_peft(base, tmp_path / "peft")
    file = converted(folder, base, tmp_path / "a.gguf", GGMLQuantizationType.F16, alpha=8.0)
    words = [f"model={base}", f"library={folder},{file}"]
    for form in ("adapter", "gguf"):
        out = [f"out={tmp_path / form}", f"format={form}"]
        assert main([*words, *out, "composition=average", "another_model=true"]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.count("average of 2 adapters, 14 modules: a ") == 2
    frame = load_frame(str(base))
    theirs = load_expert(tmp_path / "adapter", frame)
    for name, update in load_expert(tmp_path / "gguf", frame).items():
        torch.testing.assert_close(update.dense(), theirs[name].dense(), rtol=1e-5, atol=1e-6)
    assert (
        main([*words, f"out={tmp_path / 'adapter'}", "format=gguf", "composition=average", "another_model=true"]) == 2
    )
    assert "nothing is overwritten" in capsys.readouterr().err
    assert main([f"model={file}", *words[1:], f"out={tmp_path / 'other'}", "composition=sum"]) == 2
    assert "a.gguf, an adapter; allowed: a model; library= names adapters" in capsys.readouterr().err
    assert inspect.main([f"library={file},{folder}", f"model={base}"]) == 0
    text = capsys.readouterr().out
    assert "GGUF LoRA of rank 4, alpha 8, ΔW = alpha/rank B A, F16, F32, for llama" in text
    assert text.count("modules    14: ") == 2
