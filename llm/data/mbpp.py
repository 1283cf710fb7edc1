"""MBPP in two languages, from files of any of the forms it is published in, or small tasks of our own in their place.

A folder holds .jsonl, .json or .parquet files of tasks (google-research-datasets/mbpp, CC BY 4.0, in English; its
translation, AnonymousDoe/MBPP-Translated on the Hugging Face hub, saved with `to_json`). A task has a text (`text` in
the full MBPP, `prompt` in the sanitized one), its `code` and its `test_list`, and may have imports or a set-up for the
tests. A task's language is that of its language column, or of its text column (`text_es`), or of its file's or folder's
name (mbpp_es.jsonl, spanish/test.jsonl); its split is that of its split column, or of its file's name, or goes by
task_id as MBPP's own. Names of columns can be said where these guesses fail."""

import ast
import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lora_reuse.runs.settings import SettingError

LANGUAGES = {"english": ("english", "en", "eng"), "spanish": ("spanish", "es", "spa", "español", "espanol")}
SPLITS = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",), "prompt": ("prompt",)}
_OFFICIAL = {"prompt": range(1, 11), "test": range(11, 511), "dev": range(511, 601), "train": range(601, 975)}
"""MBPP's own split, by task_id."""


class Task(NamedTuple):
    """What a function should do, in one language; a solution; assertions; what the assertions need before them."""

    id: str
    text: str
    code: str
    tests: tuple[str, ...]
    setup: str = ""


@dataclass(frozen=True)
class Columns:
    """Names of columns where they are not the usual ones; {language} stands for the language as the files write it, en
    or spanish, say."""

    text: str = ""
    code: str = ""
    tests: str = ""
    language: str = ""
    split: str = ""


def tasks(folder: Path, language: str, split: str, columns: Columns) -> list[Task]:
    """The tasks of a language and a split, by id. Raises SettingError for a folder without any, and for a file that
    cannot be read."""
    if not folder.is_dir():
        raise SettingError("data", str(folder), "own, or a folder with MBPP's tasks in both languages")
    found: dict[str, Task] = {}
    seen: set[str] = set()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".jsonl", ".json", ".parquet")):
        for number, row in enumerate(_rows(path, path.stat().st_mtime_ns), 1):
            where = f"{path}:{number}"
            spoken = _language(row, path, folder, columns)
            seen |= spoken
            if (
                language in spoken
                and (task := _task(where, row, language, columns))
                and _split(where, row, path, folder, columns) == split
            ):
                found[task.id] = task
    if not found:
        heard = f"languages: {', '.join(sorted(seen)) or 'none'}"
        mend = "language_column=, text_column= and split_column= say where they are"
        raise SettingError(
            "data",
            f"{folder} without {split} tasks in {language} ({heard})",
            "tasks in both languages and splits",
            mend,
        )
    return sorted(found.values(), key=lambda task: (len(task.id), task.id))


def _language(row: Mapping[str, Any], path: Path, folder: Path, columns: Columns) -> set[str]:
    """The languages that a row is in: of its column, of its text's columns, or of its file's name."""
    column = columns.language or next((name for name in ("language", "lang", "locale") if name in row), "")
    if column:
        return {
            language
            for language, words in LANGUAGES.items()
            if str(row.get(column, "")).lower().split("-")[0].split("_")[0] in words
        }
    texts = {language for language in LANGUAGES if _text_column(row, language, columns, plain=False)}
    return texts or _named(path, folder, LANGUAGES)


def _text_column(row: Mapping[str, Any], language: str, columns: Columns, plain: bool = True) -> str:
    if columns.text and "{language}" not in columns.text:
        return columns.text if plain and columns.text in row else ""
    patterns = (
        [columns.text]
        if columns.text
        else ["text_{language}", "prompt_{language}", "{language}_text", "{language}_prompt", "{language}"]
    )
    named = [pattern.format(language=word) for pattern in patterns for word in LANGUAGES[language]]
    return next(
        (name for name in [*named, *(("text", "prompt") if plain and not columns.text else ())] if name in row), ""
    )


def _split(where: str, row: Mapping[str, Any], path: Path, folder: Path, columns: Columns) -> str:
    column = columns.split or ("split" if "split" in row else "")
    if column:
        said = str(row.get(column, "")).lower()
        return next((split for split, words in SPLITS.items() if said in words), "")
    if named := _named(path, folder, SPLITS):
        return min(named)
    number = row.get("task_id")
    if not isinstance(number, int):
        raise SettingError(
            "data",
            f"{where} without a split and without task_id",
            "tasks that say their split",
            "split_column= says where it is",
        )
    return next((split for split, numbers in _OFFICIAL.items() if number in numbers), "")


def _named(path: Path, folder: Path, words: Mapping[str, Sequence[str]]) -> set[str]:
    parts = re.split(r"[^a-zñ]+", "/".join(path.relative_to(folder).with_suffix("").parts).lower())
    return {name for name, listed in words.items() if set(parts) & set(listed)}


def _task(where: str, row: Mapping[str, Any], language: str, columns: Columns) -> Task:
    text = _text_column(row, language, columns)
    names = {"code": columns.code or "code", "test_list": columns.tests or "test_list"}
    for wanted, name in {"text": text or columns.text or "text", **names}.items():
        if row.get(name) is None or len(row[name]) == 0:
            raise SettingError(
                "data", f"{where} without {name!r}", f"a column for {wanted}", f"this row has {', '.join(row)}"
            )
    setup = [*_listed(where, row.get("test_imports")), *_listed(where, row.get("test_setup_code"))]
    tests = _listed(where, row[names["test_list"]])
    code = str(row[names["code"]]).replace("\r\n", "\n").replace("\t", "    ").strip()
    return Task(
        str(row.get("task_id", where.rsplit(":", 1)[1])), str(row[text]).strip(), code, tuple(tests), "\n".join(setup)
    )


def _listed(where: str, value: Any) -> list[str]:
    """A list of lines, also where a file holds it as text."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise SettingError("data", f"{where} with {value[:40]!r}", "a list of assertions") from None
    return [value] if isinstance(value, str) else [str(line) for line in value]


@functools.lru_cache(32)
def _rows(path: Path, _changed: int) -> tuple[dict[str, Any], ...]:
    try:
        if path.suffix == ".parquet":
            import pandas

            rows: Any = pandas.read_parquet(path).to_dict("records")
        elif path.suffix == ".json":
            rows = json.loads(path.read_text(encoding="utf-8-sig"))
        else:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except ImportError:
        raise SettingError(
            "data", f"{path}, and no reader of Parquet", "JSON lines", "pip install pyarrow, or save it with to_json"
        ) from None
    except (OSError, ValueError) as error:
        raise SettingError("data", f"{path} ({error})", "a file of tasks: .jsonl, .json or .parquet") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SettingError("data", str(path), "a list of tasks, each an object")
    return tuple(rows)
