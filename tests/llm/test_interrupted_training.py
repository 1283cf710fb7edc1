"""Training that is interrupted, killed, or done by two processes at once ends in the same bits, or in no expert."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from lora_reuse.llm.adapters import checkpoint
from lora_reuse.llm.adapters import training as experts
from lora_reuse.llm.adapters.training import expert
from lora_reuse.llm.decoding.models import load_base
from tests.llm.training import WEIGHTS, is_bare, only, saved, spec

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("tokens_once")
ROOT = Path(__file__).parents[2]


def interrupting(monkeypatch, name, at, first=lambda *_, **__: None, owner=experts):
    """Lets `owner.name` be, but for the `at`-th call (from 0), which does `first` and is interrupted. Returns the
    list of calls."""
    real, calls = getattr(owner, name), []

    def call(*given, **named):
        calls.append(given)
        if len(calls) == at + 1:
            first(*given, **named)
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(owner, name, call)
    return calls


def test_interrupted_training_ends_in_the_same_bits(base, tmp_path, monkeypatch):
    wanted = spec(dropout=0.2, own_share=0.5, weight_decay=0.1)
    whole = expert(base, wanted, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "KEEP_SECONDS", 0)
        for at, steps in ((3, [0, 1, 2, 3]), (0, [3]), (2, [3, 4, 5])):
            with patch.context() as once:
                calls = interrupting(once, "_step", at)
                with pytest.raises(KeyboardInterrupt):
                    expert(base, wanted, tmp_path / "parts")
            assert [call[4] for call in calls] == steps
            assert not (tmp_path / "parts" / whole.name).exists()
            assert is_bare(base)
    calls = interrupting(monkeypatch, "_step", at=99)
    found = expert(base, wanted, tmp_path / "parts")
    assert [call[4] for call in calls] == [5, 6]
    assert saved(found) == saved(whole)
    assert (found / "expert.json").read_text() == (whole / "expert.json").read_text()
    assert only(found)


def test_a_checkpoint_is_kept_when_its_time_has_passed(base, tmp_path, monkeypatch):
    wanted = spec()
    for seconds, kept in ((3600, 0), (0, 3)):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "KEEP_SECONDS", seconds)
            interrupting(patch, "_step", at=3)
            with pytest.raises(KeyboardInterrupt):
                expert(base, wanted, tmp_path / str(seconds))
        with monkeypatch.context() as patch:
            calls = interrupting(patch, "_step", at=99)
            expert(base, wanted, tmp_path / str(seconds))
        assert calls[0][4] == kept


def test_a_killed_process_leaves_no_expert_and_the_next_call_goes_on(base, folder, tmp_path, monkeypatch):
    wanted = spec(dropout=0.2)
    program = f"""
import time
import torch
torch.set_num_threads({torch.get_num_threads()})  # the bits depend on it
from lora_reuse.llm.adapters import checkpoint
from lora_reuse.llm.adapters import training as experts
from lora_reuse.llm.adapters.training import Spec, expert
from lora_reuse.llm.decoding.models import load_base
from lora_reuse.llm.protocols.settings import Training
from pathlib import Path
real, checkpoint.KEEP_SECONDS = experts._step, 0
def step(*given):
    if given[4] == 5:
        print("here", flush=True)
        time.sleep(600)
    return real(*given)
experts._step = step
expert(load_base({str(folder)!r}), {wanted!r}, Path({str(tmp_path / "parts")!r}))
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "here\n"
        child.kill()
    assert child.returncode == -9
    assert not (tmp_path / "parts" / wanted.key(base)).exists()
    calls = interrupting(monkeypatch, "_step", at=99)
    found = expert(base, wanted, tmp_path / "parts")
    assert [call[4] for call in calls] == [5, 6]
    assert only(found)
    assert saved(found) == saved(expert(base, wanted, tmp_path / "whole"))


def half_an_adapter(_model, path, **_):
    Path(path).mkdir()
    (Path(path) / WEIGHTS).write_bytes(b"half")
    raise KeyboardInterrupt


def replace_but_for_folders(source, target, replace=os.replace):
    if Path(source).is_dir():
        raise KeyboardInterrupt
    replace(source, target)


@pytest.mark.parametrize("where", ["the second checkpoint", "the adapter", "the last rename"])
def test_half_a_folder_is_no_expert(where, base, tmp_path, monkeypatch):
    wanted = spec()
    whole = expert(base, wanted, tmp_path / "whole")
    monkeypatch.setattr(checkpoint, "KEEP_SECONDS", 0)
    with monkeypatch.context() as patch:
        if where == "the second checkpoint":
            interrupting(patch, "save_file", 1, lambda _, path: path.write_bytes(b"half"), checkpoint)
        elif where == "the adapter":
            patch.setattr(PeftModel, "save_pretrained", half_an_adapter)
        else:
            patch.setattr(os, "replace", replace_but_for_folders)
        with pytest.raises(KeyboardInterrupt):
            expert(base, wanted, tmp_path / "parts")
    assert any((tmp_path / "parts").iterdir())
    assert not (tmp_path / "parts" / whole.name).exists()
    found = expert(base, wanted, tmp_path / "parts")
    assert saved(found) == saved(whole)
    assert only(found)


@pytest.mark.parametrize("where", ["_step", "save_file", "save_pretrained"])
def test_two_processes_may_make_the_same_expert(where, base, folder, tmp_path, monkeypatch):
    """The other one does all of it while this one is in a step, before a checkpoint, or about to finish."""
    wanted = spec()
    whole = expert(base, wanted, tmp_path / "whole")
    other = load_base(str(folder))
    monkeypatch.setattr(checkpoint, "KEEP_SECONDS", 0)
    owner: Any = {"_step": experts, "save_file": checkpoint, "save_pretrained": PeftModel}[where]
    real, found = getattr(owner, where), []

    def call(*given, **named):
        result = real(*given, **named)
        if not found:
            found.append(None)  # before the inner call comes here too
            found.append(expert(other, wanted, tmp_path / "both"))
        return result

    monkeypatch.setattr(owner, where, call)
    path = expert(base, wanted, tmp_path / "both")
    assert found[1] == path
    assert saved(path) == saved(whole)
    assert only(path)
    assert is_bare(base)


def test_a_full_disk_is_not_taken_for_an_expert(base, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        expert(base, spec(steps=1), tmp_path)
    assert is_bare(base)
