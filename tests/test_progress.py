"""Progress: a bar on a terminal, lines in a log, nothing of what is quick."""

import io
import itertools
import sys

from lora_reuse.runs import progress
from lora_reuse.runs.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def written_to(monkeypatch, stream: io.StringIO) -> io.StringIO:
    """The stream, as the standard error from here on (a fixture would be before pytest's own)."""
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_a_log_has_a_line_for_each_state_and_no_codes_of_a_terminal(monkeypatch):
    log = written_to(monkeypatch, io.StringIO())
    monkeypatch.setattr(progress, "SECONDS", 0)
    with progress_bar(total=2, desc="experts", unit="expert") as outer:
        for _ in range(2):
            for _ in progress_bar(range(3), desc="steps", leave=False):
                pass
            outer.update()
    lines = log.getvalue().splitlines()
    assert [line.partition(",")[0] for line in lines if line.startswith("experts: ")][-1] == "experts: 2 of 2"
    assert any(line.startswith("steps: 2 of 3, 00:00 gone, 00:00 left") for line in lines)
    assert not set(log.getvalue()) & {"\r", "\x1b", "█"}
    assert all(lines)
    each = [line.partition(",")[0] for line in lines]
    assert not any(line == after for line, after in itertools.pairwise(each))


def test_what_takes_less_than_a_minute_leaves_no_line(monkeypatch):
    log = written_to(monkeypatch, io.StringIO())
    assert list(progress_bar(range(3), desc="steps")) == [0, 1, 2]
    with progress_bar(total=1) as bar:
        bar.update()
    assert not log.getvalue()


def test_a_terminal_has_a_bar(monkeypatch):
    stream = written_to(monkeypatch, Terminal())
    list(progress_bar(range(3), desc="steps"))
    assert "steps: 100%|" in stream.getvalue()
    assert "\r" in stream.getvalue()


def test_it_is_shown_or_hidden_where_the_caller_says_so(monkeypatch):
    log = written_to(monkeypatch, io.StringIO())
    list(progress_bar(range(3), desc="steps", show=True))
    assert "steps: 100%|" in log.getvalue()
    log.truncate(0)
    monkeypatch.setattr(progress, "SECONDS", 0)
    list(progress_bar(range(3), desc="steps", show=False))
    assert not log.getvalue()
