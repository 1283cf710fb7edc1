import json
import math
import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path

import pytest

import lora_reuse as lr
from lora_reuse.runs.rows import Rows, load_rows, row_hash, sources
from lora_reuse.runs.settings import SettingError


def row(seed, **settings):
    return {
        "experiment": "demo",
        "settings": {"width": math.inf, "seed": seed, **settings},
        "measured": {"c": 0.5 + seed},
        "predicted": {"c": 0.5},
        "stderr": {"c": 0.1},
        "provenance": {"command": "demo"},
    }


def changed(**fields):
    """A line that has all that a row has, and some of it of another kind."""
    return (json.dumps({"schema": 1, "hash": "0" * 16, **row(7, width=4), **fields}) + "\n").encode()


def test_a_row_comes_back_as_it_was_and_is_known_by_its_settings(tmp_path):
    rows = Rows(tmp_path, "demo")
    rows.append(row(3))
    again = Rows(tmp_path, "demo")
    key = row_hash("demo", {"seed": 3, "width": math.inf})
    assert again.known[key]["measured"] == {"c": 3.5}
    assert again.known[key]["settings"]["width"] == "inf"
    strict = json.loads(
        (tmp_path / "demo.jsonl").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON")
    )
    assert strict["schema"] == 1


def test_a_row_is_known_as_it_will_be_read(tmp_path):
    rows = Rows(tmp_path, "demo")
    rows.append(row(3, weights=(0.5, 0.5)))
    assert rows.known == Rows(tmp_path, "demo").known


def test_another_setting_seed_or_experiment_is_another_row():
    base = row_hash("demo", {"seed": 3, "width": 4})
    assert (
        len(
            {
                base,
                row_hash("demo", {"seed": 4, "width": 4}),
                row_hash("demo", {"seed": 3, "width": 5}),
                row_hash("d", {"seed": 3, "width": 4}),
            }
        )
        == 4
    )


def test_nan_is_refused(tmp_path):
    bad = row(0)
    bad["measured"] = {"c": math.nan}
    with pytest.raises(ValueError, match="not JSON compliant"):
        Rows(tmp_path, "demo").append(bad)
    assert (tmp_path / "demo.jsonl").read_text() == ""


def test_rows_load_as_one_table_over_files_each_measurement_once(tmp_path):
    Rows(tmp_path, "demo").append(row(0))
    shard = Rows(tmp_path, "demo", "demo.2-of-2")
    shard.append(row(1))
    with open(shard.path, "a") as file:
        file.write((tmp_path / "demo.jsonl").read_text())  # the same measurement by another process
    table = lr.rows(tmp_path, "demo")
    assert sorted(table["measured.c"]) == [0.5, 1.5]
    assert table["settings.width"].tolist() == [math.inf, math.inf]


def test_a_table_has_provenance_where_it_is_asked_for_and_says_what_is_missing(tmp_path):
    Rows(tmp_path, "demo").append(row(0) | {"measured": {"c": 0.5, "called": True}})
    Rows(tmp_path, "demo").append(row(1))
    table = lr.rows(tmp_path)
    assert not [name for name in map(str, table) if name.startswith("provenance") or name == "schema"]
    assert {name for name in lr.rows(tmp_path, provenance=True) if name not in table} == {"provenance.command"}
    assert table["measured.called"].dtype == "boolean"
    assert table["measured.called"].isna().tolist() == [False, True]
    with pytest.raises(SettingError, match=r"^experiment: got 'demos'; allowed: demo; did you mean 'demo'\?$"):
        lr.rows(tmp_path, "demos")
    for experiment in (None, "demo"):
        with pytest.raises(SettingError, match=r"^folder: got .*/nowhere; allowed: a folder that holds rows"):
            lr.rows(tmp_path / "nowhere", experiment)


def test_a_torn_last_line_is_cut_off_and_no_row_is_lost(tmp_path):
    rows = Rows(tmp_path, "demo")
    rows.append(row(0))
    whole = rows.path.read_bytes()
    rows.path.write_bytes(whole + whole[: len(whole) // 2])
    assert len(load_rows(tmp_path)) == 1  # reading alone changes nothing
    assert rows.path.read_bytes() != whole
    again = Rows(tmp_path, "demo")
    assert rows.path.read_bytes() == whole
    again.append(row(1))
    assert len(load_rows(tmp_path)) == 2


@pytest.mark.parametrize("kept", [1, 5, 11, 40])
def test_a_row_torn_anywhere_is_cut_off(tmp_path, kept):
    rows = Rows(tmp_path, "demo")
    rows.append(row(0))
    whole = rows.path.read_bytes()
    rows.path.write_bytes(whole + whole[:kept])
    assert len(Rows(tmp_path, "demo").known) == 1
    assert rows.path.read_bytes() == whole


@pytest.mark.parametrize("line", [b"a note", b"{}", b'{"a": 1}', b"[1]", b"{'schema': 1"])
def test_a_last_line_that_is_no_torn_row_is_reported_and_kept(tmp_path, line):
    rows = Rows(tmp_path, "demo")
    rows.append(row(0))
    before = rows.path.read_bytes() + line
    rows.path.write_bytes(before)
    for read in (lambda: Rows(tmp_path, "demo"), lambda: load_rows(tmp_path)):
        with pytest.raises(SettingError, match=r"demo.jsonl:2: got .*; move the file away or mend that line"):
            read()
    assert rows.path.read_bytes() == before
    rows.append(row(1))  # by one that was there before it
    assert rows.path.read_bytes().startswith(before + b"\n{")


def test_a_last_line_that_lacks_only_its_newline_is_kept(tmp_path):
    rows = Rows(tmp_path, "demo")
    rows.append(row(0))
    whole = rows.path.read_bytes()
    rows.path.write_bytes(whole[:-1])
    assert len(Rows(tmp_path, "demo").known) == 1
    assert rows.path.read_bytes() == whole


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"{oops\n", "one JSON object a line"),
        (b"\xff\xfe\n", "one JSON object a line"),
        (b"[1]\n", "not a row"),
        (b'{"a": 1}\n', "not a row"),
        (b"\n", "one JSON object a line"),
        (b'{"schema": 99}\n', "schema 99"),
        (b'{"schema": 1, "experiment": "demo"}\n', "'settings'"),
        (changed(measured={"c": math.nan}), "got NaN; allowed: numbers, as strict JSON has them"),
        (changed(stderr={"c": -math.inf}), "got -Infinity; allowed: numbers"),
        (changed(measured=None), "got measured null; allowed: an object with a number"),
        (changed(measured={}), "got measured {}; allowed: an object with a number"),
        (changed(predicted=[1.0]), "got predicted [1.0]; allowed: an object"),
        (changed(provenance=None), "got provenance null; allowed: an object"),
        (changed(settings="x"), 'got settings "x"; allowed: an object'),
        (changed(hash=[1]), "got hash [1]; allowed: a text"),
        (changed(experiment=None), "got experiment null; allowed: a text"),
    ],
)
def test_any_other_corruption_is_reported_by_line_and_left_alone(tmp_path, line, what):
    rows = Rows(tmp_path, "demo")
    for seed in range(3):
        rows.append(row(seed))
    lines = rows.path.read_bytes().splitlines(keepends=True)
    rows.path.write_bytes(b"".join([lines[0], line, *lines[1:]]))
    before = rows.path.read_bytes()
    with pytest.raises(SettingError) as error:
        Rows(tmp_path, "demo")
    assert "demo.jsonl:2: got" in str(error.value)
    assert what in str(error.value)
    assert rows.path.read_bytes() == before


def test_a_folder_that_cannot_be_one_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SettingError, match="out: got"):
            Rows(folder, "demo")
    (tmp_path / "taken" / "demo.jsonl").mkdir(parents=True)
    with pytest.raises(SettingError, match="out: got"):
        Rows(tmp_path / "taken", "demo")


HEAD = "hash,commit,field,reason"


def _withdraw(folder, *lines):
    (folder / "withdrawn.csv").write_text("\n".join(lines) + "\n")


def _made(folder: Path, seed: int, commit: str | None = "abc") -> str:
    rows = Rows(folder, "demo")
    rows.append(row(seed) | {"provenance": {"commit": commit}})
    return row_hash("demo", row(seed)["settings"])


def test_a_withdrawn_field_is_not_read_and_the_rest_of_its_row_is(tmp_path):
    first, second = _made(tmp_path, 0), _made(tmp_path, 1)
    before = (tmp_path / "demo.jsonl").read_bytes()
    _withdraw(tmp_path, HEAD, f'{first},abc,predicted.c,"wrong, and why"')
    rows = {one["hash"]: one for one in load_rows(tmp_path)}
    assert (rows[first]["predicted"], rows[first]["measured"]) == ({}, {"c": 0.5})
    assert rows[second]["predicted"] == {"c": 0.5}
    assert lr.rows(tmp_path, "demo")["predicted.c"].isna().tolist() == [True, False]
    assert (tmp_path / "demo.jsonl").read_bytes() == before


def test_a_withdrawn_row_is_measured_anew_and_then_there(tmp_path):
    key = _made(tmp_path, 0)
    _withdraw(tmp_path, HEAD, f"{key},abc,row,it was of another model")
    assert load_rows(tmp_path) == []
    rows = Rows(tmp_path, "demo")
    assert rows.known == {}
    rows.append(row(0) | {"measured": {"c": 9.0}, "provenance": {"commit": "def"}})
    (again,) = load_rows(tmp_path)
    assert (again["hash"], again["measured"]) == (key, {"c": 9.0})
    assert sources(tmp_path) == [("demo.jsonl", 2, again)]


def test_a_row_without_a_commit_is_withdrawn_by_none(tmp_path):
    key = _made(tmp_path, 0, commit=None)
    _withdraw(tmp_path, HEAD, f"{key},,row,why")
    assert load_rows(tmp_path) == []


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        (["hash,reason", "KEY,why"], "withdrawn.csv:1: got 'hash,reason'; allowed: the head hash,commit,field,reason"),
        ([""], "withdrawn.csv:1: got ''"),
        ([HEAD, "KEY,abc,row"], "withdrawn.csv:2: got 'KEY,abc,row'"),
        ([HEAD, "KEY,abc,row,"], "withdrawn.csv:2: got 'KEY,abc,row,'"),
        ([HEAD, ",abc,row,why"], "withdrawn.csv:2: got ',abc,row,why'"),
        (
            [HEAD, "KEY,abc,settings.seed,why"],
            "withdrawn.csv:2: got 'settings.seed'; allowed: row, or a field of measured",
        ),
        ([HEAD, "KEY,abc,predicted.d,why"], "withdrawn.csv:2: got predicted.d of row KEY, which has none"),
        ([HEAD, 'KEY,abc,row,"why'], "a file that is no table"),
    ],
)
def test_a_malformed_withdrawal_is_one_line(tmp_path, lines, what):
    key = _made(tmp_path, 0)
    _withdraw(tmp_path, *(line.replace("KEY", key) for line in lines))
    with pytest.raises(SettingError) as error:
        load_rows(tmp_path, "demo")
    assert what.replace("KEY", key) in str(error.value)
    assert "\n" not in str(error.value)


def _append_until_full(folder, answers):
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    rows = Rows(folder, "demo")
    try:
        for seed in range(100):
            rows.append(row(seed, padding="x" * 1000))
    except SettingError as error:
        answers.put(str(error))


def test_a_full_disk_is_one_line_and_leaves_whole_rows(tmp_path):
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    worker = context.Process(target=_append_until_full, args=(tmp_path, answers))
    worker.start()
    answer = answers.get(timeout=60)
    worker.join()
    assert answer.startswith("out: got")
    assert "demo.jsonl" in answer
    assert "\n" not in answer
    assert len(Rows(tmp_path, "demo").known) > 3


def _append_many(folder, start):
    rows = Rows(folder, "demo")
    for seed in range(start, start + 50):
        rows.append(row(seed, padding="x" * 3000))


def test_processes_that_share_a_file_lose_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append_many, args=(tmp_path, start)) for start in (0, 50, 100)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(r["settings"]["seed"] for r in load_rows(tmp_path)) == list(range(150))


def _append_forever(folder):
    rows = Rows(folder, "demo")
    for seed in range(10**6):
        rows.append(row(seed, padding="x" * 30000))


def test_kill_minus_nine_leaves_whole_rows(tmp_path):
    worker = multiprocessing.get_context("spawn").Process(target=_append_forever, args=(tmp_path,))
    worker.start()
    while not (tmp_path / "demo.jsonl").exists() or (tmp_path / "demo.jsonl").stat().st_size < 200_000:
        time.sleep(0.01)
    os.kill(worker.pid or 0, signal.SIGKILL)
    worker.join()
    seeds = [r["settings"]["seed"] for r in Rows(tmp_path, "demo").known.values()]
    assert seeds == list(range(len(seeds)))
    assert len(seeds) >= 6
