"""Files of parallel sentences."""

import gzip
from pathlib import Path

import pytest

from lora_reuse.llm.data import parallel
from lora_reuse.runs.settings import SettingError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", "Hello.\tHola.\nBye.\tAdiós.\textra\n\nThird.\tTercero.\n"),
        (
            "a.jsonl",
            '{"en": "Hello.", "es": "Hola."}\n{"translation": {"source": "Bye.", "target": "Adiós."}}\n{"english": '
            '"c", "spanish": "d"}\n',
        ),
    ],
)
def test_sentences_are_read_as_text_and_as_json_also_zipped(name: str, text: str, tmp_path: Path):
    wanted = [("Hello.", "Hola."), ("Bye.", "Adiós.")]
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert parallel.sentences(tmp_path / name, 2) == wanted
    assert len(parallel.sentences(tmp_path / name, 99)) == 3
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    assert parallel.sentences(tmp_path / f"{name}.gz", 2) == wanted


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.tsv", b"no tab\n", "a.tsv:1, 'no tab"),
        ("a.jsonl", b'{"en": "a"}\n', "a.jsonl:1"),
        ("a.jsonl", b"[1]\n", "a.jsonl:1"),
        ("a.tsv", b"", "which is empty"),
        ("a.tsv", b"\xff\t\xff\n", "that can be read"),
        ("a.tsv.gz", b"no gzip", "that can be read"),
    ],
)
def test_bad_sentences_are_refused_in_one_line(name: str, text: bytes, said: str, tmp_path: Path):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(SettingError, match="sentences: got") as error:
        parallel.sentences(tmp_path / name, 9)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
