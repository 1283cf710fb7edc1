"""Rules in files of one's own, by names that say what the file holds. Workers read the files that their parent has
read."""

import ast
import hashlib
import importlib.util
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from lora_reuse.llm.protocols.dials import GIVEN
from lora_reuse.runs.dials import blamed
from lora_reuse.runs.settings import SettingError

_READ: dict[tuple[str, str], list[str]] = {}
"""The names of the rules of each file that was read, by its place and digest."""
_ABOUT: dict[str, dict[str, Any]] = {}
"""What is said of each of these rules."""


def files() -> list[str]:
    """The files that were read in this process."""
    return list(dict.fromkeys(place for place, _ in _READ))


def about(name: str) -> dict[str, Any]:
    """What the provenance of a row says of a rule: its file, and the versions of what that imports; empty for a rule of
    the package."""
    return _ABOUT.get(name, {})


def read(file: str) -> list[str]:
    """Runs a Python file, and returns the names of the rules that it enrols with `@rule` (`llm.compositions`).

    A rule is called NAME@DIGEST, with eight hex digits of the file's SHA-256: rows of a file that was changed since are
    those of another rule. What the file imports is not in the digest. Raises SettingError for a file that cannot be
    read or run, for one that enrols nothing, and for a rule that fails on small random experts."""
    from lora_reuse.llm.compositions import RULES
    from lora_reuse.llm.protocols.trial import refuse_unfit

    allowed = "a Python file with a rule: a function under @rule(...) of lora_reuse.llm.compositions"
    path = Path(file).expanduser().resolve()
    try:
        source = path.read_bytes()
    except OSError as error:
        raise SettingError("rule", f"{file} ({error.strerror})", allowed) from None
    digest = hashlib.sha256(source).hexdigest()[:8]
    if (str(path), digest) in _READ:
        return _READ[str(path), digest]
    name = f"{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SettingError("rule", file, allowed)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses of the file look for their module
    before = set(RULES)
    try:
        with blamed("rule", path):
            spec.loader.exec_module(module)
        found = [new for new in RULES if new not in before]
        with blamed("rule", path, "a rule that makes one update of two experts, and one of three"):
            for new in found:
                refuse_unfit(new)
        _refuse_learned(name, path)
        if not found:
            raise SettingError("rule", f"{file}, which enrols none", allowed)
    except SettingError:
        for new in set(RULES) - before:
            del RULES[new], GIVEN[new]
        del sys.modules[name]
        raise
    for new in found:
        RULES[f"{new}@{digest}"], GIVEN[f"{new}@{digest}"] = RULES.pop(new), GIVEN.pop(new)
    _READ[str(path), digest] = names = [f"{new}@{digest}" for new in found]
    versions = _versions(source)
    _ABOUT.update({found: {"file": path.name, "versions": versions} for found in names})
    return names


def _refuse_learned(module: str, path: Path) -> None:
    """Raises SettingError for a rule that learns, in a file that was run as this module."""
    learned = getattr(sys.modules.get("lora_reuse.llm.learned"), "LEARNED", {})
    if found := [name for name, it in learned.items() if it.build.__module__ == module]:
        for name in found:
            del learned[name]
        mend = "rules that learn go to llm/learned, and are scored by name, as rule=cat:own"
        raise SettingError("rule", f"{', '.join(found)} of {path.name}, under @learned", "functions under @rule", mend)


def _versions(source: bytes) -> dict[str, str]:
    """The versions of the distributions that a program imports from, but this one."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    known = metadata.packages_distributions()
    names = {name for top in imported - {"lora_reuse"} for name in known.get(top, ())}
    return {name: metadata.version(name) for name in sorted(names)}
