"""`import lora_reuse`: names that are there at once, and what they need only when they are used."""

import subprocess
import sys
from pathlib import Path

import pytest

import lora_reuse

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "jax", "transformers", "peft", "pandas", "numpy", "scipy", "matplotlib")


def fresh(code: str) -> str:
    """What a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_is_quick_and_imports_nothing_heavy():
    timed = "import sys, time; began = time.process_time(); import lora_reuse; print(time.process_time() - began)"
    assert float(fresh(timed)) < 0.2
    assert fresh(f"import sys, lora_reuse; dir(lora_reuse); print(set({HEAVY}) & sys.modules.keys())") == "set()"


def test_the_side_that_is_not_used_is_not_imported():
    assert fresh("import sys, lora_reuse; lora_reuse.compose; print('torch' in sys.modules, 'jax' in sys.modules)") == (
        "True False"
    )


@pytest.mark.parametrize("name", lora_reuse.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name):
    assert name in dir(lora_reuse)
    assert getattr(lora_reuse, name).__doc__
    assert getattr(lora_reuse, name) is getattr(lora_reuse, name)


def test_types_are_imported_for_every_public_name():
    """Editors and type checkers read the imports under TYPE_CHECKING, and nothing else."""
    text = (ROOT / "lora_reuse" / "__init__.py").read_text()
    for name, home in lora_reuse._HOMES.items():
        assert f"    from lora_reuse.{home} import {name} as {name}\n" in text


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'lora_reuse' has no attribute 'composee'"):
        lora_reuse.composee  # noqa: B018
