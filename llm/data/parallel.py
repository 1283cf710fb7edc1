"""Sentences in English and Spanish, from a file: what a translation expert learns."""

import gzip
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from lora_reuse.runs.settings import SettingError

ENGLISH = ("english", "en", "source", "src")
SPANISH = ("spanish", "es", "target", "tgt")


def sentences(path: Path, count: int) -> list[tuple[str, str]]:
    """The first `count` pairs of a file: English and Spanish on a line with a tab between (.tsv, .txt, as ParaCrawl has
    them), or JSON lines with one of the columns above each, also within `translation`. Either may be gzipped. Raises
    SettingError."""
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8-sig") as file
        ):
            found = list(itertools.islice(_pairs(file, path), count))
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise SettingError("sentences", f"{path} ({error})", "a file of sentences that can be read") from None
    if not found:
        raise SettingError("sentences", f"{path}, which is empty", "a file of sentences")
    return found


def _pairs(lines: Iterator[str], path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if ".json" in path.suffixes or ".jsonl" in path.suffixes:
            pair = _from_json(line)
        else:
            cells = [cell.strip() for cell in line.split("\t")]
            pair = (cells[0], cells[1]) if len(cells) >= 2 else ("", "")
        if not all(pair):
            allowed = (
                "English, a tab and Spanish; or JSON lines with en and es, english and spanish, or source and target"
            )
            raise SettingError("sentences", f"{path}:{number}, {line[:40]!r}", allowed)
        yield pair


def _from_json(line: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
        row = row.get("translation", row)
        english, spanish = (next(row[name] for name in names if name in row) for names in (ENGLISH, SPANISH))
    except (ValueError, AttributeError, StopIteration, RuntimeError):
        return "", ""
    return str(english).strip(), str(spanish).strip()
