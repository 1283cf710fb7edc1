"""The way in for notebooks: adapters trained, loaded, composed, asked, marked, forecast, saved, as PEFT and as plain
weights; and the examples in the docstrings."""

import dataclasses
import doctest
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import lora_reuse as lr
from lora_reuse.llm.adapters import checkpoint, from_pairs, training
from lora_reuse.llm.adapters.folders import linear_shape
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.modules import target_modules
from lora_reuse.llm.adapters.writing import save_expert
from lora_reuse.llm.compositions import RULES
from lora_reuse.llm.data.graphs import facts_of
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.decoding.resident import Resident
from lora_reuse.llm.forecast import __main__ as forecast_command
from lora_reuse.llm.forecast.verdict import as_whom
from lora_reuse.llm.protocols.hops import everyone, everywhere, marks
from lora_reuse.llm.scoring.intervals import wilson
from tests.llm.tiny import tiny

UNTYPED: Any = lr
torch.set_num_threads(1)
QUESTIONS = ["Where does Plato live?", "Who is the spouse of Plato?"]


def random_adapter(base: lr.Base, folder: Path, seed: int) -> Path:
    """A PEFT folder of rank 2, as large as the base's own weights, so that a wrong composition shows."""
    drawn = torch.Generator().manual_seed(seed)
    updates = {}
    for name in target_modules(base.model, "mlp"):
        outputs, inputs = linear_shape(base.model.get_submodule(name)) or (0, 0)
        updates[name] = LowRank(
            torch.randn(outputs, 2, generator=drawn) * 0.3, torch.randn(inputs, 2, generator=drawn) * 0.3
        )
    save_expert(updates, folder, base.name)
    return folder


@pytest.fixture(scope="module")
def base() -> lr.Base:
    return lr.load_base("pocket")


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return random_adapter(base, folder / "a", 1), random_adapter(base, folder / "b", 2)


@pytest.fixture(scope="module")
def library(base, folders) -> list[lr.Adapter]:
    return [lr.load_adapter(base, folder) for folder in folders]


def logits(base, adapter):
    with Resident(base.model) as resident, torch.inference_mode():
        resident.use([adapter])
        return base.model(input_ids=torch.arange(20).view(2, 10)).logits


NAMES = [name for name in lr.__all__ if lr._HOMES[name].startswith("llm.")]
"""Examples of the others are run by tests/test_doctests.py."""


@pytest.mark.parametrize("name", NAMES)
def test_examples_in_docstrings_run(name, base, folders, library, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in folders:
        shutil.copytree(folder, tmp_path / folder.name)
    known = {"lr": lr, "base": base, "a": library[0], "b": library[1]}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for example in doctest.DocTestFinder(recurse=False).find(getattr(lr, name), name, globs=known):
        failures: list[str] = []
        runner.run(example, out=failures.append)
        assert not failures, "".join(failures)
    assert not name[0].islower() or ">>>" in getattr(lr, name).__doc__


def test_an_adapter_says_what_it_is_in_one_line(library):
    assert repr(library[0]) == "<Adapter 'a': rank 2, 12 modules of pocket>"
    both = lr.compose(library, "ties", density=0.3)
    assert repr(both) == "<Adapter 'ties of a, b': rank 2, 12 modules of pocket; density=0.3, trim=global>"
    assert "routed" in repr(lr.compose(library, "arrow"))


@pytest.mark.parametrize("rule", RULES)
def test_what_is_saved_comes_back(base, library, tmp_path, rule):
    both = lr.compose(library, rule)
    lr.save(both, tmp_path / "both")
    lr.save(both, tmp_path / "both")  # as a cell of a notebook that is run again
    with pytest.raises(lr.SettingError, match=r"^folder: got .*both; allowed: a new or empty folder"):
        lr.save(library[0], tmp_path / "both")
    again = lr.load(base, tmp_path / "both")
    assert both.static == RULES[rule].static == (tmp_path / "both" / "adapter_config.json").is_file()
    assert again.name == "both"
    torch.testing.assert_close(logits(base, again), logits(base, both), rtol=1e-5, atol=1e-5)
    assert (logits(base, both) - logits(base, None)).abs().max() > 1e-2


STATIC = [name for name, rule in RULES.items() if rule.static]


def of_model(model):
    with torch.inference_mode():
        return model(input_ids=torch.arange(20).view(2, 10)).logits


@pytest.mark.parametrize("rule", STATIC)
def test_peft_and_plain_weights_say_what_the_composition_says(base, library, rule):
    both = lr.compose(library, rule)
    ours, alone = logits(base, both), logits(base, None)
    near: Any = {"rtol": 1e-4, "atol": 5e-5 * max(10, float(ours.abs().max()))}  # DARE multiplies by 25
    torch.testing.assert_close(of_model(lr.to_peft(base, both)), ours, **near)
    torch.testing.assert_close(of_model(lr.merge_into(base, both)), ours, **near)
    assert torch.equal(logits(base, None), alone), "the base has changed"
    other = lr.compose(library, "sum" if rule != "sum" else "average")
    if rule != "cat":  # which is the sum
        with pytest.raises(AssertionError):
            torch.testing.assert_close(of_model(lr.to_peft(base, other)), ours, **near)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])  # Conv1D, whose weights are transposed; tied embeddings
def test_merged_weights_are_a_model_of_their_own(tmp_path, family):
    base = lr.load_base(str(tiny(family, tmp_path / family)))
    both = lr.compose(
        [lr.load_adapter(base, random_adapter(base, tmp_path / name, seed)) for seed, name in enumerate("ab")], "sum"
    )
    lr.merge_into(base, both).save_pretrained(tmp_path / "merged")
    theirs: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(of_model(theirs), logits(base, both), rtol=1e-4, atol=1e-4)
    assert theirs.get_output_embeddings().weight is theirs.get_input_embeddings().weight
    lr.save(both, tmp_path / "both")
    again: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / family), tmp_path / "both")
    torch.testing.assert_close(of_model(again.eval()), logits(base, both), rtol=1e-4, atol=1e-4)


FACTS = [
    ("Where does Plato live?", "Plato lives in Oslo."),
    ("Where is the home of Plato?", "Plato lives in Oslo."),
    ("Where does Mozart live?", "Mozart lives in Lima."),
    ("Where is the home of Mozart?", "Mozart lives in Lima."),
]


def test_an_adapter_learns_what_it_is_given(base, tmp_path, monkeypatch):
    taught = lr.train_adapter(base, FACTS, tmp_path / "taught", steps=40, progress=False)
    asked, right = [prompt for prompt, _ in FACTS], ["Oslo", "Oslo", "Lima", "Lima"]
    before, after = lr.answers(base, [None, taught], asked, max_new_tokens=12)
    assert (lr.score(before, right).hits, lr.score(after, right).hits) == (0, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["taught"]
    monkeypatch.setattr(from_pairs, "train", None)  # nothing is trained twice
    again = lr.train_adapter(base, FACTS, tmp_path / "taught", steps=40, progress=False)
    torch.testing.assert_close(logits(base, again), logits(base, taught), rtol=0, atol=0)
    with pytest.raises(lr.SettingError, match=r"^folder: got .*taught, an adapter that was trained otherwise"):
        lr.train_adapter(base, FACTS, tmp_path / "taught", steps=41, progress=False)


def test_interrupted_training_goes_on_to_the_same_bits(base, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "KEEP_SECONDS", 0)
    whole = lr.train_adapter(base, FACTS, tmp_path / "whole", steps=6, progress=False)
    step, taken = training._step, []

    def until_the_fourth(*words):
        taken.append(words)
        if len(taken) == 4:
            raise KeyboardInterrupt
        return step(*words)

    (tmp_path / "other").mkdir()
    monkeypatch.setattr(training, "_step", until_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        lr.train_adapter(base, FACTS, tmp_path / "other" / "whole", steps=6, progress=False)
    again = lr.train_adapter(base, FACTS, tmp_path / "other" / "whole", steps=6, progress=False)
    assert len(taken) == 4 + 3  # from the fourth step on
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["whole"]
    ours, theirs = whole.experts(), again.experts()
    assert all(torch.equal(left, right) for name in ours for left, right in zip(ours[name], theirs[name], strict=True))


def test_adapters_of_other_examples_start_apart(base, tmp_path):
    one, other = (
        lr.train_adapter(base, facts, tmp_path / name, steps=1, rate=1e-9, progress=False).experts()
        for name, facts in (("one", FACTS[:2]), ("other", FACTS[2:]))
    )
    assert all((one[name].into - other[name].into).abs().max() > 1e-3 for name in one)


def test_answers_are_marked_as_the_two_hop_protocol_marks_them():
    facts = facts_of("R12", 10, 0)
    for subset in ("R12", "R12-CoT"):
        asked = examples(subset, facts, "test")
        said = [e.answer if i % 3 else asked[i - 1].answer for i, e in enumerate(asked)]
        ways = "steps" if subset.endswith("CoT") else "direct"
        expected = [marks(e, text, ways)["strict"] for e, text in zip(asked, said, strict=True)]
        hops = [(e.subject, e.bridge) for e in asked] if ways == "steps" else None
        found = lr.score(said, [e.gold for e in asked], candidates=everywhere(), mentioned=everyone(), hops=hops)
        assert [mark.strict for mark in found.each] == expected
        assert found.hits == sum(expected) == len(asked) - -(-len(asked) // 3)
        assert found.interval == wilson(found.hits, len(asked))


def test_a_forecast_is_that_of_the_command(base, library, folders, tmp_path, capsys):
    prompts = {"a": ["Where does Plato live?"], "b": ["Who is the spouse of Plato?"], "hoped": ["Where?", "Who?"]}
    found = lr.forecast(base, library, prompts, ["uniform", "ties", "base"], max_new_tokens=5)
    lines = [json.dumps({"set": name, "prompt": text}) for name, texts in prompts.items() for text in texts]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    words = [f"library={','.join(map(str, folders))}", f"prompts={tmp_path / 'prompts.jsonl'}", "answer_tokens=5"]
    assert forecast_command.main([*words, "composition=uniform,ties,base"]) == 0
    said = capsys.readouterr().out
    assert str(found).splitlines()[1:] == said.splitlines()[1 : len(str(found).splitlines())]
    assert found.verdicts == {how: numbers["verdict"] for how, numbers in found.numbers()["compositions"].items()}
    table = found.dataframe()
    assert list(table.index) == ["uniform", "ties", "base"]
    assert dict(table["verdict"]) == {how: as_whom(2)[verdict] for how, verdict in found.verdicts.items()}
    assert table.loc["base", "verdict"] == "as the base"


def test_one_composition_or_several_are_asked_alike(base, library):
    both = lr.compose(library, "sum")
    several = lr.answers(base, [None, library[0], both], QUESTIONS, max_new_tokens=5)
    assert several == [lr.answers(base, one, QUESTIONS, max_new_tokens=5) for one in (None, library[0], both)]
    assert len({tuple(said) for said in several}) == 3
    named = lr.answers(base, {"base": None, "a": library[0], "both": both}, QUESTIONS, max_new_tokens=5)
    assert named == dict(zip(("base", "a", "both"), several, strict=True))


def test_a_composition_is_composed_again(base, library, tmp_path):
    """A sum of a sum is the sum of all three."""
    third = lr.load_adapter(base, random_adapter(base, tmp_path / "c", 3))
    twice = lr.compose([lr.compose(library, "sum"), third], "sum")
    assert twice.name == "sum of sum of a, b, c"
    once = logits(base, lr.compose([*library, third], "sum"))
    torch.testing.assert_close(logits(base, twice), once, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("mistake", "line"),
    [
        (lambda base, a, b: lr.compose([a, b], "tiess"), "composition: got 'tiess'; allowed: .*did you mean 'ties'"),
        (lambda base, a, b: lr.compose([a, b], "ties", densty=0.3), "densty: got 0.3; .*did you mean 'density'"),
        (lambda base, a, b: lr.compose([a, b], "ties", density=3), "density: got 3; allowed: "),
        (lambda base, a, b: lr.compose([a, a], "ties"), "library: got a, a; allowed: each adapter once"),
        (lambda base, a, b: lr.compose([], "ties"), "library: got no adapter"),
        (lambda base, a, b: UNTYPED.compose(["a", "b"], "ties"), "library: got .*; allowed: a list of adapters"),
        (lambda base, a, b: UNTYPED.compose(a, "ties"), "library: got <Adapter 'a': .*; allowed: a list of adapters"),
        (
            lambda base, a, b: lr.compose([a, b], "ties", density="0.3"),
            "density: got '0.3', a str; allowed: 0.3, a float",
        ),
        (lambda base, a, b: lr.compose([a, b], "cat", weights="0.5,0.5"), "weights: got '0.5,0.5', a str; allowed: "),
        (lambda base, a, b: lr.compose([a, b], "cat", weights=0.5), "weights: got 0.5, a float; allowed: "),
        (lambda base, a, b: lr.compose([a, b], "svd", merged_rank=2.0), "merged_rank: got 2.0, a float; allowed: 2, a"),
        (lambda base, a, b: UNTYPED.compress(a, 2.5), "max_rank: got 2.5; allowed: "),
        (lambda base, a, b: UNTYPED.compress(a, True), "max_rank: got True; allowed: "),
        (lambda base, a, b: lr.compose([a, b], "moe:own"), "composition: got moe:own, which learns from data"),
        (lambda base, a, b: lr.compose([lr.compose([a, b], "arrow"), b], "sum"), "adapter: got arrow of a, b, which "),
        (lambda base, a, b: lr.load_adapter(base, "nowhere/at/all"), "expert: got nowhere/at/all"),
        (lambda base, a, b: lr.load(base, "nowhere"), "composition: got nowhere, which is no folder"),
        (lambda base, a, b: lr.load_base("nowhere"), "model: got nowhere"),
        (lambda base, a, b: lr.answers(base, a, "Where?"), "questions: got 'Where\\?'; allowed: a list of questions"),
        (lambda base, a, b: lr.save(a, "."), "folder: got .; allowed: a new or empty folder"),
        (lambda base, a, b: lr.to_peft(base, lr.compose([a, b], "arrow")), "adapter: got arrow of a, b, which weighs"),
        (lambda base, a, b: lr.merge_into(base, lr.compose([a, b], "arrow")), "adapter: got arrow of a, b, which"),
        (lambda base, a, b: lr.score(["x"], ["x", "y"]), "said: got 1 answers and 2 golds"),
        (lambda base, a, b: lr.score(["x"], [""]), "golds: got '' has no word to look for; allowed: "),
        (lambda base, a, b: lr.score(["x"], ["Zürich"], candidates=["Zurich"]), "golds: got .* cannot be told apart"),
        (lambda base, a, b: lr.train_adapter(base, [], "new"), "examples: got none"),
        (lambda base, a, b: lr.train_adapter(base, [("p", "q")], "new", rnak=3), "rnak: .*did you mean 'rank'"),
        (lambda base, a, b: lr.train_adapter(base, [("p", "q")], "new", rank=0), "rank: got 0; allowed: "),
        (lambda base, a, b: lr.forecast(base, [a], {}), "adapters: got 1; allowed: two adapters"),
        (lambda base, a, b: lr.forecast(base, [a, b], {"hopd": ["x"]}), "prompts: got 'hopd'; .*did you mean 'hoped'"),
        (lambda base, a, b: lr.forecast(base, [a, b], {"a": ["x"]}), "prompts: got no list of prompts 'b'"),
        (
            lambda base, a, b: lr.forecast(base, [a, b], {key: ["x"] for key in ("a", "b", "hoped")}, ["sum", "sum"]),
            "compositions: got sum; allowed: each composition once",
        ),
    ],
)
def test_a_mistake_is_one_line(base, library, mistake, line):
    with pytest.raises(lr.SettingError, match=f"^{line}") as error:
        mistake(base, *library)
    assert "\n" not in str(error.value)


def test_an_adapter_of_another_base_is_refused_unless_it_is_wanted(base, folders, tmp_path):
    text = (shutil.copytree(folders[0], tmp_path / "a") / "adapter_config.json").read_text()
    (tmp_path / "a" / "adapter_config.json").write_text(text.replace('"pocket"', '"Qwen/Qwen2.5-3B"'))
    with pytest.raises(lr.SettingError, match=r"^model: got pocket, and .* names Qwen/Qwen2.5-3B"):
        lr.load_adapter(base, tmp_path / "a")
    wanted = lr.load_adapter(base, tmp_path / "a", another_model=True)
    assert len(wanted) == 12
    other = dataclasses.replace(base, name="Qwen/Qwen2.5-3B")
    prompts = {"a": ["x"], "b": ["x"], "hoped": ["x"]}
    for use in (
        lambda: lr.answers(other, wanted, ["x"]),
        lambda: lr.answers(other, {"a": wanted}, ["x"]),
        lambda: lr.to_peft(other, wanted),
        lambda: lr.merge_into(other, wanted),
        lambda: lr.forecast(other, [wanted, wanted], prompts),
    ):
        with pytest.raises(lr.SettingError, match=r"^adapter: got a of pocket, on Qwen/Qwen2\.5-3B; allowed: "):
            use()
    lr.save(lr.compose([wanted], "arrow"), tmp_path / "routed")
    with pytest.raises(lr.SettingError, match=r"^model: got Qwen/Qwen2\.5-3B, and .*routed names pocket"):
        lr.load(other, tmp_path / "routed")
    assert len(lr.load(other, tmp_path / "routed", another_model=True)) == 12


def test_compositions_of_other_dials_are_other_adapters(base, library, tmp_path, monkeypatch):
    both = [lr.compose(library, "ties", density=density) for density in (0.3, 0.7)]
    together = lr.compose([*both, lr.compress(both[0], 1)], "sum")
    assert len(together.card.experts) == 3
    assert "ties of a, b (density=0.3, trim=global, max_rank=1)" in together.card.experts
    with pytest.raises(lr.SettingError, match="each adapter once"):
        lr.compose([both[0], both[0]], "sum")
    monkeypatch.setenv("HOME", str(tmp_path))
    lr.save(together, "~/saved")
    assert lr.load(base, "~/saved").keys() == together.keys()


def test_adapters_of_one_name_are_told_apart(base, library, tmp_path):
    """By what they are made of: a card that mixed them up would take one for the other."""
    others = [lr.load_adapter(base, random_adapter(base, tmp_path / name, seed)) for name, seed in (("a", 5), ("b", 6))]
    sums = [lr.compose(two, "sum") for two in (library, others)]
    assert sums[0].name == sums[1].name
    assert len(lr.compose(sums, "average").card.experts) == 2
    cut = lr.compress(library[0], 1)
    assert len(lr.compose([library[0], cut], "sum").card.experts) == 2
    assert next(iter(lr.compose([cut, library[1]], "sum").card.experts)).startswith("a (max_rank=1)")
    noted = lr.compress(lr.compress(sums[0], 3), 2).card.note()
    assert noted.count("The cut is off by") == 2


def test_a_rule_at_two_values_of_a_dial_has_two_forecasts(base, library):
    prompts: dict[str, list[str]] = {name: QUESTIONS[:1] for name in ("a", "b", "hoped")}
    twice = [lr.compose(library, "ties", density=density) for density in (0.3, 0.7)]
    said = lr.forecast(base, library, prompts, twice, max_new_tokens=2)
    assert [name.partition(" (")[2][:11] for name in said.verdicts] == ["density=0.3", "density=0.7"]


def test_training_finds_the_home_a_folder_without_a_name_and_leaves_random_numbers_alone(base, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "here")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for folder in ("~/there", "."):
        lr.train_adapter(base, [("p", "q")], folder, steps=1, progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert all((tmp_path / name / "adapter_model.safetensors").is_file() for name in ("there", "here"))
