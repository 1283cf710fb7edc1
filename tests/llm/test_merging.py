"""A composition in the weights of its base, written as a whole model: against PEFT's own merge, file by file."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import lora_reuse as lr
from lora_reuse.llm.adapters import merging
from lora_reuse.llm.adapters.adapter import Adapter, Card
from lora_reuse.llm.adapters.folders import layout, weight_shape
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.merging import save_whole
from lora_reuse.llm.adapters.modules import target_modules
from lora_reuse.llm.compose import main
from lora_reuse.llm.decoding.models import digest_of, load_frame
from lora_reuse.llm.decoding.resident import Resident
from lora_reuse.runs.settings import SettingError
from tests.llm.tiny import tiny
from tests.llm.tiny_gguf import tiny_gguf

torch.set_num_threads(1)
IDS = torch.tensor([[7, 8, 9, 10, 11], [12, 13, 14, 15, 16]])


def adapter(base: str, names: list[str], seed: int = 0, size: float = 0.3) -> Adapter:
    """Of random factors of rank 3, as large as the tiny base's own weights."""
    frame, draw, updates = load_frame(base), torch.Generator().manual_seed(seed), {}
    for name in names:
        outputs, inputs = weight_shape(frame.get_submodule(name)) or (0, 0)
        updates[name] = LowRank(
            torch.randn(outputs, 3, generator=draw) * size, torch.randn(inputs, 3, generator=draw) * size
        )
    return Adapter(updates, Card(base, "", experts={f"random {seed}": ""}), layout(frame, names))


def written(base: str | Path, whole: Adapter, folder: Path) -> list[str]:
    return save_whole(whole, str(base), digest_of(str(base)), load_frame(str(base)), folder)


def logits(model: Any, whole: Adapter | None = None) -> torch.Tensor:
    with Resident(model) as resident, torch.inference_mode():
        resident.use([whole])
        return model(input_ids=IDS).logits


def plain(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "gemma2", "phi3", "opt", "mixtral"])
def test_a_whole_model_is_what_peft_merges(family, folder_of, tmp_path):
    """Of the mixture of experts in its attention, beside experts that transformers puts together as it reads them."""
    base = lr.load_base(str(folder_of(family)))
    whole = adapter(base.name, target_modules(base.model, "attention" if family == "mixtral" else "both"))
    notes = written(base.name, whole, tmp_path / "whole")
    ours, theirs = plain(tmp_path / "whole"), lr.merge_into(base, whole)
    there, found = theirs.state_dict(), ours.state_dict()
    assert found.keys() == there.keys()
    for name, weight in there.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=1e-4, atol=1e-5)
    assert (logits(ours) - logits(base.model)).abs().max() > 1e-2
    assert [note.startswith("rounding to the base's dtype is off by ") for note in notes] == [True]
    assert float(notes[0].split()[8]) < 1e-6


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> Path:
    """A base in bfloat16 of several files, with a licence, and with weights that no config names."""
    folder = tmp_path_factory.mktemp("sharded")
    model = plain(tiny("llama", folder / "whole", tie=False)).bfloat16()
    model.save_pretrained(folder / "base", max_shard_size="30KB")
    AutoTokenizer.from_pretrained(folder / "whole").save_pretrained(folder / "base")
    (folder / "base" / "LICENSE").write_text("free")
    (folder / "base" / "README.md").write_text("the base's own")
    (folder / "base" / "consolidated.safetensors").write_bytes(b"the same once more")
    return folder / "base"


def tensors_of(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {path.name: load_file(path) for path in sorted(folder.glob("model-*.safetensors"))}


def test_files_and_dtype_are_the_bases_and_what_rounding_leaves_out_is_said(sharded, tmp_path, monkeypatch):
    monkeypatch.setattr(merging, "_NUMBERS", 200)  # a weight is read in several parts, of which the last is shorter
    names = ["model.layers.0.mlp.up_proj", "model.layers.1.self_attn.k_proj", "lm_head"]
    whole = adapter(str(sharded), names)
    notes = written(sharded, whole, tmp_path / "whole")
    before, after = tensors_of(sharded), tensors_of(tmp_path / "whole")
    assert len(before) == 3
    assert {file: list(tensors) for file, tensors in before.items()} == {
        file: list(tensors) for file, tensors in after.items()
    }
    lost, every = 0.0, 0.0
    for file, tensors in before.items():
        for key, tensor in tensors.items():
            found, module = after[file][key], key.removesuffix(".weight")
            assert found.dtype == torch.bfloat16
            if module not in names:
                assert torch.equal(found, tensor)
                continue
            delta = whole.experts()[module].dense().double()
            wanted = tensor.double() + delta
            assert torch.equal(found, wanted.float().bfloat16())
            lost += float((found.double() - wanted).square().sum())
            every += float(delta.square().sum())
    assert f"is off by {(lost / every) ** 0.5:.2g} of ‖ΔW‖" in notes[0]
    assert (lost / every) ** 0.5 > 1e-3
    assert {path.name for path in sharded.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()} | {
        "consolidated.safetensors"
    }
    card = (tmp_path / "whole" / "README.md").read_text()
    assert f"- {notes[0].replace('rounding', 'Rounding')}." in card
    assert "library_name: transformers" in card
    assert f"The weights of base ({digest_of(str(sharded))}) plus ΔW." in card
    assert json.loads((tmp_path / "whole" / "model.safetensors.index.json").read_text()) == json.loads(
        (sharded / "model.safetensors.index.json").read_text()
    )


@pytest.mark.parametrize(
    ("family", "shards", "ends"),
    [
        ("gemma2", False, ["lm_head"]),
        ("gpt2", False, ["lm_head"]),
        ("qwen2", True, ["lm_head"]),
        ("qwen2", False, ["model.embed_tokens"]),
        ("qwen2", True, ["lm_head", "model.embed_tokens"]),
    ],
)
def test_a_head_that_is_the_embedding_is_parted_from_it(family, shards, ends, tmp_path):
    base = tiny(family, tmp_path / "base", tie=True)
    if shards:
        model = plain(base)
        (base / "model.safetensors").unlink()
        model.save_pretrained(base, max_shard_size="30KB")
    whole = adapter(str(base), [*ends, target_modules(plain(base), "mlp")[0]])
    notes = written(base, whole, tmp_path / "whole")
    ours, theirs = plain(tmp_path / "whole"), plain(base)
    torch.testing.assert_close(logits(ours), logits(theirs, whole), rtol=1e-4, atol=1e-5)
    assert ours.get_output_embeddings().weight is not ours.get_input_embeddings().weight
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["tie_word_embeddings"] is False
    more = theirs.get_input_embeddings().weight.numel()
    assert f"the model has {more:,} parameters more" in notes[0]
    if shards:
        old, new = (json.loads((f / "model.safetensors.index.json").read_text()) for f in (base, tmp_path / "whole"))
        assert new["weight_map"].keys() - old["weight_map"].keys() == {"lm_head.weight"}
        assert new["metadata"]["total_size"] == old["metadata"]["total_size"] + 4 * more


@pytest.mark.parametrize("quantised", [False, True])
def test_a_gguf_base_becomes_a_plain_model(quantised, folder_of, tmp_path):
    file = tiny_gguf(folder_of("llama"), tmp_path / "Tiny.q4_1.gguf", quantised=quantised)
    base = lr.load_base(str(file))
    whole = adapter(str(file), target_modules(base.model, "both"))
    notes = written(file, whole, tmp_path / "whole")
    torch.testing.assert_close(
        logits(plain(tmp_path / "whole")), logits(lr.merge_into(base, whole)), rtol=1e-4, atol=1e-5
    )
    assert notes[0] == f"the base is {base.described} to float32"
    assert f"- The base is {base.described} to float32." in (tmp_path / "whole" / "README.md").read_text()
    again = lr.load_base(str(tmp_path / "whole"))
    assert again.tokenizer("Where does Ann live ?").input_ids == base.tokenizer("Where does Ann live ?").input_ids
    assert not [path for path in (tmp_path / "whole").iterdir() if path.is_dir()]


def test_what_stops_on_the_way_leaves_nothing(sharded, tmp_path, monkeypatch):
    """Until all is written there is no folder of the name."""
    whole, add, seen = adapter(str(sharded), ["model.layers.0.mlp.up_proj", "lm_head"]), merging._add, []

    def stopped(*given):
        seen.append((tmp_path / "whole").exists())
        if len(seen) == 2:
            raise KeyboardInterrupt
        return add(*given)

    monkeypatch.setattr(merging, "_add", stopped)
    with pytest.raises(KeyboardInterrupt):
        written(sharded, whole, tmp_path / "whole")
    assert seen == [False, False]
    assert list(tmp_path.iterdir()) == []


def spoiled(base: Path, how: str) -> None:
    path = base / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.0.mlp.up_proj.weight"
    if how == "quantised":
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    if how == "lacking":
        del tensors[name]
    if how == "integers":
        tensors[name] = tensors[name].to(torch.int8)
    if how == "another shape":
        tensors[name] = tensors[name].T.contiguous()
    save_file(tensors, path, {"format": "pt"})
    if how == "cut off":
        path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("quantised", r"which is quantised \(gptq\)"),
        ("lacking", r"whose files hold nothing for model\.layers\.0\.mlp\.up_proj\.weight"),
        ("integers", r"whose files hold I8 of shape \(48, 32\) for "),
        ("another shape", r"whose files hold F32 of shape \(32, 48\) for "),
        ("cut off", r"whose weights cannot be read \(ValueError: model\.safetensors has "),
    ],
)
def test_a_base_that_cannot_be_merged_into_is_refused(how, said, folder_of, tmp_path):
    shutil.copytree(folder_of("llama"), tmp_path / "base")
    frame = load_frame(str(tmp_path / "base"))
    whole = adapter(str(tmp_path / "base"), ["model.layers.0.mlp.up_proj"])
    spoiled(tmp_path / "base", how)
    with pytest.raises(SettingError, match=rf"^model: got .*base, {said}"):
        save_whole(whole, str(tmp_path / "base"), "", frame, tmp_path / "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_of_a_hub_name_the_files_of_the_model_are_fetched(sharded, tmp_path, monkeypatch):
    asked: list[Any] = []

    def fetched(allow_patterns, **options: Any) -> str:
        asked.append((options["repo_id"], options["revision"], allow_patterns))
        return str(sharded)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    monkeypatch.setattr(merging, "commit_of", lambda name: "0123")
    whole = adapter(str(sharded), ["model.layers.0.mlp.up_proj"])
    save_whole(whole, "org/model", "0123", load_frame(str(sharded)), tmp_path / "whole")
    assert [name for name, *_ in asked] == ["org/model"] * 2
    assert asked[0][1:] == ("0123", list(merging._BESIDE))
    assert asked[1][1:] == ("0123", sorted(tensors_of(sharded)))
    assert tensors_of(tmp_path / "whole").keys() == tensors_of(sharded).keys()


def test_the_command_writes_it_once_for_these_weights_of_the_base(tmp_path, capsys):
    base = tiny("qwen2", tmp_path / "base")
    for seed, name in enumerate("ab"):
        lr.save(adapter(str(base), ["model.layers.0.mlp.up_proj"], seed), tmp_path / name)
    words = [f"library={tmp_path / 'a'},{tmp_path / 'b'}", f"model={base}", f"out={tmp_path / 'out'}", "format=model"]
    assert main([*words, "composition=sum", "max_rank=2"]) == 0, capsys.readouterr().err
    first, *notes = capsys.readouterr().out.splitlines()
    assert first.startswith("sum of 2 adapters, 1 module: a whole model in ")
    assert [note.partition(" is off by ")[0] for note in notes] == ["the cut", "rounding to the base's dtype"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "The cut is off by" in card
    assert "max_rank=2" in card
    assert main([*words, "composition=sum", "max_rank=2"]) == 0
    assert "has sum of these adapters with these dials already" in capsys.readouterr().out
    for other in (["composition=sum"], ["composition=average", "max_rank=2"]):
        assert main([*words, *other]) == 2
    tiny("qwen2", base, seed=7)
    assert main([*words, "composition=sum", "max_rank=2", "another_model=true"]) == 2
    assert capsys.readouterr().err.count("nothing is overwritten") == 3
    assert main([*words[:2], f"out={tmp_path / 'routed'}", "format=model", "composition=arrow"]) == 2
    assert capsys.readouterr().err.startswith("llm.compose: format: got model; allowed: a rule that gives one ΔW")
    assert not (tmp_path / "routed").exists()
