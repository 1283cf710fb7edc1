"""lora-reuse COMMAND key=value ...

Runs a command of the theory, of the language models, of the figures or of the paper's checks. `lora-reuse COMMAND
--help` lists the settings of one. `lora-reuse COMMAND key=value print=recipe` runs nothing, and prints the command as
YAML, of which `lora-reuse run FILE` runs one step or many."""

import ast
import functools
import re
import runpy
import sys
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from lora_reuse.runs.command import command, without_help
from lora_reuse.runs.settings import SettingError, did_you_mean

FOLDERS = ("runs", "theory", "llm", "figures", "paper_checks")


def main() -> int:
    """Runs what the command line says; returns the exit code: the command's own, or 2 for a word that is no command."""
    return command("lora-reuse", _main, sys.argv[1:])


def _main(words: list[str]) -> int:
    found = commands()
    others, help = without_help(words)
    if not others:
        print((__doc__ or "").strip() + "\n\n" + _listed(found))
        return 0
    word, *rest = others
    if word not in found:
        raise SettingError("command", repr(word), ", ".join(found), did_you_mean(word, found))
    printed = [it for it in rest if it.startswith("print=")]
    if printed and word != "run":
        from lora_reuse.runs.recipe import Step, written

        if printed != ["print=recipe"]:
            raise SettingError("print", " ".join(printed), "print=recipe, once")
        step = Step(word, [it for it in rest if it not in printed])
        step.look(files=False)
        print(written([step]), end="")
        return 0
    start(word, [*rest, *["--help"] * help])
    return 0


def start(word: str, words: Sequence[str]) -> None:
    """Runs a command as the program that its module is, with these words as its command line. Raises SettingError where
    a library is missing that an extra installs, and SystemExit where the command ends."""
    module, _ = commands()[word]
    sys.argv[1:] = words
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        if not (extra := _extra(error.name or "")):
            raise
        raise SettingError(
            word, f"no {error.name}", "with it installed", f"pip install 'lora-reuse[{extra}]'"
        ) from None


@functools.cache
def commands() -> dict[str, tuple[str, Path]]:
    """The module and the file of every command, by its word: what runs as a program at the top of a folder, and the
    folder itself where it does. A word that two folders have comes with the folder, as `theory.benchmark`."""
    found = []
    for folder in FOLDERS:
        spec = find_spec(f"lora_reuse.{folder}")
        for place in map(Path, (spec and spec.submodule_search_locations) or ()):
            for path in (place / "__main__.py", *sorted([*place.glob("*.py"), *place.glob("*/__main__.py")])):
                if path.is_file() and '\nif __name__ == "__main__":\n' in path.read_text(encoding="utf-8"):
                    parts = (path.parent if path.stem == "__main__" else path.with_suffix("")).relative_to(place).parts
                    found.append((folder, *parts, path))
    found = list(dict.fromkeys(found))
    words = Counter(parts[-1] for *parts, _ in found)
    return {
        (parts[-1] if words[parts[-1]] == 1 else ".".join(parts)): (".".join(("lora_reuse", *parts)), path)
        for *parts, path in found
    }


def _listed(found: dict[str, tuple[str, Path]]) -> str:
    """A line for every command: its word and the first sentence of its file's docstring after the usage."""
    width = max(map(len, found))
    return "\n".join(f"  {word:{width}}  {first_sentence(path)}" for word, (_, path) in found.items())


def first_sentence(path: Path) -> str:
    """The first sentence of a program's docstring after the usage, which is its first paragraph. Nothing is
    imported."""
    _, _, text = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n\n")
    return re.split(r"(?<=[.?!])\s", " ".join(text.split()))[0]


def _extra(missing: str) -> str | None:
    """The extra of this distribution that installs the missing library; None if none does, or in a checkout that is not
    installed."""
    try:
        requirements = metadata.requires("lora-reuse") or ()
    except metadata.PackageNotFoundError:
        return None
    for requirement in requirements:
        named = re.match(r"([\w-]+).*extra == ['\"](\w+)['\"]", requirement)
        if named and named[1].replace("-", "_") == missing.partition(".")[0]:
            return named[2]
    return None


if __name__ == "__main__":
    sys.exit(main())
