"""To add a rule, write one file on each side: nothing else is edited, and every check that fits its promises runs on
it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
THEORY = '''"""A share of the sum."""

import functools
import operator
from typing import Annotated

from lora_reuse.runs.settings import Number
from lora_reuse.theory.compositions import rule

Share = Annotated[float, Number(0, 1), "of each update"]


@rule(span=True, gauge_free=True, basis_free=True, alone=PROMISE, smooth=True)
def halved(library, context, *, share: Share = 0.5):
    """ΔW = share Σ_i ΔW_i."""
    return share * functools.reduce(operator.add, library)
'''
LLM = '''"""A share of the sum."""

from typing import Annotated

from lora_reuse.llm.compositions import each_module, rule
from lora_reuse.llm.compositions.sums import concatenated
from lora_reuse.runs.settings import Number

Share = Annotated[float, Number(0, 1), "of each update"]


@rule(static=True, gauge_free=True, alone=PROMISE, symmetric=True)
def halved(library, *, share: Share = 0.5):
    """ΔW = share Σ_i ΔW_i."""
    return each_module(library, lambda name, updates: concatenated(updates, (share,) * len(updates)))
'''


def written(tree: Path, promise: bool) -> None:
    for side, text in (("theory", THEORY), ("llm", LLM)):
        (tree / side / "compositions" / "halved.py").write_text(text.replace("PROMISE", str(promise)))


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    for name in ("lora_reuse", "theory", "llm", "runs", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    written(folder, promise=False)
    return folder


def said(tree: Path, *words: str) -> str:
    run = subprocess.run([sys.executable, "-m", *words], cwd=tree, capture_output=True, text=True)
    return run.stdout + run.stderr


def test_the_commands_of_both_sides_know_it(tree):
    listed = said(
        tree,
        "llm.two_hop",
        "composition=halved,sum",
        "share=0.25,0.5",
        "dataset=F",
        "library=2-combination",
        "prompting=direct",
        "dry_run=true",
    )
    assert "3 rows in results" in listed  # the sum does not read the share
    assert "share=0.5,0.25" in listed or "share=0.25,0.5" in listed
    assert "halved" in said(tree, "llm.methods", "--help")
    assert "share" in said(tree, "llm.compose", "--help")
    assert "halved: of each update" in said(tree, "llm.harness", "--help")
    assert "halved: of each update" in said(tree, "llm.forecast", "--help")
    sweep = ("theory.sweep", "experiment=theorem_3", "share=0.25,0.5", "dry_run=true")
    assert "theorem_3: 3 settings" in said(tree, *sweep, "composition=halved,sum")  # the sum does not read the share
    assert "share: got 0.25,0.5; allowed: no share= but with composition=halved" in said(
        tree, *sweep, "composition=sum"
    )
    assert "halved: of each update" in said(tree, "theory.sweep", "experiment=many_facts", "--help")


def test_the_checks_of_both_sides_run_on_it_and_its_promises_count(tree):
    checks = (
        "pytest",
        "-p",
        "no:cacheprovider",
        "tests/test_compositions.py",
        "tests/llm/test_compositions.py",
        "-k",
        "halved",
    )
    right = said(tree, *checks)
    assert " passed" in right
    assert "failed" not in right
    assert int(right.split(" passed")[0].split()[-1]) >= 12
    written(tree, promise=True)
    wrong = said(tree, *checks)
    written(tree, promise=False)
    assert wrong.count("FAILED") == 2  # on each side one expert alone is not that expert
