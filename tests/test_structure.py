"""The rules of the house that a program can check."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import beartype
import jaxtyping
import numpy as np
import pytest
from jaxtyping import Float

from lora_reuse.theory import kernels

ROOT = Path(__file__).parents[1]
FOLDERS = [ROOT / name for name in ("figures", "llm", "paper_checks", "runs", "theory")]
MODULES = sorted(path for folder in FOLDERS for path in folder.rglob("*.py") if not path.name.startswith("test_"))
GUIDES = [
    ROOT / "README.md",
    ROOT / "results" / "README.md",
    *(p for f in FOLDERS for p in sorted(f.rglob("README.md"))),
]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("lora_reuse.").split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").removeprefix("lora_reuse.").split(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_theory_knows_no_torch_llm_no_jax_and_runs_neither(path):
    torch, jax = {"torch", "transformers", "peft", "llm"}, {"jax", "theory"}
    drawing = {"torch", "transformers", "peft", "jax"}  # the names and settings of both sides, nothing that computes
    forbidden = {"figures": drawing, "llm": jax | {"figures"}, "runs": torch | jax | {"figures"}}.get(
        path.relative_to(ROOT).parts[0], torch
    )
    if path.is_relative_to(
        ROOT / "paper_checks" / "predictions"
    ):  # where the theory meets rows of language models, and their intervals
        forbidden = torch - {"llm"}
    assert not forbidden & set(imports(path))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_stay_small_and_say_what_they_are(path):
    assert len(path.read_text().splitlines()) <= 300
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_texts_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#\s]+)", path.read_text())
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []


def test_the_guide_to_the_language_models_names_every_module_of_every_room():
    text = (ROOT / "llm" / "README.md").read_text()
    named: dict[str, set[str]] = {}
    for rooms, holds in re.findall(r"^\| (\[`.*?) \| (.*) \|$", text, re.MULTILINE):
        for room in re.findall(r"\]\((\w+)\)", rooms):
            named[room] = set(re.findall(r"`(\w+)`", holds))
    rooms = {path.parent.name: path.parent for path in ROOT.glob("llm/*/__init__.py")}
    assert named.keys() == rooms.keys()
    there = {
        name: {path.stem for path in room.glob("[!_]*.py")} | {path.parent.name for path in room.glob("*/__init__.py")}
        for name, room in rooms.items()
    }
    there["compositions"] = there["learned"] = there["compositions"] | there["learned"]  # one line for both
    assert named == there


def test_no_user_error_is_an_assert():
    assert not [
        path for path in MODULES for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)
    ]


def test_the_whole_theory_imports_without_torch():
    names = [
        "lora_reuse." + ".".join(p.relative_to(ROOT).with_suffix("").parts)
        for p in MODULES
        if p.name != "__init__.py" and p.relative_to(ROOT).parts[0] != "llm"
    ]
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {names}]; assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def halved(x: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    return x / 2


def test_types_with_shapes_are_checked_at_the_first_calls_and_at_one_in_a_hundred():
    """In all of tests/, whose conftest.py gives the import hook this decorator."""
    assert inspect.unwrap(kernels.kernel) is not kernels.kernel
    decorated = jaxtyping.jaxtyped(typechecker=beartype.beartype)(halved)
    raised = []
    for call in range(350):
        try:
            decorated(np.zeros((2, 3)))
        except jaxtyping.TypeCheckError:
            raised.append(call)
    assert raised == [*range(100), 100, 200, 300]
