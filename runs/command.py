"""What every command does with `--help`, a mistake, a closed pipe and Control-C."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from lora_reuse.runs.settings import SettingError, help_table, parse_options

Given = TypeVar("Given")


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
