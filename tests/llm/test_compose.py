"""The command: what PEFT makes of a static composition on disk, and what is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from lora_reuse.llm.adapters.adapter import Card
from lora_reuse.llm.adapters.folders import linear_shape
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.modules import target_modules
from lora_reuse.llm.adapters.saving import save_composition
from lora_reuse.llm.adapters.writing import save_expert
from lora_reuse.llm.compose import main
from lora_reuse.llm.compositions import RULES
from lora_reuse.llm.decoding.models import digest_of, load_base, load_frame
from lora_reuse.llm.decoding.names import POCKET
from lora_reuse.llm.protocols.dials import EVERY
from tests.llm.composed import IDS, adapter, composed, logits
from tests.llm.tiny import FAMILIES

torch.set_num_threads(1)
ROOT = Path(__file__).parents[2]
STATIC = [name for name, rule in RULES.items() if rule.static]
EVERYWHERE = [family for family in FAMILIES if family not in ("qwen2", "mixtral")]


@pytest.mark.parametrize(
    ("family", "method"), [*(("qwen2", name) for name in STATIC), *((family, "ties") for family in EVERYWHERE)]
)
def test_peft_alone_answers_with_a_saved_composition_as_the_resident_base_does(made, tmp_path, capsys, family, method):
    it = made(family)
    assert main([*it.words, f"composition={method}", f"out={tmp_path / 'out'}"]) == 0, capsys.readouterr().err
    assert "a PEFT adapter of rank" in capsys.readouterr().out
    model, composition = composed(it, method)
    ours, alone = logits(model, composition), logits(model)
    plain: Any = AutoModelForCausalLM.from_pretrained(it.base)
    theirs: Any = PeftModel.from_pretrained(plain, str(tmp_path / "out")).eval()
    with torch.inference_mode():
        torch.testing.assert_close(theirs(input_ids=IDS).logits, ours, rtol=1e-4, atol=1e-5)
    assert (ours - alone).abs().max() > 1e-2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
    }


def test_dials_reach_the_rule_and_the_card(made, tmp_path):
    it = made("qwen2")
    assert main([*it.words, "composition=cat", "weights=0.5,0.5", f"out={tmp_path / 'half'}"]) == 0
    assert main([*it.words, "composition=average", f"out={tmp_path / 'mean'}"]) == 0
    assert main([*it.words, "composition=cat", "weights=-1.5,2", f"out={tmp_path / 'other'}"]) == 0
    half, mean, other = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("half", "mean", "other"))
    assert all(torch.equal(half[key], mean[key]) for key in mean)
    assert not all(torch.equal(half[key], other[key]) for key in mean)
    card = (tmp_path / "other" / "README.md").read_text()
    assert "Dials: weights=(-1.5, 2.0)." in card
    assert "eq. 26" in card
    assert all(Path(place).name in card for place in (it.base, *it.adapters))


def test_ranks_that_a_rule_makes_different_are_told_to_peft(made, tmp_path):
    """The sum of experts whose modules differ in rank."""
    it = made("qwen2")
    model, composition = composed(it, "sum")
    first = next(iter(composition))
    cut = {
        name: LowRank(d.out[:, :1], d.into[:, :1]) if name == first else d
        for name, d in composition.items()
        if isinstance(d, LowRank)
    }
    save_composition(cut, model, tmp_path / "out", Card(str(it.base), "cut"))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 4)
    assert list(config["rank_pattern"].values()) == list(config["alpha_pattern"].values()) == [1]
    plain: Any = AutoModelForCausalLM.from_pretrained(it.base)
    theirs: Any = PeftModel.from_pretrained(plain, str(tmp_path / "out")).eval()
    with torch.inference_mode():
        torch.testing.assert_close(theirs(input_ids=IDS).logits, logits(model, cut), rtol=1e-4, atol=1e-5)


def test_of_many_modules_peft_takes_those_that_are_named(tmp_path):
    """From 20 names on PEFT looks for common endings of them; here no ending fits, since one layer and one other module
    are left out."""
    torch.manual_seed(0)
    sizes: Any = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=20, num_hidden_layers=12, **sizes)).eval()
    names = [
        name for name in target_modules(model, "mlp") if ".5." not in name and name != "model.layers.11.mlp.up_proj"
    ]
    assert len(names) == 32
    shapes = {name: linear_shape(model.get_submodule(name)) or (0, 0) for name in names}
    composition = {
        name: LowRank(torch.randn(out, 1 + i % 3), torch.randn(into, 1 + i % 3))
        for i, (name, (out, into)) in enumerate(shapes.items())
    }
    save_composition(composition, model, tmp_path / "out", Card("a", "b"))
    ours = logits(model, composition)
    theirs: Any = PeftModel.from_pretrained(model, str(tmp_path / "out")).eval()
    assert sum("lora_A.default" in name and name.endswith("weight") for name, _ in theirs.named_parameters()) == 32
    with torch.inference_mode():
        torch.testing.assert_close(theirs(input_ids=IDS).logits, ours, rtol=1e-4, atol=1e-4)


def test_a_frame_has_the_modules_of_the_model_and_none_of_its_weights(made):
    for family in ("gpt2", "opt", "phi3", "gemma2"):
        base = made(family).base
        frame, whole = load_frame(str(base)), load_base(str(base))
        assert [(n, type(m)) for n, m in frame.named_modules()] == [
            (n, type(m)) for n, m in whole.model.named_modules()
        ]
        assert all(parameter.is_meta for parameter in frame.parameters())
        assert {n: p.shape for n, p in frame.named_parameters()} == {
            n: p.shape for n, p in whole.model.named_parameters()
        }
        assert digest_of(str(base)) == whole.digest


# Mistakes


BAD = [
    ("composition=tise", "composition: got 'tise'; allowed: ", "did you mean 'ties'?"),
    (
        "composition=lorahub",
        "composition: got lorahub, which learns from data; allowed: ",
        "and the protocols from their own",
    ),
    (
        "composition=uniform weights=1,2",
        "weights: got (1.0, 2.0); allowed: no dial with composition=uniform; composition=uniform does not read it",
        "",
    ),
    (
        "composition=ties weights=1,2",
        "weights: got (1.0, 2.0); allowed: density, trim; composition=ties does not read it",
        "",
    ),
    ("composition=sum density=0.5", "density: got 0.5; allowed: no dial with composition=sum", ""),
    ("composition=ties seed=1", "seed: got 1; allowed: density, trim", "composition=ties does not read it"),
    ("composition=cat weights=1", "weights: got 1; allowed: one for each of the 2 experts", ""),
    (
        "composition=cat weights=1,nan",
        "weights: got '1,nan'; allowed: numbers joined by : (where there is no grid, by , too); by layers as",
        "",
    ),
    ("composition=ties density=0", "density: got '0'; allowed: a number from 1e-06 to 1", ""),
    ("composition=arrow top_k=3", "top_k: got 3; allowed: at most 2, the adapters", ""),
    ("composition=dare then=tie", "then: got 'tie'; allowed: sum | linear | ties", "did you mean 'ties'?"),
    ("compositon=ties", "compositon: got an unknown setting", "did you mean 'composition'?"),
    ("method=ties", "method: got an unknown setting", "it is composition= now"),
    ("composition=lego rank=3", "rank: got an unknown setting", "it is merged_rank= now"),
    ("", "composition: got nothing; allowed: composition=...", ""),
    ("composition=ties library={a},{a}", "library: got ", "each adapter once"),
    ("composition=ties library={a},{a}/", "library: got ", "each adapter once"),
    ("composition=ties library={a},", "library: got ", "each adapter once"),
    ("composition=ties library={a},nobody/nothing", "nobody/nothing, which is no folder here and not in the", "a PEFT"),
    (
        "composition=ties library={a},/no/such/folder",
        "which is no folder here and cannot be a name on the hub",
        "a PEFT",
    ),
    ("composition=ties library={a},{file}", "which is a file; allowed: a PEFT folder", ""),
    ("composition=ties library={a},{base}", "expert: got no adapter_config.json in ", ""),
    ("composition=ties library={a},{biases}", 'expert: got bias="all" in ', "were trained, too"),
    ("composition=ties library={a},{elsewhere}", "model: got ", "another_model=true composes it all the same"),
    ("composition=ties library={a},{stale}", "other weights than ", "another_model=true composes it all the same"),
    ("composition=ties model={a}", "model: got ", "an adapter is no model"),
    ("composition=ties model=nobody/nothing", "model: got nobody/nothing, which is no folder here", ""),
    (f"composition=ties library={'x' * 5000}", "expert: got xxx", "a PEFT folder, or a hub name"),
    (f"composition=ties model={'x' * 5000}", "model: got xxx", "allowed: a model's name"),
    ("composition=ties out={full}", "out: got ", "nothing is overwritten"),
    ("composition=ties out={file}/folder", "out: got ", "a folder that can be written"),
]


@pytest.mark.parametrize(("text", "start", "end"), BAD, ids=[text[:40] for text, *_ in BAD])
def test_a_mistake_is_one_line_exit_code_2_and_nothing_written(made, tmp_path, capsys, monkeypatch, text, start, end):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    it = made("qwen2")
    places = {name: tmp_path / name for name in ("biases", "elsewhere", "stale", "full", "file")} | {
        "base": it.base,
        "a": Path(it.adapters[0]),
    }
    for name in ("biases", "elsewhere", "stale"):
        shutil.copytree(it.adapters[1], places[name])
    config = json.loads((places["biases"] / "adapter_config.json").read_text())
    (places["biases"] / "adapter_config.json").write_text(json.dumps(config | {"bias": "all"}))
    (places["elsewhere"] / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": "someone/another-model"})
    )
    (places["stale"] / "expert.json").write_text(json.dumps({"base_digest": "0" * 16}))
    (places["full"]).mkdir()
    (places["full"] / "something").write_text("mine")
    places["file"].write_text("")
    words = text.format(**places).split()
    words += [
        word
        for word in (*it.words, f"out={tmp_path / 'out'}")
        if word.split("=")[0] not in {given.split("=")[0] for given in words}
    ]
    capsys.readouterr()  # of making the adapters
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("llm.compose: ")
    assert start in captured.err
    assert end in captured.err
    assert not (tmp_path / "out").exists()
    assert [path.name for path in places["full"].iterdir()] == ["something"]


def test_a_home_folder_is_one(made, tmp_path, monkeypatch):
    it = made("qwen2")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for own in it.adapters:
        shutil.copytree(own, tmp_path / Path(own).name)
    names = ", ".join(f"~/{Path(own).name}" for own in it.adapters)
    assert main([f"library={names}", f"model={it.base}", "composition=sum", "out=~/both"]) == 0
    assert (tmp_path / "both" / "adapter_config.json").is_file()
    assert not (tmp_path / "~").exists()


def test_the_base_is_the_one_the_first_adapter_names(made, tmp_path):
    it = made("qwen2")
    for words, out in ((it.words, "said"), (it.words[1:], "named")):
        assert main([*words, "composition=ties", f"out={tmp_path / out}"]) == 0
    said, named = ((tmp_path / out / "adapter_model.safetensors").read_bytes() for out in ("said", "named"))
    assert said == named


@pytest.mark.parametrize("rule", ["ties", "arrow"])
def test_the_same_command_again_finds_what_it_made_and_another_is_refused(made, tmp_path, capsys, rule):
    it = made("qwen2")
    library = [shutil.copytree(folder, tmp_path / Path(folder).name) for folder in it.adapters]
    out = tmp_path / "out"
    words = [it.words[0], f"library={library[0]},{library[1]}", f"composition={rule}", f"out={out}"]
    assert main(words) == 0
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    capsys.readouterr()
    assert main(words) == 0
    assert capsys.readouterr().out == f"{out} has {rule} of these adapters with these dials already\n"
    assert main([*words, "another_model=true"]) == 0  # it changes nothing that is made
    dial = {"ties": "density=0.5", "arrow": "top_k=1"}[rule]
    for others in ([*words, dial], [words[0], f"library={library[1]},{library[0]}", *words[2:]]):
        assert main(others) == 2
    adapter(it.base, library[1], 7)
    assert main(words) == 2
    assert capsys.readouterr().err.count("nothing is overwritten") == 3
    assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}


def test_what_lost_its_weights_is_not_there_already(made, tmp_path, capsys):
    it, out = made("qwen2"), tmp_path / "out"
    words = [*it.words, "composition=sum", f"out={out}"]
    assert main(words) == 0
    (out / "adapter_model.safetensors").unlink()
    assert main(words) == 2
    assert "nothing is overwritten" in capsys.readouterr().err


def test_a_change_of_the_bases_own_weights_is_of_that_base(made, tmp_path, capsys):
    """ΔW of DoRA depends on W: on another base of the same name it is another one."""
    it = made("qwen2")
    for i, place in enumerate(("one", "two")):
        shutil.copytree(it.base, tmp_path / place / "base")
        weights = tmp_path / place / "base" / "model.safetensors"
        save_file({name: (1 + i) * it for name, it in load_file(weights).items()}, weights, {"format": "pt"})
    adapted: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(it.base), LoraConfig(r=2, use_dora=True))
    adapted.save_pretrained(str(tmp_path / "dora"))
    words = [f"library={tmp_path / 'dora'}", "composition=sum", "another_model=true", f"out={tmp_path / 'out'}"]
    assert main([*words, f"model={tmp_path / 'one' / 'base'}"]) == 0, capsys.readouterr().err
    assert main([*words, f"model={tmp_path / 'one' / 'base'}"]) == 0
    assert "already" in capsys.readouterr().out
    assert main([*words, f"model={tmp_path / 'two' / 'base'}"]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err


def test_an_adapter_that_names_no_base_needs_one(made, tmp_path, capsys):
    it = made("qwen2")
    nameless = shutil.copytree(it.adapters[0], tmp_path / "nameless")
    config = json.loads((nameless / "adapter_config.json").read_text())
    (nameless / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    words = [f"library={nameless},{it.adapters[1]}", "composition=ties", f"out={tmp_path / 'out'}"]
    capsys.readouterr()
    assert main(words) == 2
    assert capsys.readouterr().err.endswith("does not name the model it was trained on\n")
    assert not (tmp_path / "out").exists()
    assert main([f"model={it.base}", *words]) == 0


@pytest.mark.parametrize("named", ["pocket", str(POCKET)])
@pytest.mark.parametrize("given", [[], ["model=pocket"], [f"model={POCKET}"]])
def test_the_pocket_model_is_one_base_by_both_of_its_names(named, given, tmp_path, capsys):
    frame = load_frame("pocket")
    shapes = {name: linear_shape(frame.get_submodule(name)) for name in target_modules(frame, "mlp")}
    for seed, name in enumerate("ab"):
        draw = torch.Generator().manual_seed(seed)
        expert = {
            module: LowRank(*(torch.randn(rows, 2, generator=draw) for rows in shape))
            for module, shape in shapes.items()
            if shape
        }
        save_expert(expert, tmp_path / name, named)
    words = [*given, f"library={tmp_path / 'a'},{tmp_path / 'b'}", "composition=sum", f"out={tmp_path / 'out'}"]
    assert main(words) == 0, capsys.readouterr().err


@pytest.mark.parametrize(("rule", "said"), [("ties_svd", True), ("knots", False)])
def test_that_a_rule_takes_minutes_is_said_before_it_begins(made, tmp_path, capsys, monkeypatch, rule, said):
    """Of a module of 48 × 32 it takes no time, and nothing is said: here by a measure of its own."""
    it, line = made("qwen2"), f"{rule} forms every ΔW: "
    assert main([*it.words, f"composition={rule}", f"out={tmp_path / 'a'}"]) == 0
    assert line not in capsys.readouterr().out
    monkeypatch.setattr("lora_reuse.llm.compositions.add_weighted_adapter.SECONDS", 1.0)
    assert main([*it.words, f"composition={rule}", f"out={tmp_path / 'b'}"]) == 0
    written = capsys.readouterr().out
    assert written.startswith(f"{line}9.2e+03 entries, 154 min to 307 min of a core; ") == said  # 6 of 48 × 32


def test_another_base_is_composed_when_it_is_wanted(made, tmp_path, capsys):
    it = made("qwen2")
    shutil.copytree(it.adapters[1], tmp_path / "b")
    (tmp_path / "b" / "expert.json").write_text(json.dumps({"base_digest": "0" * 16}))
    words = [
        f"model={it.base}",
        f"library={it.adapters[0]},{tmp_path / 'b'}",
        "composition=sum",
        f"out={tmp_path / 'out'}",
    ]
    capsys.readouterr()  # of making the adapters
    assert main(words) == 2
    message = capsys.readouterr().err
    assert f"({digest_of(str(it.base))}), other weights than" in message  # both digests, of the model and of its name
    assert f"({it.base}, {'0' * 16})" in message
    assert main([*words, "another_model=true"]) == 0, capsys.readouterr().err
    (tmp_path / "b" / "expert.json").write_text(json.dumps({"base_digest": digest_of(str(it.base))}))
    assert main([*words[:-1], f"out={tmp_path / 'right'}"]) == 0, capsys.readouterr().err


def test_help_is_quick_and_knows_no_torch():
    code = """if True:
        import sys
        from lora_reuse.llm.compose import main
        assert main(["--help"]) == 0 and main([]) == 0
        print([name for name in ("torch", "transformers", "jax", "numpy") if name in sys.modules])"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("lora-reuse compose library=")
    assert all(name in run.stdout for name in EVERY)
    assert run.stdout.endswith("[]\n")
