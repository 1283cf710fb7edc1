"""Rules in files of one's own: what they are called, their dials, what they are refused for, and their score."""

from pathlib import Path

import pytest
import torch

from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.bench import libraries, measure, score
from lora_reuse.llm.bench.__main__ import Options, main
from lora_reuse.llm.bench.libraries import LIBRARIES, Asked, Library, cells
from lora_reuse.llm.compositions import RULES, compose
from lora_reuse.llm.learned import LEARNED
from lora_reuse.llm.protocols import own_rules
from lora_reuse.llm.protocols.dials import GIVEN, of_point
from lora_reuse.runs.rows import load_rows
from tests.llm.tiny import tiny

ROOT = Path(__file__).parents[2]
SEEDS = range(Options.first_seed, Options.first_seed + Options.seeds)


HALVED = """
from typing import Annotated
from lora_reuse.llm.compositions import each_module, rule
from lora_reuse.llm.compositions.sums import concatenated
from lora_reuse.runs.settings import Number

@rule(static=True, gauge_free=True, alone=False, symmetric=True)
def halved_here(library, *, portion: Annotated[float, Number(0, 1), "of each update"] = 0.5):
    return each_module(library, lambda name, updates: concatenated(updates, (portion,) * len(updates)))
"""


LEARNS = """
from lora_reuse.llm.learned import learned

@learned(lambda library: {}, static=True, rate=0.05, gauge_free=True, alone=False, symmetric=True)
def scaled_here(library, parameters): ...
"""
TRIED = """
import torch
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.compositions import compose, each_module, rule

@rule(static=True, gauge_free=True, alone=False, symmetric=True)
"""
CLASS = TRIED + "class tried:\n    def __init__(self, library): ..."


def rule_with(body, arguments="library"):
    """A file with a rule; `each(f)` is each_module with f of the updates of all experts."""
    start = f"def tried({arguments}):\n    each = lambda f: each_module(library, lambda name, updates: f(updates))\n"
    return f"{TRIED}{start}    {body}"


@pytest.fixture(autouse=True)
def rules_of_files_are_forgotten(monkeypatch):
    """Other tests look at all rules that there are."""
    before = set(RULES)
    monkeypatch.setattr(own_rules, "_READ", {})
    monkeypatch.setattr(own_rules, "_ABOUT", {})
    yield
    for name in RULES.keys() - before:
        del RULES[name], GIVEN[name]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(HALVED)
    return path


def test_a_file_is_known_by_what_it_holds(file):
    (name,) = own_rules.read(str(file))
    assert name.startswith("halved_here@")
    assert own_rules.read(str(file)) == [name]
    assert str(file) in own_rules.files()
    file.write_text(HALVED.replace("= 0.5", "= 0.25"))
    (changed,) = own_rules.read(str(file))
    assert changed != name
    assert GIVEN[name].dials["portion"].default == 0.5
    assert GIVEN[changed].dials["portion"].default == 0.25
    assert "halved_here" not in GIVEN


def test_dials_of_a_file_have_their_own_defaults(file):
    """Also those that are called as a setting, as a dial of another rule, or as one of the model's preset has it; the
    seed is that of the row."""
    others = "".join(
        f'    {name}: Annotated[float, Number(0, 9), "of a file"] = {default},\n'
        for name, default in (("alpha", 0.5), ("density", 0.7), ("temperature", 3.0), ("scores", 1.0), ("seed", 5.0))
    )
    file.write_text(HALVED.replace("= 0.5):", f"= 0.5,\n{others}):"))
    (name,) = own_rules.read(str(file))
    dials = {"portion": 0.5, "alpha": 0.5, "density": 0.7, "temperature": 3.0, "scores": 1.0, "seed": 4}
    for library in LIBRARIES:
        these = cells(library, name, "pocket")
        assert these
        assert of_point(these.asked.point, 4) == dials


def library_of_two():
    draw = torch.Generator().manual_seed(0)
    two = lambda: LowRank(torch.randn(10, 4, generator=draw), torch.randn(15, 4, generator=draw))  # noqa: E731
    return [{"a": two(), "b": two()} for _ in range(2)]


@pytest.mark.parametrize(
    ("file", "same", "dials"),
    [
        ("peft_rule", "ties", {"trim": "module"}),
        ("mergekit_rule", "ties_svd", {"merged_rank": 10}),
        ("sd_mecha_rule", "", {}),
        ("llm_rule", "average", {}),
    ],
)
@pytest.mark.filterwarnings("ignore")  # those of what the files import are not ours to mend
def test_software_of_others_is_a_rule(file, same, dials):
    """Where we have its rule, it gives the same; a share of 0.2 is a whole number of entries here."""
    if file in ("mergekit_rule", "sd_mecha_rule"):
        pytest.importorskip(file.removesuffix("_rule"))
    path = ROOT / "docs" / "examples" / f"{file}.py"
    assert len(path.read_text().splitlines()) <= 30
    (name,) = own_rules.read(str(path))
    library = library_of_two()
    made = compose(name, library)
    for module, update in made.items():
        assert isinstance(update, LowRank)
        assert torch.isfinite(update.dense()).all()
        if same:
            expected = compose(same, library, **dials)[module]
            assert isinstance(expected, LowRank)
            torch.testing.assert_close(update.dense(), expected.dense(), rtol=1e-4, atol=1e-4)
    if file == "peft_rule":
        assert own_rules.about(name)["versions"].keys() == {"peft", "torch"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("1 / 0", "mine.py, line 1 (ZeroDivisionError: division by zero); allowed: a file that runs"),
        ("import nowhere_at_all", "No module named 'nowhere_at_all'); allowed: a file that runs; what it imports has"),
        ("def broken(:", "mine.py (SyntaxError: invalid syntax (mine.py, line 1))"),
        (HALVED + "\nraise SystemExit(3)", "(SystemExit: 3)"),
        ("x = 1", "mine.py, which enrols none; allowed: a Python file with a rule"),
        (HALVED.replace("halved_here", "ties"), "the one that is there is asked by name, as rule=ties"),
        (LEARNS, "got scaled_here of mine.py, under @learned; allowed: functions under @rule; rules that learn go to "),
        (rule_with("return library[0]", "library, x"), "mine.py (TypeError: tried() missing 1 required positional"),
        (
            rule_with("return each(lambda updates: 1 / 0)"),
            "mine.py, line 9 (ZeroDivisionError: division by zero); allo",
        ),
        (rule_with("a, b = library; return a"), "mine.py, line 9 (ValueError: too many values to unpack"),
        (rule_with("pass"), "tried, which with random experts returns None; allowed: an update for each module"),
        (
            rule_with("return {name: update.dense() for name, update in library[0].items()}"),
            "up_proj a Tensor; allowed: a LowRank, or a",
        ),
        (CLASS, "returns a tried; allowed: an update for each module"),
        (
            rule_with("return dict([*library[0].items()][:1])"),
            "gives updates of model.layers.0.mlp.up_proj for experts",
        ),
        (rule_with("return each(lambda updates: LowRank(updates[0].into, updates[0].out))"), "of shape (16, 24); allo"),
        (rule_with("return each(lambda updates: LowRank(updates[0].out / 0, updates[0].into))"), "that is not finite"),
        (rule_with("return each(lambda updates: LowRank(updates[0].out * torch.rand(1), updates[0].into))"), "another"),
        (rule_with("return each(lambda updates: LowRank(updates[0].out.mul_(2), updates[0].into))"), "changes the exp"),
        (
            rule_with('return compose("arrow", library)'),
            "says static=True and gives model.layers.0.mlp.up_proj a Routed",
        ),
    ],
)
def test_mistakes_in_a_file_are_one_line(file, content, said, tmp_path, capsys):
    file.write_text(content)
    assert main([f"rule={file}", f"out={tmp_path / 'out'}"]) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1
    assert not {"halved_here", "tried"} & (GIVEN.keys() | RULES.keys())
    assert "scaled_here" not in LEARNED
    assert not (tmp_path / "out").exists()


def test_a_file_is_scored(file, tmp_path, monkeypatch, capsys):
    """On a tiny model that answers nothing, so that there is no score; a second time nothing is made."""
    model = tiny("qwen2", tmp_path / "model")
    small = {
        "dataset": "R",
        "triplets": 2,
        "prompting": "direct",
        "steps": 1,
        "batch": 2,
        "rank": 2,
        "answer_tokens": 2,
    }
    ceiling = Asked("two_hop", small | {"library": "mixed", "composition": "alone"})
    one = Library("two hops", "two facts", Asked("two_hop", small | {"library": "2-combination"}), ceiling)
    for module in (libraries, score, measure):
        monkeypatch.setattr(module, "LIBRARIES", (one,))
    words = [f"rule={file},sum", f"model={model}", f"out={tmp_path / 'out'}", "seeds=2", "workers=1"]
    assert main([*words, "dry_run=true"]) == 0
    assert "6 experts" in capsys.readouterr().out
    assert main(words) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "halved_here@" in said
    assert "no score: no ceiling is right in half of its answers" in said
    rows = load_rows(tmp_path / "out", "llm_two_hop")
    assert len(rows) == 8  # two rules, the floor and the ceiling, of two seeds
    first, second = (row["provenance"] for row in rows if "@" in row["settings"]["composition"])
    assert first["dials"] == second["dials"] == {"portion": 0.5}
    assert first["rule"] == {"file": "mine.py", "versions": {}}
    assert main(words) == 0
    assert len(load_rows(tmp_path / "out", "llm_two_hop")) == 8
    assert measure.missing(["sum"], measure.Bench(str(model), SEEDS[:2], str(tmp_path / "out"), "nowhere", 1)) == []
