"""The way in for notebooks: adapters loaded, composed, asked, saved and loaded again, and the examples in the
docstrings."""

import doctest
import shutil
from pathlib import Path

import pytest
import torch

import lora_reuse as lr
from lora_reuse.llm.adapters.folders import linear_shape, save_expert
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.modules import target_modules
from lora_reuse.llm.compositions import RULES
from lora_reuse.llm.decoding.resident import Resident

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


@pytest.mark.parametrize("name", lr.__all__)
def test_examples_in_docstrings_run(name, base, folders, library, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in folders:
        shutil.copytree(folder, tmp_path / folder.name)
    known = {"lr": lr, "base": base, "a": library[0], "b": library[1]}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    for example in doctest.DocTestFinder(recurse=False).find(getattr(lr, name), name, globs=known):
        failures: list[str] = []
        runner.run(example, out=failures.append)
        assert not failures, "".join(failures)


def test_an_adapter_says_what_it_is_in_one_line(library):
    assert repr(library[0]) == "<Adapter 'a': rank 2, 12 modules of pocket>"
    both = lr.compose(library, "ties", density=0.3)
    assert repr(both) == "<Adapter 'ties of a, b': rank 2, 12 modules of pocket; density=0.3, trim=global>"
    assert "routed" in repr(lr.compose(library, "arrow"))


@pytest.mark.parametrize("rule", RULES)
def test_what_is_saved_comes_back(base, library, tmp_path, rule):
    both = lr.compose(library, rule)
    lr.save(both, tmp_path / "both")
    again = lr.load(base, tmp_path / "both")
    assert both.static == RULES[rule].static == (tmp_path / "both" / "adapter_config.json").is_file()
    assert again.name == "both"
    torch.testing.assert_close(logits(base, again), logits(base, both), rtol=1e-5, atol=1e-5)
    assert (logits(base, both) - logits(base, None)).abs().max() > 1e-2


def test_one_composition_or_several_are_asked_alike(base, library):
    both = lr.compose(library, "sum")
    several = lr.answers(base, [None, library[0], both], QUESTIONS, max_new_tokens=5)
    assert several == [lr.answers(base, one, QUESTIONS, max_new_tokens=5) for one in (None, library[0], both)]
    assert len({tuple(said) for said in several}) == 3


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
        (lambda base, a, b: lr.compose([a, b], "moe:own"), "composition: got moe:own, which learns from data"),
        (lambda base, a, b: lr.compose([lr.compose([a, b], "arrow"), b], "sum"), "adapter: got arrow of a, b, which "),
        (lambda base, a, b: lr.load_adapter(base, "nowhere/at/all"), "expert: got nowhere/at/all"),
        (lambda base, a, b: lr.load(base, "nowhere"), "composition: got no readable composition.json in nowhere"),
        (lambda base, a, b: lr.load_base("nowhere"), "model: got nowhere"),
        (lambda base, a, b: lr.answers(base, a, "Where?"), "questions: got 'Where\\?'; allowed: a list of questions"),
        (lambda base, a, b: lr.save(a, "."), "folder: got .; allowed: a new or empty folder"),
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
    assert len(lr.load_adapter(base, tmp_path / "a", another_model=True)) == 12
