"""Where a row came from: the command, the commit, the library versions."""

import functools
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from lora_reuse.__main__ import commands

PACKAGE = ("figures", "llm", "lora_reuse", "paper_checks", "runs", "theory")
"""The folders of the source tree whose modules are the package's."""


def provenance(*libraries: str) -> dict[str, Any]:
    """The command line, git commit and dirty flag of this source tree, Python and library versions.

    Commit and flag are null where git does not hold this file: an installed package is none of the tree around it. Rows
    that a command just before added to `results/` do not make a tree dirty: they are no code. A new module in a folder
    of the package does, since rules are registered by being there. All but the command are looked up once a process.
    """
    return {"command": shlex.join([*program(), *sys.argv[1:]]), **_tree(*libraries)}


@functools.cache
def _tree(*libraries: str) -> dict[str, Any]:
    commit = _git("rev-parse", "HEAD") if _git("ls-files", "--error-unmatch", "--", __file__) is not None else None
    status = _git("status", "--porcelain", "--untracked-files=no", "--", ":(top)", ":(top,exclude)results")
    modules = [f":(top,glob){folder}/**/*.py" for folder in PACKAGE]
    added = _git("ls-files", "--others", "--exclude-standard", "--full-name", "--", *modules)
    return {
        "commit": commit,
        "dirty": None if commit is None else bool(status or added),
        "python": sys.version.split()[0],
        "versions": {name: metadata.version(name) for name in libraries},
    }


def program() -> list[str]:
    """The words that start this program: `lora-reuse two_hop`, `python -m llm.two_hop` in a checkout, or a file's;
    in a job of `runs.launch`, those of the command that launched it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if not spec:
        return ["python", Path(sys.argv[0]).name]
    if spec.name.startswith("submitit."):
        return shlex.split(sys.argv[0])
    name = spec.name.removesuffix(".__main__")
    words = {module: word for word, (module, _) in commands().items()}
    return ["lora-reuse", words[name]] if name in words else ["python", "-m", name]


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
