"""Rows made up and the tables of them, made once; the committed rows."""

import functools
import shutil
from pathlib import Path

import pytest

from lora_reuse.runs.rows import load_rows
from tests.rows_of_models import write
from tests.tables.planted import PAPER, exams, table_of, two_hops


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """The rows made up, in a folder."""
    return write(tmp_path_factory.mktemp("models") / "rows", *two_hops(), *exams())


@pytest.fixture(scope="session")
def made(shared):
    """The table of these rows by its name, made once."""
    return functools.cache(lambda name: table_of(name, shared))


@pytest.fixture(scope="session")
def cells(made):
    """The same in the order of its labels, in which part of it is found at once."""
    return functools.cache(lambda name: made(name).sort_index())


@pytest.fixture(scope="session")
def committed(request):
    return load_rows(request.config.rootpath / PAPER)


@pytest.fixture
def few(shared, tmp_path):
    """The rows again, to add to."""
    return Path(shutil.copytree(shared, tmp_path / "rows"))
