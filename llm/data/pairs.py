"""Prompts and answers in a JSONL file, an object {"prompt", "answer"} a line."""

import functools
import json
from pathlib import Path

from lora_reuse.runs.settings import SettingError


@functools.lru_cache(maxsize=8)
def pairs_in(
    path: Path, setting: str, allowed: str = 'a JSONL file of {"prompt", "answer"}'
) -> tuple[tuple[str, str], ...]:
    """All pairs of the file that `setting` names. Raises SettingError for a file that cannot be read (`allowed` says
    what can), with the number of the first line that is no pair, and for a file without any."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(setting, f"{path} ({type(error).__name__})", allowed) from None
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line) if line.strip() else None
        except ValueError:
            raise SettingError(f"{path}:{number}", repr(line[:40]), "one JSON object a line") from None
        if record is not None:
            if not isinstance(record, dict) or not all(
                isinstance(record.get(key), str) for key in ("prompt", "answer")
            ):
                raise SettingError(f"{path}:{number}", repr(line[:40]), '{"prompt": "...", "answer": "..."}')
            found.append((record["prompt"], record["answer"]))
    if not found:
        raise SettingError(setting, f"{path}, which is empty", "prompts and answers")
    return tuple(found)
