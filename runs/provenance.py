"""Where a row came from: the command, the commit, the library versions."""

import functools
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any


@functools.cache
def provenance(*libraries: str) -> dict[str, Any]:
    """The command line, git commit and dirty flag of this source tree (null outside git), Python and library versions.

    Rows that a command just before added to `results/` do not make a tree dirty: they are no code.
    """
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--untracked-files=no", "--", ":(top)", ":(top,exclude)results")
    program = getattr(sys.modules["__main__"], "__spec__", None)
    words = ["python", "-m", program.name.removesuffix(".__main__")] if program else ["python", Path(sys.argv[0]).name]
    return {
        "command": shlex.join([*words, *sys.argv[1:]]),
        "commit": commit,
        "dirty": None if commit is None else bool(status),
        "python": sys.version.split()[0],
        "versions": {name: metadata.version(name) for name in libraries},
    }


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
