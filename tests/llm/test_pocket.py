"""The pocket model: its pretraining, its command, its card, and the committed one."""

import dataclasses
import functools
import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer

from lora_reuse.llm.decoding.greedy import answers
from lora_reuse.llm.decoding.models import load_base
from lora_reuse.llm.decoding.names import POCKET, place_of
from lora_reuse.llm.pocket import card, corpus, pretrain, switches
from lora_reuse.llm.pocket.__main__ import Options, main
from lora_reuse.llm.pocket.card import write_card
from lora_reuse.llm.pocket.corpus import RELATIONS, World, ask
from lora_reuse.llm.pocket.size import ROW, ROWS, Size
from lora_reuse.llm.protocols.settings import preset_dials
from lora_reuse.runs.settings import SettingError, parse
from tests.llm.test_pocket_tokenizer import tokenizer

torch.set_num_threads(1)

ROOT = Path(__file__).parents[2]
SMALL = Size(width=32, layers=2, heads=2, feed_forward=64, tokens=100_000)
WORDS = ["width=32", "layers=2", "heads=2", "feed_forward=64", "threads=1"]


# Pretraining


class Trained(NamedTuple):
    """A small sibling of the pocket model."""

    folder: Path
    made: pretrain.Made
    seconds: float


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "small.0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "KEEP_EVERY", 8)
        started = time.process_time()
        made = pretrain.pretrain(SMALL, folder)
    return Trained(folder, made, time.process_time() - started)


def log_of(folder):
    head, *lines = (folder / "pretraining.csv").read_text().splitlines()
    assert head == "step,tokens,loss,seconds"
    return [[float(value) for value in line.split(",")] for line in lines]


def bits(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_a_small_sibling_learns(trained):
    log = log_of(trained.folder)
    assert [line[0] for line in log] == [8, 16, 24, 32, 33]
    assert [line[1] for line in log] == [step * ROW * ROWS for step in (8, 16, 24, 32, 33)]
    assert log[0][2] > 5  # chance is log 1086 = 7
    assert log[3][2] < log[0][2] - 0.7
    assert trained.made["loss"] == log[-1][2]
    assert trained.made["parameters"] == sum(
        tensor.numel() for name, tensor in bits(trained.folder).items() if "lm_head" not in name
    )


def test_it_is_an_ordinary_folder(trained):
    assert {path.name for path in trained.folder.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    config = json.loads((trained.folder / "config.json").read_text())
    assert (config["model_type"], config["hidden_size"], config["num_hidden_layers"]) == ("qwen2", 32, 2)
    base = load_base(str(trained.folder))
    assert not base.chat
    (said,) = answers(base, [None], ["Where does Plato live?"], 8)
    assert len(said) == 1
    assert all(tensor.dtype == torch.bfloat16 for tensor in bits(trained.folder).values())


def test_load_base_gives_its_tokenizer_back_and_the_auto_class_does_not(trained):
    text = "Where does Sun Yat-sen live?\nQuawelm's spouse lives in New York."
    ours = tokenizer()(text)["input_ids"]
    loaded: Any = load_base(str(trained.folder)).tokenizer
    assert loaded(text)["input_ids"] == ours
    assert loaded.decode(ours) == text
    assert loaded.get_vocab() == tokenizer().get_vocab()
    assert (loaded.eos_token_id, loaded.pad_token_id, loaded.padding_side) == (
        tokenizer().eos_token_id,
        tokenizer().pad_token_id,
        "left",
    )
    auto: Any = AutoTokenizer.from_pretrained(trained.folder)  # it builds Qwen's own for a qwen2 folder
    assert auto(text)["input_ids"] != ours


SHORT = dataclasses.replace(SMALL, tokens=30_000)


@pytest.fixture
def stop(monkeypatch):
    """A function that lets training go on for some steps and then kills it."""
    monkeypatch.setattr(pretrain, "KEEP_EVERY", 3)
    step = pretrain._step

    def set_(count):
        left = iter(range(count))

        def until(*arguments):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return step(*arguments)

        monkeypatch.setattr(pretrain, "_step", until)

    return set_


def test_killed_anywhere_it_goes_on_to_the_same_bits(stop, tmp_path, monkeypatch):
    stop(100)
    whole = pretrain.pretrain(SHORT, tmp_path / "whole")
    for count in (5, 4):  # between two checkpoints, and again: steps 0-4, then 3-6
        stop(count)
        with pytest.raises(KeyboardInterrupt):
            pretrain.pretrain(SHORT, tmp_path / "killed")
    assert pretrain.checkpoint(tmp_path / "killed").exists()
    stop(4)  # 6-9
    made = pretrain.pretrain(SHORT, tmp_path / "killed")
    one, other = bits(tmp_path / "whole"), bits(tmp_path / "killed")
    assert all(torch.equal(one[name], other[name]) for name in one | other)
    assert [line[:3] for line in log_of(tmp_path / "whole")] == [line[:3] for line in log_of(tmp_path / "killed")]
    assert made["loss"] == whole["loss"]
    stop(0)  # all is trained: only written again
    assert pretrain.pretrain(SHORT, tmp_path / "killed")["loss"] == whole["loss"]


def test_checkpoints_of_two_folders_are_two(tmp_path):
    assert pretrain.checkpoint(tmp_path / "pocket-0.5") != pretrain.checkpoint(tmp_path / "pocket-0.7")
    assert pretrain.checkpoint(Path()).parent == Path.cwd().parent


def test_heads_that_do_not_divide_the_width_are_refused(tmp_path):
    for heads in (3, 32):  # 32: one feature a head, and rotary positions need pairs
        with pytest.raises(SettingError, match=f"heads: got {heads}; allowed: a divisor of width/2=16"):
            pretrain.pretrain(dataclasses.replace(SMALL, heads=heads), tmp_path / "model")


# The command and the card


@pytest.fixture
def quick(monkeypatch):
    """A card from two questions an ability, with answers of four tokens."""
    monkeypatch.setattr(card, "write_card", functools.partial(write_card, questions=2))
    monkeypatch.setattr(
        card, "answers", lambda base, compositions, questions, longest: answers(base, compositions, questions, 4)
    )


def test_the_command_makes_a_model_with_its_card(tmp_path, capsys, quick):
    out = tmp_path / "new" / "model.1"
    assert main([*WORDS, "tokens=10000", "conflict=true", "coverage=0.5", f"out={out}"]) == 0
    assert "one hop, spouse_of" in capsys.readouterr().out
    assert switches(out) == dataclasses.replace(SMALL, tokens=10_000, conflict=True, coverage=0.5).recorded
    assert switches(tmp_path) == {}
    assert sorted(path.name for path in out.parent.iterdir()) == ["model.1"]
    assert main([*WORDS, "tokens=10000", f"out={out}"]) == 2
    assert "which holds a model" in one_line(capsys)
    assert main([*WORDS, "tokens=10000", "conflict=true", "coverage=0.5", f"out={out}"]) == 0
    assert capsys.readouterr().out == f"{out} holds the model of these settings already\n"


def test_a_model_names_a_younger_setting_only_where_it_is_not_at_its_default(tmp_path, quick):
    given = [*WORDS, "tokens=10000", "exposure=0.25", "direct=3", f"out={tmp_path / 'model'}"]
    assert main(given) == 0
    found = switches(tmp_path / "model")
    assert found == dataclasses.replace(SMALL, tokens=10_000, exposure=0.25, direct=3.0).recorded
    assert set(found) - set(SMALL.recorded) == {"exposure", "direct"}
    assert "coverage=1.0, exposure=0.25, direct=3.0, seed 0" in (tmp_path / "model" / "README.md").read_text()
    assert Size(**SMALL.recorded) == SMALL


def test_a_device_that_is_not_there_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert main([*WORDS, "tokens=10000", "device=mps", f"out={tmp_path / 'model'}"]) == 2
    assert "device: got mps; allowed: auto | cpu" in one_line(capsys)
    assert not (tmp_path / "model").exists()


def one_line(capsys):
    err = capsys.readouterr().err
    assert err.startswith("llm.pocket: ")
    assert err.count("\n") == 1
    return err


def test_interrupted_while_it_measures_the_command_goes_on(tmp_path, capsys, monkeypatch, quick):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    quickly, given = card.write_card, [*WORDS, "tokens=10000", f"out={tmp_path / 'model'}"]
    monkeypatch.setattr(card, "write_card", interrupted)
    assert main(given) == 130
    assert "the same command goes on" in capsys.readouterr().err.splitlines()[-1]
    weights = bits(tmp_path / "model")
    monkeypatch.setattr(card, "write_card", quickly)
    assert main(given) == 0
    assert (tmp_path / "model" / "pocket.json").exists()
    again = bits(tmp_path / "model")
    assert all(torch.equal(weights[name], again[name]) for name in weights | again)
    assert not pretrain.checkpoint(tmp_path / "model").exists()


def test_other_settings_on_the_same_folder_are_refused(tmp_path, capsys, stop):
    stop(4)
    given = [*WORDS, "tokens=30000", f"out={tmp_path / 'model'}"]
    assert main(given) == 130
    one_line(capsys)
    for other in (["seed=1"], ["skill=same"]):
        assert main([*given, *other]) == 2
        assert "begun with other settings" in one_line(capsys)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (["widht=64"], "did you mean 'width'?"),
        (["seed=0,1"], "one model a command"),
        (["skill=others"], "none | other | same"),
        (["skill=same", "exposure=0.5"], "exposure: got 0.5 with skill=same"),
        (["out={file}/model"], "can be written"),
        (["out={file}"], "can be written"),
    ],
)
def test_mistakes_are_one_line_that_helps(given, part, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    assert main([*WORDS[:-1], *(word.format(file=file) for word in given)]) == 2
    assert part in one_line(capsys)


def test_help_and_dry_run_know_no_torch():
    code = """if True:
        import sys
        from lora_reuse.llm.pocket.__main__ import main
        assert main(["--help"]) == 0 and main(["dry_run=true", "tokens=1e6"]) == 0
        print([name for name in ("torch", "transformers", "jax") if name in sys.modules])"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert all(f.name in run.stdout for f in dataclasses.fields(Size))
    assert "326 steps of 3067 tokens into results/pocket" in run.stdout
    assert run.stdout.endswith("nothing was run\n[]\n")


def test_the_card_says_what_was_made_and_what_it_can_do(trained, quick):
    said = write_card(trained.folder, SMALL, trained.made, questions=3)
    found = json.loads((trained.folder / "pocket.json").read_text())
    assert set(found) == {"made", "size", "abilities"}
    assert found["made"] == trained.made
    assert f"threads={torch.get_num_threads()}`" in (trained.folder / "README.md").read_text()
    assert Size(**found["size"]) == SMALL
    prompts = ("direct", "step by step in the corpus's words", "step by step in the words of Table 6")
    hops = [f"two hops {prompt}, {pairs}" for pairs in ("other pairs", "the tested pair") for prompt in prompts]
    assert list(found["abilities"]) == [f"one hop, {relation}" for relation in RELATIONS] + hops
    assert all(0 <= hits <= total == 3 for hits, total in found["abilities"].values())
    text = (trained.folder / "README.md").read_text()
    assert text.startswith("---\nlicense: apache-2.0\n")
    for name in found["abilities"]:
        assert f"| {name} | " in text
        assert name in said
    (command,) = re.findall(r"`python -m llm\.pocket (.*)`", text)
    axes, _ = parse(command.split(), Size, Options)
    assert Size(**{name: value for name, (value,) in axes.items()}) == SMALL


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("Plato", "Plato is the spouse of Voltaire.", True),
        (
            "Plato",
            "Voltaire is the spouse of Julius Caesar.\nWho is the child of Voltaire?\nPlato is.",
            False,
        ),  # it goes on by itself
        ("baker", "Plato works as a baker.", True),
        ("cook", "Plato works as a baker.", False),
        ("Rome", "", False),
    ],
)
def test_a_direct_answer_counts_up_to_the_next_question(gold, answer, right):
    assert card._right(gold, answer, False) is right


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("Rome", "To begin, ask: Who is it? It is Plato. Next, ask: Where? In Paris. So the reply is Rome.", True),
        ("Rome", "To begin, ask: Who is it? It is Plato. Next, ask: Where? In Rome. So the reply is Paris.", False),
        ("Rome", "Where does Plato live? Plato lives in Rome.\nTherefore, the answer is Paris.", False),
        ("Rome", "First: Who is it?\nIt is Plato.\nSecond: Where?\nIn Paris.\nTherefore: Rome.", True),
        ("Rome", "\n", False),
    ],
)
def test_an_answer_in_steps_is_its_last_sentence(gold, answer, right):
    assert card._right(gold, answer, True) is right


# The committed model

MODEL = POCKET
committed = pytest.mark.skipif(not (MODEL / "config.json").exists(), reason="no pocket model is in llm/pocket/model")


@committed
def test_the_committed_model_is_small_and_safe():
    files = {path.name: path.stat().st_size for path in MODEL.iterdir()}
    assert sum(files.values()) <= 20e6
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
        "pocket.json",
        "pretraining.csv",
    } <= set(files)
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl", ".py", ".partial"))]


@committed
def test_arrow_has_the_temperature_of_the_protocols_on_it():
    folder = str(POCKET)
    found = [preset_dials(model) for model in ("pocket", folder, "Qwen/Qwen2.5-3B-Instruct")]
    assert found == [{"temperature": 0.25}, {"temperature": 0.25}, {}]


def test_the_committed_model_is_what_the_defaults_make():
    assert switches(MODEL) == Size().recorded
    loaded: Any = load_base(str(MODEL)).tokenizer
    assert loaded.get_vocab() == tokenizer().get_vocab()


@committed
def test_the_committed_model_knows_its_world():
    base, size, rng = load_base(str(MODEL)), Size(**switches(MODEL)), random.Random(0)
    facts = World(size, size.seed).facts
    asked = [(relation, *rng.choice(list(facts[relation].items()))) for relation in RELATIONS * 2]
    (said,) = answers(base, [None], [ask(relation, a, b, rng).prompt for relation, a, b in asked], 32)
    wrong = [(a, b, answer) for (_, a, b), answer in zip(asked, said, strict=True) if not card._right(b, answer, False)]
    assert len(wrong) <= 1, wrong


def test_a_model_is_named_by_its_folder():
    assert place_of("results/pocket") == Path("results/pocket")
    assert place_of("pocket") == Path(corpus.__file__).parent / "model"
