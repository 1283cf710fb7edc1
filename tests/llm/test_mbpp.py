"""MBPP in every form that it comes in."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_reuse.llm.data import mbpp
from lora_reuse.llm.data.mbpp import Columns
from lora_reuse.runs.settings import SettingError

PLAIN = Columns()
SPLITS = {"train": 601, "test": 11, "dev": 511, "prompt": 1}
"""The first task_id of each of MBPP's splits."""


def row(number: int, language: str, **changed: Any) -> dict[str, Any]:
    """A task in the format of the full MBPP."""
    text = {"english": f"Write a function that adds {number}.", "spanish": f"Escribe una función que sume {number}."}[
        language
    ]
    row = {
        "task_id": number,
        "text": text,
        "code": f"def add(x):\r\n\treturn x + {number}",
        "test_list": [f"assert add(1) == {1 + number}"],
    }
    row |= {"test_setup_code": "", "challenge_test_list": []} | changed
    return {key: value for key, value in row.items() if value is not None}


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def per_language_files(folder: Path) -> Columns:
    """mbpp_en.jsonl and mbpp_es.jsonl, splits by task_id."""
    for name, language in (("en", "english"), ("es", "spanish")):
        lines(folder / f"mbpp_{name}.jsonl", [row(n, language) for n in SPLITS.values()])
    return PLAIN


def per_language_folders(folder: Path) -> Columns:
    """english/train.jsonl, spanish/test.jsonl, ..., whose ids are no longer MBPP's."""
    for language in mbpp.LANGUAGES:
        for split, number in SPLITS.items():
            lines(folder / language / f"{split}-00000-of-00001.jsonl", [row(number, language, task_id=f"t{number}")])
    return PLAIN


def one_file_with_a_language_column(folder: Path) -> Columns:
    """All rows in one file, with `lang` and `split`, in the sanitized format (`prompt`, `test_imports`)."""
    rows = [
        row(
            n,
            language,
            lang=code,
            split=split,
            prompt=row(n, language)["text"],
            text=None,
            test_setup_code=None,
            test_imports=["import math"],
        )
        for split, n in SPLITS.items()
        for language, code in (("english", "en"), ("spanish", "es-ES"))
    ]
    lines(folder / "all.jsonl", rows)
    return PLAIN


def a_text_column_a_language(folder: Path) -> Columns:
    """Both texts in one row of one JSON list."""
    rows = [
        row(n, "english", text=None, text_en=row(n, "english")["text"], text_es=row(n, "spanish")["text"])
        for n in SPLITS.values()
    ]
    (folder / "tasks.json").write_text(json.dumps(rows))
    return PLAIN


def columns_of_its_own(folder: Path) -> Columns:
    """Names that nobody can guess, lists as text, a third language."""
    rows = [
        {
            "idioma": word,
            "parte": split,
            "task_id": n,
            f"tarea_{code}": row(n, language)["text"],
            "solución": row(n, language)["code"],
        }
        | {"pruebas": str(row(n, language)["test_list"])}
        for split, n in SPLITS.items()
        for word, code, language in (
            ("English", "en", "english"),
            ("Spanish", "es", "spanish"),
            ("French", "fr", "english"),
        )
    ]
    lines(folder / "rows.jsonl", rows)
    return Columns("tarea_{language}", "solución", "pruebas", "idioma", "parte")


FORMS: list[Callable[[Path], Columns]] = [
    *(
        per_language_files,
        per_language_folders,
        one_file_with_a_language_column,
        a_text_column_a_language,
        columns_of_its_own,
    )
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_tasks_are_found_in_every_form(form: Callable[[Path], Columns], tmp_path: Path):
    columns = form(tmp_path)
    for language in mbpp.LANGUAGES:
        for split, number in SPLITS.items():
            (found,) = mbpp.tasks(tmp_path, language, split, columns)
            wanted = row(number, language)
            assert found.text == wanted["text"]
            assert found.code == f"def add(x):\n    return x + {number}"
            assert found.tests == (f"assert add(1) == {1 + number}",)
            assert found.setup in ("", "import math")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (None, "a folder with MBPP's tasks in both languages"),
        ([], "without test tasks in spanish (languages: none)"),
        ([row(11, "english", lang="en")], "without test tasks in spanish (languages: english)"),
        ([row(601, "spanish", lang="es")], "without test tasks in spanish (languages: spanish)"),
        (
            [row(11, "spanish", lang="es", code=None)],
            "all.jsonl:1 without 'code'; allowed: a column for code; this row has task_id",
        ),
        ([row(11, "spanish", lang="es", test_list=[])], "all.jsonl:1 without 'test_list'"),
        ([row(11, "spanish", lang="es", text=None)], "all.jsonl:1 without 'text'"),
        ([row(11, "spanish", lang="es", test_list="[assert")], "a list of assertions"),
        ([row(11, "spanish", lang="es", task_id=None)], "without a split and without task_id"),
        ("{", "a file of tasks: .jsonl, .json or .parquet"),
        ("3\n", "a list of tasks, each an object"),
    ],
)
def test_bad_files_are_refused_in_one_line(rows: Any, said: str, tmp_path: Path):
    folder = tmp_path / "data"
    if isinstance(rows, str):
        folder.mkdir()
        (folder / "all.jsonl").write_text(rows)
    elif rows is not None:
        lines(folder / "all.jsonl", rows)
    with pytest.raises(SettingError) as error:
        mbpp.tasks(folder, "spanish", "test", PLAIN)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
