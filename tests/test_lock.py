"""lock.txt has what pyproject.toml asks for, in the versions of constraints.txt, each with the hashes of its files."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
AGAIN = "constraints.txt or pyproject.toml has changed: make lock writes lock.txt again"


def pins(name: str) -> dict[str, str]:
    """The versions that a file of requirements names."""
    lines = (ROOT / name).read_text().splitlines()
    return {
        canonicalize_name(found[1]): found[2] for line in lines if (found := re.match(r"([\w.-]+)==([^ ;]+)", line))
    }


def asked(extra: str) -> Iterator[Requirement]:
    """What the package and one of its extras ask for, without the package's own name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in (*project["dependencies"], *project["optional-dependencies"][extra]):
        requirement = Requirement(text)
        if requirement.name == project["name"]:
            for other in requirement.extras:
                yield from asked(other)
        else:
            yield requirement


def test_the_lock_has_what_the_project_its_tests_and_its_documentation_ask_for():
    locked = pins("lock.txt")
    wrong = {
        str(it)
        for extra in ("test", "docs")
        for it in asked(extra)
        if not it.specifier.contains(locked.get(canonicalize_name(it.name), "0"))
    }
    assert not wrong, AGAIN


def test_the_lock_has_the_versions_of_the_constraints():
    locked, constraints = pins("lock.txt"), pins("constraints.txt")
    assert {name: constraints.get(name) for name in locked} == locked, AGAIN


def test_every_version_of_the_lock_has_hashes():
    entries = re.split(r"\n(?=\w)", (ROOT / "lock.txt").read_text())[1:]
    assert len(entries) == len(pins("lock.txt"))
    assert [entry.split("\n")[0] for entry in entries if not re.search(r"--hash=sha256:[0-9a-f]{64}", entry)] == []


def test_every_version_that_is_asked_for_is_pinned():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys() - {"gpu"}
    constraints = pins("constraints.txt")
    names = {canonicalize_name(it.name) for extra in extras for it in asked(extra)}
    assert names - constraints.keys() == set()
