"""Adapters of one's own composed by a rule that learns: in Python and by `lora-reuse learn`."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import lora_reuse as lr
from lora_reuse.llm import learned
from lora_reuse.llm.adapters import checkpoint
from lora_reuse.llm.adapters.folders import WEIGHTS
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.compositions.arrow import Routed
from lora_reuse.llm.decoding.models import example
from lora_reuse.llm.decoding.names import place_of
from lora_reuse.llm.decoding.resident import Resident
from lora_reuse.llm.learn import main
from lora_reuse.llm.learned import LEARNED, Learning
from lora_reuse.llm.learned import learn as learn_numbers
from lora_reuse.llm.learned.fitting import answer_loss
from tests.llm.test_api import random_adapter

torch.set_num_threads(1)
OWN = [("Where does Ann Lee live?", "Ann Lee lives in Rome."), ("Who is the spouse of Ann Lee?", "Bo Ray.")]
QUICK = {"learn_steps": 6, "learn_rate": 0.02}


@pytest.fixture(scope="module")
def there(tmp_path_factory) -> Path:
    """Two adapters of the pocket model, and examples."""
    root = tmp_path_factory.mktemp("learn")
    for seed, name in enumerate("ab"):
        random_adapter(lr.load_base("pocket"), root / name, seed)
    (root / "own.jsonl").write_text("".join(json.dumps({"prompt": p, "answer": a}) + "\n" for p, a in OWN))
    return root


@pytest.fixture(scope="module")
def base() -> lr.Base:
    return lr.load_base("pocket")


@pytest.fixture(scope="module")
def library(there, base) -> list[lr.Adapter]:
    return [lr.load_adapter(base, there / name) for name in "ab"]


def loss(base: lr.Base, composition) -> float:
    with Resident(base.model) as resident, torch.inference_mode():
        return float(answer_loss(base, resident, composition, [example(base, *pair) for pair in OWN]))


@pytest.mark.parametrize("rule", LEARNED)
def test_what_the_protocols_learn_is_learned_to_the_bit(base, library, rule):
    knobs = QUICK if LEARNED[rule].rate else {"learn_tries": 12}
    both = lr.learn(base, library, rule, OWN, batch=2, seed=3, progress=False, **knobs)
    learning = Learning(knobs.get("learn_rate", 0), 6, 2, 12, 3)
    same = learn_numbers(
        rule, [dict(it.experts()) for it in library], base, [example(base, *pair) for pair in OWN], "own", learning
    )
    assert both.static == LEARNED[rule].static
    assert set(both) == set(same.composition)
    for name, delta in both.items():
        expected = same.composition[name]
        if isinstance(expected, LowRank):
            assert isinstance(delta, LowRank)
            assert torch.equal(delta.out, expected.out)
        else:
            assert isinstance(delta, Routed)
            assert isinstance(expected, Routed)
            inputs = torch.randn(4, delta.shape[1], generator=torch.Generator().manual_seed(0))
            assert torch.equal(delta.weights(inputs), expected.weights(inputs))
    assert both.card.title == f"{rule}:learned of 2 adapters"


def test_it_fits_its_examples_better_than_the_average(base, library):
    both = lr.learn(base, library, "cat", OWN, progress=False, learn_steps=40)
    assert loss(base, both) < 0.9 * loss(base, lr.compose(library, "average"))


def test_a_folder_says_what_was_learned_and_peft_loads_it(there, base, tmp_path, capsys):
    words = [
        f"library={there / 'a'},{there / 'b'}",
        f"out={tmp_path / 'm'}",
        f"examples={there / 'own.jsonl'}",
        "granularity=layer",
        "learn_steps=4",
    ]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert f"cat of 2 adapters, learned from 2 examples: a PEFT adapter of rank 4 in {tmp_path / 'm'}\n" in said
    assert "- a: " in said
    card = (tmp_path / "m/README.md").read_text()
    assert "Dials: granularity=layer, learn_rate=0.05, learn_steps=4, batch=16, seed=0, examples=2 (" in card
    assert "The number that was learned for each adapter:\n\n- a: " in card
    plain = AutoModelForCausalLM.from_pretrained(place_of("pocket"), dtype=torch.float32)
    tokens = torch.arange(6)[None]
    with torch.inference_mode(), Resident(base.model) as resident:
        theirs = PeftModel.from_pretrained(plain, str(tmp_path / "m"))(input_ids=tokens).logits
        resident.use([lr.load(base, tmp_path / "m")])
        torch.testing.assert_close(base.model(input_ids=tokens).logits, theirs)
    assert main(words) == 0
    assert "learned from these examples, already" in capsys.readouterr().out
    assert main([*words, "seed=1"]) == 2, "other numbers"
    assert "nothing is overwritten" in capsys.readouterr().err


def test_a_router_comes_back_as_it_was(base, library, tmp_path):
    both = lr.learn(base, library, "moe", OWN, progress=False, **QUICK)
    lr.save(both, tmp_path / "moe")
    back = lr.load(base, tmp_path / "moe")
    assert loss(base, back) == loss(base, both)
    assert lr.answers(base, back, [OWN[0][0]]) == lr.answers(base, both, [OWN[0][0]])


@pytest.mark.parametrize("rule", ["cat", "lorahub"])
def test_interrupted_learning_goes_on_to_the_same_bits(there, tmp_path, monkeypatch, capsys, rule):
    """Steps by gradients, and a search; other seeds keep their own."""
    monkeypatch.setattr(checkpoint, "KEEP_SECONDS", 0)
    words = [f"library={there / 'a'},{there / 'b'}", f"examples={there / 'own.jsonl'}", f"composition={rule}"]
    words += ["learn_steps=6" if rule == "cat" else "learn_tries=14"]
    looks = []

    def counted(*given):
        if len(looks) == stop:
            raise KeyboardInterrupt
        looks.append(1)
        return answer_loss(*given)

    monkeypatch.setattr(learned, "answer_loss", counted)
    stop = -1
    assert main([*words, f"out={tmp_path / 'whole'}"]) == 0
    whole = len(looks)
    looks.clear()
    for stop in (3, 3 + 2, whole):
        assert main([*words, f"out={tmp_path / 'parts'}"]) == (0 if stop == whole else 130)
        assert len(looks) == stop
        assert main([*words, f"out={tmp_path / 'parts'}", "seed=1"]) == (2 if stop == whole else 130)
    assert "the same command goes on from the last checkpoint" in capsys.readouterr().err
    assert (tmp_path / "parts" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()


BAD = [
    ("composition=ties", "composition: got 'ties'; allowed: cat | cat_softmax | lorahub | lorahub_cat | moe"),
    ("composition=lorahub learn_rate=0.1", "learn_rate: got 0.1; allowed: learn_tries; "),
    ("composition=moe granularity=all", "granularity: got all; allowed: learn_rate, learn_steps; "),
    ("learn_steps=0", "learn_steps: got '0'; allowed: a whole number from 1"),
    ("learn_rate=1e30", "learn_rate: got '1e30'"),
    ("library={root}/a,{root}/a", "library: got {root}/a,{root}/a; allowed: each adapter once"),
    ("examples={root}/nothing.jsonl", "examples: got {root}/nothing.jsonl (FileNotFoundError); allowed: a JSONL file"),
    ("examples={root}/bad.jsonl", 'bad.jsonl:1: got \'{"prompt": "p"}\'; allowed: {"prompt"'),
    ("examples=", "examples: got ''; allowed: a JSONL file"),
    ("steps=3", "steps: got an unknown setting; allowed: "),
    ("out={root}/a", "out: got {root}/a; allowed: a new or empty folder; nothing is overwritten"),
]


@pytest.mark.parametrize(("words", "said"), BAD, ids=[words[:40] for words, _ in BAD])
def test_a_mistake_is_one_line_exit_code_2_and_nothing_written(there, tmp_path, capsys, words, said):
    (there / "bad.jsonl").write_text('{"prompt": "p"}\n')
    given = dict(it.split("=", 1) for it in words.format(root=there).split())
    right = {"library": f"{there / 'a'},{there / 'b'}", "examples": there / "own.jsonl", "out": tmp_path / "m"}
    assert main([f"{name}={value}" for name, value in {**right, **given}.items()]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said.replace("{root}", str(there)) in error
    assert not (tmp_path / "m").exists()


def test_python_says_which_function_is_meant(base, library):
    with pytest.raises(lr.SettingError, match="ties, which learns nothing; allowed: cat"):
        lr.learn(base, library, "ties", OWN)
    with pytest.raises(lr.SettingError, match="did you mean 'cat'"):
        lr.learn(base, library, "catt", OWN)
    with pytest.raises(lr.SettingError, match="examples: got none"):
        lr.learn(base, library, "cat", [])
    with pytest.raises(lr.SettingError, match="`lora-reuse learn` learns it from examples"):
        lr.compose(library, "moe")
