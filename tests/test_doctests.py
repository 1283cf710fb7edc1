"""The examples in docstrings print what they say. (Those that need a language model are in `tests/llm/test_api.py`.)"""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

import lora_reuse as lr

ROOT = Path(__file__).parents[1]


def examples():
    for path in sorted(ROOT.glob("[!.]*/**/*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if ">>> " not in (text := path.read_text()) or name.startswith(("llm.", "tests.", "results.", "build.")):
            continue
        for node in ast.walk(ast.parse(text)):
            documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            if documented and ">>> " in (said := ast.get_docstring(node) or ""):
                yield pytest.param(name, said, id=f"{name}.{getattr(node, 'name', '')}")


@pytest.mark.parametrize(("module", "text"), list(examples()))
def test_an_example_prints_what_it_says(module, text, monkeypatch):
    """Each docstring by itself: doctest's own search passes over functions that are wrapped for the type checks."""
    monkeypatch.chdir(ROOT)
    names = vars(importlib.import_module(module if module.startswith("lora_reuse") else f"lora_reuse.{module}"))
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(doctest.DocTestParser().get_doctest(text, {**names, "lr": lr}, module, None, None), out=said.append)
    assert runner.tries > 0
    assert runner.failures == 0, "".join(said)


def test_a_wrong_example_is_caught():
    with pytest.raises(AssertionError, match="Expected"):
        test_an_example_prints_what_it_says("runs.settings", ">>> short(1024)\n'2**11'", pytest.MonkeyPatch())
