"""What every command does with `--help`, a mistake, a closed pipe and Control-C."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Literal, TypeVar

from lora_reuse.runs.settings import SettingError, help_table, parse_options

Given = TypeVar("Given")
_looked_at: ContextVar[Literal["", "settings", "files"]] = ContextVar("looked_at", default="")
"""How far a command goes that is only looked at; "" for one that runs."""


class Begun(Exception):
    """A command that is only looked at has come to where its work begins; `out` is what it would write."""

    def __init__(self, out: str):
        super().__init__(out)
        self.out = out


@contextlib.contextmanager
def looking(files: bool) -> Iterator[None]:
    """Commands in this context raise Begun where their work begins, or without `files` already where their settings are
    known to be right, and let SettingError through."""
    token = _looked_at.set("files" if files else "settings")
    try:
        yield
    finally:
        _looked_at.reset(token)


def refuse_full(out: Path) -> None:
    """Raises SettingError for a file, and for a folder with something in it."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingError("out", out, "a new or empty folder", "nothing is overwritten")


def settings_are_right(out: str = "") -> None:
    """Where a command has looked at its settings, and will look at what is on disk before `begin`. A recipe looks no
    further at a step that takes what an earlier one makes."""
    if _looked_at.get() == "settings":
        raise Begun(out)


def begin(out: str = "") -> None:
    """Where the work of a command begins: every mistake that can be known before is known. Every command calls it
    once, with what it will write."""
    if _looked_at.get():
        raise Begun(out)


def without_help(words: Sequence[str]) -> tuple[list[str], bool]:
    """The other words, and whether `--help` or `-h` is among them."""
    others = [word for word in words if word not in ("--help", "-h")]
    return others, len(others) < len(words)


def command(
    name: str, function: Callable[[list[str]], int], words: Sequence[str], interrupted: str = "nothing was written"
) -> int:
    """Runs `function(words)` and returns the exit code: its own, 2 for a mistake in the settings or a folder, 130 for
    an interruption, of which `interrupted` says what is left and how to go on."""
    try:
        return function(list(words))
    except SettingError as error:
        if _looked_at.get():
            raise
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output had enough of it; what was made is on disk
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"{name}: interrupted; {interrupted}", file=sys.stderr)
        return 130


def with_options(
    name: str,
    function: Callable[[Given], int],
    options: type[Given],
    words: Sequence[str],
    interrupted: str = "nothing was written",
    bare: bool = True,
) -> int:
    """Runs `function(options)` as `command` does, with the options of a command without axes read from its words.
    `--help`, and no words at all where the command does nothing `bare`, print its docstring and a table of them."""

    def run(words: list[str]) -> int:
        words, help = without_help(words)
        given = parse_options(words, options)
        if help or not (words or bare):
            print((sys.modules[options.__module__].__doc__ or "").strip() + "\n\n" + help_table(options))
            return 0
        return function(given)

    return command(name, run, words, interrupted)
