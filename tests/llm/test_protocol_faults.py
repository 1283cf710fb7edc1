"""What goes wrong with a protocol's command: mistakes, kills, company, workers, full disks, models that are none."""

import errno
import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from lora_reuse.llm.adapters import training as experts
from lora_reuse.llm.protocols.protocol import main
from lora_reuse.llm.protocols.workers import pool
from lora_reuse.runs.rows import load_rows
from lora_reuse.runs.settings import SettingError
from tests.llm.test_protocols import GRID, PROTOCOLS, SMALL, TEXT, measured, same
from tests.llm.tiny import tiny

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny("qwen2", tmp_path_factory.mktemp("model"), text=TEXT)


@pytest.fixture(scope="module")
def words(model) -> list[str]:
    assert SMALL[-1] == "workers=1"
    return [f"model={model}", *GRID, "log_probs=false", *SMALL]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory) -> Path:
    """GRID of two_hop, in one process; copy it before writing in it."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(PROTOCOLS["two_hop"], [*words, f"out={folder}"]) == 0
    return folder


def refused(captured, line: str) -> None:
    assert captured.err.count("\n") == 1, captured.err
    assert line in captured.err


def test_rows_of_other_weights_under_the_name_are_refused(model, words, tmp_path, capsys):
    """The folder was trained anew since: what is there is of another model, and nothing is added to it."""
    folder, rows = tmp_path / "model", tmp_path / "rows"
    shutil.copytree(model, folder)
    mine = [f"model={folder}", *words[1:], f"out={rows}"]
    assert main(PROTOCOLS["two_hop"], mine) == 0
    before, config = (rows / "llm_two_hop.jsonl").read_bytes(), folder / "config.json"
    config.write_text(config.read_text() + "\n")
    capsys.readouterr()
    for more in ([], ["seeds=2"]):
        assert main(PROTOCOLS["two_hop"], [*mine, *more]) == 2
        refused(capsys.readouterr(), f"out: got {rows}, with rows of model={folder} whose weights were ")
    assert (rows / "llm_two_hop.jsonl").read_bytes() == before


# Mistakes


BAD = [
    ("two_hop", "dataset=X", "dataset: got 'X'; allowed: F | H | R"),
    ("two_hop", "datset=F", "did you mean 'dataset'?"),
    ("two_hop", "composition=arow", "did you mean 'arrow'?"),
    ("two_hop", "library=2-combinations", "did you mean '2-combination'?"),
    ("two_hop", "library=none composition=sum", "the grid: got no point with something to ask"),
    ("scale", "library=1 prompting=second", "the grid: got no point with something to ask"),
    ("scale", "composition=sum", "composition: got 'sum'; allowed: cat"),
    ("bridge", "setup=9", "setup: got '9'; allowed: 0 | 1"),
    ("bridge", "setup=22", "did you mean '2'?"),
    ("placement", "layers=atention", "did you mean 'attention'?"),
    ("placement", "triplets=101", "triplets: got '101'; allowed: a whole number from 2 to 100"),
    ("two_hop", "shard=3/2", "shard: got 3/2; allowed: i/N with 1 <= i <= N"),
    ("two_hop", "shard=0/2", "shard: got '0/2'"),
    ("two_hop", "launcher=local shard=1/2", "shard: got 1/2; allowed: no shard= with launcher="),
    ("two_hop", "chat=on", "its tokenizer has no chat template"),
    ("two_hop", "device_map=everywhere", "device_map: got 'everywhere'"),
    ("two_hop", "model=no/such/folder", "no/such/folder, which is no folder here and cannot be a name on the hub"),
    ("bridge", "model=nobody/nothing", "nobody/nothing, which is no folder here and"),
    (
        "two_hop",
        "model={model},nobody/nothing",
        "nobody/nothing, which is no folder here and",
    ),  # before the first is trained
    ("two_hop", "model={empty}", "a folder without config.json"),
    ("two_hop", "model={pickled}", "convert them with the safetensors library"),
    ("two_hop", "model={own}", "that only with trust_remote_code=true"),
    ("two_hop", "model={file}", "which is a file"),
]


@pytest.mark.parametrize(("protocol", "line"), [pytest.param((p, w), line, id=f"{p} {w}") for p, w, line in BAD])
def test_a_mistake_is_one_line_exit_code_2_and_nothing_written(model, tmp_path, capsys, monkeypatch, protocol, line):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    name, text = protocol
    places = {key: tmp_path / key for key in ("empty", "pickled", "own", "file")}
    places["empty"].mkdir()
    places["file"].write_text("")
    for copy in ("pickled", "own"):
        shutil.copytree(model, places[copy])
    os.replace(places["pickled"] / "model.safetensors", places["pickled"] / "pytorch_model.bin")
    config = json.loads((model / "config.json").read_text())
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}}
    (places["own"] / "config.json").write_text(json.dumps(config | own))
    words = text.format(model=model, **places).split()
    words += [] if "model=" in text else [f"model={model}"]
    out = tmp_path / "rows"
    assert main(PROTOCOLS[name], [*words, "workers=1", f"out={out}"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    refused(captured, line)
    assert captured.err.startswith(f"llm.{name}: ")
    assert not out.exists()


@pytest.mark.parametrize("text", ["no row\n", '{"a": 1}\n', '{"schema": 0}\n'])
def test_a_folder_with_something_else_in_it_is_left_alone(words, tmp_path, capsys, text):
    (tmp_path / "llm_two_hop.jsonl").write_text(text)
    for more in ([], ["launcher=local"]):
        assert main(PROTOCOLS["two_hop"], [*words, f"out={tmp_path}", *more]) == 2
        refused(capsys.readouterr(), "llm_two_hop.jsonl:1: got ")
    assert [path.name for path in tmp_path.iterdir()] == ["llm_two_hop.jsonl"]
    assert (tmp_path / "llm_two_hop.jsonl").read_text() == text


@pytest.mark.parametrize("place", ["", "experts", "answers"])
def test_a_file_where_a_folder_has_to_be(words, whole, tmp_path, capsys, place):
    if place == "answers":
        shutil.copytree(whole / "experts", tmp_path / "out" / "experts")
    (tmp_path / "out" / place).parent.mkdir(exist_ok=True)
    (tmp_path / "out" / place).write_text("")
    assert main(PROTOCOLS["two_hop"], [*words, f"out={tmp_path / 'out'}"]) == 2
    refused(capsys.readouterr(), f"out: got {tmp_path / 'out' / place}")
    assert load_rows(tmp_path / "out") == []


def test_the_launcher_needs_a_folder_too(words, tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert main(PROTOCOLS["two_hop"], [*words, f"out={tmp_path / 'out'}", "launcher=local"]) == 2
    refused(capsys.readouterr(), "submitit")


def test_a_pocket_model_has_settings_of_its_own(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "pocket.json").write_text("{}")

    def settings(*words):
        assert main(PROTOCOLS["bridge"], [*words, "dry_run=true"]) == 0
        return dict(
            line.strip().split("=", 1) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")
        )

    paper = settings("model=some/other,one/more")
    assert (paper["rate"], paper["triplets"], paper["clip"], paper["own_share"]) == ("0.0001", "100", "0.1", "0.0")
    for words in ([], [f"model={tmp_path}/mine"], ["model=pocket"]):
        pocket = settings(*words)
        assert (pocket["rate"], pocket["triplets"], pocket["clip"], pocket["own_share"]) == (
            "0.002",
            "20",
            "1.0",
            "0.5",
        )
    named = settings("rate=0.5,0.25", "triplets=7")
    assert (named["rate"], named["triplets"], named["clip"]) == ("0.5,0.25", "7", "1.0")
    assert main(PROTOCOLS["bridge"], [f"model={tmp_path}/mine,some/other", "dry_run=true"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "mine, which has settings of its own, and some/other, which has the paper's" in error


# Full disks


@contextmanager
def no_file_above(size: int):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_without_room_for_an_adapter(words, whole, tmp_path, capsys):
    """The limit on a file's size stands in for the disk's: the system refuses the write, in the middle of it."""
    adapter = next((whole / "experts").glob("*/adapter_model.safetensors"))
    with no_file_above(adapter.stat().st_size - 100):
        assert main(PROTOCOLS["two_hop"], [*words, f"out={tmp_path}"]) == 2
    refused(capsys.readouterr(), f"out: got {tmp_path}/experts")
    assert not list((tmp_path / "experts").iterdir())
    assert main(PROTOCOLS["two_hop"], [*words, f"out={tmp_path}"]) == 0
    same(measured(tmp_path), measured(whole))
    assert len(list((tmp_path / "experts").iterdir())) == 4  # nothing is left of what failed


@pytest.mark.parametrize("refusing", ["row", "answers"])
def test_a_disk_without_room_for_a_row_or_its_answers(words, whole, tmp_path, capsys, monkeypatch, refusing):
    shutil.copytree(whole / "experts", tmp_path / "experts")
    calls = []

    def full(*_: object, **__: object) -> None:
        calls.append(1)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if refusing == "row":
        monkeypatch.setattr(os, "fsync", full)
    else:
        replace = os.replace
        monkeypatch.setattr(os, "replace", lambda *paths: (full(), replace(*paths)))
    assert main(PROTOCOLS["two_hop"], [*words, f"out={tmp_path}"]) == 2
    refused(capsys.readouterr(), "No space left on device")
    monkeypatch.undo()
    assert not list((tmp_path / "answers").glob("*.writing"))
    kept = measured(tmp_path)
    assert main(PROTOCOLS["two_hop"], [*words, f"out={tmp_path}"]) == 0
    assert f"{12 - len(kept)} new, {len(kept)} from before" in capsys.readouterr().out
    same(measured(tmp_path), measured(whole))


# Interruptions and company


def test_control_c_is_one_line_and_130(words, tmp_path, capsys, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(experts, "train", interrupted)
    assert main(PROTOCOLS["two_hop"], [*words, f"out={tmp_path}"]) == 130
    refused(capsys.readouterr(), "llm.two_hop: interrupted")


def command(words, out) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "llm.two_hop", *words, f"out={out}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(there, process) -> None:
    deadline = time.time() + 300
    while not there() and process.poll() is None and time.time() < deadline:
        time.sleep(0.01)


def test_a_kill_loses_the_cell_in_flight_at_most(words, whole, tmp_path):
    process = command([*words], tmp_path)
    until(lambda: list(tmp_path.glob("experts/*")), process)
    time.sleep(random.random() ** 2)
    process.kill()
    process.communicate()
    made = {
        path: path.read_bytes()
        for path in tmp_path.glob("experts/*/adapter_model.safetensors")
        if "." not in path.parent.name
    }
    before = measured(tmp_path)
    assert len(before) in range(13)
    assert main(PROTOCOLS["two_hop"], [*words, f"out={tmp_path}"]) == 0
    assert before.items() <= measured(tmp_path).items()
    same(measured(tmp_path), measured(whole))
    assert all(path.read_bytes() == content for path, content in made.items())
    assert sorted(path.name for path in (tmp_path / "experts").iterdir()) == sorted(
        path.name for path in (whole / "experts").iterdir()
    )


def test_two_runs_in_one_folder_leave_every_row_once(words, whole, tmp_path):
    process = command([*words], tmp_path)
    until(lambda: list(tmp_path.glob("experts/*")), process)
    assert main(PROTOCOLS["two_hop"], [*words, f"out={tmp_path}"]) == 0
    out, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (0, "")
    assert "12 rows" in out
    rows = load_rows(tmp_path)
    assert len({row["hash"] for row in rows}) == len(rows) == 12
    same(measured(tmp_path), measured(whole))
    assert len(list((tmp_path / "answers").iterdir())) == 12


# Workers


def test_workers_measure_the_same(words, whole, tmp_path, capfd):
    assert main(PROTOCOLS["two_hop"], [*words[:-1], "workers=2", f"out={tmp_path}"]) == 0
    assert capfd.readouterr().err == ""
    same(measured(tmp_path), measured(whole))


def test_a_workers_mistake_is_one_line_of_the_command(words, whole, tmp_path, capfd):
    shutil.copytree(whole / "experts", tmp_path / "experts")
    broken = next((tmp_path / "experts").glob("*/adapter_model.safetensors"))
    broken.write_bytes(broken.read_bytes()[:-100])
    assert main(PROTOCOLS["two_hop"], [*words[:-1], "workers=2", f"out={tmp_path}"]) == 2
    refused(capfd.readouterr(), f"llm.two_hop: expert: got a broken adapter_model.safetensors in {broken.parent}")


def test_a_killed_worker_is_a_mistake_that_names_memory():
    with (
        pytest.raises(SettingError, match="workers: got 2, and one was killed; allowed: fewer of them"),
        pool(2) as run,
    ):
        list(run([(os._exit, (9,))]))


def test_workers_end_with_a_parent_that_is_killed():
    """They have nothing to do, so that the server they are forked from imports nothing."""
    code = (
        "import multiprocessing, os, time\nfrom llm.protocols.workers import pool\n"
        "multiprocessing.get_context('forkserver').set_forkserver_preload = lambda names: None\n"
        "with pool(2) as run:\n    for pid in run([(os.getpid, ())]):\n        print(pid, flush=True)\n        "
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    os.kill(worker, 0)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    deadline = time.time() + 60
    while (
        Path(f"/proc/{worker}").exists()
        and "Z" not in Path(f"/proc/{worker}/stat").read_text().split()[2]
        and time.time() < deadline
    ):
        time.sleep(0.05)
    assert time.time() < deadline


def test_control_c_while_workers_import_is_silent():
    """Whoever has asked for workers is told, and nobody else prints a word."""
    code = (
        "from llm.protocols.workers import forkserver, pool\n"
        "start = forkserver.ensure_running\n"
        "forkserver.ensure_running = lambda: (start(), print('started', flush=True))\n"
        "try:\n    with pool(2) as run:\n        list(run([(int, ())]))\n"
        "except KeyboardInterrupt:\n    print('stopped')\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "started\n"
    time.sleep(1)
    os.killpg(parent.pid, signal.SIGINT)
    assert parent.communicate(timeout=300) == ("stopped\n", "")


def test_a_mistake_survives_the_way_between_processes():
    for error in (SettingError("rate", 1.0, "a rate", "try 0.1"), SettingError("model", "x", "a model")):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is SettingError
        assert (str(again), again.args) == (str(error), error.args)
        assert str(pickle.loads(pickle.dumps(again))) == str(error)
