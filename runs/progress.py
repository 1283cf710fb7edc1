"""How far a command is and how long it still takes: a bar on a terminal; in a log file, as under a batch system, a line
a minute at most."""

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm

SECONDS = 60
"""Between two lines, and before the first."""
LINE = "{desc}: {n_fmt} of {total_fmt}, {elapsed} gone, {remaining} left{postfix}"


class _Lines:
    """A stream on which each state of a bar is a line of its own, but for the last, which a bar says again when it
    closes."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._done = ""

    def write(self, text: str) -> None:
        said = text.strip()
        done = said.partition(",")[0]
        if said and done != self._done:
            self._stream.write(f"{said}\n")
            self._done = done

    def flush(self) -> None:
        self._stream.flush()


def progress_bar(iterable: Iterable[Any] | None = None, *, show: bool | None = None, **given: Any) -> Any:
    """tqdm's bar with these settings on the standard error, and lines where that is no terminal. `show`: True for the
    bar wherever that is, as in a notebook, unless the variable TQDM_DISABLE is set; False for nothing."""
    if show is False:
        return tqdm(iterable, disable=True, **given)
    if show or sys.stderr.isatty():
        return tqdm(iterable, **given)
    lines: Any = _Lines(sys.stderr)
    every: Any = {"mininterval": SECONDS, "maxinterval": 2 * SECONDS, "miniters": 1, "delay": SECONDS, "position": 0}
    return tqdm(iterable, file=lines, bar_format=LINE, **every, **given)
