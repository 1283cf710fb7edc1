"""A composition on disk: how it comes back, and which folders are none."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lora_reuse.llm.adapters.adapter import Card
from lora_reuse.llm.adapters.folders import digest, load_expert
from lora_reuse.llm.adapters.saving import load_composition, save_composition
from lora_reuse.llm.compose import main
from lora_reuse.llm.compositions import compose, kind
from lora_reuse.llm.compositions.arrow import Routed
from lora_reuse.llm.learned import LEARNED
from lora_reuse.runs.settings import SettingError
from tests.llm.composed import composed, logits

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("family", "words", "dials"),
    [
        ("qwen2", ["composition=arrow"], {}),
        (
            "qwen2",
            ["composition=arrow_after", "top_k=1", "temperature=0.5", "prototypes=random"],
            {"top_k": 1, "temperature": 0.5, "prototypes": "random"},
        ),
        (
            "llama",
            ["composition=arrow", "scores=cosine", "prototypes=swapped"],
            {"scores": "cosine", "prototypes": "swapped"},
        ),
        ("gpt2", ["composition=arrow_after"], {}),
    ],
)
def test_a_routed_composition_comes_back_to_the_bit(made, tmp_path, capsys, family, words, dials):
    it = made(family)
    assert main([*it.words, *words, f"out={tmp_path / 'out'}"]) == 0, capsys.readouterr().err
    assert "a routed composition in" in capsys.readouterr().out
    model, composition = composed(it, words[0].removeprefix("composition="), **dials)
    loaded = load_composition(tmp_path / "out", model)
    assert torch.equal(logits(model, loaded), logits(model, composition))
    assert (logits(model, loaded) - logits(model)).abs().max() > 1e-2
    said = json.loads((tmp_path / "out" / "composition.json").read_text())
    assert (said["rule"], said["base"]) == (words[0].removeprefix("composition="), Path(it.base).name)
    assert said["experts"] == [[Path(adapter).name, digest(adapter)] for adapter in it.adapters]
    card = (tmp_path / "out" / "README.md").read_text()
    assert f'base_model: "{Path(it.base).name}"' in card
    assert str(it.base) not in card.partition("Made by")[0]
    assert said["dials"]["prototypes"] == dials.get("prototypes", "own")
    if "arrow" in words[0]:
        other = compose(
            words[0].removeprefix("composition="),
            [load_expert(f, model) for f in reversed(it.adapters)],
            temperature=1e3,
        )
        assert not torch.equal(logits(model, loaded), logits(model, other))


@pytest.mark.parametrize("name", LEARNED)
def test_what_is_learned_is_saved_alike(made, tmp_path, name):
    """Static ones for PEFT, routers as ours; with parameters off their start."""
    it = made("qwen2")
    model: Any = AutoModelForCausalLM.from_pretrained(it.base).eval()
    experts = [load_expert(folder, model) for folder in it.adapters]
    torch.manual_seed(3)
    parameters = {key: torch.randn_like(value) for key, value in LEARNED[name].start(experts).items()}
    composition = LEARNED[name].build(experts, parameters)
    save_composition(composition, model, tmp_path / "out", Card(str(it.base), name, made="a test"))
    assert (tmp_path / "out" / "adapter_config.json").exists() == LEARNED[name].static
    loaded = load_composition(tmp_path / "out", model)
    torch.testing.assert_close(logits(model, loaded), logits(model, composition))
    assert (logits(model, loaded) - logits(model)).abs().max() > 1e-3


def spoiled(folder: Path, what: str) -> None:
    said = json.loads((folder / "composition.json").read_text())
    name = next(iter(said["modules"]))
    if what == "format":
        said["format"] = 2
    if what == "kind":
        said["modules"][name]["kind"] = "subprocess.Popen"
    if what == "class":
        del said["modules"][name]["kind"]
        said["modules"][name]["class"] = "subprocess.Popen"
    if what == "field":
        said["modules"][name]["widths"] = 3
    if what == "module":
        said["modules"]["model.layers.9.mlp.up_proj"] = said["modules"].pop(name)
    (folder / "composition.json").write_text("{" if what == "json" else json.dumps(said))
    if what == "factors":
        (folder / "composition.safetensors").write_bytes((folder / "composition.safetensors").read_bytes()[:100])


@pytest.mark.parametrize("what", ["format", "kind", "class", "field", "module", "json", "factors"])
def test_a_folder_that_is_no_composition_of_the_model_is_refused(made, tmp_path, what):
    it = made("qwen2")
    model, composition = composed(it, "arrow")
    save_composition(composition, model, tmp_path / "out", Card(str(it.base), "arrow"))
    spoiled(tmp_path / "out", what)
    with pytest.raises(SettingError, match=r"^composition: got ") as error:
        load_composition(tmp_path / "out", model)
    assert str(tmp_path / "out") in str(error.value)


def test_a_folder_of_an_earlier_version_names_classes_and_loads(made, tmp_path):
    it = made("qwen2")
    model, composition = composed(it, "arrow", temperature=0.5)
    save_composition(composition, model, tmp_path / "out", Card(str(it.base), "arrow"))
    said = json.loads((tmp_path / "out" / "composition.json").read_text())
    for fields in said["modules"].values():
        assert fields.pop("kind") == "Routed"
        fields["class"] = "llm.compositions.arrow.Routed"
    said["options"] = said.pop("dials")
    (tmp_path / "out" / "composition.json").write_text(json.dumps(said))
    assert torch.equal(logits(model, load_composition(tmp_path / "out", model)), logits(model, composition))


def test_a_composition_of_another_model_is_refused_both_ways(made, tmp_path):
    it, other = made("qwen2"), made("gpt2")
    model, composition = composed(it, "arrow")
    wrong: Any = AutoModelForCausalLM.from_pretrained(other.base)
    save_composition(composition, model, tmp_path / "out", Card(str(it.base), "arrow"))
    with pytest.raises(SettingError, match="no such linear module or embedding in the model"):
        load_composition(tmp_path / "out", wrong)
    with pytest.raises(SettingError, match="no such linear module or embedding in the model"):
        save_composition(composition, wrong, tmp_path / "new", Card("x", "y"))
    assert not (tmp_path / "new").exists()


@kind
@dataclasses.dataclass(frozen=True)
class Odd(Routed):
    """Arrow with a field that is no tensor, number or word."""

    more: Any = None


def test_what_no_file_can_hold_leaves_nothing_behind(made, tmp_path):
    it = made("qwen2")
    model, composition = composed(it, "arrow")
    name: str = next(iter(composition))
    delta: Any = composition[name]
    for spoilt, message in (
        (dataclasses.replace(delta, out=delta.out * float("nan")), f"NaN or infinity in out of {name}"),
        (Odd(**vars(delta), more=print), f"more, a builtin_function_or_method, in {name}"),
    ):
        with pytest.raises(SettingError, match=message):
            save_composition({**composition, name: spoilt}, model, tmp_path / "out", Card(str(it.base), "arrow"))
    save_composition(composition, model, tmp_path / "out", Card(str(it.base), "arrow"))
    with pytest.raises(SettingError, match="a new or empty folder"):
        save_composition(composition, model, tmp_path / "out", Card(str(it.base), "arrow"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
