"""GGUF files as bases: read into the model they were written from, by every name, and the one line that each mistake
gets."""

import shutil
from typing import Any

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType, dequantize, quantize

import lora_reuse.llm.decoding.gguf as reading_gguf
import lora_reuse.llm.decoding.names as names
import lora_reuse.llm.decoding.reading as reading
from lora_reuse.llm import smollm2 as fetching
from lora_reuse.llm.adapters.modules import target_modules
from lora_reuse.llm.decoding.models import digest_of, example, load_base, load_frame, stop_ids
from lora_reuse.llm.decoding.names import SMOLLM2, digest, place_of
from lora_reuse.llm.protocols.settings import PRESETS, TwoHop, preset_dials, preset_of, with_preset
from lora_reuse.runs.settings import SettingError
from tests.llm.tiny_gguf import tiny_gguf

fetched = pytest.mark.skipif(not SMOLLM2.is_file(), reason="make smollm was not run: SmolLM2-135M-Instruct is not here")


def mistake(model, **settings):
    """The line a user sees."""
    with pytest.raises(SettingError) as error:
        load_base(str(model), **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_file_is_the_model_and_the_tokenizer_it_was_written_from(family, folder_of, tmp_path):
    folder = folder_of(family)
    theirs, ours = load_base(str(folder)), load_base(str(tiny_gguf(folder, tmp_path / "tiny.gguf")))
    assert ours.name == str(tmp_path / "tiny.gguf")
    assert type(ours.model) is type(theirs.model)
    ids = torch.tensor([theirs.tokenizer("Where does Ann Lee live ?").input_ids])
    assert ours.tokenizer("Where does Ann Lee live ?").input_ids == ids[0].tolist()
    assert torch.equal(ours.model(ids).logits, theirs.model(ids).logits)
    assert (ours.chat, stop_ids(ours)) == (theirs.chat, stop_ids(theirs)) == (family == "qwen2", stop_ids(theirs))
    assert example(ours, "Where ?", "Paris") == example(theirs, "Where ?", "Paris")
    assert not any(p.requires_grad for p in ours.model.parameters())
    assert target_modules(load_frame(ours.name), "both") == target_modules(theirs.model, "both")


def test_a_file_is_opened_once_and_named_once_and_no_bar_is_in_a_log(folder_of, tmp_path, monkeypatch, capfd):
    path, calls = tiny_gguf(folder_of("llama"), tmp_path / "tiny.gguf"), []

    def counted(module, name):
        plain = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given: calls.append(name) or plain(*given))

    counted(reading_gguf, "_Reader")
    counted(gguf, "get_tensor_name_map")
    before = gguf.GGUFReader, gguf.get_tensor_name_map
    capfd.readouterr()
    load_base(str(path))
    assert "Converting" not in capfd.readouterr().err
    assert sorted(calls) == ["_Reader", "get_tensor_name_map"]
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before, "the library is left as it was"
    load_base(str(path))
    assert len(calls) == 4, "nothing is kept from one base to the next"


def test_quantised_matrices_are_dequantised_into_a_plain_model_that_can_be_saved(folder_of, tmp_path):
    base = load_base(str(tiny_gguf(folder_of("qwen2"), tmp_path / "Tiny-1K.q4_1.gguf", quantised=True)))
    plain: Any = load_base(str(folder_of("qwen2"))).model
    weight = plain.model.layers[0].mlp.up_proj.weight
    stored = dequantize(quantize(weight.numpy(), GGMLQuantizationType.Q4_1), GGMLQuantizationType.Q4_1)
    found = base.model.get_submodule("model.layers.0.mlp.up_proj").weight
    assert torch.equal(torch.from_numpy(stored), torch.as_tensor(found))
    assert 0 < (torch.as_tensor(found) - weight).abs().max() < 0.1
    assert base.described == "Tiny-1K, Q4_1, dequantised"
    base.model.save_pretrained(tmp_path / "saved")
    base.tokenizer.save_pretrained(tmp_path / "saved")
    again = load_base(str(tmp_path / "saved"))
    ids = torch.tensor([[7, 8, 9]])
    assert torch.equal(again.model(ids).logits, base.model(ids).logits)
    assert again.described == ""


def test_a_folder_stands_for_the_file_in_it(folder_of, tmp_path):
    path = tiny_gguf(folder_of("llama"), tmp_path / "tiny.gguf")
    assert place_of(str(tmp_path)) == place_of(str(path)) == path
    assert digest_of(str(tmp_path)) == digest(path) == load_base(str(tmp_path)).digest
    before = digest(path)
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert digest_of(str(tmp_path)) != before
    shutil.copy(path, tmp_path / "other.gguf")
    mend = f"name the file: model={tmp_path}/other.gguf"
    assert (
        mistake(tmp_path)
        == f"model: got {tmp_path}, a folder with other.gguf, tiny.gguf; allowed: a folder with one GGUF file; {mend}"
    )


def test_a_dtype_can_be_chosen(folder_of, tmp_path):
    path = str(tiny_gguf(folder_of("llama"), tmp_path / "tiny.gguf"))
    assert {p.dtype for p in load_base(path, dtype="bfloat16").model.parameters()} == {torch.bfloat16}


# Mistakes.


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.999])
def test_a_file_that_was_not_copied_to_its_end(share, folder_of, tmp_path):
    path = tiny_gguf(folder_of("llama"), tmp_path / "tiny.gguf")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    line = mistake(path)
    assert line.startswith(f"model: got {path}, ")
    assert "; allowed: a GGUF file that is whole" in line
    assert ("header cannot be read" in line) == (share < 0.1)


def test_what_is_no_gguf_file(tmp_path):
    path = tmp_path / "tiny.gguf"
    assert f"model: got {path}, and no file {path}; allowed: " in mistake(path)
    path.write_text("<html>not found</html>" * 10)
    assert "whose header cannot be read" in mistake(path)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"parts": 3},
            "one of 3 parts of a GGUF file; allowed: a GGUF file in one part; llama-gguf-split --merge joins them",
        ),
        (
            {"architecture": "bert"},
            "of architecture bert; allowed: an architecture that this transformers reads from GGUF files",
        ),
        ({"eos": False}, "whose tokenizer has no end-of-sequence token; allowed: a tokenizer that can end an answer"),
        (
            {"lacks": "model.norm.weight"},
            "whose weights lack model.norm.weight, or have another shape; allowed: every weight of its config's model",
        ),
    ],
)
def test_files_that_are_refused(changes, line, folder_of, tmp_path):
    path = tiny_gguf(folder_of("llama"), tmp_path / "tiny.gguf", **changes)
    assert mistake(path).removeprefix(f"model: got {path}").lstrip(", ") == line


def test_an_architecture_that_is_no_causal_language_model(folder_of, tmp_path):
    path = tiny_gguf(folder_of("llama"), tmp_path / "tiny.gguf", architecture="t5")
    assert mistake(path) == f"model: got {path}, which is T5Config; allowed: a causal language model"


def test_a_folder_that_cannot_hold_smollm2_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr(fetching, "SMOLLM2", tmp_path / "file" / "smollm2.gguf")
    assert fetching.main([]) == 2
    assert capsys.readouterr().err.startswith("llm.smollm2: LORA_REUSE_CACHE: got ")


def test_smollm2_that_was_not_fetched_says_how_to(tmp_path, monkeypatch):
    monkeypatch.setattr(names, "SMOLLM2", tmp_path / "smollm2.gguf")
    monkeypatch.setattr(reading, "SMOLLM2", tmp_path / "smollm2.gguf")
    assert mistake("smollm2").endswith("; make smollm fetches it")


# Presets.


def test_a_preset_goes_with_the_model_and_not_with_its_name(tmp_path):
    assert [
        preset_of(model) for model in ("pocket", "smollm2", str(SMOLLM2), "Qwen/Qwen2.5-3B-Instruct", str(tmp_path))
    ] == [*("pocket", "smollm2", "smollm2", "", "")]
    assert preset_dials("smollm2") == {"temperature": PRESETS["smollm2"]["temperature"]}
    axes = with_preset(TwoHop, {"model": ("smollm2",), "rate": (1e-4,)})
    assert (axes["steps"], axes["rate"], axes["chat"]) == ((300,), (1e-4,), ("off",))
    with pytest.raises(SettingError, match="got smollm2, which has settings of its own, and pocket, which has others"):
        with_preset(TwoHop, {"model": ("smollm2", "pocket")})
    for pair in (("smollm2", "a/b"), ("a/b", "smollm2")):
        with pytest.raises(
            SettingError, match="got smollm2, which has settings of its own, and a/b, which has the paper's"
        ):
            with_preset(TwoHop, {"model": pair})


@pytest.mark.parametrize("name", ["pocket", pytest.param("smollm2", marks=fetched)])
def test_a_named_base_is_named_in_python_as_in_the_commands(name):
    frame = load_frame(name)
    assert frame.config.vocab_size > 100
    assert digest_of(name) == digest(place_of(name))


@fetched
def test_smollm2_answers():
    from lora_reuse.llm.decoding.greedy import answers

    base = load_base("smollm2")
    assert sum(p.numel() for p in base.model.parameters()) == 134_515_008
    assert base.described == "SmolLM2-135M-Instruct, Q4_1, dequantised"
    assert answers(base, [None], ["What is the capital of France?"], 12) == [["The capital of France is Paris."]]
