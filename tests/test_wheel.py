"""What `pip install` puts into an environment: one package, whole, beside other people's."""

import base64
import csv
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("figures", "llm", "paper_checks", "runs", "theory")
GUIDES = {"llm/README.md", "llm/compositions/README.md", "theory/README.md"}
"""Texts that are read in the repository, and no program reads."""


def run(*words, cwd):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this tree, built without a network by the setuptools of this environment."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in ("lora_reuse", *FOLDERS):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        out,
        tree,
        cwd=out,
    )
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def neighbour(tmp_path_factory):
    """A wheel that owns a top-level `llm`, as the package of this name on the index does."""
    path = tmp_path_factory.mktemp("neighbour") / "llm-0.36-py3-none-any.whl"
    files = {
        "llm/__init__.py": "OWNER = 'the other'\n",
        "llm/models.py": "OWNER = 'the other'\n",
        "llm-0.36.dist-info/METADATA": "Metadata-Version: 2.1\nName: llm\nVersion: 0.36\n",
        "llm-0.36.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    hashes = {name: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()) for name, text in files.items()}
    record = [f"{name},sha256={digest.decode().rstrip('=')},{len(files[name])}" for name, digest in hashes.items()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr("llm-0.36.dist-info/RECORD", "\n".join([*record, "llm-0.36.dist-info/RECORD,,", ""]))
    return path


@pytest.fixture(scope="module")
def installed(wheel, neighbour, tmp_path_factory):
    """A fresh environment with both wheels, which finds the libraries of this one; its folder."""
    folder = tmp_path_factory.mktemp("fresh")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    for one in (neighbour, wheel):  # the neighbour first: what comes second could overwrite it
        run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", one, cwd=folder)
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_the_wheel_holds_every_file_of_the_folders_and_nothing_else(wheel):
    there = {path for path in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in path}
    whole = {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    own = {f"lora_reuse/{path.name}" for path in (ROOT / "lora_reuse").glob("*") if path.is_file()}
    assert there == {f"lora_reuse/{name}" for name in whole - GUIDES} | own


def test_it_installs_nothing_outside_its_package(installed):
    (record,) = installed.glob("lib/python*/site-packages/lora_reuse-*.dist-info/RECORD")
    paths = {path for path, *_ in csv.reader(record.read_text().splitlines())}
    assert {path.split("/")[0] for path in paths} == {"lora_reuse", record.parent.name, ".."}
    assert {path for path in paths if path.startswith("..")} == {"../../../bin/lora-reuse"}


def test_it_stands_beside_another_package_called_llm(installed, tmp_path):
    code = (
        "import llm, llm.models, lora_reuse, lora_reuse.llm, lora_reuse.theory.sweep\n"
        "from lora_reuse.llm.decoding.names import POCKET\n"
        "assert llm.OWNER == llm.models.OWNER == 'the other'\n"
        "assert lora_reuse.llm is not llm\n"
        "assert (POCKET / 'model.safetensors').is_file()\n"
        "print(lora_reuse.__file__)"
    )
    assert Path(run(installed / "bin" / "python", "-c", code, cwd=tmp_path).strip()).is_relative_to(installed)


def test_its_command_runs_from_anywhere(installed, tmp_path):
    program = installed / "bin" / "lora-reuse"
    assert "\n  two_hop " in run(program, "--help", cwd=tmp_path)
    assert "spouse lives in" in run(program, "data", "show=F12", cwd=tmp_path)
    assert "2 rows in rows: 2 new" in run(program, "sweep", "width=16", "seeds=2", "out=rows", cwd=tmp_path)
    row = (tmp_path / "rows" / "kernel_limit.jsonl").read_text().splitlines()[0]
    assert '"command": "lora-reuse sweep width=16 seeds=2 out=rows"' in row
    assert '"commit": null' in row
