"""Recipes: YAML read as the command line's words and written of them, looked at before anything runs, run in order."""

import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lora_reuse.__main__ import _main, commands
from lora_reuse.runs import recipe
from lora_reuse.runs.recipe import Step, read, written
from lora_reuse.runs.run import main

STEPS = {
    "theory.benchmark": "width=2**20",
    "sweep": "experiment=theorem_3 composition=ties,sum density=0.3 width=256,2**12 dim=inf seeds=2",
    "llm.benchmark": "quick=true",
    "compose_speed": "layers=28 rank=16",
    "answers": "run=results rows=results/paper",
    "compare": "rows=results/paper experiment=bridge where=setup:2+prompting:steps",
    "inspect": "library=a,b",
    "bench": "rule=sum,cat:own seeds=2 dry_run=true",
    "bridge": "setup=0,2 model=smollm2 prompting=steps rate=1e-3 dry_run=true",
    "bridge_controls": "seeds=3",
    "bridge_compiler": "first=spouse_of second=live_in out=bridge.jsonl",
    "bridge_examples": "examples=16,46 choice=compiled,random",
    "bridge_minimum": "seeds=3",
    "capacity": "facts=20,100 rank=1,16",
    "chains": "hops=2,3 bridge=all composition=sum prompting=steps",
    "compose": "library=a,b composition=cat weights=0-14=1:-2/15-29=0:1 out=merged",
    "continent": "data=own seeds=2",
    "cross_lingual": "allow_code_execution=true",
    "data": "show=R12 count=2",
    "edit": "seeds=2",
    "exposed": "relations=chained,apart composition=arrow",
    "exposure": "model=pocket people=never prompting=direct,steps",
    "forecast": "library=a,b composition=ties,sum prompts=prompts.jsonl chat=off",
    "gates": "model=pocket routed=both prompts=prompts.jsonl out=gates",
    "gsm": "data=own",
    "harness": "library=a,b composition=arrow tasks=lora_reuse_r12_cot,arc_easy",
    "large_library": "seeds=2 shard=1/2",
    "learn": "library=a,b composition=lorahub learn_tries=20 examples=own.jsonl out=merged",
    "links": "seeds=2 layers=mlp,lower/upper",
    "latent": "seeds=2 launcher=local jobs=2",
    "methods": "model=pocket composition=arrow,lorahub:own",
    "mttl": "expert=someone/library:an_expert out=experts/an_expert",
    "overlap": "seeds=2",
    "own_answers": "library=12,123",
    "placement": "layers=mlp,both",
    "pocket": "out=model width=32 heads=2 restating=false",
    "reusable_code": "data=gsm endpoint=https://api.openai.com/v1 model=gpt-4o allow_code_execution=true",
    "scale": "scale=0.5,1.0",
    "semi_synthetic": "seeds=2",
    "skill_sets": "asked=homes+code,code+style granularity=layer composition=sum,cat:own",
    "skills": "seeds=2",
    "smollm2": "",
    "two_hop": "dataset=F,R chat=off slurm=slurm_partition:gpu+timeout_min:60",
    "figures": "only=theorem_2+theorem_3",
    "paper_checks": "",
    "predictions": "rows=results/paper",
}
"""Words of every command that can be a step."""


@pytest.fixture(autouse=True)
def no_bytecode(monkeypatch):
    """What the import hook of the type checks makes of a module that runs as a program would be kept as its ordinary
    bytecode, which no program without the hook can run."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty folder that a program is called in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(recipe.__file__).parents[1]))
    return tmp_path


def as_recipe(capsys, command: str, words: str) -> str:
    _main([command, *shlex.split(words), "print=recipe"])
    return capsys.readouterr().out


def test_every_command_is_printed_as_a_recipe_and_the_recipe_as_the_commands(folder, capsys):
    assert STEPS.keys() == commands().keys() - {"run"}
    file = folder / "recipe.yaml"
    file.write_text("".join(as_recipe(capsys, *step) for step in STEPS.items()))
    assert main(["recipe.yaml", "print=command"]) == 0
    lines = [["lora-reuse", command, *words.split()] for command, words in STEPS.items()]
    assert [shlex.split(line) for line in capsys.readouterr().out.splitlines()] == lines
    assert [path.name for path in folder.iterdir()] == ["recipe.yaml"]


def test_a_recipe_reads_as_one_would_write_it(capsys):
    words = "library=experts/a,experts/b composition=cat weights=1:-2 another_model=true chat=off rate=1e-3 density=0.5"
    step = Step("compose", shlex.split(words))
    assert (
        written([step, Step("paper_checks", [])])
        == """\
- compose:
    library: [experts/a, experts/b]
    composition: cat
    weights: 1:-2
    another_model: true
    chat: 'off'
    rate: 1e-3
    density: 0.5
- paper_checks: {}
"""
    )


ODD = "no off true Null ~ null 1e-3 1:2 0x10 007 .inf 2026-11-26 1_000 - ? : # & * ! | > % @ ` {a} [a] << = a,b , 'a'"
texts = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(ODD.split())
settings = st.dictionaries(st.from_regex(r"[a-z_][a-z_0-9]*", fullmatch=True), texts, max_size=5)


@given(st.lists(st.tuples(st.sampled_from(list(STEPS)), settings), min_size=1, max_size=3))
def test_words_come_back_as_they_went_whatever_is_in_them(tmp_path_factory, steps):
    said = [Step(command, [f"{key}={text}" for key, text in given.items()]) for command, given in steps]
    path = tmp_path_factory.getbasetemp() / "recipe.yaml"
    path.write_text(written(said), encoding="utf-8", newline="")
    back = read(path)
    assert [(step.command, list(step.words)) for step in back] == [(step.command, step.words) for step in said]


@given(settings)
def test_other_readers_of_yaml_see_the_same_words(given):
    (step,) = yaml.safe_load(written([Step("two_hop", [f"{key}={text}" for key, text in given.items()])]))
    for key, seen in step["two_hop"].items():
        text = ",".join(map(str, seen)) if isinstance(seen, list) else str(seen)
        assert text in (given[key], given[key].capitalize())  # True and False are Python's words


def test_the_example_of_the_module_is_a_recipe(tmp_path):
    doc = inspect.getdoc(recipe) or ""
    file = tmp_path / "recipe.yaml"
    file.write_text(inspect.cleandoc("\n".join(line for line in doc.splitlines() if line.startswith("    "))))
    assert [(step.command, step.place) for step in read(file)] == [("compose", f"{file}:1"), ("forecast", f"{file}:6")]


def test_a_value_is_the_text_that_stands_there(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "two_hop:  # a single step needs no list\n"
        "  model: &model no\n  chat: off\n  rate: 1e-3\n  weights: [1:2, 2:1]\n  dataset: [F,\n    R]\n"
        "  out: 'null'\n  slurm: ''\n  shard: *model\n"
    )
    (step,) = read(file)
    words = "model=no chat=off rate=1e-3 weights=1:2,2:1 dataset=F,R out=null slurm= shard=no".split()
    assert (list(step.words), step.places["dataset"]) == (words, f"{file}:6")


BAD = [
    ("", "recipe: got recipe.yaml, which has no step; allowed: a list of steps"),
    ("- two_hop: {model: [a\n", "recipe.yaml:2: got "),
    ("- a\n---\n- b\n", "recipe.yaml:2: got "),
    ("- \x01\n", r"recipe: got recipe.yaml \("),
    ("- tow_hop: {}\n", "recipe.yaml:1: command: got 'tow_hop'; allowed: .*did you mean 'two_hop'"),
    ("- run: {}\n", "recipe.yaml:1: command: got 'run'; allowed: "),
    ("- sweep: {seeds: 1}\n- two_hop:\n  model: a\n", "recipe.yaml:2: step: got 2 keys; .*further in than its command"),
    ("- []\n", "recipe.yaml:1: step: got no command; "),
    ("- sweep: [width]\n", "recipe.yaml:1: sweep: settings: got a value or a list; "),
    ("- sweep:\n    width: 256\n    sedes: 2\n", "recipe.yaml:3: sweep: sedes: got .*did you mean 'seeds'"),
    (
        "- sweep:\n    width: 256\n    seeds: [1, 2]\n",
        "recipe.yaml:3: sweep: seeds: got '1,2'; allowed: ",
    ),
    ("- sweep:\n    seeds: 1\n    seeds: 2\n", "recipe.yaml:3: sweep: seeds: got .*; allowed: each setting once"),
    ("- sweep:\n    seeds:\n", "recipe.yaml:2: sweep: seeds: got ''; "),
    ("- sweep:\n    dim: ~\n", "recipe.yaml:2: sweep: dim: got ~; .*without the key it has its default"),
    ("- sweep:\n    width: {of: 1}\n", "recipe.yaml:2: sweep: width: got more in it; "),
    ("- sweep:\n    width: ['1,2']\n", "recipe.yaml:2: sweep: width: got '1,2' in a list; "),
    ("- sweep:\n    <<: {seeds: 1}\n", "recipe.yaml:2: sweep: key: got '<<'; "),
    ("- sweep:\n    seeds: !!python/name:os.system 1\n", "recipe.yaml:2: sweep: seeds: got the tag "),
    ("- compose:\n    merge_method: ties\n", "recipe.yaml:2: compose: merge_method: got .*it is composition= now"),
    ("- compose:\n    library: [a, b]\n    composition: tiess\n    out: c\n", "recipe.yaml:3: .*did you mean 'ties'"),
    (
        "- compose:\n    library: [a, b]\n    composition: sum\n    density: 0.3\n    out: c\n",
        "recipe.yaml:4: compose: density: got 0.3; allowed: no dial with composition=sum",
    ),
    ("- sweep: {seeds: 1}\n- compose:\n", "recipe.yaml:2: compose: settings: got none; "),
    ("- figures:\n    rows: nowhere\n", "recipe.yaml:2: figures: rows: got nowhere; "),
    ("- forecast:\n    library: [a, b]\n    prompts: nowhere\n", "recipe.yaml:3: forecast: prompts: got nowhere "),
]


@pytest.mark.parametrize(("text", "said"), BAD, ids=[said for _, said in BAD])
def test_a_mistake_is_one_line_with_its_place_and_nothing_is_run(folder, capfd, text, said):
    (folder / "recipe.yaml").write_text(text)
    assert main(["recipe.yaml"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert re.match(f"run: {said}", err), err
    assert len(err.splitlines()) == 1
    assert [path.name for path in folder.iterdir()] == ["recipe.yaml"]


def test_a_file_that_is_no_text_is_said(folder, capsys):
    (folder / "bytes.yaml").write_bytes(b"\xff")
    for words, said in (
        (["nowhere.yaml"], "recipe: got nowhere.yaml (No such file or directory); allowed: a YAML file"),
        (["bytes.yaml"], "recipe: got bytes.yaml (not UTF-8); allowed: a YAML file"),
        (["a", "b"], "recipe: got a b; allowed: one file"),
        (["a", "print=yaml"], "print: got 'yaml'; allowed: command"),
    ):
        assert main(words) == 2
        assert capsys.readouterr().err.startswith(f"run: {said}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["two_hop", "datset=F", "print=recipe"], "lora-reuse: two_hop: datset: got an unknown setting; "),
        (["two_hop", "print=recip"], "lora-reuse: print: got print=recip; allowed: print=recipe, once"),
        (["compose", "print=recipe"], "lora-reuse: compose: settings: got none; "),
    ],
)
def test_a_command_with_a_mistake_is_not_printed(folder, words, said):
    run = subprocess.run([sys.executable, "-m", "lora_reuse", *words], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith(said)


def test_steps_run_in_order_say_their_own_command_and_go_on(folder, capfd):
    (folder / "recipe.yaml").write_text(
        "- sweep: {width: 16, seeds: 2, out: rows}\n- sweep: {width: [16, 32], seeds: 2, out: rows}\n"
    )
    assert main(["recipe.yaml"]) == 0
    out = capfd.readouterr().out
    assert re.findall(r"^\d/2 .*|^\d rows.*", out, re.MULTILINE) == [
        "1/2  lora-reuse sweep width=16 seeds=2 out=rows",
        "2 rows in rows: 2 new, 0 from before",
        "2/2  lora-reuse sweep width=16,32 seeds=2 out=rows",
        "4 rows in rows: 2 new, 2 from before",
    ]
    rows = [json.loads(line) for line in (folder / "rows" / "kernel_limit.jsonl").read_text().splitlines()]
    first, second = (f"lora-reuse sweep width={width} seeds=2 out=rows" for width in ("16", "16,32"))
    assert [row["provenance"]["command"] for row in rows] == [first, first, second, second]
    assert main(["recipe.yaml"]) == 0
    assert capfd.readouterr().out.count("0 new") == 2


def test_a_step_that_fails_is_the_last_and_its_code_is_the_recipes(folder, capfd):
    shutil.copytree(Path(recipe.__file__).parents[1] / "results" / "paper", "broken", ignore=lambda *_: ["ledger.md"])
    (folder / "broken" / "kernel_limit.jsonl").write_text("{\n")
    (folder / "recipe.yaml").write_text("- sweep: {width: 16, seeds: 1, out: broken}\n- sweep: {width: 16, seeds: 1}\n")
    assert main(["recipe.yaml"]) == 2
    assert "run: recipe.yaml:1: sweep ended with exit code 2; the steps after it were not run" in capfd.readouterr().err
    assert not (folder / "results").exists()


def test_of_a_step_that_takes_what_an_earlier_one_makes_the_settings_are_looked_at(folder, capsys):
    sweep = "- sweep: {width: 16, seeds: 1, out: rows}\n"
    (folder / "recipe.yaml").write_text(f"{sweep}- figures: {{rows: rows, only: theorem_22}}\n")
    assert main(["recipe.yaml"]) == 2
    assert "recipe.yaml:2: figures: only: got 'theorem_22'" in capsys.readouterr().err  # rows/ is not missed
    (folder / "recipe.yaml").write_text(f"- figures: {{rows: rows, only: theorem_2}}\n{sweep}")
    assert main(["recipe.yaml"]) == 2
    assert "recipe.yaml:1: figures: rows: got rows; " in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        "theory.benchmark",
        "sweep",
        "llm.benchmark",
        "compose_speed",
        "two_hop",
        "gsm",
        "data",
        "pocket",
        "paper_checks",
        "smollm2",
    ],
)
def test_a_command_that_is_looked_at_does_nothing(folder, command):
    Step(command, shlex.split(STEPS[command])).look()
    assert not list(folder.iterdir())
