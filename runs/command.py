"""What every command does with `--help`, a mistake, a closed pipe and Control-C."""

import os
import sys
from collections.abc import Callable, Sequence

from lora_reuse.runs.settings import SettingError


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
